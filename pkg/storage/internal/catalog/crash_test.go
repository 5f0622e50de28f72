package catalog

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// lossy is a file system that remembers what a power loss would leave of the
// catalog's two files. SQLite's writes reach the real files behind its back; all
// syncs go through it.
type lossy struct {
	disk.OS
	durable map[string][]byte // content at the last sync
	before  func()            // called by every sync before it has an effect
	fail    func(path string) error
}

type lossyFile struct {
	disk.File
	fs   *lossy
	path string
}

func (l *lossy) Open(path string, flags int) (disk.File, error) {
	f, err := l.OS.Open(path, flags)
	return &lossyFile{f, l, path}, err
}

func (f *lossyFile) Sync() error {
	if f.fs.before != nil {
		f.fs.before()
	}
	if f.fs.fail != nil {
		if err := f.fs.fail(f.path); err != nil {
			return err
		}
	}
	content, err := os.ReadFile(f.path)
	f.fs.durable[f.path] = content
	return err
}

func (l *lossy) SyncDir(string) error { return nil }

const sector = 512

// after is what the file may hold after a power loss: of each sector the durable or
// the newer content, and a size of either or in between.
func (l *lossy) after(path string, rng *rand.Rand, mode int) []byte {
	durable := l.durable[path]
	now, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	switch mode {
	case 0: // everything reached the disk: a killed process
		return now
	case 1: // nothing did
		return durable
	}
	if len(now) == 0 { // a file shrinks at once
		return [][]byte{now, durable}[rng.IntN(2)]
	}
	size := max(len(now), len(durable))
	now, durable = append(bytes.Clone(now), make([]byte, size-len(now))...), append(bytes.Clone(durable), make([]byte, size-len(durable))...)
	mixed := bytes.Clone(durable)
	split := rng.IntN(size/sector + 1)
	for i := 0; i < size; i += sector {
		newer := rng.IntN(2) == 0
		switch mode {
		case 2: // the first sectors did
			newer = i/sector < split
		case 3: // the last did
			newer = i/sector >= split
		}
		if newer {
			copy(mixed[i:min(size, i+sector)], now[i:])
		}
	}
	return mixed
}

// snapshot is the catalog as of a checkpoint.
type snapshot struct {
	index [testShards]uint64
	rows  map[agent.ID]uint64
	why   map[agent.ID]string
}

func (w *world) snapshot() snapshot {
	s := snapshot{rows: map[agent.ID]uint64{}, why: map[agent.ID]string{}}
	for i := range testShards {
		s.index[i] = w.AppliedIndex(i)
	}
	list, err := w.List(ctx, "default", "", agent.ID{}, 1000)
	w.must(err)
	for _, e := range list {
		s.rows[e.ID] = e.Seq
		if e.Quarantine != "" {
			s.why[e.ID] = e.Quarantine
		}
	}
	return s
}

func (s snapshot) equal(o snapshot) bool {
	return s.index == o.index && maps.Equal(s.rows, o.rows) && maps.Equal(s.why, o.why)
}

// crasher makes crashes of a catalog and looks at what is left.
type crasher struct {
	w       *world
	fs      *lossy
	rng     *rand.Rand
	allowed []snapshot
	again   bool // this is the catalog after a crash
}

// crash restarts copies of the files in every mode of loss.
func (c *crasher) crash(where string) {
	c.w.Helper()
	for mode := range 6 {
		c.crashOnce(fmt.Sprintf("%s, mode %d", where, mode), mode)
	}
}

func (c *crasher) crashOnce(where string, mode int) {
	c.w.Helper()
	copied := &world{TB: c.w.TB, config: c.w.config}
	copied.config.Path += "-crashed.db"
	fs := &lossy{durable: map[string][]byte{}}
	copied.config.FS = fs
	for _, suffix := range []string{"", logSuffix} {
		m := mode
		if mode == 5 { // one file whole, the other as it was
			m = len(suffix) % 2
		}
		from, to := c.w.config.Path+suffix, copied.config.Path+suffix
		content := c.fs.after(from, c.rng, m)
		c.w.must(os.WriteFile(to, content, 0o600))
		if fs.durable[to] = content; mode == 0 { // a killed process: power may still fail
			fs.durable[to] = c.fs.durable[from]
		}
	}
	if mode == 0 && !c.again {
		next := &crasher{w: copied, fs: fs, rng: c.rng, allowed: c.allowed, again: true}
		fs.before = func() { next.crash(where + ", while it is opened again") }
	}
	var err error
	if copied.Catalog, err = Open(copied.config); err != nil {
		c.w.Fatalf("crash %s: %v", where, err)
	}
	fs.before = nil
	c.look(copied, fs, where)
}

