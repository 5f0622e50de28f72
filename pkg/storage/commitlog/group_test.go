package commitlog

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"agentd/pkg/agent"
)

func TestGroup_HoldsWhatWasAppended(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		t.Run(fmt.Sprintf("buffered=%v", buffered), func(t *testing.T) {
			c := small(folder(t))
			c.Buffered = buffered
			l := mustOpen(t, c)
			g := mustGroup(t, l, 7)
			if g.First() != 0 || g.Last() != 0 {
				t.Fatal("a new group is not empty")
			}
			h := holding{keys: map[string]string{"term": "3", "empty": ""}}
			h.append(run(5, 9, 1, 100)...)
			must(t, g.Append(run(5, 9, 1, 100)))
			must(t, g.Set("term", []byte("2")))
			must(t, g.Set("term", []byte("3")))
			must(t, g.Set("empty", nil))
			e := entry(10, 2, 0)
			e.Data, e.Extensions = nil, []byte("ext")
			h.append(e)
			must(t, g.Append([]Entry{e}))
			h.check(t, g)
			if _, err := g.Get(11); !errors.Is(err, ErrNotFound) {
				t.Errorf("entry 11: %v", err)
			}
			if _, err := g.Get(4); !errors.Is(err, ErrNotFound) {
				t.Errorf("entry 4: %v", err)
			}
			must(t, l.Close())
			h.check(t, mustGroup(t, mustOpen(t, c), 7))
		})
	}
}

func TestGroup_OverwritesFromALowerIndex(t *testing.T) {
	for _, bytes := range []int64{1, 400, 1 << 20} { // from disk, partly, from memory
		t.Run(fmt.Sprintf("cache=%d", bytes), func(t *testing.T) { overwrites(t, bytes) })
	}
}

func overwrites(t *testing.T, cacheBytes int64) {
	c := small(folder(t))
	c.CacheBytes = cacheBytes
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	var h holding
	for _, entries := range [][]Entry{run(1, 10, 1, 50), run(6, 8, 2, 60), run(1, 1, 3, 10), run(2, 4, 3, 10)} {
		h.append(entries...)
		must(t, g.Append(entries))
		h.check(t, g)
	}
	must(t, g.TruncateBack(4))
	h.entries = h.entries[:3]
	h.check(t, g)
	must(t, l.Close())
	h.check(t, mustGroup(t, mustOpen(t, c), 1))
}

func TestGroup_RefusesWhatCannotFollow(t *testing.T) {
	g := mustGroup(t, mustOpen(t, small(folder(t))), 1)
	must(t, g.Append(run(5, 9, 1, 10)))
	for _, entries := range [][]Entry{run(11, 11, 1, 1), run(4, 4, 1, 1), {entry(10, 1, 1), entry(12, 1, 1)}, {{Index: 0}}, {{Index: 1<<64 - 1}}} {
		kindIs(t, g.Append(entries), agent.Invalid)
	}
	kindIs(t, g.Append([]Entry{{Index: 10, Data: make([]byte, MaxEntryBytes+1)}}), agent.TooLarge)
	holding{entries: run(5, 9, 1, 10)}.check(t, g)
}

func TestGroup_BeginsAnywhereOnceEmpty(t *testing.T) {
	c := small(folder(t))
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	must(t, g.Append(run(1, 5, 1, 10)))
	must(t, g.TruncateFront(100))
	if g.First() != 0 || g.Last() != 0 {
		t.Fatalf("holds %d to %d", g.First(), g.Last())
	}
	must(t, l.Close())
	l = mustOpen(t, c)
	g = mustGroup(t, l, 1)
	holding{}.check(t, g)
	must(t, g.Append(run(1000, 1001, 2, 10)))
	must(t, g.TruncateBack(1))
	holding{}.check(t, g)
	must(t, g.Append(run(500, 501, 2, 10)))
	must(t, l.Close())
	holding{entries: run(500, 501, 2, 10)}.check(t, mustGroup(t, mustOpen(t, c), 1))
}

