package catalog

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/record"
)

const testShards = 4

var ctx = context.Background()

func shardOf(id agent.ID) int {
	return int(crc32.ChecksumIEEE([]byte(id.Key())) % testShards)
}

func name(s string) agent.ID { return agent.ID{Namespace: "default", Class: "Thing", Name: s} }

func at(ms int64) time.Time { return time.UnixMilli(ms) }

func wakeAt(ms int64) storage.Wake { return storage.Wake{At: at(ms)} }

// syncless is a file system for tests in which nobody loses power.
type syncless struct{ disk.OS }

type synclessFile struct{ disk.File }

func (s syncless) Open(path string, flags int) (disk.File, error) {
	f, err := s.OS.Open(path, flags)
	if err != nil {
		return nil, err
	}
	return synclessFile{f}, nil
}

func (syncless) SyncDir(string) error { return nil }
func (synclessFile) Sync() error      { return nil }

// world is a catalog and what the engine around it does: it numbers records per
// shard and agent.
type world struct {
	testing.TB
	config Config
	*Catalog
	index [testShards]uint64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t}
	w.config = Config{Path: filepath.Join(t.TempDir(), "catalog.db"), FS: syncless{}, Shards: testShards, ShardOf: shardOf,
		Log: slog.New(slog.DiscardHandler)}
	w.config.Propose = func(_ context.Context, id agent.ID, reason string) error {
		w.quarantineRecord(id, reason)
		return nil
	}
	w.must(Rebuild(w.config, nil))
	w.start()
	t.Cleanup(func() {
		if w.Catalog != nil {
			w.must(w.Catalog.Close())
		}
	})
	return w
}

func (w *world) start() {
	w.Helper()
	var err error
	w.Catalog, err = Open(w.config)
	w.must(err)
	for i := range w.index {
		w.index[i] = w.AppliedIndex(i)
	}
}

// restart opens the catalog as of its last Write.
func (w *world) restart() {
	w.Helper()
	w.must(w.Catalog.Close())
	w.start()
}

