package single

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"agentd/internal/disk"
	"agentd/internal/disk/disktest"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/commitlog"
	"agentd/pkg/storage/engine"
)

// Crash tests: a short life of a store is recorded operation by operation. What the
// disk held at a point of it, after the death of the process or of the machine, is
// opened as a store of its own, which must know exactly a prefix of each agent's
// life: not less than what was acknowledged by then, not more than what was asked
// for, and nothing half.

// stage is what is known of an agent after one of its events.
type stage struct {
	life   int    // grows with each deletion
	seq    uint64 // 0: it does not exist
	wake   storage.Wake
	reason string // of its quarantine

	sent  int // the point before the event was asked for
	acked int // the point when it was acknowledged; never for one that was not
}

const never = 1 << 60

// chronicle is the lives of all agents. Its points are what clock says: the number of
// the disk's operations so far.
type chronicle struct {
	clock func() int

	mu     sync.Mutex // guards what follows
	stages map[agent.ID][]stage
}

func newChronicle(clock func() int) *chronicle {
	return &chronicle{clock: clock, stages: make(map[agent.ID][]stage)}
}

// send notes an event before it is asked for; the function returned notes that it
// was acknowledged.
func (c *chronicle) send(id agent.ID, s stage) (acknowledge func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.sent, s.acked = c.clock(), never
	n := len(c.stages[id])
	c.stages[id] = append(c.stages[id], s)
	return func() {
		at := c.clock()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.stages[id][n].acked = at
	}
}

// may lists the stages in which the agent can be after a crash at a point.
func (c *chronicle) may(id agent.ID, point int) []stage {
	all := append([]stage{{}}, c.stages[id]...)
	from, to := 0, 0
	for i := 1; i < len(all); i++ {
		if all[i].acked <= point {
			from = i
		}
		if all[i].sent <= point {
			to = i
		}
	}
	return all[from : to+1]
}

func wakeOf(life int, seq uint64) storage.Wake {
	switch (uint64(life) + seq) % 4 {
	case 0:
		return storage.Wake{Resume: true}
	case 1:
		return storage.Wake{At: time.UnixMilli(1_000_000 + int64(seq)*1000)}
	}
	return storage.Wake{}
}

// row is what commit n of a life writes, twice: both are there or none.
func row(id agent.ID, life int, n uint64) []byte {
	size := []int{40, 700, 9000}[n%3]
	return bytes.Repeat(fmt.Appendf(nil, "%s %d %d;", id.Name, life, n), size/20)
}

// citizen drives one agent through its life; it belongs to one goroutine.
type citizen struct {
	s     *Store
	c     *chronicle
	id    agent.ID
	rnd   *rand.Rand
	now   stage
	db    storage.DB
	steps int
}

func (z *citizen) live(ctx context.Context) error {
	for i := range z.steps {
		if err := z.step(ctx); err != nil {
			return fmt.Errorf("%s: %w", z.id.Name, err)
		}
		if i%8 == 7 && z.id.Name == "a0" {
			if err := z.s.groups.Snapshot(ctx); err != nil {
				return err
			}
		}
	}
	return z.close()
}

func (z *citizen) step(ctx context.Context) error {
	switch n := z.rnd.IntN(20); {
	case n == 0 && z.now.seq > 0:
		return z.delete(ctx)
	case n <= 2 && z.now.seq > 0:
		return z.judge(ctx)
	case n == 3:
		return z.close()
	}
	return z.commit(ctx, z.rnd.IntN(2) == 0)
}

func (z *citizen) commit(ctx context.Context, wait bool) (err error) {
	if z.db == nil {
		if z.db, err = z.s.Open(ctx, z.id); err != nil {
			return err
		}
	}
	next := z.now
	next.seq++
	next.wake = wakeOf(next.life, next.seq)
	if next.seq == 1 {
		if _, err = everything(z.db, "CREATE TABLE ledger(n INTEGER, half INTEGER, body BLOB, PRIMARY KEY(n, half)); CREATE TABLE life(number INTEGER)"); err == nil {
			_, err = everything(z.db, "INSERT INTO life VALUES(?)", next.life)
		}
	}
	for half := range 2 {
		if err == nil {
			_, err = everything(z.db, "INSERT INTO ledger VALUES(?,?,?)", int64(next.seq), half, row(z.id, next.life, next.seq))
		}
	}
	if err != nil {
		return err
	}
	acknowledge := z.c.send(z.id, next)
	ticket, err := z.db.Commit(next.wake)
	if err != nil {
		return err
	}
	if ticket.Seq() != next.seq {
		return fmt.Errorf("commit %d became commit %d", next.seq, ticket.Seq())
	}
	ticket.Then(func(err error) {
		if err == nil {
			acknowledge()
		}
	})
	z.now = next
	if wait {
		return ticket.Wait()
	}
	return nil
}

