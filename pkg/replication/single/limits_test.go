package single

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/placement"
	"agentd/pkg/storage"
)

// tapped is a file system each of whose changes goes through tap, which may do it,
// refuse it or hold it back. Any goroutine calls tap. SQLite's own writes to the
// catalog do not pass here, its syncs do.
type tapped struct {
	disk.FS
	tap func(change, path string, do func() error) error
}

// The changes that tap is told of.
const (
	create   = "create"
	write    = "write"
	truncate = "truncate"
	rename   = "rename"
	remove   = "remove"
	fileSync = "sync"
	dirSync  = "sync folder"
	allSync  = "sync all"
)

func (f tapped) Open(path string, flags int) (file disk.File, err error) {
	open := func() (err error) { file, err = f.FS.Open(path, flags); return err }
	if _, statErr := f.Stat(path); statErr != nil && flags&os.O_CREATE != 0 {
		err = f.tap(create, path, open)
	} else {
		err = open()
	}
	if err != nil {
		return nil, err
	}
	return tappedFile{file, path, f.tap}, nil
}

func (f tapped) Rename(from, to string) error {
	return f.tap(rename, to, func() error { return f.FS.Rename(from, to) })
}

func (f tapped) Remove(path string) error {
	return f.tap(remove, path, func() error { return f.FS.Remove(path) })
}

func (f tapped) SyncDir(path string) error {
	return f.tap(dirSync, path, func() error { return f.FS.SyncDir(path) })
}

func (f tapped) SyncFS(path string) error {
	return f.tap(allSync, path, func() error { return f.FS.SyncFS(path) })
}

type tappedFile struct {
	disk.File
	path string
	tap  func(change, path string, do func() error) error
}

func (f tappedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.tap(write, f.path, func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f tappedFile) Truncate(size int64) error {
	return f.tap(truncate, f.path, func() error { return f.File.Truncate(size) })
}

func (f tappedFile) Sync() error { return f.tap(fileSync, f.path, f.File.Sync) }

// lazy is the operating system's file system without syncs, which only take time
// where the machine does not crash.
type lazy struct{ disk.OS }

func (l lazy) Open(path string, flags int) (disk.File, error) {
	f, err := l.OS.Open(path, flags&^unix.O_DSYNC)
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

func (lazy) SyncDir(string) error { return nil }
func (lazy) SyncFS(string) error  { return nil }

type lazyFile struct{ disk.File }

func (lazyFile) Sync() error { return nil }

// house is a store with a false disk.
type house struct {
	*testing.T
	*Store
	dir string
	// rule, if set, is asked before each change: an error refuses it.
	rule atomic.Pointer[func(change, path string) error]
}

func newHouse(t *testing.T, c Config) *house {
	h := &house{T: t, dir: filepath.Join(t.TempDir(), "data")}
	c.FS = tapped{lazy{}, func(change, path string, do func() error) error {
		if rule := h.rule.Load(); rule != nil {
			if err := (*rule)(change, strings.TrimPrefix(path, h.dir+"/")); err != nil {
				return err
			}
		}
		return do()
	}}
	h.start(c)
	return h
}

// start opens the folder; the store is closed with the test.
func (h *house) start(c Config) {
	h.Helper()
	c.Dir, c.Now = h.dir, time.Now
	s, err := Open(h.Context(), c)
	h.must(err)
	h.Store = s
	h.Cleanup(func() { _ = s.Close() })
}

// restart opens the folder again, on a sound disk.
func (h *house) restart() {
	h.Helper()
	_ = h.Store.Close() // what it says of a broken disk was tested before
	h.start(Config{FS: lazy{}})
}

func (h *house) obey(rule func(change, path string) error) {
	if rule == nil {
		h.rule.Store(nil)
		return
	}
	h.rule.Store(&rule)
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *house) wantKind(err error, want agent.Kind) {
	h.Helper()
	if err == nil || agent.KindOf(err) != want {
		h.Fatalf("error %v, want one of kind %v", err, want)
	}
}

func houseAgent(name any) agent.ID {
	return agent.ID{Namespace: "default", Class: "House", Name: fmt.Sprint(name)}
}

func (h *house) agent(name any) storage.DB {
	h.Helper()
	db, err := h.Open(h.Context(), houseAgent(name))
	h.must(err)
	return db
}

// put writes a value to a key of the agent and commits.
func put(db storage.DB, key int, value []byte) (*storage.Ticket, error) {
	_, err := everything(db, "CREATE TABLE IF NOT EXISTS kv(k INTEGER PRIMARY KEY, v BLOB)")
	if err == nil {
		_, err = everything(db, "INSERT OR REPLACE INTO kv VALUES(?,?)", key, value)
	}
	if err != nil {
		return nil, err
	}
	return db.Commit(storage.Wake{})
}

// putDurably is put and the wait for the disk.
func putDurably(db storage.DB, key int, value []byte) error {
	ticket, err := put(db, key, value)
	if err != nil {
		return err
	}
	return ticket.Wait()
}

// count is the number of the agent's keys.
func (h *house) count(db storage.DB) int {
	h.Helper()
	rows, err := everything(db, "SELECT count(*) FROM kv")
	h.must(err)
	return int(rows.([]any)[0].([][]storage.Value)[0][0].(int64))
}

// noise cannot be made smaller.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = r.Read(b) // never fails
	return b
}

// eventually polls a condition that the engine's own timers bring about.
func (h *house) eventually(what string, ok func() bool) {
	h.Helper()
	tick, end := time.NewTicker(2*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			h.Fatalf("it never came true that %s", what)
		}
	}
}

