package session

import (
	"errors"
	"testing"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// The engine's rows are written when the turn changed something or the engine says
// so, within the turn's transaction.
func TestCommit_CallsOwnForChanges(t *testing.T) {
	b := open(t, Limits())
	for _, c := range []struct {
		sql   string
		force bool
		want  bool
	}{
		{"CREATE TABLE t(a)", false, true},
		{"SELECT * FROM t", false, false},
		{"CREATE TABLE IF NOT EXISTS t(a)", false, false},
		{"UPDATE t SET a=1", false, false},
		{"PRAGMA user_version=5", false, true},
		{"SELECT * FROM t", true, true},
		{"INSERT INTO t VALUES(1) RETURNING a", false, true},
	} {
		b.run(c.sql)
		called := false
		changed, err := b.Commit(c.force, func(w Writer) error {
			called = true
			if pages, err := w.Pages(); pages < 2 || err != nil {
				t.Errorf("%d pages, %v", pages, err)
			}
			return WriteMeta(w, Meta{Key: testID.Key(), Seq: 1})
		})
		if err != nil || changed != c.want || called != c.want || !b.conn.Autocommit() {
			t.Errorf("%s, force=%t: changed %t, own called %t, error %v, a transaction is left: %t", c.sql, c.force, changed, called, err, !b.conn.Autocommit())
		}
	}
}

// What the engine wrote before the session began is no change of a turn.
func TestCommit_NothingButTheEnginesOwn(t *testing.T) {
	b := open(t, Limits())
	if _, err := QueryRow(b.conn, "INSERT INTO agentd_meta VALUES(1,'k',1,NULL,0,1,NULL)", 0); err != nil {
		t.Fatal(err)
	}
	s := New(Config{Agent: testID}, b.conn)
	rows, err := s.Query(sqlite.User, "SELECT 1", nil)
	b.must(err)
	b.must(rows.Close())
	if changed, err := s.Commit(false, func(Writer) error { return nil }); changed || err != nil {
		t.Errorf("changed %t, %v", changed, err)
	}
	b.must(s.Close(func(*sqlite.Conn) error { return nil }))
}

func TestCommit_FailedOwnDropsTheTurn(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a)")
	b.commit()
	b.run("INSERT INTO t VALUES(1)")
	mistake := errors.New("no mark")
	if _, err := b.Commit(false, func(Writer) error { return mistake }); err != mistake {
		t.Errorf("commit: %v", err)
	}
	if err := b.Usable(); err != mistake {
		t.Errorf("the session is broken by %v", err)
	}
	if row, err := QueryRow(b.conn, "SELECT count(*) FROM t", 1); err != nil || row[0] != int64(0) {
		t.Errorf("%v rows, %v", row, err)
	}
}

func TestCommit_RefusedInASavepoint(t *testing.T) {
	b := open(t, Limits())
	err := b.Savepoint(func() error {
		b.run("CREATE TABLE t(a)")
		_, err := b.Commit(false, func(Writer) error { return nil })
		wantKind(t, err, agent.Internal)
		return nil
	})
	wantKind(t, err, agent.Internal) // broken
	if row, err := QueryRow(b.conn, "SELECT count(*) FROM sqlite_schema WHERE name='t'", 1); err != nil || row[0] != int64(0) {
		t.Errorf("%v tables, %v", row, err)
	}
}

func TestCommit_EndsOpenRows(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a)")
	rows, err := b.Query(sqlite.User, "INSERT INTO t VALUES(1),(2),(3) RETURNING a", nil)
	b.must(err)
	b.commit()
	wantKind(t, rows.Next(make([]storage.Value, 1)), agent.SQL)
	if rows.Changes() != 3 {
		t.Errorf("%d changes, want 3", rows.Changes())
	}
	b.must(rows.Close())
}

