package storagetest

import (
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

func testQuery(t *testing.T, engine Engine) {
	t.Run("ValuesComeBackAsStored", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE v(x, d DATETIME, b BOOLEAN)")
		for _, c := range []struct{ in, out storage.Value }{
			{nil, nil}, {int64(math.MinInt64), int64(math.MinInt64)}, {7, int64(7)}, {true, int64(1)}, {false, int64(0)},
			{1.5, 1.5}, {math.Inf(1), math.Inf(1)}, {math.NaN(), nil}, {"", ""}, {"a\x00b é", "a\x00b é"},
			{[]byte{}, []byte{}}, {[]byte(nil), nil}, {[]byte{0, 1}, []byte{0, 1}},
		} {
			if got := w.one(db.Query, "SELECT ?", c.in); !reflect.DeepEqual(got, c.out) {
				t.Errorf("%#v comes back as %#v, want %#v", c.in, got, c.out)
			}
		}
		w.all(db.Query, "INSERT INTO v VALUES(1,'2024-05-06 07:08:09',1)")
		if got := w.all(db.Query, "SELECT d, b FROM v"); !reflect.DeepEqual(got, [][]storage.Value{{"2024-05-06 07:08:09", int64(1)}}) {
			t.Errorf("declared types change values: %#v", got)
		}
		_, err := db.Query("SELECT ?", struct{}{})
		w.wantKind(err, agent.SQL)
	})

	t.Run("ScriptsRunToTheEnd", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.UserQuery, `CREATE TABLE t(a); -- a comment; with a semicolon
			INSERT INTO t VALUES('x;y'), ("z"); ; SELECT a FROM t;
			CREATE TRIGGER r AFTER INSERT ON t BEGIN INSERT INTO u VALUES(new.a); SELECT 1; END;
			CREATE TABLE u(b); /* ; */ INSERT INTO t VALUES(1);;`)
		if n := w.one(db.UserQuery, "SELECT count(*) FROM u; -- end"); n != int64(1) {
			t.Errorf("the trigger ran %v times", n)
		}
		if n := w.one(db.UserQuery, "INSERT INTO t VALUES(2); SELECT count(*) FROM t WHERE a=?", 2); n != int64(1) {
			t.Errorf("args did not bind to the last statement: %v", n)
		}
		for _, sql := range []string{"", " ;; ", "-- only", "/* only"} {
			_, err := db.UserQuery(sql)
			w.wantKind(err, agent.SQL)
		}
		_, err := db.UserQuery("INSERT INTO t VALUES(3); NONSENSE; INSERT INTO t VALUES(4)")
		w.wantKind(err, agent.SQL)
		if n := w.one(db.UserQuery, "SELECT count(*) FROM t WHERE a IN (3,4)"); n != int64(1) {
			t.Errorf("%v rows, want only the one before the mistake", n)
		}
	})

	t.Run("EffectsNeedNoReading", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
		rows, err := db.Query("INSERT INTO t(b) VALUES(1),(2),(3) RETURNING a")
		w.must(err)
		w.must(rows.Close())
		w.must(rows.Close())
		if rows.Changes() != 3 {
			t.Errorf("changes %d, want 3", rows.Changes())
		}
		if _, err = db.Query("UPDATE t SET b=9 WHERE a<3"); err != nil {
			t.Fatal(err)
		}
		if n := w.one(db.Query, "SELECT count(*) FROM t WHERE b=9"); n != int64(2) {
			t.Errorf("a statement without rows ran only in part: %v", n)
		}
		rows, err = db.Query("SELECT * FROM t")
		w.must(err)
		w.must(rows.Close())
		if rows.Changes() != 0 {
			t.Errorf("a SELECT changed %d rows", rows.Changes())
		}
	})

	t.Run("RowsNest", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a); INSERT INTO t VALUES(1),(2),(3)")
		const sql = "SELECT a FROM t ORDER BY a"
		outer, err := db.Query(sql)
		w.must(err)
		row := make([]storage.Value, 1)
		for want := int64(1); want <= 3; want++ {
			if got := w.all(db.Query, sql); len(got) != 3 {
				t.Fatalf("inner rows %v", got)
			}
			w.all(db.Query, "UPDATE t SET a=a WHERE a=?", want)
			w.must(outer.Next(row))
			if row[0] != want {
				t.Errorf("outer row %v, want %d", row[0], want)
			}
		}
		if err := outer.Next(row); err != io.EOF {
			t.Errorf("after the last row: %v", err)
		}
		w.must(outer.Close())
	})

	t.Run("SchemaChangesReachKeptStatements", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
		w.all(db.Query, "SELECT * FROM t")
		w.all(db.Query, "ALTER TABLE t RENAME COLUMN a TO b")
		rows, err := db.Query("SELECT * FROM t")
		w.must(err)
		defer rows.Close()
		if !reflect.DeepEqual(rows.Columns, []string{"b"}) {
			t.Errorf("columns %v", rows.Columns)
		}
	})

	t.Run("ManyStatements", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		for i := range 300 {
			if got := w.one(db.Query, fmt.Sprintf("SELECT %d", i%100)); got != int64(i%100) {
				t.Fatalf("statement %d gives %v", i, got)
			}
		}
	})

	t.Run("InterruptStopsAnEndlessStatement", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
		const endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) SELECT count(*) FROM n"
		for range 3 {
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						db.Interrupt() // also before the statement begins and after it
					}
				}
			})
			_, err := collect(db.ReadQuery, endless)
			close(stop)
			wg.Wait()
			w.wantKind(err, agent.SQL)
		}
		if n := w.one(db.Query, "SELECT a FROM t"); n != int64(1) {
			t.Errorf("an old interrupt spoils the next statement: %v", n)
		}
	})

	t.Run("Limits", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a)")
		_, err := db.UserQuery("INSERT INTO t VALUES(?)", strings.Repeat("x", storage.MaxRowBytes+1))
		w.wantKind(err, agent.TooLarge)
		_, err = db.UserQuery("SELECT zeroblob(?)", storage.MaxRowBytes+1)
		w.wantKind(err, agent.TooLarge)
		_, err = db.UserQuery("SELECT '" + strings.Repeat("x", storage.MaxStatementBytes) + "'")
		w.wantKind(err, agent.SQL)
		args := make([]storage.Value, storage.MaxParameters+1)
		_, err = db.UserQuery("SELECT "+strings.Repeat("?,", storage.MaxParameters)+"?", args...)
		w.wantKind(err, agent.SQL)
		_, err = db.UserQuery("SELECT ?,?", 1)
		w.wantKind(err, agent.SQL)
		_, err = db.UserQuery("WITH RECURSIVE n(x) AS (SELECT randomblob(1000000) UNION ALL SELECT randomblob(1000000) FROM n) SELECT count(*) FROM (SELECT x FROM n ORDER BY x)")
		w.wantKind(err, agent.TooLarge) // memory for sorting
		if n := w.one(db.UserQuery, "SELECT count(*) FROM t"); n != int64(0) {
			t.Errorf("%v rows after refused statements", n)
		}
	})
}