// onStep calls fn whenever Write or Due comes to a stage.
func (w *world) onStep(want stage, fn func()) {
	w.step = func(s stage) {
		if s == want {
			fn()
		}
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) wantKind(err error, kind agent.Kind) {
	w.Helper()
	if err == nil || agent.KindOf(err) != kind {
		w.Errorf("error %v, want kind %v", err, kind)
	}
}

// apply is a commit of an agent that nobody has open.
func (w *world) apply(id agent.ID, wake storage.Wake) {
	w.Helper()
	seq, err := w.Seq(id)
	w.must(err)
	w.applyAs(id, seq+1, wake)
}

func (w *world) applyAs(id agent.ID, seq uint64, wake storage.Wake) {
	w.Helper()
	shard := shardOf(id)
	w.index[shard]++
	w.must(w.Commit(shard, w.index[shard], &record.Record{Kind: record.Commit, Agent: id, Base: seq - 1, Seq: seq,
		At: at(int64(1000 + seq)), CreatedAt: at(1000), Wake: wake, Pages: uint32(seq)}))
}

func (w *world) quarantineRecord(id agent.ID, reason string) {
	w.Helper()
	shard := shardOf(id)
	w.index[shard]++
	w.must(w.Commit(shard, w.index[shard], &record.Record{Kind: record.Quarantine, Agent: id, Reason: reason}))
}

func (w *world) remove(id agent.ID) {
	w.Helper()
	shard := shardOf(id)
	w.index[shard]++
	w.must(w.Delete(shard, w.index[shard], id))
}

func (w *world) cuts() []any {
	var cuts []any
	for i := range testShards {
		cuts = append(cuts, w.Cut(i, w.index[i]))
	}
	return cuts
}

func (w *world) checkpoint() {
	w.Helper()
	w.must(w.Write(ctx, w.cuts()))
}

func (w *world) openAgent(id agent.ID) *Life {
	w.Helper()
	e, ok, err := w.Entry(id)
	w.must(err)
	if !ok {
		e = storage.Entry{ID: id}
	}
	return w.Catalog.Open(e)
}

func (w *world) committed(l *Life, seq uint64, wake storage.Wake) {
	l.Committed(seq, wake, int64(seq)*record.PageBytes, at(1000), at(int64(1000+seq)))
}

func (w *world) wantDue(now int64, wantNext int64, want ...string) {
	w.Helper()
	due, next, err := w.Due(ctx, at(now), 100)
	w.must(err)
	var got []string
	for _, e := range due {
		got = append(got, e.ID.Name)
	}
	if ms := int64(0); !slices.Equal(got, want) || (next.IsZero() != (wantNext == 0)) || (!next.IsZero() && next.UnixMilli() != wantNext) {
		if !next.IsZero() {
			ms = next.UnixMilli()
		}
		w.Errorf("at %d due are %v, next %v; want %v, next %v", now, got, ms, want, wantNext)
	}
}

func (w *world) wantCount(want int) {
	w.Helper()
	if n, err := w.Count(ctx); err != nil || n != want {
		w.Errorf("count %d (%v), want %d", n, err, want)
	}
}

func (w *world) wantChanged(what string, want bool) {
	w.Helper()
	select {
	case <-w.Changed():
		if !want {
			w.Errorf("%s: signalled for nothing", what)
		}
	default:
		if want {
			w.Errorf("%s: no signal", what)
		}
	}
}

func (w *world) names(namespace, class string, pageSize int) (names []string) {
	w.Helper()
	after := agent.ID{}
	for {
		page, err := w.List(ctx, namespace, class, after, pageSize)
		w.must(err)
		for _, e := range page {
			names = append(names, e.ID.String())
			after = e.ID
		}
		if len(page) < pageSize {
			return names
		}
	}
}

func TestCatalog_LayersOverrideEachOther(t *testing.T) {
	w := newWorld(t)
	id := name("a")
	check := func(what string, seq uint64, wake int64, live bool) {
		t.Helper()
		e, err := w.Get(ctx, id)
		w.must(err)
		if e.ID != id || e.Seq != seq || e.SizeBytes != int64(seq)*4096 || e.Wake.At.UnixMilli() != wake || e.Live != live || !e.CreatedAt.Equal(at(1000)) {
			t.Errorf("%s: %+v", what, e)
		}
	}
	_, err := w.Get(ctx, id)
	w.wantKind(err, agent.NotFound)
	w.apply(id, wakeAt(5000))
	check("applied", 1, 5000, false)
	w.checkpoint()
	check("in a row", 1, 5000, false)
	w.restart()
	check("after a restart", 1, 5000, false)
	l := w.openAgent(id)
	check("open", 1, 5000, true)
	w.committed(l, 2, wakeAt(6000))
	check("committed", 2, 6000, true)
	l.Closed()
	check("closed, not applied", 2, 6000, false)
	if seq, _ := w.Seq(id); seq != 1 {
		t.Errorf("applied is %d, want 1", seq)
	}
	w.apply(id, wakeAt(6000))
	check("applied too", 2, 6000, false)
	l = w.openAgent(id)
	w.committed(l, 3, wakeAt(7000))
	l.Broken()
	check("broken", 2, 6000, false)
	w.restart() // without a checkpoint
	check("after a crash", 1, 5000, false)
	if w.RecentLen() != 0 {
		t.Errorf("%d agents in memory after a restart", w.RecentLen())
	}
}

func TestCatalog_CommitWhileACutIsWrittenStaysOutOfIt(t *testing.T) {
	w := newWorld(t)
	w.apply(name("a"), wakeAt(1))
	w.apply(name("b"), wakeAt(1))
	cuts := w.cuts()
	w.apply(name("a"), wakeAt(2))
	w.remove(name("b"))
	w.apply(name("c"), wakeAt(2))
	w.must(w.Write(ctx, cuts))
	if e, _ := w.Get(ctx, name("a")); e.Seq != 2 {
		t.Errorf("memory lost a commit: %+v", e)
	}
	w.wantCount(2)
	if w.RecentLen() != 3 {
		t.Errorf("%d agents wait for a checkpoint, want 3", w.RecentLen())
	}
	w.restart()
	w.wantCount(2)
	if e, _ := w.Get(ctx, name("a")); e.Seq != 1 {
		t.Errorf("the rows hold what was applied after the cut: %+v", e)
	}
	if e, err := w.Get(ctx, name("b")); err != nil || e.Seq != 1 {
		t.Errorf("the rows know of a deletion after the cut: %v", err)
	}
	_, err := w.Get(ctx, name("c"))
	w.wantKind(err, agent.NotFound)
}

func TestCatalog_CutThatWasNotWrittenIsInTheNext(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		w.apply(name(fmt.Sprint(i)), wakeAt(1))
	}
	w.quarantineRecord(name("7"), "first")
	lost := w.cuts()
	w.apply(name("3"), wakeAt(2))
	w.remove(name("4"))
	w.quarantineRecord(name("8"), "second")
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	w.wantKind(w.Write(cancelled, lost), agent.Canceled)
	w.checkpoint()
	w.wantKind(w.Write(ctx, lost), agent.Internal)
	if w.RecentLen() != 0 {
		t.Errorf("%d agents stay in memory", w.RecentLen())
	}
	w.restart()
	w.wantCount(49)
	e3, _ := w.Get(ctx, name("3"))
	e7, _ := w.Get(ctx, name("7"))
	e8, _ := w.Get(ctx, name("8"))
	if e3.Seq != 2 || e7.Quarantine != "first" || e8.Quarantine != "second" {
		t.Errorf("%+v %+v %+v", e3, e7, e8)
	}
}