// look says whether a catalog that was opened after a crash is right.
func (c *crasher) look(copied *world, fs *lossy, where string) {
	c.w.Helper()
	if got := copied.snapshot(); !slices.ContainsFunc(c.allowed, got.equal) {
		c.w.Fatalf("crash %s: the catalog is %+v, allowed is %+v", where, got, c.allowed)
	}
	if r, err := copied.Verify(ctx); err != nil || len(r.Problems) > 0 {
		c.w.Fatalf("crash %s: %v %v", where, r.Problems, err)
	}
	c.w.must(copied.Catalog.Close())
	for _, suffix := range []string{"", logSuffix} {
		path := copied.config.Path + suffix
		if now, _ := os.ReadFile(path); !bytes.Equal(now, fs.durable[path]) {
			c.w.Fatalf("crash %s: Open believes what is not durable in %q", where, path)
		}
		c.w.must(os.Remove(path))
	}
}

// TestWrite_IsWholeOrNotAtAllAfterPowerLoss loses power before and after every sync
// and between the steps of many checkpoints, several of which share a log.
func TestWrite_IsWholeOrNotAtAllAfterPowerLoss(t *testing.T) {
	seeds := uint64(3)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { testPowerLoss(t, seed) })
	}
}

func testPowerLoss(t *testing.T, seed uint64) {
	w := newWorld(t)
	w.must(w.Catalog.Close())
	fs := &lossy{durable: map[string][]byte{}}
	for _, path := range []string{w.config.Path, w.config.Path + logSuffix} {
		content, err := os.ReadFile(path)
		w.must(err)
		fs.durable[path] = content
	}
	w.config.FS = fs
	w.start()
	w.file.foldAt = 40
	c := &crasher{w: w, fs: fs, rng: rand.New(rand.NewPCG(seed, 0))}
	c.allowed = []snapshot{w.snapshot()}
	c.crash("at the beginning")
	for i := range 14 {
		for range 1 + c.rng.IntN(20) {
			c.change()
		}
		next := w.snapshot()
		next.index = w.index
		c.allowed = append(c.allowed, next)
		fs.before = func() { c.crash("before a sync") }
		w.onStep(betweenHolds, func() { c.crash("between steps") })
		w.must(w.Write(ctx, w.cuts()))
		fs.before, w.step = nil, nil
		c.allowed = c.allowed[1:]
		c.crash(fmt.Sprintf("after checkpoint %d", i))
		if c.rng.IntN(4) == 0 { // a write-back that fails in the middle
			w.must(w.file.foldMain())
			c.crash("in an unfinished write-back")
		}
	}
}

func (c *crasher) change() {
	id := name(fmt.Sprintf("%0200d", c.rng.IntN(120))) // long: many pages
	switch c.rng.IntN(8) {
	case 0:
		c.w.remove(id)
	case 1:
		if _, ok, _ := c.w.Entry(id); ok {
			c.w.quarantineRecord(id, "why")
		}
	default:
		c.w.apply(id, wakeAt(c.rng.Int64N(1000)))
	}
}

func TestWrite_FailedSyncEndsWriting(t *testing.T) {
	w := newWorld(t)
	w.must(w.Catalog.Close())
	fs := &lossy{durable: map[string][]byte{}}
	w.config.FS = fs
	w.start()
	w.apply(name("a"), storage.Wake{})
	fs.fail = func(string) error { return os.ErrInvalid }
	w.wantKind(w.Write(ctx, w.cuts()), agent.Internal)
	fs.fail = nil // a second sync would say that all is well
	w.wantKind(w.Write(ctx, w.cuts()), agent.Internal)
	if w.RecentLen() != 1 {
		t.Error("memory forgot what may not be on the disk")
	}
	if got := w.AppliedIndex(shardOf(name("a"))); got != 0 {
		t.Errorf("applied is %d", got)
	}
}

// TestWrite_TransactionThatSQLiteEndedIsNotContinued: a reader's failing statement
// may roll the writer's transaction back.
func TestWrite_TransactionThatSQLiteEndedIsNotContinued(t *testing.T) {
	w := newWorld(t)
	for i := range 3 * writeBatch {
		w.apply(name(fmt.Sprint(i)), storage.Wake{})
	}
	step := 0
	w.onStep(betweenHolds, func() {
		if step++; step == 3 {
			w.fileMu.Lock()
			defer w.fileMu.Unlock()
			w.must(w.file.conn.Exec("ROLLBACK"))
		}
	})
	w.wantKind(w.Write(ctx, w.cuts()), agent.Internal)
	w.step = nil
	if n, err := w.file.number("SELECT count(*) FROM agents"); err != nil || n != 0 {
		t.Errorf("%d rows were written outside of a transaction (%v)", n, err)
	}
	w.checkpoint()
	w.restart()
	w.wantCount(3 * writeBatch)
}
