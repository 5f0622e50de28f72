package commitlog

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"agentd/internal/disk/disktest"

	"golang.org/x/sys/unix"
)

// tale is a short story that touches every kind of record.
func tale(s *story) {
	s.append(1, run(1, 2, 1, 30)...)
	s.set(1, "vote", "a")
	s.append(2, run(10, 10, 1, 700)...)
	s.append(1, run(2, 3, 2, 30)...) // overwrites
	s.front(1, 1)
	s.append(3, run(1, 3, 1, 1100)...)
	s.back(1, 3)
	s.set(1, "vote", "b")
	s.front(2, 10) // empties
	s.append(2, run(90, 91, 3, 5)...)
	s.do(3, func(g *Group, h *holding) error {
		*h = holding{keys: map[string]string{}}
		return g.Reset()
	})
	s.append(1, run(3, 3, 4, 20)...)
}

func modes(t *testing.T, fn func(t *testing.T, config func(dir string) Config)) {
	for _, buffered := range []bool{false, true} {
		t.Run(fmt.Sprintf("buffered=%v", buffered), func(t *testing.T) {
			fn(t, func(dir string) Config {
				c := small(dir)
				c.Buffered = buffered
				return c
			})
		})
	}
}

// TestCrash_EveryPrefixAndEverySubsetOfSectors kills the machine after every
// operation and tries every subset of the sectors that were not synced.
func TestCrash_EveryPrefixAndEverySubsetOfSectors(t *testing.T) {
	modes(t, func(t *testing.T, config func(string) Config) {
		s := newStory(t, config)
		tale(s)
		must(t, s.log.Close())
		s.settle()
		into, crashes := filepath.Join(folder(t), "crash"), 0
		s.rec.Each(func(point int, w *disktest.World) bool {
			limit := 600
			if testing.Short() {
				limit = 16
			}
			wholeSegments(t, w, into)
			all := disktest.Every(limit, func(choose disktest.Chooser) bool {
				crashes++
				must(t, w.Crash(choose, into))
				if wrong := s.check(config, into, s.allowed(point)); wrong != "" {
					t.Errorf("crash after operation %d (%v): %s", point, s.rec.Ops()[max(point-1, 0)], wrong)
					return false
				}
				return true
			})
			for seed := range uint64(20) {
				if all || t.Failed() {
					break
				}
				must(t, w.Crash(disktest.Random(seed), into))
				if wrong := s.check(config, into, s.allowed(point)); wrong != "" {
					t.Errorf("crash after operation %d, seed %d: %s", point, seed, wrong)
				}
			}
			return !t.Failed()
		})
		t.Logf("%d operations, %d crashes", s.rec.Len(), crashes)
	})
}

// wholeSegments makes sure that a file with a segment's name has its blocks, however
// the machine dies: a write to it must not need space.
func wholeSegments(t *testing.T, w *disktest.World, into string) {
	t.Helper()
	for _, choose := range []disktest.Chooser{disktest.Oldest, disktest.Newest} {
		must(t, w.Crash(choose, into))
		for name, data := range readImage(t, into) {
			if filepath.Ext(name) == segmentSuffix && len(data) != MinSegmentBytes {
				t.Fatalf("%s has %d bytes", name, len(data))
			}
		}
	}
}

// TestKill_LosesNothing ends the process, not the machine, after every operation.
func TestKill_LosesNothing(t *testing.T) {
	modes(t, func(t *testing.T, config func(string) Config) {
		s := newStory(t, config)
		tale(s)
		into := filepath.Join(folder(t), "kill")
		s.rec.Each(func(point int, w *disktest.World) bool {
			must(t, w.Kill(into))
			if wrong := s.check(config, into, s.allowed(point)); wrong != "" {
				t.Errorf("killed after operation %d: %s", point, wrong)
			}
			return !t.Failed()
		})
	})
}

// TestCrash_WhileSegmentsAreRecycled runs through many segments, with entries
// forgotten on the way, and crashes at every operation with random sectors lost.
func TestCrash_WhileSegmentsAreRecycled(t *testing.T) {
	modes(t, func(t *testing.T, config func(string) Config) {
		s := newStory(t, config)
		recycle(s, 40)
		seg := s.log.Stats()
		if seg.Segments+seg.Spares > 9 || seg.Oldest < 4 {
			t.Fatalf("segments are not used again: %+v", seg)
		}
		into := filepath.Join(folder(t), "crash")
		seeds := uint64(6)
		if testing.Short() {
			seeds = 1
		}
		s.rec.Each(func(point int, w *disktest.World) bool {
			for seed := range seeds {
				choose := disktest.Random(seed*1000 + uint64(point))
				if seed == 0 {
					choose = disktest.Oldest
				}
				must(t, w.Crash(choose, into))
				if wrong := s.check(config, into, s.allowed(point)); wrong != "" {
					t.Errorf("crash after operation %d (%v), seed %d: %s", point, s.rec.Ops()[max(point-1, 0)], seed, wrong)
				}
			}
			return !t.Failed()
		})
	})
}