func testUser(t *testing.T, engine Engine) {
	setUp := func(t *testing.T) (*world, storage.DB) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, `CREATE TABLE agentd_secret(a); INSERT INTO agentd_secret VALUES('s'); CREATE TABLE mine(a); INSERT INTO mine VALUES(1); CREATE INDEX mine_a ON mine(a)`)
		w.durable(db, storage.Wake{})
		return w, db
	}
	t.Run("Refused", func(t *testing.T) {
		w, db := setUp(t)
		for _, sql := range []string{
			"ATTACH 'x.db' AS x", "DETACH main", "VACUUM", "VACUUM INTO 'x.db'",
			"BEGIN", "COMMIT", "ROLLBACK", "END", "SAVEPOINT s", "RELEASE s", "EXPLAIN BEGIN",
			"PRAGMA journal_mode=DELETE", "PRAGMA locking_mode=NORMAL", "PRAGMA writable_schema=1", "PRAGMA mmap_size=1",
			"PRAGMA page_size=512", "PRAGMA synchronous=OFF", "PRAGMA foreign_keys=OFF", "PRAGMA wal_checkpoint", "PRAGMA max_page_count=5",
			"PRAGMA case_sensitive_like=1", "PRAGMA temp_store_directory='/'", "PRAGMA ignore_check_constraints=1",
			"SELECT load_extension('x')", "SELECT fts3_tokenizer('simple')",
			"SELECT * FROM agentd_secret", "SELECT * FROM AGENTD_secret", `SELECT a FROM "agentd_secret"`, "SELECT count(*) FROM agentd_secret",
			"SELECT (SELECT a FROM main.agentd_secret)", "INSERT INTO agentd_secret VALUES(1)", "UPDATE agentd_secret SET a=1",
			"DELETE FROM agentd_secret", "DROP TABLE agentd_secret", "CREATE TABLE agentd_x(a)", "CREATE INDEX i ON agentd_secret(a)",
			"CREATE INDEX agentd_i ON mine(a)", "CREATE VIEW agentd_v AS SELECT 1", "CREATE TRIGGER t AFTER INSERT ON agentd_secret BEGIN SELECT 1; END",
			"ALTER TABLE agentd_secret RENAME TO x", "ALTER TABLE mine RENAME TO agentd_mine", `ALTER TABLE mine RENAME TO "AgentD_mine"`,
			"CREATE VIRTUAL TABLE agentd_f USING fts4(a)", "CREATE VIRTUAL TABLE f USING nonsense(a)",
			"CREATE TABLE c AS SELECT * FROM agentd_secret", "CREATE TEMP TABLE x(a)", "CREATE TEMP VIEW x AS SELECT 1",
			"UPDATE sqlite_schema SET sql='x'", "DELETE FROM sqlite_master", "INSERT INTO sqlite_schema VALUES(1,2,3,4,5)",
			"SELECT a FROM mine; DELETE FROM agentd_secret",
		} {
			if rows, err := collect(db.UserQuery, sql); agent.KindOf(err) != agent.SQL {
				t.Errorf("%s: rows %v, error %v; want a refusal", sql, rows, err)
			}
		}
		if got := w.one(db.Query, "SELECT count(*) || (SELECT count(*) FROM mine) FROM agentd_secret"); got != "11" {
			t.Errorf("rows after the refusals: %v", got)
		}
	})
	t.Run("RefusedThroughObjects", func(t *testing.T) {
		w, db := setUp(t)
		// A view or trigger may be made; what it does is refused when it is used, by
		// whomever.
		for _, sql := range []string{
			"CREATE VIEW v AS SELECT a FROM agentd_secret",
			"CREATE TRIGGER r AFTER INSERT ON mine BEGIN DELETE FROM agentd_secret; END",
			"CREATE TABLE child(a REFERENCES agentd_secret(a))",
		} {
			w.all(db.UserQuery, sql)
		}
		for _, q := range []query{db.UserQuery, db.Query} {
			for _, sql := range []string{"SELECT * FROM v", "INSERT INTO mine VALUES(2)"} {
				_, err := collect(q, sql)
				w.wantKind(err, agent.SQL)
			}
		}
		if n := w.one(db.Query, "SELECT count(*) FROM agentd_secret"); n != int64(1) {
			t.Errorf("%v rows, want 1", n)
		}
	})
	t.Run("Allowed", func(t *testing.T) {
		w, db := setUp(t)
		for _, sql := range []string{
			"PRAGMA table_info(mine)", "PRAGMA table_list", "SELECT name FROM pragma_table_info('mine')", "PRAGMA index_list(mine)",
			"PRAGMA user_version=3", "PRAGMA user_version", "PRAGMA defer_foreign_keys=ON", "PRAGMA quick_check", "PRAGMA foreign_keys",
			"CREATE INDEX i ON mine(a)", "CREATE VIEW v AS SELECT a FROM mine", "EXPLAIN QUERY PLAN SELECT * FROM v",
			"CREATE VIRTUAL TABLE f USING fts4(body)", "INSERT INTO f VALUES('hello world')", "SELECT * FROM f WHERE f MATCH 'hello'",
			"CREATE VIRTUAL TABLE r USING rtree(id,a,b)", "ALTER TABLE mine ADD COLUMN b", "ALTER TABLE mine RENAME TO yours",
			"ANALYZE", "REINDEX yours", "DROP TABLE yours", "SELECT sql FROM sqlite_schema", `SELECT json_extract('{"a":1}','$.a')`,
			"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n WHERE x<9) SELECT sum(x) FROM n",
		} {
			if _, err := collect(db.UserQuery, sql); err != nil {
				t.Errorf("%s: %v", sql, err)
			}
		}
		if got := w.one(db.UserQuery, "PRAGMA user_version"); got != int64(3) {
			t.Errorf("user_version %v", got)
		}
	})
	t.Run("ReadQueryWritesNothing", func(t *testing.T) {
		w, db := setUp(t)
		before := w.durable(db, storage.Wake{}).Seq()
		for _, sql := range []string{
			"INSERT INTO mine VALUES(2)", "UPDATE mine SET a=2", "DELETE FROM mine", "REPLACE INTO mine VALUES(1)",
			"CREATE TABLE x(a)", "DROP TABLE mine", "ALTER TABLE mine ADD COLUMN b", "PRAGMA user_version=4", "ANALYZE", "REINDEX",
			"DELETE FROM mine RETURNING a", "WITH x AS (SELECT 1) INSERT INTO mine SELECT * FROM x", "SELECT 1; DELETE FROM mine",
			"SELECT * FROM agentd_secret",
		} {
			if _, err := collect(db.ReadQuery, sql); agent.KindOf(err) != agent.SQL {
				t.Errorf("%s: %v; want a refusal", sql, err)
			}
		}
		if got := w.one(db.ReadQuery, "SELECT sum(a) FROM mine"); got != int64(1) {
			t.Errorf("sum %v", got)
		}
		if seq := w.durable(db, storage.Wake{}).Seq(); seq != before {
			t.Errorf("commit number went from %d to %d by reading", before, seq)
		}
	})
}
