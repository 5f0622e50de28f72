package storagetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

func testTurn(t *testing.T, engine Engine) {
	t.Run("CommitKeepsRollbackDrops", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
		w.durable(db, storage.Wake{})
		w.all(db.Query, "INSERT INTO t VALUES(2)")
		w.must(db.Rollback())
		w.must(db.Rollback()) // nothing to do
		w.all(db.Query, "INSERT INTO t VALUES(3)")
		w.must(db.Close()) // drops
		db = w.open(name("a"))
		if n := w.one(db.Query, "SELECT sum(a) FROM t"); n != int64(1) {
			t.Errorf("sum %v, want 1", n)
		}
	})

	t.Run("RollbackBringsTheSchemaBack", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
		w.durable(db, storage.Wake{})
		w.all(db.Query, "ALTER TABLE t ADD COLUMN b; SELECT * FROM t")
		w.must(db.Rollback())
		if got := w.all(db.Query, "SELECT * FROM t"); len(got[0]) != 1 {
			t.Errorf("columns after rollback: %v", got)
		}
	})

	t.Run("OneCommitOneNumber", func(t *testing.T) {
		w := newWorld(t, engine)
		id := name("a")
		db := w.open(id)
		if ticket := w.durable(db, storage.Wake{}); ticket.Seq() != 0 {
			t.Errorf("nothing has number %d", ticket.Seq())
		}
		w.all(db.Query, "CREATE TABLE t(a)")
		for want := uint64(1); want <= 5; want++ {
			w.all(db.Query, "INSERT INTO t VALUES(1)")
			ticket := w.commit(db, storage.Wake{})
			if ticket.Seq() != want {
				t.Errorf("commit %d, want %d", ticket.Seq(), want)
			}
			w.all(db.Query, "SELECT * FROM t")
			w.all(db.Query, "UPDATE t SET a=2 WHERE a=3")
			if again := w.commit(db, storage.Wake{}); again != ticket {
				t.Errorf("a turn that changed nothing got another ticket, of %d", again.Seq())
			}
		}
		w.must(db.Close())
		db = w.open(id)
		if ticket := w.durable(db, storage.Wake{}); ticket.Seq() != 5 {
			t.Errorf("number %d after reopening, want 5", ticket.Seq())
		}
		w.all(db.Query, "INSERT INTO t VALUES(1) RETURNING a")
		if ticket := w.durable(db, storage.Wake{}); ticket.Seq() != 6 {
			t.Errorf("number %d, want 6", ticket.Seq())
		}
	})

	t.Run("TicketsSettleInOrder", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a)")
		var order []uint64
		done := make(chan error, 1)
		const commits = 300
		for i := uint64(1); i <= commits; i++ {
			w.all(db.Query, "INSERT INTO t VALUES(?)", int64(i))
			w.commit(db, storage.Wake{}).Then(func(err error) {
				order = append(order, i) // one goroutine at a time: they settle in order
				if err != nil || i == commits {
					done <- err
				}
			})
		}
		w.must(<-done)
		for i, got := range order {
			if got != uint64(i+1) {
				t.Fatalf("settled %v", order)
			}
		}
		if len(order) != commits {
			t.Errorf("%d settled", len(order))
		}
	})

	t.Run("WakeIsPartOfTheCommit", func(t *testing.T) {
		w := newWorld(t, engine)
		id := name("a")
		db := w.open(id)
		at := time.UnixMilli(1_800_000_000_123)
		w.durable(db, storage.Wake{At: at.Add(time.Microsecond), Resume: true}) // a wake alone is a change
		w.must(db.Close())
		db = w.open(id)
		if got := db.Wake(); !got.Equal(storage.Wake{At: at, Resume: true}) {
			t.Errorf("wake %+v", got)
		}
		if ticket := w.durable(db, storage.Wake{At: at, Resume: true}); ticket.Seq() != 1 {
			t.Errorf("an equal wake made commit %d", ticket.Seq())
		}
		if ticket := w.durable(db, storage.Wake{}); ticket.Seq() != 2 || !db.Wake().Equal(storage.Wake{}) {
			t.Errorf("commit %d, wake %+v", ticket.Seq(), db.Wake())
		}
	})

	t.Run("Savepoints", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a)")
		mistake := errors.New("mistake")
		insert := func(n int) { w.all(db.Query, "INSERT INTO t VALUES(?)", n) }
		err := db.Savepoint(func() error {
			insert(1)
			if err := db.Savepoint(func() error { insert(2); return mistake }); err != mistake {
				t.Errorf("inner error %v", err)
			}
			return db.Savepoint(func() error { insert(4); return nil })
		})
		w.must(err)
		func() {
			defer func() {
				if recover() != "oops" {
					t.Error("the panic is gone")
				}
			}()
			err := db.Savepoint(func() error { insert(8); panic("oops") })
			t.Errorf("returned %v", err)
		}()
		if got := w.one(db.Query, "SELECT sum(a) FROM t"); got != int64(5) {
			t.Errorf("sum %v, want 5", got)
		}
		depth := 0
		var deeper func() error
		deeper = func() error { depth++; return db.Savepoint(deeper) }
		w.wantKind(db.Savepoint(deeper), agent.SQL)
		if depth != 32 {
			t.Errorf("depth %d, want 32", depth)
		}
		w.durable(db, storage.Wake{})
		seq := w.durable(db, storage.Wake{}).Seq()
		if err := db.Savepoint(func() error { insert(16); return mistake }); err != mistake {
			t.Errorf("error %v", err)
		}
		if got := w.durable(db, storage.Wake{}).Seq(); got != seq {
			t.Errorf("what was taken back made commit %d", got)
		}
	})

	t.Run("DeferredConstraint", func(t *testing.T) {
		w := newWorld(t, engine)
		id := name("a")
		db := w.open(id)
		w.all(db.Query, `CREATE TABLE p(a PRIMARY KEY); CREATE TABLE c(a REFERENCES p(a) DEFERRABLE INITIALLY DEFERRED)`)
		w.durable(db, storage.Wake{})
		w.all(db.Query, "INSERT INTO c VALUES(1); INSERT INTO p VALUES(1)")
		w.durable(db, storage.Wake{})
		w.all(db.Query, "INSERT INTO c VALUES(2)")
		_, err := db.Commit(storage.Wake{})
		w.wantKind(err, agent.SQL)
		_, err = db.Query("SELECT 1")
		w.wantKind(err, agent.SQL) // broken
		w.must(db.Close())
		db = w.open(id)
		if got := w.one(db.Query, "SELECT count(*) FROM c"); got != int64(1) {
			t.Errorf("%v rows, want 1", got)
		}
	})

	t.Run("TooLargeATurn", func(t *testing.T) {
		w := newWorld(t, engine)
		id := name("a")
		db := w.open(id)
		w.all(db.Query, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
		w.durable(db, storage.Wake{})
		var err error
		for range storage.MaxTurnBytes>>20 + 8 {
			if _, err = db.Query("INSERT INTO t VALUES(zeroblob(1<<20))"); err != nil {
				break
			}
		}
		if err == nil {
			_, err = db.Commit(storage.Wake{})
		}
		w.wantKind(err, agent.TooLarge)
		_, err = db.Commit(storage.Wake{})
		w.wantKind(err, agent.TooLarge) // half of a turn is never committed
		w.must(db.Close())
		db = w.open(id)
		_, err = db.Query("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) INSERT INTO t SELECT zeroblob(100000) FROM n")
		w.wantKind(err, agent.TooLarge) // within one statement
		w.must(db.Rollback())
		if got := w.one(db.Query, "SELECT count(*) FROM t"); got != int64(1) {
			t.Errorf("%v rows, want 1", got)
		}
		w.all(db.Query, "INSERT INTO t VALUES(2)")
		w.durable(db, storage.Wake{})
	})

	t.Run("OpenRowsEndWithTheTurn", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a); INSERT INTO t VALUES(1),(2)")
		w.durable(db, storage.Wake{})
		for _, end := range []func() error{db.Rollback, func() error { _, err := db.Commit(storage.Wake{}); return err }} {
			rows, err := db.Query("SELECT a FROM t")
			w.must(err)
			w.must(end())
			w.wantKind(rows.Next(make([]storage.Value, 1)), agent.SQL)
			w.must(rows.Close())
		}
	})

	t.Run("InterruptedWriteLosesTheTurn", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a)")
		w.durable(db, storage.Wake{})
		w.all(db.Query, "INSERT INTO t VALUES(1)")
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					db.Interrupt()
				}
			}
		}()
		_, err := db.Query("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) INSERT INTO t SELECT x FROM n WHERE x<0")
		close(stop)
		<-stopped
		w.wantKind(err, agent.SQL)
		if _, err := db.Query("INSERT INTO t VALUES(2)"); err == nil {
			// The engine kept the transaction: then all of it must be there.
			if got := w.one(db.Query, "SELECT sum(a) FROM t"); got != int64(3) {
				t.Errorf("half of the turn is gone: sum %v", got)
			}
		}
		w.must(db.Rollback())
		if got := w.one(db.Query, "SELECT count(*) FROM t"); got != int64(0) {
			t.Errorf("%v rows after rollback", got)
		}
	})

	t.Run("LargeDatabase", func(t *testing.T) {
		w := newWorld(t, engine)
		id := name("a")
		db := w.open(id)
		w.all(db.Query, "CREATE TABLE t(a)")
		for range 12 { // beyond several write-backs of the log
			for range 4 {
				w.all(db.Query, "INSERT INTO t VALUES(?)", strings.Repeat("x", 1<<18))
			}
			w.commit(db, storage.Wake{})
		}
		if size := db.SizeBytes(); size < 12<<20 {
			t.Errorf("size %d", size)
		}
		w.must(db.Close())
		db = w.open(id)
		if got := w.one(db.Query, "SELECT count(*) FROM t"); got != int64(48) {
			t.Errorf("%v rows", got)
		}
		if got := w.one(db.Query, "PRAGMA integrity_check"); got != "ok" {
			t.Errorf("integrity: %v", got)
		}
	})
}
