package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// twins are a capture and a plain database that get the same SQL.
type twins struct {
	t     testing.TB
	f     *agentFile
	conn  *Conn
	plain *Conn
}

func newTwins(t testing.TB) *twins {
	d := &twins{t: t, f: newAgentFile(t)}
	d.conn, _ = d.f.open(t, 0)
	path := filepath.Join(t.TempDir(), "plain.db")
	var err error
	if d.plain, err = Open(path, Options{Create: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.plain.Close(false) })
	mustExec(t, d.plain, "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF; PRAGMA temp_store=MEMORY")
	return d
}

// exec runs one statement on both, and takes what the capture committed.
func (d *twins) exec(sql string) {
	d.t.Helper()
	run := func(c *Conn) error {
		if sql == "VACUUM" {
			return c.Vacuum()
		}
		return c.Exec(sql)
	}
	a, b := run(d.conn), run(d.plain)
	var x, y *Error
	errors.As(a, &x)
	errors.As(b, &y)
	if (a == nil) != (b == nil) || (x != nil && (x.Code != y.Code || x.Msg != y.Msg)) {
		d.t.Fatalf("%s: the capture says %v, a plain database %v", sql, a, b)
	}
	if d.conn.Autocommit() != d.plain.Autocommit() {
		d.t.Fatalf("%s: a transaction is open on one side only", sql)
	}
	if d.f.take(d.t) && !d.conn.Autocommit() {
		d.t.Fatalf("%s: a delta inside a transaction", sql)
	}
}

// compare compares contents, and the capture's pages with its deltas.
func (d *twins) compare() {
	d.t.Helper()
	if a, b := dump(d.t, d.conn), dump(d.t, d.plain); a != b {
		d.t.Fatalf("contents differ:\n%s\n--- plain:\n%s", a, b)
	}
	if d.conn.Autocommit() {
		d.f.check(d.t)
	}
}

// reopen closes the capture after its file was brought up to date, and opens another
// over the file.
func (d *twins) reopen() {
	d.t.Helper()
	if !d.conn.Autocommit() {
		d.exec("ROLLBACK")
	}
	d.f.apply(d.t, -1)
	if err := d.conn.Close(false); err != nil {
		d.t.Fatal(err)
	}
	d.conn, _ = d.f.open(d.t, 0)
}

// finish checks the file as a stock SQLite sees it.
func (d *twins) finish() {
	d.t.Helper()
	if !d.conn.Autocommit() {
		d.exec("ROLLBACK")
	}
	d.compare()
	if s := query(d.t, d.conn, "PRAGMA integrity_check"); s != "'ok'\n" {
		d.t.Fatal(s)
	}
	d.f.apply(d.t, -1)
	image := d.f.read(d.t)
	if !bytes.Equal(image, d.f.image) {
		d.t.Fatal("the file is not what its commits give")
	}
	path := filepath.Join(d.t.TempDir(), "stock.db")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		d.t.Fatal(err)
	}
	stock, err := Open(path, Options{})
	if err != nil {
		d.t.Fatal(err)
	}
	defer stock.Close(false)
	if len(image) > 0 {
		if s := query(d.t, stock, "PRAGMA integrity_check"); s != "'ok'\n" {
			d.t.Fatal(s)
		}
	}
	if a, b := dump(d.t, stock), dump(d.t, d.conn); a != b {
		d.t.Fatalf("contents differ:\n%s\n--- capture:\n%s", a, b)
	}
}

func dump(t testing.TB, c *Conn) string {
	t.Helper()
	all := query(t, c, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2")
	for _, name := range strings.Fields(strings.ReplaceAll(query(t, c, "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY 1"), "'", "")) {
		all += name + "\n" + query(t, c, "SELECT * FROM "+name)
	}
	return all
}

// query gives rows as text; long values by their length and ends.
func query(t testing.TB, c *Conn, sql string) string {
	t.Helper()
	stmt, _, err := c.Prepare(Platform, Terminated(sql))
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer stmt.Finalize()
	var out strings.Builder
	for {
		row, err := stmt.Next()
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if !row {
			return out.String()
		}
		values := make([]any, len(stmt.Names()))
		if err := stmt.Scan(values); err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if i > 0 {
				out.WriteByte('|')
			}
			switch v := v.(type) {
			case string:
				fmt.Fprintf(&out, "'%s'", v)
			case []byte:
				fmt.Fprintf(&out, "x%d:%x", len(v), v[:min(len(v), 20)])
			default:
				fmt.Fprint(&out, v)
			}
		}
		out.WriteByte('\n')
	}
}

