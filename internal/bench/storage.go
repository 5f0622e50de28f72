package main

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	// The yardstick of a store is SQLite as everybody uses it.
	_ "github.com/mattn/go-sqlite3"

	"agentd/pkg/agent"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage"
)

// The measured transaction: a row of 225 bytes in an indexed table and an upsert of
// 100 bytes. Bytes are random: nothing compresses.
const (
	storageSchema = `CREATE TABLE IF NOT EXISTS log(id INTEGER PRIMARY KEY, kind TEXT, body BLOB);
CREATE INDEX IF NOT EXISTS log_kind ON log(kind);
CREATE TABLE IF NOT EXISTS kv(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID`
	storageInsert = `INSERT INTO log(kind, body) VALUES(?, ?)`
	bodyBytes     = 215
	storageUpsert = `INSERT INTO kv VALUES(?, ?) ON CONFLICT(k) DO UPDATE SET v=excluded.v`
)

// agentWriter is one agent's database with the measured tables.
type agentWriter struct {
	db   storage.DB
	rand *rand.Rand
	body []byte
}

func openWriter(ctx context.Context, s storage.Store, n int) (*agentWriter, error) {
	id := agent.ID{Namespace: "default", Class: "Bench", Name: fmt.Sprint(n)}
	db, err := s.Open(ctx, id)
	if err != nil {
		return nil, err
	}
	w := &agentWriter{db: db, rand: rand.New(rand.NewPCG(1, uint64(n))), body: make([]byte, bodyBytes)}
	if _, err := db.Query("SELECT 1 FROM kv LIMIT 0"); err == nil {
		return w, nil
	}
	rows, err := db.Query(storageSchema)
	if err == nil {
		_, err = rows.Each(nil)
	}
	if err != nil {
		return nil, err
	}
	return w, w.commit()
}

func (w *agentWriter) commit() error {
	ticket, err := w.db.Commit(storage.Wake{})
	if err != nil {
		return err
	}
	return ticket.Wait()
}

// write runs the two statements; commit ends the transaction.
func (w *agentWriter) write() error {
	for i := range w.body {
		w.body[i] = byte(w.rand.Uint32())
	}
	rows, err := w.db.Query(storageInsert, fmt.Sprintf("kind%d", w.rand.IntN(16)), w.body)
	if err == nil {
		_, err = rows.Each(nil)
	}
	if err == nil {
		rows, err = w.db.Query(storageUpsert, fmt.Sprintf("key%d", w.rand.IntN(256)), w.body[:100])
	}
	if err == nil {
		_, err = rows.Each(nil)
	}
	return err
}

func (w *agentWriter) transact() error {
	if err := w.write(); err != nil {
		return err
	}
	return w.commit()
}

// burst is several transactions of which only the last is waited for.
func (w *agentWriter) burst() error {
	for range 5 {
		if err := w.write(); err != nil {
			return err
		}
		if _, err := w.db.Commit(storage.Wake{}); err != nil {
			return err
		}
	}
	return w.commit()
}

// plainWriter is the same on SQLite as it comes: WAL, one sync for each commit.
type plainWriter struct {
	conn *sql.Conn
	rand *rand.Rand
	body []byte
}

func openPlain(ctx context.Context, dir string, n int) (*plainWriter, func() error, error) {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(dir, fmt.Sprintf("%d.db", n))+"?_journal=WAL&_sync=FULL&_locking=EXCLUSIVE")
	if err != nil {
		return nil, nil, err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, db.Close, err
	}
	_, err = conn.ExecContext(ctx, storageSchema)
	return &plainWriter{conn: conn, rand: rand.New(rand.NewPCG(1, uint64(n))), body: make([]byte, bodyBytes)}, db.Close, err
}

func (w *plainWriter) transact(ctx context.Context) error {
	for i := range w.body {
		w.body[i] = byte(w.rand.Uint32())
	}
	tx, err := w.conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, storageInsert, fmt.Sprintf("kind%d", w.rand.IntN(16)), w.body)
	if err == nil {
		_, err = tx.ExecContext(ctx, storageUpsert, fmt.Sprintf("key%d", w.rand.IntN(256)), w.body[:100])
	}
	if err != nil {
		_ = tx.Rollback() // the first error is the one to tell
		return err
	}
	return tx.Commit()
}

func openSingle(ctx context.Context, dir string) (*single.Store, error) {
	return single.Open(ctx, single.Config{Dir: dir, Now: time.Now, MaxOpen: 5000})
}

// load is what a crowd of busy agents gets out of the store or of plain SQLite.
type load struct {
	times
	cpu      float64 // µs of this process for each transaction
	perWrite float64 // transactions for each write of the log
	logBytes float64 // for each transaction
}

const busyAgents = 64

// storeLoad measures n agents that each commit again as soon as they may, for about
// two seconds.
func storeLoad(ctx context.Context, s *single.Store, n int, seconds float64) (load, error) {
	writers := make([]*agentWriter, n)
	for i := range writers {
		var err error
		if writers[i], err = openWriter(ctx, s, i); err != nil {
			return load{}, err
		}
		defer writers[i].db.Close()
	}
	before, cpu := s.Stats(), processCPU()
	t, err := timeFor(n, seconds, func(k int) error { return writers[k].transact() })
	after := s.Stats()
	done := float64(len(t.samples))
	return load{times: t, cpu: float64((processCPU() - cpu).Microseconds()) / done,
		perWrite: done / float64(max(after.Log.Batches-before.Log.Batches, 1)),
		logBytes: float64(after.RecordBytes-before.RecordBytes) / done}, err
}