func TestLimits_MaxOpenRefusesTheNext(t *testing.T) {
	h := newHouse(t, Config{MaxOpen: 3, SegmentBytes: 1 << 20})
	dbs := []storage.DB{h.agent(0), h.agent(1), h.agent(2)}
	_, err := h.Open(t.Context(), houseAgent(3))
	h.wantKind(err, agent.Overloaded)
	for i, db := range dbs {
		h.must(putDurably(db, i, nil))
	}
	h.must(dbs[1].Close())
	h.must(putDurably(h.agent(3), 0, nil))
}

// holding keeps writes of the log back until it is let go.
type holding struct {
	ended  chan struct{}
	free   atomic.Bool
	letOff sync.Once
}

func (h *house) holdLog() *holding {
	g := &holding{ended: make(chan struct{})}
	h.Cleanup(g.letGo)
	h.obey(func(change, path string) error {
		if change == write && strings.HasPrefix(path, logName+"/") {
			<-g.ended
		}
		return nil
	})
	return g
}

func (g *holding) letGo() {
	g.letOff.Do(func() { g.free.Store(true); close(g.ended) })
}

// patient commits one value after the other until the last, on a goroutine of its
// own, and counts what it has got tickets for.
type patient struct {
	db      storage.DB
	begun   atomic.Int64
	given   atomic.Int64
	early   atomic.Bool // a commit beyond limit did not wait for the disk
	limit   int64
	tickets []*storage.Ticket
	err     error
}

func (p *patient) run(g *holding, values [][]byte) {
	for i, v := range values {
		p.begun.Add(1)
		ticket, err := put(p.db, i, v)
		if err != nil {
			p.err = err
			return
		}
		if int64(i) >= p.limit && !g.free.Load() {
			p.early.Store(true)
		}
		p.tickets = append(p.tickets, ticket)
		p.given.Add(1)
	}
}