func TestCatalog_CutDuringItsWriteIsRefused(t *testing.T) {
	w := newWorld(t)
	w.apply(name("a"), wakeAt(1))
	cuts := w.cuts()
	var second []any
	w.onStep(betweenHolds, func() {
		w.step = nil
		w.apply(name("a"), wakeAt(2))
		second = w.cuts()
	})
	w.must(w.Write(ctx, cuts))
	w.wantKind(w.Write(ctx, second), agent.Internal)
	w.checkpoint()
	w.restart()
	if e, _ := w.Get(ctx, name("a")); e.Seq != 2 {
		t.Errorf("%+v", e)
	}
}

func TestCatalog_DueMergesLayers(t *testing.T) {
	w := newWorld(t)
	for _, layer := range []string{"row", "recent", "live"} {
		for i := range int64(3) {
			id := name(fmt.Sprintf("%s%d", layer, i))
			w.apply(id, wakeAt(2000+1000*i))
		}
		if layer == "row" {
			w.checkpoint()
		}
		if layer == "live" {
			for i := range 3 {
				w.openAgent(name(fmt.Sprintf("live%d", i)))
			}
		}
	}
	w.wantDue(1999, 2000)
	w.wantDue(2000, 3000, "live0", "recent0", "row0")
	w.wantDue(9000, 0, "live0", "recent0", "row0", "live1", "recent1", "row1", "live2", "recent2", "row2")
	w.apply(name("row0"), wakeAt(8000))   // a row is overridden
	w.apply(name("row1"), storage.Wake{}) // or loses its wake
	w.remove(name("row2"))
	w.wantDue(7000, 8000, "live0", "recent0", "live1", "recent1", "live2", "recent2")
	w.wantDue(1000, 2000)
	w.checkpoint()
	w.wantDue(7000, 8000, "live0", "recent0", "live1", "recent1", "live2", "recent2")
	w.apply(name("working"), storage.Wake{Resume: true, At: at(100_000)})
	w.wantDue(1000, 2000, "working")
	l := w.openAgent(name("working"))
	w.wantDue(8001, 100_000, "live0", "recent0", "live1", "recent1", "live2", "recent2", "row0")
	l.Closed()
	w.checkpoint()
	w.wantDue(1000, 2000, "working")
	w.must(w.SetQuarantine(ctx, name("working"), "broke"))
	w.wantDue(1000, 2000)
	w.checkpoint()
	w.restart()
	w.wantDue(1000, 2000)
	w.must(w.SetQuarantine(ctx, name("working"), ""))
	w.wantDue(1000, 2000, "working")
	due, next, err := w.Due(ctx, at(8000), 2)
	if err != nil || len(due) != 2 || due[0].ID != name("working") || due[1].ID != name("live0") || !next.IsZero() {
		t.Errorf("limit of two: %v %v %v", due, next, err)
	}
	w.wantKind(w.SetQuarantine(ctx, name("nobody"), "x"), agent.NotFound)
	w.openAgent(name("unborn"))
	w.wantKind(w.SetQuarantine(ctx, name("unborn"), "x"), agent.NotFound)
	_, _, err = w.Due(ctx, at(1), 0)
	w.wantKind(err, agent.Invalid)
}

