package sqlite

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func open(t testing.TB, o Options) *Conn {
	t.Helper()
	o.Create = true
	c, err := Open(filepath.Join(t.TempDir(), "x.db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(true); err != nil {
			t.Error(err)
		}
	})
	if err := c.Exec("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; CREATE TABLE t(a,b)"); err != nil {
		t.Fatal(err)
	}
	return c
}

func prepare(t testing.TB, c *Conn, mode Mode, sql string) *Stmt {
	t.Helper()
	s, _, err := c.Prepare(mode, Terminated(sql))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Finalize)
	return s
}

func TestRowsOfTwoStatementsKeepApart(t *testing.T) {
	c := open(t, Options{})
	if err := c.Exec("INSERT INTO t VALUES('one',1),('two',2)"); err != nil {
		t.Fatal(err)
	}
	a := prepare(t, c, Platform, "SELECT a FROM t ORDER BY b")
	b := prepare(t, c, Platform, "SELECT a, b FROM t ORDER BY b DESC")
	for _, s := range []*Stmt{a, b} {
		if row, err := s.Run(nil); !row || err != nil {
			t.Fatal(row, err)
		}
	}
	x, y := make([]any, 1), make([]any, 2)
	if err := a.Scan(x); err != nil || x[0] != "one" {
		t.Errorf("%v %v", x, err)
	}
	if err := b.Scan(y); err != nil || y[0] != "two" || y[1] != int64(2) {
		t.Errorf("%v %v", y, err)
	}
	a.Release()
	b.Release()
}

// The log is made by the first write, and found again if it exists.
func TestLogIsMadeByTheFirstWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	logs := func() bool {
		_, err := os.Lstat(path + "-wal")
		return err == nil
	}
	at := func(sql string, wantLog bool) {
		t.Helper()
		c, err := Open(path, Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Exec("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; " + sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
		if logs() != wantLog {
			t.Errorf("after %s: a log is there: %t", sql, !wantLog)
		}
		if err := c.Checkpoint(); err != nil {
			t.Error(err)
		}
		if err := c.Close(!strings.Contains(sql, "keep")); err != nil {
			t.Error(err)
		}
	}
	at("CREATE TABLE t(a); INSERT INTO t VALUES(1)", true)
	if logs() {
		t.Error("the log outlived its connection")
	}
	at("SELECT * FROM t; BEGIN; CREATE TABLE IF NOT EXISTS t(a); COMMIT", false)
	at("BEGIN; INSERT INTO t VALUES(2); ROLLBACK", false)
	at("INSERT INTO t VALUES(3) /* keep */", true)
	at("SELECT 1 FROM t /* keep */", true)
	at("DELETE FROM t", true)
}

// A log that cannot be made fails the write and not the process.
func TestLogCannotBeMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	c, err := Open(path, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Exec("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+"-wal", 0o700); err != nil {
		t.Fatal(err)
	}
	err = c.Exec("CREATE TABLE t(a)")
	var e *Error
	if !errors.As(err, &e) || e.Code.Primary() != CantOpen || e.Errno == 0 {
		t.Errorf("error %v", err)
	}
	if err := os.Remove(path + "-wal"); err != nil {
		t.Fatal(err)
	}
	if err := c.Exec("CREATE TABLE t(a)"); err != nil {
		t.Errorf("when it can be made again: %v", err)
	}
	if err := c.Close(true); err != nil {
		t.Error(err)
	}
}

func TestInterruptAndCloseDoNotRace(t *testing.T) {
	for range 20 {
		c, err := Open(filepath.Join(t.TempDir(), "x.db"), Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 1000 {
				c.Interrupt()
			}
		})
		if err := c.Close(false); err != nil {
			t.Error(err)
		}
		if err := c.Close(false); err != nil {
			t.Error(err)
		}
		wg.Wait()
	}
}

func TestStops(t *testing.T) {
	const endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM n) "
	for _, c := range []struct {
		name string
		o    Options
		sql  string
		want Stop
	}{
		{"written", Options{MaxWrittenPages: 500}, endless + "INSERT INTO t SELECT x, zeroblob(1000) FROM n", StopWritten},
		{"memory", Options{MaxStatementMemory: 8 << 20}, endless + "SELECT count(*) FROM (SELECT DISTINCT randomblob(100) FROM n)", StopMemory},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := open(t, c.o)
			if err := conn.Exec("PRAGMA cache_size=50; PRAGMA temp_store=MEMORY"); err != nil {
				t.Fatal(err)
			}
			_, err := prepare(t, conn, User, c.sql).Run(nil)
			var e *Error
			if !errors.As(err, &e) || e.Stop != c.want {
				t.Errorf("error %v, want stop %d", err, c.want)
			}
		})
	}
}

func TestErrorsSayWhatTheAuthorizerSaid(t *testing.T) {
	c := open(t, Options{})
	_, _, err := c.Prepare(User, Terminated("ATTACH 'x' AS y"))
	if err == nil || !strings.Contains(err.Error(), "ATTACH is not available") {
		t.Errorf("error %v", err)
	}
	if _, _, err := c.Prepare(Platform, []byte("SELECT 1")); err == nil {
		t.Error("text without an end was accepted")
	}
}

// Blank must agree with SQLite about where SQL ends, and Prepare's cuts with
// SQLite's own idea of complete statements.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{
		"", ";", "SELECT 1", "SELECT ';'; SELECT 2", "-- x", "--", "/*", "/**", "/***/", "/* ; */ ;", "/*/", "- 1", "/ 2",
		"CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END; SELECT 2", `SELECT "a;b"; SELECT [c;d]`, "SELECT `;`;\f\v",
		"SELECT 1;\n--c\nSELECT 2;/* tail", "SELECT x'00';;", "\xef\xbb\xbfSELECT 1", "SELECT 1 -- a\x00b",
	} {
		f.Add(seed)
	}
	c := open(f, Options{})
	f.Fuzz(func(t *testing.T, sql string) {
		text := Terminated(sql)
		for range 100 {
			stmt, used, err := c.Prepare(Platform, text)
			blank := Blank(text)
			if err != nil {
				if blank {
					t.Fatalf("%q is blank, but SQLite says %v", text, err)
				}
				return
			}
			if stmt == nil {
				// SQLite ate up to a semicolon or the end: nothing, or not yet.
				if Blank(text[:used]) == false {
					t.Fatalf("%q holds no statement, but is not blank", text[:used])
				}
				if used >= len(text)-1 || blank {
					return
				}
			} else {
				stmt.Finalize()
				if blank {
					t.Fatalf("%q is blank, but holds a statement", text)
				}
				head := string(text[:used])
				if !Blank(text[used:]) && !strings.Contains(strings.ToLower(head), "trigger") && !Complete(head) {
					t.Fatalf("%q was cut into %q, which is not complete", text, head)
				}
			}
			text = text[used:]
		}
	})
}