// While the log's disk stands still an agent goes on until its overlay is full, and
// then waits; when the disk moves, everything is there.
func TestLimits_SlowLogStopsAnAgentAtItsOverlay(t *testing.T) {
	h := newHouse(t, Config{})
	// Of 2 MB each: 16 commits are below the overlay's limit of 32 MiB, 18 are above.
	p := &patient{db: h.agent("a"), limit: 18}
	h.must(putDurably(p.db, -1, nil))
	g := h.holdLog()
	values := make([][]byte, 20)
	for i := range values {
		values[i] = noise(uint64(i), 2_000_000)
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.run(g, values) })
	h.eventually("the agent begins the commit that must wait", func() bool { return p.begun.Load() > p.limit-1 })
	other := h.agent("b") // of another overlay, it goes on
	otherTicket, err := put(other, 0, []byte("x"))
	h.must(err)
	if settled, _ := otherTicket.Settled(); settled {
		t.Error("a commit was acknowledged while the log could not be written")
	}
	h.still(&p.given)
	g.letGo()
	wg.Wait()
	h.must(p.err)
	if p.early.Load() {
		t.Error("commits beyond the overlay's limit did not wait")
	}
	for _, ticket := range append(p.tickets, otherTicket) {
		h.must(ticket.Wait())
	}
	h.restart()
	if n := h.count(h.agent("a")); n != 21 {
		t.Errorf("%d values of 21", n)
	}
}

// still gives a number that must not move the chance to do so.
func (h *house) still(n *atomic.Int64) {
	h.Helper()
	var last int64 = -1
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for range 50 { // until it stands; a loop that only writes memory stands soon
		<-tick.C
		now := n.Load()
		if now == last {
			return
		}
		last = now
	}
	h.Error("commits go on without the disk")
}

// While the log's disk stands still all agents together stop at the window, one
// record past it for each of them at most, and Close ends when the disk moves.
func TestLimits_SlowLogStopsAllAtTheWindow(t *testing.T) {
	if testing.Short() {
		t.Skip("holds some 600 MiB in memory")
	}
	const agents, window = 12, 256 << 20 // engine's maxWindowBytes
	h := newHouse(t, Config{})
	dbs := make([]storage.DB, agents)
	for i := range dbs {
		dbs[i] = h.agent(i)
		h.must(putDurably(dbs[i], -1, nil))
	}
	g := h.holdLog()
	var wg sync.WaitGroup
	var given atomic.Int64
	tickets := make([][]*storage.Ticket, agents)
	value := noise(1, 2_000_000)
	for i, db := range dbs {
		wg.Go(func() {
			for k := range 14 { // together 336 MB
				ticket, err := put(db, k, value)
				if err != nil {
					if !g.free.Load() {
						t.Errorf("agent %d: %v", i, err)
					}
					return
				}
				tickets[i] = append(tickets[i], ticket)
				given.Add(1)
			}
		})
	}
	h.eventually("the window is full", func() bool { return h.Stats().WindowBytes >= window })
	h.still(&given)
	if most := int64(window + agents*2_100_000); h.Stats().WindowBytes > most {
		t.Errorf("%d bytes are on their way to the disk, at most %d may be", h.Stats().WindowBytes, most)
	}
	if given.Load() == agents*14 {
		t.Error("nobody waited")
	}
	if open := h.agent("reader"); open != nil { // reads and opens go on
		_, err := everything(open, "SELECT 1")
		h.must(err)
		h.must(open.Close())
	}
	g.letGo()
	closed := make(chan error, 1)
	go func() { closed <- h.Store.Close() }()
	wg.Wait()
	h.must(<-closed)
	h.restart()
	for i := range agents {
		for _, ticket := range tickets[i] {
			h.must(ticket.Wait())
		}
		if n := h.count(h.agent(i)); n != len(tickets[i])+1 {
			t.Errorf("agent %d has %d values, %d were acknowledged", i, n, len(tickets[i])+1)
		}
	}
}

