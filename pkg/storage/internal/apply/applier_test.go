package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"agentd/internal/disk/disktest"
	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// gate holds a worker back in the callback of one agent, so that what is handed over
// meanwhile becomes one batch.
type gate struct {
	agent         agent.ID
	in, out       chan struct{}
	once, opening sync.Once
}

func newGate(id agent.ID) *gate {
	return &gate{agent: id, in: make(chan struct{}), out: make(chan struct{})}
}

func (g *gate) applied(id agent.ID, _ uint64, _ int) {
	if id == g.agent {
		g.once.Do(func() { close(g.in); <-g.out })
	}
}

func (g *gate) open() { g.opening.Do(func() { close(g.out) }) }

// batched applies the history's entries behind one that is held back, so that they
// are one batch, and compares.
func batched(t *testing.T, build func(h *history)) (o *home, h *history) {
	t.Helper()
	h = newHistory(1, 1)
	first := h.entry(0, h.commit(named("gate"), make(image, 4096)))
	build(h)
	g := newGate(named("gate"))
	o = openHome(t, lazy{}, t.TempDir(), h, func(c *Config) { c.Applied = g.applied })
	t.Cleanup(func() { g.open(); o.close(t) })
	o.hand(t, first)
	<-g.in
	o.hand(t, h.order[1:]...)
	g.open()
	o.wait(t, h.order...)
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
	return o, h
}

func filled(pages int, c byte) image {
	im := make(image, pages*record.PageBytes)
	fill(im, c)
	return im
}

func TestApply_FileIsWhatTheLogSays(t *testing.T) {
	for seed := range uint64(8) {
		h := newHistory(seed, 3)
		h.random(120, 5, 6)
		o := openHome(t, lazy{}, t.TempDir(), h)
		o.hand(t, h.order...)
		o.wait(t, h.order...)
		if s := o.differs(h, h.order...); s != "" {
			t.Errorf("seed %d: %s", seed, s)
		}
		o.close(t)
	}
}

func TestApply_PagesThatGrowAgainAreZero(t *testing.T) {
	a := named("a")
	orders := map[string][]image{
		"shrink and grow":  {filled(5, 1), filled(2, 1), append(filled(2, 1), make(image, 3*4096)...)},
		"in two steps":     {filled(8, 1), filled(3, 1), filled(1, 1), append(filled(1, 2), make(image, 4096)...), append(filled(1, 2), make(image, 7*4096)...)},
		"with other bytes": {filled(4, 1), filled(1, 1), append(filled(1, 1), append(make(image, 2*4096), filled(1, 9)...)...)},
		"to less":          {filled(4, 1), filled(1, 2)},
	}
	for name, images := range orders {
		t.Run(name+" in one batch", func(t *testing.T) {
			batched(t, func(h *history) {
				for _, im := range images {
					h.entry(0, h.commit(a, im))
				}
			})
		})
		t.Run(name+" one by one", func(t *testing.T) {
			h := newHistory(1, 1)
			o := openHome(t, lazy{}, t.TempDir(), h)
			defer o.close(t)
			for _, im := range images {
				l := h.entry(0, h.commit(a, im))
				o.hand(t, l)
				o.wait(t, l)
				if s := o.differs(h, l); s != "" {
					t.Fatal(s)
				}
			}
		})
	}
}

// Every order of a deletion and commits around it, in one batch and one by one.
func TestApply_DeletesAndMakesAnew(t *testing.T) {
	a := named("a")
	for name, script := range map[string]string{"deleted": "cd", "anew": "cdc", "twice": "cdcdc", "nothing": "d", "deleted twice": "cdd",
		"between": "ccdcc", "gone at the end": "cdcd"} {
		build := func(h *history) {
			for i, c := range script {
				if c == 'd' {
					h.entry(0, h.delete(a))
				} else {
					h.entry(0, h.commit(a, filled(1+i%2, byte(1+i))))
				}
			}
		}
		t.Run(name+" in one batch", func(t *testing.T) { batched(t, build) })
		t.Run(name+" one by one", func(t *testing.T) {
			h := newHistory(1, 1)
			build(h)
			o := openHome(t, lazy{}, t.TempDir(), h)
			defer o.close(t)
			for _, l := range h.order {
				o.hand(t, l)
				o.wait(t, l)
				if s := o.differs(h, l); s != "" {
					t.Fatal(s)
				}
			}
		})
	}
}