// The limit holds at the commit even if no statement ran long enough to notice.
func TestCommit_TooLarge(t *testing.T) {
	b := open(t, sqlite.Options{})
	b.run("CREATE TABLE t(a)")
	b.commit()
	for range storage.MaxTurnBytes>>20 + 8 {
		b.run("INSERT INTO t VALUES(zeroblob(1<<20))")
	}
	_, err := b.Commit(false, func(Writer) error { return nil })
	wantKind(t, err, agent.TooLarge)
	wantKind(t, b.Usable(), agent.TooLarge)
	if row, err := QueryRow(b.conn, "SELECT count(*) FROM t", 1); err != nil || row[0] != int64(0) {
		t.Errorf("%v rows, %v", row, err)
	}
}

// A statement that only reads is stopped too, and ends the turn that wrote too much.
func TestTurn_TooLargeIsLostAtTheNextLongStatement(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a)")
	b.commit()
	for range storage.MaxTurnBytes>>20 + 8 {
		b.run("INSERT INTO t VALUES(zeroblob(1<<20))")
	}
	_, err := b.Query(sqlite.Read, "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<10000) SELECT count(*) FROM n", nil)
	wantKind(t, err, agent.TooLarge)
	wantKind(t, b.Usable(), agent.TooLarge)
	b.must(b.Rollback())
	if got := b.one("SELECT count(*) FROM t"); got != int64(0) {
		t.Errorf("%v rows", got)
	}
}

// When SQLite ends the transaction by itself, the turn cannot go on as if its first
// half were still there.
func TestTurn_LostIsNotCommittedInPart(t *testing.T) {
	for _, end := range []string{"commit", "rollback"} {
		t.Run(end, func(t *testing.T) {
			limits := Limits()
			limits.MaxStatementMemory = 1 << 20
			b := open(t, limits)
			b.run("CREATE TABLE t(a)")
			b.commit()
			b.run("INSERT INTO t VALUES(1)")
			_, err := b.Query(sqlite.User, "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<100000) INSERT INTO t SELECT randomblob(1000) FROM n ORDER BY 1", nil)
			wantKind(t, err, agent.TooLarge)
			if !b.conn.Autocommit() {
				t.Fatal("SQLite kept the transaction: this test tests nothing")
			}
			_, err = b.Query(sqlite.User, "INSERT INTO t VALUES(2)", nil)
			wantKind(t, err, agent.TooLarge)
			wantKind(t, b.Savepoint(func() error { return nil }), agent.TooLarge)
			wantKind(t, b.Usable(), agent.TooLarge)
			if end == "commit" {
				_, err = b.Commit(true, func(Writer) error { return nil })
				wantKind(t, err, agent.TooLarge)
				wantKind(t, b.Rollback(), agent.TooLarge) // broken
				return
			}
			b.must(b.Rollback())
			if got := b.one("SELECT count(*) FROM t"); got != int64(0) {
				t.Errorf("%v rows", got)
			}
			b.run("INSERT INTO t VALUES(3)")
			b.commit()
		})
	}
}

// What is taken back leaves nothing to commit, and rows that were opened inside end
// with it; those from before go on.
func TestSavepoint_TakesBack(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a); INSERT INTO t VALUES(1),(2)")
	b.commit()
	outer, err := b.Query(sqlite.User, "SELECT a FROM t ORDER BY rowid", nil)
	b.must(err)
	var inner *storage.Rows
	mistake := errors.New("mistake")
	err = b.Savepoint(func() error {
		b.run("INSERT INTO t VALUES(3)")
		inner, err = b.Query(sqlite.User, "SELECT * FROM t", nil)
		b.must(err)
		return mistake
	})
	if err != mistake {
		t.Errorf("error %v", err)
	}
	row := make([]storage.Value, 1)
	wantKind(t, inner.Next(row), agent.SQL)
	if err := outer.Next(row); err != nil || row[0] != int64(1) {
		t.Errorf("the outer rows: %v, %v", row, err)
	}
	b.must(outer.Close())
	if changed, err := b.Commit(false, func(Writer) error { return nil }); changed || err != nil {
		t.Errorf("what was taken back was committed: %t %v", changed, err)
	}
}