// recycle appends to two groups until the log has gone through several segments.
func recycle(s *story, rounds uint64) {
	s.set(1, "vote", "early")
	s.set(3, "only", "keys")
	for i := uint64(1); i <= rounds; i++ {
		s.append(1, run(i, i, 1, 7000)...)
		s.append(2, run(i, i, 1, 3000)...)
		if i%6 == 0 {
			s.front(1, i-2)
			s.front(2, i-3)
		}
		if i == 20 {
			s.set(1, "vote", "late")
		}
	}
}

// TestCrash_LargeEntryIsWholeOrAbsent dies between the batches of one entry.
func TestCrash_LargeEntryIsWholeOrAbsent(t *testing.T) {
	modes(t, func(t *testing.T, config func(string) Config) {
		s := newStory(t, config)
		s.append(1, entry(1, 1, 10), entry(2, 1, 10))
		s.append(1, entry(2, 2, 50_000)) // in place of entry 2, which stays until all is there
		s.append(2, entry(1, 1, 40_000))
		into := filepath.Join(folder(t), "crash")
		s.rec.Each(func(point int, w *disktest.World) bool {
			for seed := range uint64(4) {
				choose := disktest.Random(seed + uint64(point)*10)
				if seed == 0 {
					choose = disktest.Newest
				}
				must(t, w.Crash(choose, into))
				if wrong := s.check(config, into, s.allowed(point)); wrong != "" {
					t.Errorf("crash after operation %d (%v): %s", point, s.rec.Ops()[max(point-1, 0)], wrong)
				}
			}
			return !t.Failed()
		})
	})
}

// TestCrash_AfterARestartThatFoundUnsyncedBytes has the process die between a write
// and its sync. The next one finds the entry in the page cache, and what it tells
// others about it must hold when the machine dies then.
func TestCrash_AfterARestartThatFoundUnsyncedBytes(t *testing.T) {
	dir := folder(t)
	rec, err := disktest.New(dir)
	must(t, err)
	config := func(dir string) Config {
		c := small(dir)
		c.Buffered = true
		return c
	}
	c := config(dir)
	c.FS = rec
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	must(t, g.Append(run(1, 1, 1, 10)))
	rec.Intercept(disktest.Nth(disktest.Sync, ".seg", 1, unix.EIO, true))
	if g.Append(run(2, 2, 1, 10)) == nil {
		t.Fatal("acknowledged without a sync")
	}
	rec.Intercept(nil)
	_ = l.Close()

	c.Buffered = false // nor does a sync of what it writes itself help
	l = mustOpen(t, c)
	last := mustGroup(t, l, 1).Last()
	if last != 2 {
		t.Fatalf("found up to %d", last)
	}
	into := filepath.Join(folder(t), "crash")
	must(t, rec.Crash(rec.Len(), disktest.Oldest, into))
	l = mustOpen(t, config(into))
	holding{entries: run(1, last, 1, 10)}.check(t, mustGroup(t, l, 1))
}

// TestCrash_WhileManyGroupsAppend crashes under group commit: whatever an Append had
// returned for is there, group by group, and nothing is there half.
func TestCrash_WhileManyGroupsAppend(t *testing.T) {
	modes(t, func(t *testing.T, config func(string) Config) {
		dir := folder(t)
		rec, err := disktest.New(dir)
		must(t, err)
		c := config(dir)
		c.FS = rec
		l := mustOpen(t, c)
		const groups, rounds = 8, 25
		var acked [groups][rounds + 1]int // operations when an entry was acknowledged
		var wg sync.WaitGroup
		for id := range uint32(groups) {
			wg.Go(func() {
				g, err := l.Group(id)
				for i := uint64(1); err == nil && i <= rounds; i++ {
					err = g.Append(run(i, i, 1, int(i*uint64(id+1)*53%3000)))
					acked[id][i] = rec.Len()
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		into := filepath.Join(folder(t), "crash")
		step := 1
		if testing.Short() {
			step = 7
		}
		rec.Each(func(point int, w *disktest.World) bool {
			if point%step != 0 {
				return true
			}
			must(t, w.Crash(disktest.Random(uint64(point)), into))
			l := mustOpen(t, config(into))
			defer l.Close()
			for id := range uint32(groups) {
				g := mustGroup(t, l, id)
				last := g.Last()
				for i := uint64(1); i <= rounds; i++ {
					if acked[id][i] <= point && last < i {
						t.Errorf("crash after operation %d: group %d ends at %d, entry %d was acknowledged", point, id, last, i)
					}
				}
				var h holding
				for i := uint64(1); i <= last; i++ {
					h.entries = append(h.entries, entry(i, 1, int(i*uint64(id+1)*53%3000)))
				}
				h.check(t, g)
			}
			return !t.Failed()
		})
	})
}