// Who still reads a deleted file has the old bytes; the new life never touches them.
func TestApply_LeavesADeletedFileThatIsHeld(t *testing.T) {
	h := newHistory(1, 1)
	a := named("a")
	o := openHome(t, lazy{}, t.TempDir(), h)
	defer o.close(t)
	o.hand(t, h.entry(0, h.commit(a, filled(1, 1))))
	o.wait(t, h.order...)
	old, err := o.files.Acquire(a)
	if err != nil {
		t.Fatal(err)
	}
	o.hand(t, h.entry(0, h.delete(a)), h.entry(0, h.commit(a, filled(2, 2))))
	o.wait(t, h.order...)
	held := make([]byte, 4096)
	if _, err := unix.Pread(old.FD(), held, 0); err != nil || held[0] != 1 {
		t.Errorf("the old file holds %d, %v", held[0], err)
	}
	now, err := o.files.Acquire(a)
	if err != nil || now == old || now.Pages() != 2 {
		t.Errorf("the handle of the new life: %v, %v", now, err)
	}
	now.Release()
	old.Release()
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

// A log that begins in the middle of a life that ends later is no damage: the file is
// gone by then, and made again until its deletion comes.
func TestApply_RedoesALifeWhoseFileIsGone(t *testing.T) {
	h := newHistory(1, 1)
	a, dir := named("a"), t.TempDir()
	o := openHome(t, lazy{}, dir, h)
	o.hand(t, h.entry(0, h.commit(a, filled(2, 1))))
	if err := o.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.hand(t, h.entry(0, h.commit(a, filled(2, 2))), h.entry(0, h.delete(a)))
	o.close(t)
	o = openHome(t, lazy{}, dir, h)
	defer o.close(t)
	o.hand(t, h.order...)
	o.wait(t, h.order...)
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

// What lies at the place of an agent that has never committed is not its own.
func TestApply_FirstCommitBeginsWithAnEmptyFile(t *testing.T) {
	h := newHistory(1, 1)
	a := named("a")
	o := openHome(t, lazy{}, t.TempDir(), h)
	defer o.close(t)
	path := o.files.Path(a)
	if err := errors.Join(lazy{}.MkdirAll(path[:strings.LastIndex(path, "/")]), os.WriteFile(path, filled(3, 7), 0o600)); err != nil {
		t.Fatal(err)
	}
	o.hand(t, h.entry(0, h.commit(a, make(image, 3*4096))))
	o.wait(t, h.order...)
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

func TestApply_SkipsWhatTheCheckpointCovers(t *testing.T) {
	h := newHistory(3, 2)
	h.random(30, 3, 3)
	dir := t.TempDir()
	o := openHome(t, lazy{}, dir, h)
	o.hand(t, h.order...)
	if err := o.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.close(t)
	o = openHome(t, lazy{}, dir, h)
	defer o.close(t)
	o.hand(t, h.order...)
	o.wait(t, h.order...)
	if s := o.Stats(); s.Entries != 0 || s.Writes != 0 {
		t.Errorf("%+v", s)
	}
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

// bad are entries that a shard must stop before; the good record in front of the bad
// one must leave no trace either.
func bad(h *history) map[string][]byte {
	a, b := named("a"), named("b")
	base := h.now[a].Seq
	commit := func(id agent.ID, base uint64, delta record.Delta) []byte {
		return record.Append(nil, &record.Record{Kind: record.Commit, Agent: id, Base: base, Seq: base + 1, At: birth, CreatedAt: birth, Pages: 1, Delta: delta})
	}
	newer := commit(a, base, nil)
	newer[9] = 9
	return map[string][]byte{
		"a gap":             commit(a, base+1, nil),
		"a repetition":      commit(a, base-1, nil),
		"a fork in entry":   append(commit(b, 0, nil), commit(b, 0, nil)...),
		"a deletion's gap":  record.Append(nil, &record.Record{Kind: record.Delete, Agent: a, Base: base + 1, At: birth}),
		"a bad delta":       commit(a, base, record.Delta{9, 0, 0, 0, 1, 0, 0, 0, 1, 0, 5}),
		"half a delta":      commit(a, base, record.Delta{1, 0, 0, 0, 1, 0, 0, 0, 1}),
		"half a record":     commit(a, base, nil)[:60],
		"a flipped bit":     flipped(commit(a, base, nil)),
		"an unknown kind":   newer,
		"garbage at an end": append(commit(a, base, nil), 1, 2, 3),
	}
}

func flipped(b []byte) []byte {
	b[len(b)-1] ^= 1
	return b
}

func TestApply_StopsTheShardBeforeABadEntryAndOnlyThat(t *testing.T) {
	build := func() (*history, agent.ID) {
		h := newHistory(1, 2)
		h.entry(h.shardOf(named("a")), h.commit(named("a"), filled(2, 1)))
		other := h.of(1-h.shardOf(named("a")), 1)
		h.entry(1-h.shardOf(named("a")), h.commit(other, filled(1, 1)))
		return h, other
	}
	names, _ := build()
	for name := range bad(names) {
		t.Run(name, func(t *testing.T) {
			h, other := build()
			shard := h.shardOf(named("a"))
			o := openHome(t, lazy{}, t.TempDir(), h)
			defer o.close(t)
			o.hand(t, h.order...)
			if err := o.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			good := record.Append(nil, &record.Record{Kind: record.Commit, Agent: h.of(shard, 7), Seq: 1, At: birth, CreatedAt: birth, Pages: 1})
			err := o.Apply(shard, 90, append(good, bad(h)[name]...))
			if err == nil {
				err = o.Wait(t.Context(), shard, 90)
			}
			if agent.KindOf(err) != agent.Corrupt || !strings.Contains(err.Error(), "entry 90") {
				t.Fatalf("got %v", err)
			}
			if seq, _ := o.ledger.Seq(h.of(shard, 7)); seq != 0 {
				t.Error("the entry was applied in part")
			}
			if damage := o.Damage(shard); damage != err {
				t.Errorf("damage: %v", damage)
			}
			if err := o.Apply(shard, 91, nil); agent.KindOf(err) != agent.Corrupt {
				t.Errorf("the next entry: %v", err)
			}
			if err := o.WaitAgent(t.Context(), named("a"), 99); agent.KindOf(err) != agent.Corrupt {
				t.Errorf("a wait for an agent: %v", err)
			}
			// The rest goes on, checkpoints too.
			l := h.entry(1-shard, h.commit(other, filled(2, 2)))
			o.hand(t, l)
			o.wait(t, l)
			if err := o.Checkpoint(t.Context()); err != nil {
				t.Error(err)
			}
			if s := o.differs(h, h.order...); s != "" {
				t.Error(s)
			}
			if err := o.Damage(1 - shard); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestApply_SaysThatANewerAgentdIsNeeded(t *testing.T) {
	h := newHistory(1, 1)
	o := openHome(t, lazy{}, t.TempDir(), h)
	defer o.close(t)
	b := record.Append(nil, &record.Record{Kind: 7, Agent: named("a"), At: birth})
	if err := o.Apply(0, 1, b); err != nil {
		t.Fatal(err)
	}
	err := o.Wait(t.Context(), 0, 1)
	if !errors.Is(err, record.ErrKind) || !strings.Contains(err.Error(), "upgrade this node") {
		t.Errorf("got %v", err)
	}
}

func TestApply_RefusesRecordsOfAnotherShard(t *testing.T) {
	h := newHistory(1, 2)
	o := openHome(t, lazy{}, t.TempDir(), h)
	defer o.close(t)
	b := h.commit(h.of(0, 1), filled(1, 1))
	if err := o.Apply(1, 1, b); err != nil {
		t.Fatal(err)
	}
	if err := o.Wait(t.Context(), 1, 1); agent.KindOf(err) != agent.Corrupt {
		t.Errorf("got %v", err)
	}
}

// A catalog that was rebuilt from files knows the newest numbers, while the log begins
// at the last checkpoint: with lives that ended since, and commits that files have.
func TestApply_RedoesALogBehindARebuiltCatalog(t *testing.T) {
	for seed := range uint64(10) {
		h := newHistory(seed, 1)
		h.random(60, 3, 3)
		dir, cut := t.TempDir(), 20
		o := openHome(t, lazy{}, dir, h)
		o.hand(t, h.order...)
		o.wait(t, h.order...)
		rebuilt := o.ledger.rows
		for key, r := range rebuilt[0] { // quarantines are not in files
			r.Reason = ""
			rebuilt[0][key] = r
		}
		o.close(t)
		o = openHome(t, lazy{}, dir, h, func(c *Config) { c.Rebuilt = true })
		o.ledger.mu.Lock()
		o.ledger.rows = rebuilt
		o.ledger.mu.Unlock()
		o.hand(t, h.order[cut:]...)
		o.wait(t, h.order...)
		for id := range h.now {
			o.forget(id, h)
		}
		if s := o.differs(h, h.order...); s != "" {
			t.Errorf("seed %d: %s", seed, s)
		}
		// From here on a gap is a gap.
		a := h.of(0, 1)
		if err := o.Apply(0, 999, record.Append(nil, &record.Record{Kind: record.Delete, Agent: a, Base: 500, At: birth})); err != nil {
			t.Fatal(err)
		}
		if err := o.Wait(t.Context(), 0, 999); agent.KindOf(err) != agent.Corrupt {
			t.Errorf("seed %d: a gap: %v", seed, err)
		}
		o.close(t)
	}
}

// forget makes the catalog's quarantine what the log's is, for a log whose beginning
// is not applied.
func (o *home) forget(id agent.ID, h *history) {
	r := o.ledger.rows[0][id.Key()]
	r.Reason = h.now[id].Reason
	o.ledger.rows[0][id.Key()] = r
}

func TestApply_OrderOfIndices(t *testing.T) {
	h := newHistory(1, 1)
	o := openHome(t, lazy{}, t.TempDir(), h)
	defer o.close(t)
	if err := o.Apply(0, 5, nil); err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{4, 5} {
		if err := o.Apply(0, index, nil); agent.KindOf(err) != agent.Internal {
			t.Errorf("entry %d after 5: %v", index, err)
		}
	}
	if err := o.Wait(t.Context(), 0, 5); err != nil {
		t.Error(err)
	}
	for _, shard := range []int{-1, 1} {
		if err := o.Apply(shard, 9, nil); agent.KindOf(err) != agent.Invalid {
			t.Errorf("shard %d: %v", shard, err)
		}
	}
}

// Callbacks: Applied once per agent and batch, after the bytes are in the file; Done
// for each record that is no commit, when it counts.
func TestApplied_ComesWhenTheFileHoldsTheCommit(t *testing.T) {
	h := newHistory(1, 1)
	a, first := named("a"), named("gate")
	h.entry(0, h.commit(first, filled(1, 1)))
	for i := range 10 {
		h.entry(0, h.commit(a, filled(1+i, byte(i))))
	}
	h.entry(0, h.quarantine(a, "why"), h.quarantine(named("nobody"), "why"))
	h.entry(0, h.delete(first))
	g := newGate(first)
	var calls []string
	var book *ledger
	o := openHome(t, lazy{}, t.TempDir(), h, func(c *Config) {
		book = c.Catalog.(*ledger)
		c.Applied = func(id agent.ID, seq uint64, fd int) {
			b := make([]byte, 1)
			if _, err := unix.Pread(fd, b, 0); err != nil {
				t.Error(err)
			}
			calls = append(calls, fmt.Sprintf("%s %d holds %d", id.Name, seq, b[0]))
			g.applied(id, seq, fd)
		}
		c.Done = func(id agent.ID) {
			calls = append(calls, fmt.Sprintf("%s done %s", id.Name, book.rows[0][id.Key()].Reason))
		}
	})
	o.hand(t, h.order[0])
	<-g.in
	o.hand(t, h.order[1:]...)
	g.open()
	o.close(t)
	want := []string{"gate 1 holds 1", "a 10 holds 9", "a done why", "nobody done ", "gate done "}
	if !slices.Equal(calls, want) {
		t.Errorf("got %q", calls)
	}
	if _, ok := book.rows[0][named("nobody").Key()]; ok {
		t.Error("a quarantine made an agent")
	}
}

// The catalog learns of a commit when the file holds it: who opens the agent after
// WaitAgent reads all of it.
func TestWaitAgent_ComesAfterTheBytes(t *testing.T) {
	h := newHistory(1, 1)
	dir := t.TempDir()
	rec, err := disktest.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := openHome(t, rec, dir, h)
	defer o.close(t)
	writing, goOn := make(chan struct{}), make(chan struct{})
	rec.Intercept(func(op disktest.Op) error {
		if op.Kind == disktest.Write {
			rec.Intercept(nil)
			close(writing)
			<-goOn
		}
		return nil
	})
	o.hand(t, h.entry(0, h.commit(named("a"), filled(1, 1))))
	<-writing
	if seq, err := o.ledger.Seq(named("a")); seq != 0 || err != nil {
		t.Errorf("the catalog says %d while the file is written, %v", seq, err)
	}
	close(goOn)
	if err := o.WaitAgent(t.Context(), named("a"), 1); err != nil {
		t.Error(err)
	}
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

func TestApply_WritesAHotAgentOnce(t *testing.T) {
	o, _ := batched(t, func(h *history) {
		for i := range 50 {
			h.entry(0, h.commit(named("a"), filled(2, byte(i))))
		}
	})
	if s := o.Stats(); s.Writes > 4 {
		t.Errorf("%d system calls for 51 commits of two agents", s.Writes)
	}
}

func TestWait_EndsWithItsContext(t *testing.T) {
	h := newHistory(1, 1)
	o := openHome(t, lazy{}, t.TempDir(), h)
	defer o.close(t)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() { errs <- o.Wait(ctx, 0, 1) }()
	go func() { errs <- o.WaitAgent(ctx, named("a"), 1) }()
	cancel()
	for range 2 {
		if err := <-errs; agent.KindOf(err) != agent.Canceled {
			t.Error(err)
		}
	}
	if n := o.agents.number.Load(); n != 0 || len(o.agents.waiting) != 0 {
		t.Errorf("%d are still waiting, %d agents", n, len(o.agents.waiting))
	}
}

func TestWait_EndsWithClose(t *testing.T) {
	h := newHistory(1, 1)
	o := openHome(t, lazy{}, t.TempDir(), h)
	errs := make(chan error)
	go func() { errs <- o.Wait(t.Context(), 0, 1) }()
	go func() { errs <- o.WaitAgent(t.Context(), named("a"), 1) }()
	o.close(t)
	for range 2 {
		if err := <-errs; agent.KindOf(err) != agent.Unavailable {
			t.Error(err)
		}
	}
	for _, err := range []error{o.Apply(0, 1, nil), o.Checkpoint(t.Context())} {
		if agent.KindOf(err) != agent.Unavailable {
			t.Error(err)
		}
	}
	if err := o.Close(); err != nil {
		t.Error("again:", err)
	}
}

func TestApply_BlocksWhileTheQueueIsFull(t *testing.T) {
	h := newHistory(1, 1)
	first := h.entry(0, h.commit(named("gate"), filled(1, 1)))
	g := newGate(named("gate"))
	o := openHome(t, lazy{}, t.TempDir(), h, func(c *Config) { c.Applied, c.Workers, c.QueueBytes = g.applied, 1, 64<<10 })
	o.hand(t, first)
	<-g.in
	for i := range 50 {
		h.entry(0, h.commit(named("a"), filled(1+i%3, byte(i))))
	}
	handed := make(chan struct{})
	go func() {
		o.hand(t, h.order[1:]...)
		close(handed)
	}()
	// The goroutine comes to rest when the queue is full.
	full := func() bool {
		o.workers[0].queue.mu.Lock()
		defer o.workers[0].queue.mu.Unlock()
		return o.workers[0].queue.used > 48<<10
	}
	for !full() {
		select {
		case <-handed:
			t.Fatal("nothing blocked")
		default:
		}
	}
	if used := o.Stats().QueueBytes; used > 64<<10 {
		t.Errorf("%d bytes are queued", used)
	}
	g.open()
	<-handed
	o.wait(t, h.order...)
	o.close(t)
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

func TestApply_TakesAnEntryLargerThanTheQueue(t *testing.T) {
	h := newHistory(1, 1)
	o := openHome(t, lazy{}, t.TempDir(), h, func(c *Config) { c.QueueBytes = 4096 })
	for i := range 3 {
		o.hand(t, h.entry(0, h.commit(named("a"), filled(300, byte(i)))))
	}
	o.close(t)
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

// Sixteen shards, two workers, and everything else at the same time.
func TestApplier_ManyShardsAtOnce(t *testing.T) {
	const shards = 16
	h := newHistory(9, shards)
	h.random(600, 4, 4)
	o := openHome(t, lazy{}, t.TempDir(), h)
	var handing, asking sync.WaitGroup
	stop := make(chan struct{})
	for shard := range shards {
		handing.Go(func() { o.hand(t, h.logs[shard]...) })
	}
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := o.Checkpoint(t.Context()); err != nil {
				t.Error(err)
			}
			o.Stats()
		}
	})
	for _, id := range h.ids()[:20] {
		asking.Go(func() {
			for range 50 {
				hd, err := o.files.Acquire(id)
				if err != nil {
					t.Error(err)
					return
				}
				hd.FD()
				hd.Pages()
				hd.Release()
			}
		})
		if s := h.now[id]; s.Seq > 0 {
			asking.Go(func() {
				if err := o.WaitAgent(t.Context(), id, s.Seq); err != nil {
					t.Error(id, err)
				}
			})
		}
	}
	handing.Wait()
	o.wait(t, h.order...)
	close(stop)
	asking.Wait()
	o.close(t)
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

func TestApplier_FailsForGoodWhenTheDiskDoes(t *testing.T) {
	for name, kind := range map[string]disktest.Kind{"a write": disktest.Write, "a sync": disktest.SyncFS} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			rec, err := disktest.New(dir)
			if err != nil {
				t.Fatal(err)
			}
			h := newHistory(1, 1)
			failed := make(chan error, 2)
			o := openHome(t, rec, dir, h, func(c *Config) { c.Failed = func(err error) { failed <- err } })
			rec.Intercept(disktest.Nth(kind, "", 1, unix.EIO, false))
			o.hand(t, h.entry(0, h.commit(named("a"), filled(1, 1))))
			if err := o.Checkpoint(t.Context()); !errors.Is(err, unix.EIO) {
				t.Error("checkpoint:", err)
			}
			if err := <-failed; !errors.Is(err, unix.EIO) {
				t.Error("failed:", err)
			}
			// It never tries again, although the disk would do it now.
			for _, err := range []error{o.Apply(0, 9, nil), o.Checkpoint(t.Context()), o.Wait(t.Context(), 0, 9), o.WaitAgent(t.Context(), named("a"), 9), o.Close()} {
				if !errors.Is(err, unix.EIO) {
					t.Error("afterwards:", err)
				}
			}
			if o.ledger.durable.Index[0] != 0 {
				t.Error("the catalog says that the file is durable")
			}
		})
	}
}

func TestApply_CompletesWhatCameBeforeTheDamage(t *testing.T) {
	h := newHistory(1, 1)
	first := h.entry(0, h.commit(named("gate"), filled(1, 1)))
	good := h.entry(0, h.commit(named("a"), filled(2, 2)))
	g := newGate(named("gate"))
	o := openHome(t, lazy{}, t.TempDir(), h, func(c *Config) { c.Applied = g.applied })
	defer o.close(t)
	o.hand(t, first)
	<-g.in
	o.hand(t, good)
	if err := o.Apply(0, 90, []byte("damaged")); err != nil {
		t.Fatal(err)
	}
	g.open()
	if err := o.Wait(t.Context(), 0, 90); agent.KindOf(err) != agent.Corrupt {
		t.Error(err)
	}
	o.wait(t, good)
	if s := o.differs(h, h.order...); s != "" {
		t.Error(s)
	}
}

func TestApply_TrustsARebuiltCatalogFromItsFirstCheckpointOn(t *testing.T) {
	h := newHistory(1, 1)
	o := openHome(t, lazy{}, t.TempDir(), h, func(c *Config) { c.Rebuilt = true })
	defer o.close(t)
	late := func(name string) []byte {
		return record.Append(nil, &record.Record{Kind: record.Commit, Agent: named(name), Base: 5, Seq: 6, At: birth, CreatedAt: birth, Pages: 1})
	}
	if err := errors.Join(o.Apply(0, 1, late("a")), o.Checkpoint(t.Context()), o.Apply(0, 2, late("b"))); err != nil {
		t.Fatal(err)
	}
	if err := o.Wait(t.Context(), 0, 2); agent.KindOf(err) != agent.Corrupt {
		t.Errorf("got %v", err)
	}
}