// A turn may change 64 MiB and no more; one that is refused leaves the agent as it
// was.
func TestLimits_LargestTurn(t *testing.T) {
	if testing.Short() {
		t.Skip("writes some 200 MiB")
	}
	h := newHouse(t, Config{})
	db := h.agent("a")
	h.must(putDurably(db, -1, []byte("x")))
	// A value of 512 KiB has 129 pages: 126 of them and the tree above are just below
	// 16 384 pages, 128 are above.
	fill := func(n int) error {
		for i := range n {
			if _, err := everything(db, "INSERT OR REPLACE INTO kv VALUES(?,?)", i, noise(uint64(i), 512<<10)); err != nil {
				return err
			}
		}
		ticket, err := db.Commit(storage.Wake{})
		if err == nil {
			err = ticket.Wait()
		}
		return err
	}
	h.must(fill(126))
	_, err := everything(db, "DELETE FROM kv WHERE k >= 0")
	h.must(err)
	ticket, err := db.Commit(storage.Wake{})
	h.must(err)
	h.must(ticket.Wait())
	h.wantKind(fill(128), agent.TooLarge)
	h.must(db.Close())
	db = h.agent("a")
	if n := h.count(db); n != 1 {
		t.Errorf("%d values after a refused turn, want 1", n)
	}
	h.must(putDurably(db, 1, []byte("y")))
	h.must(db.Close())
	h.restart()
	if n := h.count(h.agent("a")); n != 2 {
		t.Errorf("%d values after a restart, want 2", n)
	}
}

// After a failed write of the log nothing is acknowledged any more, in any shard.
func TestLimits_FailedLogEndsAllPromises(t *testing.T) {
	h := newHouse(t, Config{SegmentBytes: 1 << 20})
	dbs := make([]storage.DB, 20)
	for i := range dbs {
		dbs[i] = h.agent(i)
		h.must(putDurably(dbs[i], 0, nil))
	}
	h.obey(func(change, path string) error {
		if change == write && strings.HasPrefix(path, logName+"/") {
			return unix.EIO
		}
		return nil
	})
	h.wantKind(putDurably(dbs[0], 1, nil), agent.OutcomeUnknown)
	h.eventually("the store says that it failed", func() bool { return h.Err() != nil })
	<-h.Store.Failed()
	h.obey(nil) // the disk seems to be well again
	for _, db := range dbs[1:] {
		if err := putDurably(db, 1, nil); err == nil {
			t.Fatal("a commit was acknowledged after the log had failed")
		} else if kind := agent.KindOf(err); kind != agent.OutcomeUnknown && kind != agent.Unavailable {
			t.Errorf("a commit after the failure: %v", err)
		}
	}
	if _, err := h.Open(t.Context(), houseAgent("new")); err == nil {
		t.Error("an agent was opened after the log had failed")
	}
	h.restart()
	for i := range dbs {
		if n := h.count(h.agent(i)); n < 1 || i > 0 && n > 1 {
			t.Errorf("agent %d has %d values", i, n)
		}
	}
}