func (z *citizen) close() error {
	if z.db == nil {
		return nil
	}
	defer func() { z.db = nil }()
	return z.db.Close()
}

func (z *citizen) delete(ctx context.Context) error {
	if err := z.close(); err != nil {
		return err
	}
	z.now = stage{life: z.now.life + 1}
	acknowledge := z.c.send(z.id, z.now)
	if err := z.s.Delete(ctx, z.id); err != nil {
		return err
	}
	acknowledge()
	return nil
}

// judge sets or lifts the quarantine.
func (z *citizen) judge(ctx context.Context) error {
	if z.now.reason = ""; z.rnd.IntN(3) > 0 {
		z.now.reason = fmt.Sprint("reason ", z.now.seq)
	}
	acknowledge := z.c.send(z.id, z.now)
	if err := z.s.Catalog().SetQuarantine(ctx, z.id, z.now.reason); err != nil {
		return err
	}
	acknowledge()
	return nil
}

// spend opens a store on the false disk, lives some lives in it, and closes it.
func spend(t *testing.T, dir string, fs disk.FS, c *chronicle, seed uint64, citizens, steps int) {
	t.Helper()
	s, err := Open(t.Context(), crashConfig(dir, fs))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range citizens {
		z := &citizen{s: s, c: c, steps: steps, rnd: rand.New(rand.NewPCG(seed, uint64(i))),
			id: agent.ID{Namespace: "default", Class: "Citizen", Name: fmt.Sprint("a", i)}}
		wg.Go(func() {
			if err := z.live(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func crashConfig(dir string, fs disk.FS) Config {
	return Config{Dir: dir, Now: time.Now, FS: fs, SegmentBytes: commitlog.MinSegmentBytes}
}

// examine opens what a crash at a point left, and says what is wrong with it. Then
// it goes on for a commit and has everything verified.
func (c *chronicle) examine(ctx context.Context, dir string, point int) (err error) {
	config := crashConfig(dir, lazy{})
	s, err := Open(ctx, config)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() {
		if err = errors.Join(err, s.Close()); err == nil {
			err = verifies(ctx, config)
		}
	}()
	found := make(map[agent.ID]stage)
	for id := range c.stages {
		may := c.may(id, point)
		is, err := look(ctx, s, id)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(may, is.is) {
			return fmt.Errorf("agent %s is %+v, but may only be one of %+v", id.Name, is, may)
		}
		found[id] = is
	}
	if err := wakesAre(ctx, s, found); err != nil {
		return err
	}
	for id, is := range found {
		z := &citizen{s: s, c: newChronicle(func() int { return 0 }), id: id, now: is}
		if err := errors.Join(z.commit(ctx, true), z.close()); err != nil {
			return fmt.Errorf("the first commit of %s after the crash: %w", id.Name, err)
		}
	}
	return nil
}

// is says whether two stages cannot be told apart.
func (s stage) is(o stage) bool {
	return s.seq == o.seq && s.wake.Equal(o.wake) && s.reason == o.reason && (s.seq == 0 || s.life == o.life)
}

// look reads what a store knows of an agent: from its catalog, and from its database
// every row.
func look(ctx context.Context, s *Store, id agent.ID) (is stage, err error) {
	e, err := s.Catalog().Get(ctx, id)
	if err != nil && agent.KindOf(err) != agent.NotFound {
		return is, err
	}
	is.seq, is.wake, is.reason = e.Seq, e.Wake, e.Quarantine
	db, err := s.Open(ctx, id)
	if err != nil {
		return is, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if is.seq == 0 {
		rows, err := everything(db, "SELECT count(*) FROM sqlite_schema")
		if err == nil && rows.([]any)[0].([][]storage.Value)[0][0] != int64(0) {
			err = fmt.Errorf("agent %s does not exist and has tables", id.Name)
		}
		return is, err
	}
	if !db.Wake().Equal(is.wake) {
		return is, fmt.Errorf("agent %s: the database wants to be woken at %v, the catalog says %v", id.Name, db.Wake(), is.wake)
	}
	rows, err := everything(db, "SELECT number FROM life")
	if err != nil {
		return is, err
	}
	is.life = int(rows.([]any)[0].([][]storage.Value)[0][0].(int64))
	if rows, err = everything(db, "SELECT n, half, body FROM ledger ORDER BY n, half"); err != nil {
		return is, err
	}
	list := rows.([]any)[0].([][]storage.Value)
	if len(list) != 2*int(is.seq) {
		return is, fmt.Errorf("agent %s has %d rows after %d commits of two", id.Name, len(list), is.seq)
	}
	for i, r := range list {
		n := uint64(i/2 + 1)
		if r[0] != int64(n) || r[1] != int64(i%2) || !bytes.Equal(r[2].([]byte), row(id, is.life, n)) {
			return is, fmt.Errorf("agent %s, life %d: row %d is not that of commit %d", id.Name, is.life, i, n)
		}
	}
	return is, nil
}

// wakesAre compares what is due, now and at each time that somebody waits for.
func wakesAre(ctx context.Context, s *Store, found map[agent.ID]stage) error {
	times := []time.Time{time.UnixMilli(0), time.UnixMilli(1 << 42)}
	for _, is := range found {
		if !is.wake.At.IsZero() {
			times = append(times, is.wake.At)
		}
	}
	for _, now := range times {
		due, _, err := s.Catalog().Due(ctx, now, 1000)
		if err != nil {
			return err
		}
		var got, want []string
		for _, e := range due {
			got = append(got, e.ID.Name)
		}
		for id, is := range found {
			if is.reason == "" && (is.wake.Resume || !is.wake.At.IsZero() && !is.wake.At.After(now)) {
				want = append(want, id.Name)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return fmt.Errorf("due at %v are %v, want %v", now, got, want)
		}
	}
	return nil
}

func verifies(ctx context.Context, c Config) error {
	var errs []error
	v, err := Verify(ctx, c, func(p engine.Problem) { errs = append(errs, fmt.Errorf("%s: %s", p.Path, p.What)) })
	if v.Agents != v.Files {
		errs = append(errs, fmt.Errorf("%d agents and %d files", v.Agents, v.Files))
	}
	return errors.Join(append(errs, err)...)
}

// copyFolder copies a small data folder of which nothing changes but, maybe, the
// catalog, which SQLite writes by itself: that is read until it stands still.
func copyFolder(from, to string) error {
	for {
		before, err := catalogFiles(from)
		if err != nil {
			return err
		}
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			return err
		}
		after, err := catalogFiles(from)
		if err != nil {
			return err
		}
		copied, err := catalogFiles(to)
		if err != nil {
			return err
		}
		if before.equal(after) && before.equal(copied) {
			return nil
		}
	}
}

// files are names and contents.
type files map[string][]byte

func (f files) equal(o files) bool {
	for name := range o {
		if f[name] == nil {
			return false
		}
	}
	for name, b := range f {
		if o[name] == nil || !bytes.Equal(b, o[name]) {
			return false
		}
	}
	return true
}

const catalogFile = "catalog.db"

func catalogFiles(dir string) (files, error) {
	f := make(files)
	paths, err := filepath.Glob(filepath.Join(dir, catalogFile+"*"))
	for _, path := range paths {
		b, readErr := os.ReadFile(path)
		if errors.Is(readErr, os.ErrNotExist) {
			continue
		}
		f[filepath.Base(path)], err = append([]byte{}, b...), errors.Join(err, readErr)
	}
	return f, err
}

// restore puts the catalog's files in a folder, instead of those that are there.
func (f files) restore(dir string) error {
	old, err := filepath.Glob(filepath.Join(dir, catalogFile+"*"))
	for _, path := range old {
		err = errors.Join(err, os.Remove(path))
	}
	for name, b := range f {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	return err
}

// mixture is a folder as somebody may put together from backups: files and catalog
// of an older copy, under a log that has forgotten what came between. Agents a and b
// are of two shards; a has committed since, and once more with a record that the log
// still has if so.
func mixture(t *testing.T, more bool) (dir string) {
	h := newHouse(t, Config{SegmentBytes: commitlog.MinSegmentBytes})
	old, mixed := h.dir+"-old", h.dir+"-mixed"
	a, b := h.agent("a"), h.agent("b")
	h.must(putDurably(a, 1, noise(1, 500)))
	h.must(putDurably(a, 2, noise(2, 500)))
	h.must(putDurably(b, 1, noise(1, 500)))
	h.must(h.groups.Snapshot(t.Context()))
	h.must(copyFolder(h.dir, old))
	// In place, so that SQLite could not tell.
	h.must(replace(a, 1, noise(3, 500)))
	h.must(h.groups.Snapshot(t.Context())) // the log forgets this commit
	if more {
		h.must(replace(a, 2, noise(4, 500)))
	}
	h.must(copyFolder(h.dir, mixed))
	f, err := catalogFiles(old)
	h.must(err)
	h.must(f.restore(mixed))
	h.must(os.RemoveAll(filepath.Join(mixed, "agents")))
	h.must(os.CopyFS(filepath.Join(mixed, "agents"), os.DirFS(filepath.Join(old, "agents"))))
	return mixed
}

// replace is putDurably for a key that has a value of the same size.
func replace(db storage.DB, key int, value []byte) error {
	_, err := everything(db, "UPDATE kv SET v=? WHERE k=?", value, key)
	if err != nil {
		return err
	}
	ticket, err := db.Commit(storage.Wake{})
	if err != nil {
		return err
	}
	return ticket.Wait()
}

// A shard whose log does not continue what its files hold is not served.
func TestCrash_GapBetweenFilesAndLogIsRefused(t *testing.T) {
	for _, more := range []bool{true, false} {
		t.Run(fmt.Sprint("LaterRecord=", more), func(t *testing.T) {
			if !more {
				t.Skip("nobody compares where the catalog ends with where the shard's log begins, so an agent without a later record is served as of the older copy")
			}
			dir := mixture(t, more)
			s, err := Open(t.Context(), crashConfig(dir, lazy{}))
			if err == nil {
				defer s.Close()
				_, err = s.Open(t.Context(), houseAgent("a"))
			}
			if agent.KindOf(err) != agent.Corrupt {
				t.Errorf("error %v, want one of kind %v", err, agent.Corrupt)
			}
		})
	}
}

// And the others are served.
func TestCrash_DamagedShardLeavesTheOthers(t *testing.T) {
	s, err := Open(t.Context(), crashConfig(mixture(t, true), lazy{}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db, err := s.Open(t.Context(), houseAgent("b"))
	if err == nil {
		err = putDurably(db, 2, nil)
	}
	if err != nil {
		t.Error(err)
	}
}

// camera lets one change of the disk happen at a time, and copies the folder before
// some of them: that is what a process leaves that is killed there.
type camera struct {
	dir, into string
	often     int // before one of so many writes the folder is copied, before all else each time
	rnd       *rand.Rand

	mu     sync.Mutex // guards what follows and is held during each change
	point  int
	copies []int // points
	err    error

	clock sync.Mutex // guards now: read without waiting for a change
	now   int
}

func (k *camera) tap(change, path string, do func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil && (change != write || k.rnd.IntN(k.often) == 0) {
		k.err = copyFolder(k.dir, k.copy(k.point))
		k.copies = append(k.copies, k.point)
	}
	k.point++
	k.clock.Lock()
	k.now = k.point
	k.clock.Unlock()
	return do()
}

func (k *camera) copy(point int) string { return filepath.Join(k.into, fmt.Sprint(point)) }

// at is the number of changes that have begun.
func (k *camera) at() int {
	k.clock.Lock()
	defer k.clock.Unlock()
	return k.now
}

// A process that is killed between any two changes of the disk, in whatever file,
// leaves a folder from which everything acknowledged comes back.
func TestCrash_KillBetweenAnyTwoSystemCalls(t *testing.T) {
	for seed := range crashSeeds() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { kill(t, seed) })
	}
}

func kill(t *testing.T, seed uint64) {
	into := t.TempDir()
	k := &camera{dir: filepath.Join(into, "live"), into: into, often: 2, rnd: rand.New(rand.NewPCG(seed, 99))}
	c := newChronicle(k.at)
	spend(t, k.dir, tapped{lazy{}, k.tap}, c, seed, 5, 20)
	if k.err != nil {
		t.Fatal(k.err)
	}
	t.Logf("%d changes, %d copies", k.point, len(k.copies))
	inTwos(k.copies, func(point int) {
		if t.Failed() {
			return
		}
		if err := c.examine(t.Context(), k.copy(point), point); err != nil {
			t.Errorf("killed before change %d: %v", point, err)
		}
		_ = os.RemoveAll(k.copy(point)) // what is left goes with the test
	})
}

func crashSeeds() uint64 {
	if testing.Short() {
		return 1
	}
	return 2
}

// inTwos calls fn for each point, two at a time.
func inTwos(points []int, fn func(point int)) {
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < len(points); i += 2 {
				fn(points[i])
			}
		})
	}
	wg.Wait()
}

// archive keeps what of the catalog is durable: its files whenever a sync of one of
// them has returned. Nothing writes to them during a sync.
type archive struct {
	rec *disktest.Recorder
	dir string

	mu       sync.Mutex // guards what follows
	editions []edition
	err      error
}

type edition struct {
	point int
	files files
}

func (a *archive) tap(change, path string, do func() error) error {
	if err := do(); err != nil {
		return err
	}
	if change != fileSync || !strings.HasPrefix(filepath.Base(path), catalogFile) {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f, err := catalogFiles(a.dir)
	a.editions = append(a.editions, edition{a.rec.Len(), f})
	a.err = errors.Join(a.err, err)
	return nil
}

// as is the catalog at a point.
func (a *archive) as(point int) files {
	var last files
	for _, e := range a.editions {
		if e.point <= point {
			last = e.files
		}
	}
	return last
}

// A machine that dies at any moment loses some sectors, sizes and names of what was
// not synced, of the log and of agents' files alike, and the catalog since it was last
// synced; never anything acknowledged.
func TestCrash_PowerLossAnywhere(t *testing.T) {
	for seed := range crashSeeds() {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { powerLoss(t, seed) })
	}
}

func powerLoss(t *testing.T, seed uint64) {
	into := t.TempDir()
	dir := filepath.Join(into, "live")
	first, err := Open(t.Context(), crashConfig(dir, disk.OS{})) // FORMAT and others are not recorded
	if err == nil {
		err = first.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	rec, err := disktest.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{rec: rec, dir: dir}
	f, err := catalogFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	a.editions = append(a.editions, edition{0, f})
	c := newChronicle(rec.Len)
	spend(t, dir, tapped{rec, a.tap}, c, seed+100, 5, 16)
	if a.err != nil {
		t.Fatal(a.err)
	}
	rnd := rand.New(rand.NewPCG(seed, 98))
	ops, states := rec.Ops(), 0
	rec.Each(func(point int, w *disktest.World) bool {
		if rnd.IntN(lossEvery) != 0 {
			return true
		}
		ways := []disktest.Chooser{disktest.Oldest, disktest.Random(seed<<32 + uint64(point)), disktest.Random(seed<<33 + uint64(point))}
		inTwos([]int{0, 1, 2}, func(i int) {
			to := filepath.Join(into, fmt.Sprint("crash", i))
			err := w.Crash(ways[i], to)
			if err == nil {
				err = a.as(point).restore(to)
			}
			if err == nil {
				err = c.examine(t.Context(), to, point)
			}
			if err != nil {
				last := "the beginning"
				if point > 0 {
					last = ops[point-1].String()
				}
				t.Errorf("the machine died after operation %d (%s), way %d: %v", point, last, i, err)
			}
		})
		states += len(ways)
		return !t.Failed()
	})
	t.Logf("%d operations, %d states, %d editions of the catalog", len(ops), states, len(a.editions))
}

// lossEvery: of so many points one is tried.
const lossEvery = 10