func TestCatalog_DueWalksManyRows(t *testing.T) {
	w := newWorld(t)
	const n = 3 * windowChunk
	for i := range n {
		w.apply(name(fmt.Sprintf("%04d", i)), wakeAt(int64(1+i)))
	}
	w.checkpoint()
	for i := range n { // each is woken and sets its wake far away
		due, next, err := w.Due(ctx, at(n), 1)
		w.must(err)
		if len(due) != 1 || due[0].ID != name(fmt.Sprintf("%04d", i)) {
			t.Fatalf("step %d: %v", i, due)
		}
		if want := int64(1_000_000); i > 0 && next.UnixMilli() != want {
			t.Fatalf("step %d: next is %v", i, next.UnixMilli())
		}
		w.apply(due[0].ID, wakeAt(1_000_000+int64(i)))
	}
	if len(w.window.rows) > windowChunk {
		t.Errorf("the window holds %d rows that are overridden", len(w.window.rows))
	}
	w.wantDue(n, 1_000_000)
	w.checkpoint()
	w.wantDue(n, 1_000_000)
}

func TestDue_WindowStaysSmall(t *testing.T) {
	w := newWorld(t)
	const n = maxWindow + 3*windowChunk
	for i := range n {
		w.apply(name(fmt.Sprintf("%05d", i)), wakeAt(int64(1+i)))
	}
	w.checkpoint()
	for _, limit := range []int{n + 1, n / 2, n} {
		due, next, err := w.Due(ctx, at(n), limit)
		w.must(err)
		if len(due) != min(limit, n) || !next.IsZero() {
			t.Errorf("limit %d: %d are due, next %v", limit, len(due), next)
		}
		if got := len(w.window.rows); got > maxWindow {
			t.Errorf("limit %d: the window holds %d rows", limit, got)
		}
	}
}

func TestCatalog_ChangedTellsOfEarlierWakesOnly(t *testing.T) {
	w := newWorld(t)
	asked := func() { w.wantChanged("left over", false); _, _, _ = w.Due(ctx, at(1000), 100) }
	a := w.openAgent(name("a"))
	w.committed(a, 1, wakeAt(5000))
	w.wantChanged("first wake", true)
	asked()
	w.committed(a, 2, wakeAt(6000))
	w.wantChanged("later than the earliest known", false)
	w.committed(a, 3, wakeAt(4000))
	w.wantChanged("earlier", true)
	asked()
	b := w.openAgent(name("b"))
	w.committed(b, 1, wakeAt(4500))
	w.wantChanged("another agent, later", false)
	w.committed(b, 2, storage.Wake{At: at(3500), Resume: true})
	w.wantChanged("another agent, earlier", true)
	asked()
	b.Closed()
	w.wantChanged("unfinished work lost its instance", true)
	a.Closed()
	asked()
	w.applyAs(name("b"), 1, wakeAt(4500))
	w.applyAs(name("b"), 2, storage.Wake{At: at(3500), Resume: true})
	w.wantChanged("applied what was known", false)
	w.must(w.SetQuarantine(ctx, name("b"), "x"))
	asked()
	w.must(w.SetQuarantine(ctx, name("b"), ""))
	w.wantChanged("a quarantine was lifted", true)
	asked()
	w.apply(name("c"), wakeAt(3000))
	w.wantChanged("a replica applied an earlier wake", true)
	w.checkpoint()
	asked()
	c := w.openAgent(name("c"))
	w.committed(c, 2, storage.Wake{})
	w.wantChanged("no wake any more", false)
	c.Broken()
	w.wantChanged("the instance was discarded, its wake is back", true)
	w.Wakened()
	w.wantChanged("the engine says so", true)
}

func TestCatalog_ChangedTellsOfAWakeThatWasDue(t *testing.T) {
	w := newWorld(t)
	w.apply(name("a"), wakeAt(500))
	w.apply(name("b"), wakeAt(9000))
	<-w.Changed()
	w.wantDue(1000, 9000, "a")
	w.apply(name("a"), wakeAt(5000)) // later than it was, earlier than the asker was told
	w.wantChanged("a new wake before the next", true)
	w.wantDue(1000, 5000)
	w.apply(name("a"), wakeAt(6000))
	w.wantChanged("it moves back", false)
	w.wantDue(1000, 6000)
	w.wantDue(6000, 9000, "a")
}