// pieces of SQL; %t is one of the tables, %n a number, %s a size of a value.
var differentialSQL = []string{
	"CREATE TABLE %t(id INTEGER PRIMARY KEY, a, b)",
	"CREATE TABLE %t(id INTEGER PRIMARY KEY, a UNIQUE, b)",
	"CREATE TABLE %t(id, a, b, PRIMARY KEY(id, a)) WITHOUT ROWID",
	"CREATE INDEX i_%t ON %t(a, b)",
	"DROP INDEX IF EXISTS i_%t",
	"DROP TABLE IF EXISTS %t",
	"ALTER TABLE %t ADD COLUMN c%n DEFAULT %n",
	"ALTER TABLE %t RENAME COLUMN b TO b",
	"INSERT INTO %t(id, a, b) VALUES(%n, %n, zeroblob(%s))",
	"INSERT OR REPLACE INTO %t(id, a, b) VALUES(%n, %n, printf('%.*c', %s, 'x'))",
	"INSERT OR IGNORE INTO %t(id, a, b) WITH RECURSIVE n(x) AS (SELECT %n UNION ALL SELECT x + 1 FROM n LIMIT 200) SELECT x, x * 7 % 1000, zeroblob(%s) FROM n",
	"INSERT INTO %t(id, a, b) WITH RECURSIVE n(x) AS (SELECT %n UNION ALL SELECT x + 1 FROM n LIMIT 50) SELECT x, x, zeroblob(500) FROM n",
	"UPDATE %t SET b = printf('%.*c', %s, 'y') WHERE a % 10 = %n % 10",
	"UPDATE %t SET a = a + 1 WHERE id > %n",
	"DELETE FROM %t WHERE id % 3 = %n % 3",
	"DELETE FROM %t",
	"CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(text)",
	"INSERT INTO words(text) WITH RECURSIVE n(x) AS (SELECT %n UNION ALL SELECT x + 1 FROM n LIMIT 40) SELECT printf('word%d common text number %d', x, x % 7) FROM n",
	"DELETE FROM words WHERE rowid % 4 = %n % 4",
	"INSERT INTO words(words) VALUES('optimize')",
	"DROP TABLE IF EXISTS words",
	"CREATE TABLE IF NOT EXISTS parent(id INTEGER PRIMARY KEY)",
	"CREATE TABLE IF NOT EXISTS child(p REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)",
	"INSERT INTO child VALUES(%n)",
	"INSERT OR IGNORE INTO parent VALUES(%n)",
	"DELETE FROM child",
	"CREATE TRIGGER IF NOT EXISTS r_%t AFTER INSERT ON %t BEGIN INSERT OR IGNORE INTO t0(id, a, b) VALUES(new.id + 5000, new.id + 5000, new.b); END",
	"DROP TRIGGER IF EXISTS r_%t",
	"BEGIN", "BEGIN", "BEGIN", "COMMIT", "COMMIT", "COMMIT", "ROLLBACK",
	"SAVEPOINT s", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s",
	"VACUUM", "REINDEX", "ANALYZE",
	"PRAGMA auto_vacuum=%n", "PRAGMA incremental_vacuum(5)", "PRAGMA user_version=%n",
}

func fillIn(sql string, table, n, size int) string {
	return strings.NewReplacer("%t", fmt.Sprintf("t%d", table), "%n", fmt.Sprint(n), "%s", fmt.Sprint(size)).Replace(sql)
}

// sub has rapid's failures and its own folders.
type sub struct {
	testing.TB
	rt       *rapid.T
	dir      string
	cleanups []func()
}