func plainLoad(ctx context.Context, dir string, n int, seconds float64) (load, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return load{}, err
	}
	writers := make([]*plainWriter, n)
	for i := range writers {
		var done func() error
		var err error
		writers[i], done, err = openPlain(ctx, dir, i)
		if done != nil {
			defer done()
		}
		if err != nil {
			return load{}, err
		}
	}
	cpu := processCPU()
	t, err := timeFor(n, seconds, func(k int) error { return writers[k].transact(ctx) })
	return load{times: t, cpu: float64((processCPU() - cpu).Microseconds()) / float64(len(t.samples))}, err
}

// timeFor runs fn in each of c goroutines until the time is over, after a tenth of
// it that does not count.
func timeFor(c int, seconds float64, fn func(client int) error) (times, error) {
	total := time.Duration(seconds * float64(time.Second))
	began := time.Now()
	warm, end := began.Add(total/10), began.Add(total)
	var all [][]time.Duration
	for range c {
		all = append(all, make([]time.Duration, 0, 1<<16))
	}
	errs := make(chan error, c)
	for k := range c {
		go func() {
			for {
				start := time.Now()
				if start.After(end) {
					errs <- nil
					return
				}
				if err := fn(k); err != nil {
					errs <- err
					return
				}
				if start.After(warm) {
					all[k] = append(all[k], time.Since(start))
				}
			}
		}()
	}
	var err error
	for range c {
		if e := <-errs; e != nil {
			err = e
		}
	}
	var samples []time.Duration
	for _, s := range all {
		samples = append(samples, s...)
	}
	if len(samples) == 0 {
		return times{}, fmt.Errorf("nothing was measured: %w", err)
	}
	return quantiles(samples, time.Since(warm)), err
}

func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// storage measures the engine alone, in this process.
func (r *run) storage(ctx context.Context) error {
	s, err := openSingle(ctx, filepath.Join(r.dir, "engine"))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := settledLog(ctx, s); err != nil {
		return err
	}
	one, err := storeLoad(ctx, s, 1, 2)
	if err != nil {
		return err
	}
	r.add("one agent's durable transaction (storage), p50", us(one.p50), "4 KiB synced write "+us(r.synced), ratio(one.p50, r.synced), "≤ 2×")
	plain, err := plainLoad(ctx, filepath.Join(r.dir, "plain"), busyAgents, 3)
	if err != nil {
		return err
	}
	many, err := storeLoad(ctx, s, busyAgents, 3)
	if err != nil {
		return err
	}
	r.add("64 busy agents, transactions a second", fmt.Sprintf("%.0f/s", many.perSecond), fmt.Sprintf("SQLite, one sync a commit: %.0f/s", plain.perSecond), ratio(many.perSecond, plain.perSecond), "≥ 3×")
	r.add("the same, p99", us(many.p99), "SQLite "+us(plain.p99), ratio(many.p99, plain.p99), "≤ 0.25×")
	r.add("transactions for each write of the log, 64 agents", fmt.Sprintf("%.1f", many.perWrite), "", "", "≥ 8")
	r.add("CPU of a transaction, 64 agents (whole process)", us(many.cpu), "SQLite "+us(plain.cpu), ratio(many.cpu, plain.cpu), "≤ 15 µs")
	r.add("log bytes of a two-statement transaction", fmt.Sprintf("%.0f B", many.logBytes), "", "", "≤ 1 KiB")
	if err := r.openings(ctx, s); err != nil {
		return err
	}
	return r.openMemory(ctx, s)
}

// settledLog waits until the log has its spare segments: they are zeroed in the
// background after the first start.
func settledLog(ctx context.Context, s *single.Store) error {
	for last := -1; ; {
		now := s.Stats().Log.Spares
		if now == last {
			return nil
		}
		last = now
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openings measures opening an agent that exists, with its first SELECT.
func (r *run) openings(ctx context.Context, s storage.Store) error {
	const agents = 2000
	for i := range agents {
		w, err := openWriter(ctx, s, i)
		if err == nil {
			err = w.transact()
		}
		if err == nil {
			err = w.db.Close()
		}
		if err != nil {
			return err
		}
	}
	var dbs []storage.DB
	t, err := timeEach(agents/2, func(i int) error {
		db, err := s.Open(ctx, agent.ID{Namespace: "default", Class: "Bench", Name: fmt.Sprint(i)})
		if err != nil {
			return err
		}
		dbs = append(dbs, db)
		rows, err := db.Query("SELECT count(*) FROM kv")
		if err == nil {
			_, err = rows.Each(nil)
		}
		return err
	})
	for _, db := range dbs {
		if closeErr := db.Close(); err == nil {
			err = closeErr
		}
	}
	r.add("opening an agent and its first SELECT, p50", us(t.p50), "", "", "≤ 100 µs")
	return err
}

// openMemory measures what an open database that has read and written adds to the
// process.
func (r *run) openMemory(ctx context.Context, s storage.Store) error {
	const agents = 2000
	before := settledRSS()
	var dbs []storage.DB
	defer func() {
		for _, db := range dbs {
			_ = db.Close()
		}
	}()
	for i := range agents {
		w, err := openWriter(ctx, s, i)
		if err == nil {
			dbs = append(dbs, w.db)
			err = w.transact()
		}
		if err != nil {
			return err
		}
	}
	each := float64(settledRSS()-before) / agents
	r.add("memory of an open database (process RSS)", fmt.Sprintf("%.0f KiB", each/1024), fmt.Sprintf("%d open", agents), "", "≤ 100 KiB")
	return nil
}

// settledRSS is this process's memory after a collection.
func settledRSS() int64 {
	runtime.GC()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