// No space for agents' files, though the log has some: what was acknowledged waits in
// the log, new data is refused, reads go on, and it ends by itself.
func TestLimits_FullDiskRefusesNewDataOnly(t *testing.T) {
	h := newHouse(t, Config{SegmentBytes: 1 << 20})
	a, b := h.agent("a"), h.agent("b")
	h.must(putDurably(a, 0, nil))
	h.must(putDurably(b, 0, nil))
	h.eventually("both are in their files", func() bool { return h.Stats().QueueBytes == 0 })
	h.obey(func(change, path string) error {
		if (change == write || change == create || change == truncate) && strings.HasPrefix(path, "agents/") {
			return unix.ENOSPC
		}
		return nil
	})
	value := noise(1, 1_900_000) // more than SQLite's cache has room for
	h.must(putDurably(a, 1, value))
	h.eventually("the applier is stuck", func() bool { return h.Stats().Stuck })
	found, err := everything(a, "SELECT v FROM kv WHERE k=1")
	h.must(err)
	if want := []any{[][]storage.Value{{value}}, int64(0)}; !reflect.DeepEqual(found, want) {
		t.Fatal("what was acknowledged reads otherwise while it is not in the file")
	}
	for _, db := range []storage.DB{a, b} {
		_, err := put(db, 2, noise(2, 100_000))
		h.wantKind(err, agent.StorageFull)
	}
	// After a refusal a database is closed. Who opens it again reads what was
	// acknowledged, also while its file does not hold it.
	h.must(b.Close())
	b = h.agent("b")
	if n := h.count(b); n != 1 {
		t.Errorf("%d values can be read of 1", n)
	}
	for range 2 {
		h.must(a.Close())
		a = h.agent("a")
		found, err = everything(a, "SELECT v FROM kv WHERE k=1")
		h.must(err)
		if want := []any{[][]storage.Value{{value}}, int64(0)}; !reflect.DeepEqual(found, want) {
			t.Fatal("what was acknowledged reads otherwise after the database was opened again")
		}
	}
	h.must(a.Close())
	h.obey(nil)
	h.eventually("the applier goes on", func() bool { return !h.Stats().Stuck })
	a = h.agent("a")
	h.must(putDurably(a, 2, noise(2, 100_000)))
	h.must(putDurably(b, 2, noise(2, 100_000)))
	h.must(a.Close())
	h.must(b.Close())
	h.restart()
	if n, m := h.count(h.agent("a")), h.count(h.agent("b")); n != 3 || m != 2 {
		t.Errorf("%d and %d values, want 3 and 2", n, m)
	}
}

// A shard that is lost breaks its databases and no others; when it is led again
// everything acknowledged is there, and nothing of the turns that were cut off.
func TestLimits_LostShardBreaksItsDatabasesOnly(t *testing.T) {
	h := newHouse(t, Config{SegmentBytes: 1 << 20})
	dbs := make([]storage.DB, 40)
	for i := range dbs {
		dbs[i] = h.agent(i)
		h.must(putDurably(dbs[i], 0, nil))
		_, err := everything(dbs[i], "INSERT INTO kv VALUES(7, 'not committed')")
		h.must(err)
	}
	shardOf := func(i int) int { return placement.ShardOf(houseAgent(i), placement.DefaultShards) }
	lost := shardOf(0)
	g := h.holdLog()
	flight, err := put(dbs[0], 1, nil) // with the turn's other row
	h.must(err)
	h.Resign(lost, h.groups.Stats().Shards[lost].Term, errors.New("test"))
	_, err = everything(dbs[0], "SELECT 1")
	h.wantKind(err, agent.Unavailable)
	g.letGo()
	if err := flight.Wait(); err != nil { // its fate was the group's to say
		t.Errorf("a commit on its way: %v", err)
	}
	for i, db := range dbs {
		err := putDurably(db, 2, nil)
		switch {
		case shardOf(i) != lost:
			h.must(err)
		default:
			h.wantKind(err, agent.Unavailable)
			h.must(db.Close())
			_, err = h.Open(t.Context(), houseAgent(i))
			h.wantKind(err, agent.Unavailable)
		}
	}
	// There is no node to give the shard to, so it is led here again.
	if err := h.groups.Transfer(t.Context(), lost, "nobody"); err == nil {
		t.Error("a shard was given to nobody")
	}
	for i := range dbs {
		if shardOf(i) != lost {
			continue
		}
		h.eventually("the shard is led again", func() bool {
			dbs[i], err = h.Open(t.Context(), houseAgent(i))
			return agent.KindOf(err) != agent.Unavailable || err == nil
		})
		h.must(err)
		want := 1
		if i == 0 {
			want = 3 // with the commit that was on its way
		}
		if n := h.count(dbs[i]); n != want {
			t.Errorf("agent %d has %d values, want %d", i, n, want)
		}
		h.must(putDurably(dbs[i], 3, nil))
	}
}