func (s *sub) Helper()                      {}
func (s *sub) Fatal(args ...any)            { s.rt.Fatal(args...) }
func (s *sub) Fatalf(f string, args ...any) { s.rt.Fatalf(f, args...) }
func (s *sub) Error(args ...any)            { s.rt.Error(args...) }
func (s *sub) Errorf(f string, args ...any) { s.rt.Errorf(f, args...) }
func (s *sub) Log(args ...any)              { s.rt.Log(args...) }
func (s *sub) Logf(f string, args ...any)   { s.rt.Logf(f, args...) }
func (s *sub) Cleanup(fn func())            { s.cleanups = append(s.cleanups, fn) }
func (s *sub) TempDir() string {
	dir, err := os.MkdirTemp(s.dir, "x")
	if err != nil {
		s.Fatal(err)
	}
	return dir
}
func (s *sub) end() {
	for len(s.cleanups) > 0 {
		last := len(s.cleanups) - 1
		s.cleanups[last]()
		s.cleanups = s.cleanups[:last]
	}
	os.RemoveAll(s.dir)
}

func TestCapture_BehavesAsAPlainDatabase(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "x")
		if err != nil {
			rt.Fatal(err)
		}
		s := &sub{TB: t, rt: rt, dir: dir}
		defer s.end()
		d := newTwins(s)
		if rapid.Bool().Draw(rt, "spill") {
			mustExec(s, d.conn, "PRAGMA cache_size=10; PRAGMA cache_spill=10")
		}
		d.exec("CREATE TABLE t0(id INTEGER PRIMARY KEY, a, b)")
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch k := rapid.IntRange(0, 11).Draw(rt, "what"); {
			case k == 0:
				d.f.apply(s, rapid.IntRange(1, 5).Draw(rt, "apply"))
			case k == 1 && rapid.IntRange(0, 5).Draw(rt, "reopen") == 0:
				d.reopen()
			case k == 2:
				d.compare()
			default:
				sql := rapid.SampledFrom(differentialSQL).Draw(rt, "sql")
				d.exec(fillIn(sql, rapid.IntRange(0, 2).Draw(rt, "table"), rapid.IntRange(0, 3000).Draw(rt, "n"),
					rapid.SampledFrom([]int{0, 10, 300, 4000, 20000}).Draw(rt, "size")))
			}
		}
		d.finish()
	})
}

// 64 MiB in one transaction, with and without room for them.
func TestCapture_LargeTransaction(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 64 MiB")
	}
	d := newTwins(t)
	d.exec("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
	d.exec("BEGIN")
	d.exec(rows("16000"))
	d.exec("UPDATE t SET b = zeroblob(3100) WHERE a % 3 = 0")
	d.exec("COMMIT")
	d.compare()
	d.exec("BEGIN")
	d.exec("UPDATE t SET b = zeroblob(3200)")
	d.exec("ROLLBACK")
	d.f.apply(t, -1)
	d.exec("DROP TABLE t")
	d.exec("VACUUM")
	d.finish()
}

// A script is a byte for each piece of SQL and a byte for what is filled in.
func FuzzCapture_Script(f *testing.F) {
	f.Add([]byte{0, 0, 8, 3, 10, 40, 12, 1, 38, 0})
	f.Add([]byte{28, 0, 0, 1, 10, 9, 31, 0, 255, 3, 14, 1, 41, 0, 28, 0, 10, 2, 34, 0})
	f.Add([]byte{42, 1, 41, 0, 0, 0, 10, 80, 255, 1, 15, 0, 10, 70})
	f.Fuzz(func(t *testing.T, script []byte) {
		d := newTwins(t)
		mustExec(t, d.conn, "PRAGMA cache_size=10; PRAGMA cache_spill=10")
		for i := 0; i+1 < len(script) && i < 120; i += 2 {
			what, arg := int(script[i]), int(script[i+1])
			switch {
			case what == 255:
				d.f.apply(t, arg)
			case what == 254:
				d.reopen()
			default:
				d.exec(fillIn(differentialSQL[what%len(differentialSQL)], arg%3, arg*17, arg*arg/4))
			}
		}
		d.finish()
	})
}