func TestGroup_LargeEntriesAreSplit(t *testing.T) {
	c := small(folder(t))
	c.CacheBytes = 1
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	e := entry(2, 1, 300_000)
	e.Extensions = entry(9, 9, 40_000).Data
	h := holding{entries: []Entry{entry(1, 1, 10), e, entry(3, 1, 70_000), entry(4, 1, 5)}}
	must(t, g.Append(h.entries))
	h.check(t, g)
	must(t, l.Close())
	l = mustOpen(t, c)
	g = mustGroup(t, l, 1)
	h.check(t, g)
	must(t, g.Append([]Entry{entry(2, 2, 100_000)}))
	h.append(entry(2, 2, 100_000))
	h.check(t, g)
	must(t, l.Close())
	h.check(t, mustGroup(t, mustOpen(t, c), 1))
}

func TestGroup_StableKeysHaveLimits(t *testing.T) {
	c := small(folder(t))
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	kindIs(t, g.Set(string(make([]byte, MaxKeyBytes+1)), nil), agent.TooLarge)
	kindIs(t, g.Set("k", make([]byte, MaxValueBytes+1)), agent.TooLarge)
	kindIs(t, g.Set("k", make([]byte, 13_000)), agent.TooLarge) // a quarter of this log's segments
	for i := range MaxKeys {
		must(t, g.Set(fmt.Sprint("key", i), []byte("v")))
	}
	kindIs(t, g.Set("one more", nil), agent.TooLarge)
	must(t, g.Set("key0", []byte("w")))
	for id := uint32(2); ; id++ {
		if _, err := l.Group(id); err != nil {
			kindIs(t, err, agent.TooLarge)
			break
		}
	}
}

func TestGroup_ResetMakesItNew(t *testing.T) {
	c := small(folder(t))
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	must(t, g.Append(run(1, 5, 1, 10)))
	must(t, g.Set("a", []byte("b")))
	must(t, g.Reset())
	holding{}.check(t, g)
	must(t, g.Append(run(70, 71, 1, 10)))
	must(t, l.Close())
	holding{entries: run(70, 71, 1, 10)}.check(t, mustGroup(t, mustOpen(t, c), 1))
}

func TestLog_ManyGroupsAtOnce(t *testing.T) {
	c := small(folder(t))
	c.SegmentBytes, c.MaxBytes = 256<<10, 64<<20
	l := mustOpen(t, c)
	const groups, rounds = 16, 60
	var wg sync.WaitGroup
	for id := range uint32(groups) {
		wg.Go(func() {
			g, err := l.Group(id)
			for i := uint64(1); err == nil && i <= rounds; i++ {
				err = g.Append(run(i, i, 1, int(i*37%5000)))
				if err == nil && i%10 == 0 {
					err = g.Set("at", []byte(fmt.Sprint(i)))
				}
				if err == nil && i%20 == 0 {
					err = g.TruncateFront(i - 10)
				}
				if _, getErr := g.Get(i); err == nil {
					err = getErr
				}
				l.Stats()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if r, err := l.Verify(); err != nil || !r.OK() {
				t.Error(r, err)
			}
		}
	})
	wg.Wait()
	check := func() {
		for id := range uint32(groups) {
			var h holding
			for i := uint64(rounds - 9); i <= rounds; i++ {
				h.entries = append(h.entries, entry(i, 1, int(i*37%5000)))
			}
			h.keys = map[string]string{"at": fmt.Sprint(rounds)}
			h.check(t, mustGroup(t, l, id))
		}
	}
	check()
	must(t, l.Close())
	l = mustOpen(t, c)
	check()
}

func TestLog_ClosedIsClosed(t *testing.T) {
	l := mustOpen(t, small(folder(t)))
	g := mustGroup(t, l, 1)
	must(t, l.Close())
	must(t, l.Close())
	kindIs(t, g.Append(run(1, 1, 1, 1)), agent.Unavailable)
	kindIs(t, g.Set("a", nil), agent.Unavailable)
}