// TestDue_ChangeDuringTheAnswerRings: what happens between the steps of Due may be
// missing in its answer.
func TestDue_ChangeDuringTheAnswerRings(t *testing.T) {
	w := newWorld(t)
	id := name("a")
	w.apply(id, wakeAt(5000))
	w.checkpoint()
	l := w.openAgent(id)
	w.wantDue(1000, 5000)
	w.onStep(rowsRead, func() {
		for len(w.Changed()) > 0 {
			<-w.Changed()
		}
		l.Closed() // its row was passed over, and it leaves memory
	})
	w.wantDue(1000, 0)
	w.step = nil
	w.wantChanged("a life ended behind the answer's back", true)
	w.wantDue(1000, 5000)
	w.onStep(memoryRead, func() { w.applyAs(id, 2, wakeAt(4000)) })
	w.wantDue(1000, 5000)
	w.step = nil
	w.wantChanged("a commit behind the answer's back", true)
	w.wantDue(1000, 4000)
	w.step = nil
	w.apply(name("c"), wakeAt(2000))
	w.wantDue(1000, 2000)
	w.apply(name("c"), storage.Wake{})
	for len(w.Changed()) > 0 {
		<-w.Changed()
	}
	w.onStep(memoryRead, func() { w.applyAs(name("c"), 3, wakeAt(3000)) }) // behind what was told before
	w.wantDue(1000, 4000)
	w.wantChanged("a commit between the last answer's time and this one's", true)
	w.onStep(rowsRead, func() { w.applyAs(name("b"), 1, wakeAt(500)) })
	w.wantDue(1000, 3000, "b")
	w.step = nil
	w.checkpoint()
	w.onStep(rowsRead, func() { w.applyAs(name("b"), 2, wakeAt(600)) }) // its row was taken
	w.wantDue(1000, 3000, "b")
}

func TestDue_WakeThatMovedBackHidesNobody(t *testing.T) {
	w := newWorld(t)
	ids := []agent.ID{} // of one shard
	for i := 0; len(ids) < 3; i++ {
		if id := name(fmt.Sprint(i)); shardOf(id) == 1 {
			ids = append(ids, id)
		}
	}
	for i, id := range ids {
		w.apply(id, wakeAt(int64(500+100*i)))
	}
	w.apply(ids[0], wakeAt(9000))
	w.apply(ids[1], storage.Wake{})
	w.wantDue(1000, 9000, ids[2].Name)
	w.apply(ids[0], wakeAt(9500))
	w.apply(ids[2], wakeAt(9200))
	w.wantDue(1000, 9200)
}

func TestCatalog_LifeOverridesARowThatIsDue(t *testing.T) {
	w := newWorld(t)
	w.apply(name("working"), storage.Wake{Resume: true, At: at(8000)})
	w.apply(name("late"), wakeAt(500))
	w.checkpoint()
	w.wantDue(1000, 0, "working", "late")
	w.openAgent(name("working"))
	l := w.openAgent(name("late"))
	w.wantDue(1000, 8000, "late")
	w.committed(l, 2, wakeAt(2000))
	w.wantDue(1000, 2000)
	w.apply(name("recent"), wakeAt(400))
	w.must(w.SetQuarantine(ctx, name("recent"), "broke"))
	w.wantDue(1000, 2000)
	if e, err := w.Get(ctx, name("recent")); err != nil || e.Quarantine != "broke" {
		t.Errorf("%+v %v", e, err)
	}
}

func TestCatalog_QuestionWithAnOlderClockLowersNoHorizon(t *testing.T) {
	w := newWorld(t)
	w.apply(name("a"), wakeAt(5000))
	w.apply(name("b"), wakeAt(7000))
	<-w.Changed()
	w.wantDue(6000, 7000, "a")
	w.wantDue(1000, 5000) // somebody else, with an older clock
	w.apply(name("c"), wakeAt(6500))
	w.wantChanged("earlier than the newest asker was told", true)
}

func TestCatalog_ListIsOrderedAndPaged(t *testing.T) {
	w := newWorld(t)
	var want, ofB []string
	for i, class := range []string{"A", "B", "a"} {
		for j := range 9 {
			id := agent.ID{Namespace: "default", Class: class, Name: fmt.Sprintf("n%d", j)}
			want = append(want, id.String())
			w.apply(id, storage.Wake{})
			if j%3 == 0 {
				w.checkpoint()
			}
			if j%3 == 1 {
				w.committed(w.openAgent(id), 2, storage.Wake{})
			}
			if gone := (agent.ID{Namespace: "default", Class: class, Name: fmt.Sprintf("gone%d%d", i, j)}); true {
				w.apply(gone, storage.Wake{})
				if j%2 == 0 {
					w.checkpoint()
				}
				w.remove(gone)
			}
		}
	}
	ofB = want[9:18]
	w.apply(agent.ID{Namespace: "other", Class: "A", Name: "x"}, storage.Wake{})
	w.openAgent(name("unborn"))
	for range 2 {
		for _, size := range []int{1, 4, 1000} {
			if got := w.names("default", "", size); !slices.Equal(got, want) {
				t.Errorf("pages of %d: %v, want %v", size, got, want)
			}
			if got := w.names("default", "B", size); !slices.Equal(got, ofB) {
				t.Errorf("pages of %d: %v, want %v", size, got, ofB)
			}
		}
		w.checkpoint()
	}
	w.wantCount(28)
	if got, err := w.List(ctx, "default", "B", agent.ID{Class: "a", Name: "n1"}, 10); err != nil || len(got) != 0 {
		t.Errorf("behind the class: %v %v", got, err)
	}
	if got, err := w.List(ctx, "default", "B", agent.ID{Class: "A", Name: "n5"}, 10); err != nil || len(got) != 9 {
		t.Errorf("before the class: %v %v", got, err)
	}
	for _, limit := range []int{0, 1001} {
		_, err := w.List(ctx, "default", "", agent.ID{}, limit)
		w.wantKind(err, agent.Invalid)
	}
}

func TestCatalog_CountIsExact(t *testing.T) {
	w := newWorld(t)
	a := w.openAgent(name("a"))
	w.wantCount(0)
	w.committed(a, 1, storage.Wake{})
	w.wantCount(1)
	w.applyAs(name("a"), 1, storage.Wake{})
	w.wantCount(1)
	a.Closed()
	w.checkpoint()
	w.wantCount(1)
	b := w.openAgent(name("b"))
	w.committed(b, 1, storage.Wake{})
	w.wantCount(2)
	b.Broken()
	w.wantCount(1)
	w.remove(name("a"))
	w.wantCount(0)
	w.remove(name("a"))
	w.remove(name("never"))
	w.wantCount(0)
	w.apply(name("a"), storage.Wake{})
	w.wantCount(1)
	w.checkpoint()
	w.restart()
	w.wantCount(1)
	b = w.openAgent(name("b"))
	w.applyAs(name("b"), 1, storage.Wake{}) // the applier may be faster than the loop
	w.committed(b, 1, storage.Wake{})
	w.wantCount(2)
	b.Closed()
	w.remove(name("b"))
	w.wantCount(1)
}

func TestCatalog_LaterLifeIsNotTouchedByAnEarlier(t *testing.T) {
	w := newWorld(t)
	l1 := w.openAgent(name("a"))
	w.committed(l1, 1, wakeAt(5000))
	l1.Closed()
	l2 := w.openAgent(name("a")) // at once: nothing is applied yet
	l1.Closed()
	l1.Broken()
	w.committed(l1, 9, storage.Wake{})
	if e, err := w.Get(ctx, name("a")); err != nil || !e.Live || e.Seq != 1 {
		t.Errorf("%+v %v", e, err)
	}
	l2.Closed() // a life that wrote nothing over one that is not applied
	w.wantDue(5000, 0, "a")
	w.applyAs(name("a"), 1, wakeAt(5000))
	w.checkpoint()
	w.wantDue(5000, 0, "a")
	if n := len(w.partOf(name("a")).agents); n != 0 {
		t.Errorf("%d nodes stay in memory", n)
	}
}

func TestCatalog_RecordsMayLieInABuffer(t *testing.T) {
	w := newWorld(t)
	buffer := []byte("defaultThingsomebodywhy")
	text := func(from, to int) string { return unsafe.String(&buffer[from], to-from) }
	id := agent.ID{Namespace: text(0, 7), Class: text(7, 12), Name: text(12, 20)}
	shard := shardOf(id)
	w.must(w.Commit(shard, 1, &record.Record{Kind: record.Commit, Agent: id, Seq: 1}))
	w.must(w.Commit(shard, 2, &record.Record{Kind: record.Quarantine, Agent: id, Base: 1, Seq: 1, Reason: text(20, 23)}))
	clear(buffer)
	if e, err := w.Get(ctx, name("somebody")); err != nil || e.Quarantine != "why" {
		t.Errorf("%+v %v", e, err)
	}
}

func TestCatalog_FindKnowsTheLastCommit(t *testing.T) {
	w := newWorld(t)
	w.apply(name("a"), storage.Wake{})
	w.apply(name("a"), storage.Wake{})
	for range 2 {
		if _, when, ok, err := w.Find(name("a")); err != nil || !ok || !when.Equal(at(1002)) {
			t.Errorf("%v %v %v", when, ok, err)
		}
		w.checkpoint()
	}
	l := w.openAgent(name("a"))
	w.committed(l, 3, storage.Wake{})
	if _, when, ok, err := w.Find(name("a")); err != nil || !ok || !when.Equal(at(1003)) {
		t.Errorf("%v %v %v", when, ok, err)
	}
}

func TestCatalog_QuarantineReasonIsBounded(t *testing.T) {
	w := newWorld(t)
	w.apply(name("a"), storage.Wake{})
	long := ""
	for range MaxReasonBytes {
		long += "é"
	}
	w.must(w.SetQuarantine(ctx, name("a"), "\x00\xff"+long))
	e, err := w.Get(ctx, name("a"))
	w.must(err)
	if len(e.Quarantine) > MaxReasonBytes || len(e.Quarantine) < MaxReasonBytes-1 || e.Quarantine[:4] != "??é" {
		t.Errorf("%d bytes, %.8q", len(e.Quarantine), e.Quarantine)
	}
	w.checkpoint()
	w.restart()
	if again, _ := w.Get(ctx, name("a")); again.Quarantine != e.Quarantine {
		t.Error("it changed in the row")
	}
	w.remove(name("a"))
	w.quarantineRecord(name("a"), "too late")
	w.apply(name("a"), storage.Wake{})
	if again, _ := w.Get(ctx, name("a")); again.Quarantine != "" {
		t.Error("a new agent inherits a quarantine")
	}
}

func TestCatalog_ClosedRefuses(t *testing.T) {
	w := newWorld(t)
	w.apply(name("a"), storage.Wake{})
	cuts := w.cuts()
	w.must(w.Catalog.Close())
	w.must(w.Catalog.Close())
	_, err := w.Get(ctx, name("a"))
	w.wantKind(err, agent.Unavailable)
	_, err = w.Seq(name("b"))
	w.wantKind(err, agent.Unavailable)
	_, err = w.List(ctx, "default", "", agent.ID{}, 1)
	w.wantKind(err, agent.Unavailable)
	_, _, err = w.Due(ctx, at(1), 1)
	w.wantKind(err, agent.Unavailable)
	_, err = w.Count(ctx)
	w.wantKind(err, agent.Unavailable)
	w.wantKind(w.SetQuarantine(ctx, name("a"), "x"), agent.Unavailable)
	w.wantKind(w.Write(ctx, cuts), agent.Unavailable)
	_, err = w.Verify(ctx)
	w.wantKind(err, agent.Unavailable)
}

func TestCatalog_BadQuestionsAreRefused(t *testing.T) {
	w := newWorld(t)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := w.Get(cancelled, name("a"))
	w.wantKind(err, agent.Canceled)
	_, err = w.List(cancelled, "default", "", agent.ID{}, 1)
	w.wantKind(err, agent.Canceled)
	_, _, err = w.Due(cancelled, at(1), 1)
	w.wantKind(err, agent.Canceled)
	_, err = w.Get(ctx, agent.ID{})
	w.wantKind(err, agent.Invalid)
	_, err = w.List(ctx, "No", "", agent.ID{}, 1)
	w.wantKind(err, agent.Invalid)
	w.wantKind(w.Commit(0, 1, &record.Record{Kind: 9}), agent.Internal)
	w.wantKind(w.Write(ctx, []any{7}), agent.Internal)
	w.index[0] = 5
	w.checkpoint()
	w.wantKind(w.Write(ctx, []any{w.Cut(0, 4)}), agent.Internal)
	if _, err := Open(Config{}); err == nil || errors.Is(err, context.Canceled) {
		t.Error("a config without anything is taken")
	}
}
