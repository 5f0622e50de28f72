package sqlite

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const benchSchema = `BEGIN;
CREATE TABLE events(id INTEGER PRIMARY KEY, kind TEXT, at INTEGER, body TEXT);
CREATE INDEX by_kind ON events(kind, at);
CREATE TABLE kv(key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE meta(one INTEGER PRIMARY KEY, seq INTEGER);
INSERT INTO meta VALUES(1, 0);
COMMIT`

// twoStatements is the transaction of the storage engine's goal: an insert of 225
// bytes into an indexed table, and an upsert of 100 bytes.
type twoStatements struct {
	begin, insert, upsert, commit *Stmt
}

func newTwoStatements(b *testing.B, conn *Conn) *twoStatements {
	return &twoStatements{
		begin:  prepare(b, conn, Platform, "BEGIN"),
		insert: prepare(b, conn, User, "INSERT INTO events(kind, at, body) VALUES(?, ?, ?)"),
		upsert: prepare(b, conn, User, "INSERT INTO kv VALUES(?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"),
		commit: prepare(b, conn, Platform, "COMMIT"),
	}
}

func (s *twoStatements) run(b *testing.B, i int) {
	for _, step := range []struct {
		stmt *Stmt
		args []any
	}{
		{s.begin, nil},
		{s.insert, []any{"kind" + strconv.Itoa(i%7), i, benchBody}},
		{s.upsert, []any{"key" + strconv.Itoa(i%16), benchValue}},
		{s.commit, nil},
	} {
		if _, err := step.stmt.Run(step.args); err != nil {
			b.Fatal(err)
		}
		step.stmt.Release()
	}
}

var benchBody, benchValue = strings.Repeat("b", 200), bytes.Repeat([]byte("v"), 100)

// Transactions over a file that a second goroutine brings up to date, as in the
// engine.
func BenchmarkCapture_Transaction(b *testing.B) {
	f := newAgentFile(b)
	conn, capture := f.open(b, 0)
	if err := conn.Exec(benchSchema); err != nil {
		b.Fatal(err)
	}
	f.take(b)
	f.apply(b, -1)
	s := newTwoStatements(b, conn)
	commits := make(chan fileCommit, 4)
	var wg sync.WaitGroup
	wg.Go(func() {
		for c := range commits {
			f.write(b, c)
			capture.Applied(c.seq, int(f.file.Fd()))
		}
	})
	var size int
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.run(b, i)
		delta, pages, seq, _ := capture.Take(make([]byte, 0, 1024))
		size += len(delta)
		commits <- fileCommit{delta, pages, seq}
	}
	close(commits)
	wg.Wait()
	b.ReportMetric(float64(size)/float64(b.N), "delta-B/op")
}

// The same without an applier, against a plain database that is never synced: the
// difference is the price of the capture.
func BenchmarkCapture_TransactionAlone(b *testing.B) {
	for _, plain := range []bool{false, true} {
		b.Run(map[bool]string{false: "capture", true: "plain"}[plain], func(b *testing.B) {
			var conn *Conn
			var capture *Capture
			var err error
			if plain {
				conn, err = Open(filepath.Join(b.TempDir(), "plain.db"), Options{Create: true})
			} else {
				conn, capture, err = OpenCapture(CaptureOptions{FD: -1}, Options{})
			}
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { conn.Close(false) })
			if err := conn.Exec("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=MEMORY; PRAGMA synchronous=OFF;" + benchSchema); err != nil {
				b.Fatal(err)
			}
			var delta []byte
			if !plain {
				capture.Take(nil)
			}
			s := newTwoStatements(b, conn)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.run(b, i)
				if !plain {
					delta, _, _, _ = capture.Take(delta[:0])
				}
			}
		})
	}
}

// Waking an agent: open, first question, close.
func BenchmarkCapture_OpenSelectClose(b *testing.B) {
	f := newAgentFile(b)
	conn, _ := f.open(b, 0)
	if err := conn.Exec(benchSchema); err != nil {
		b.Fatal(err)
	}
	f.take(b)
	f.apply(b, -1)
	for b.Loop() {
		conn, _, err := OpenCapture(CaptureOptions{FD: int(f.file.Fd()), Pages: f.pages, Seq: f.applied}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		s, _, err := conn.Prepare(Platform, []byte("SELECT seq FROM meta\x00"))
		if err != nil {
			b.Fatal(err)
		}
		if row, err := s.Run(nil); err != nil || !row {
			b.Fatal(row, err)
		}
		s.Finalize()
		if err := conn.Close(false); err != nil {
			b.Fatal(err)
		}
	}
}

// Memory of open databases with three small tables, each with one transaction done.
func BenchmarkCapture_MemoryPerOpenDatabase(b *testing.B) {
	const n = 500
	f := newAgentFile(b)
	conn, _ := f.open(b, 0)
	if err := conn.Exec(benchSchema); err != nil {
		b.Fatal(err)
	}
	f.take(b)
	f.apply(b, -1)
	perDatabase := 0.0 // of the first time: later ones use its memory again
	for b.Loop() {
		before := residentBytes(b)
		conns := make([]*Conn, n)
		for i := range conns {
			conn, capture, err := OpenCapture(CaptureOptions{FD: int(f.file.Fd()), Pages: f.pages, Seq: f.applied}, Options{})
			if err != nil {
				b.Fatal(err)
			}
			if err := conn.Exec("BEGIN; INSERT INTO events(kind, at, body) VALUES('k', 1, 'body'); INSERT INTO kv VALUES('k', 'v'); UPDATE meta SET seq = seq + 1; COMMIT"); err != nil {
				b.Fatal(err)
			}
			_, _, seq, _ := capture.Take(nil)
			capture.Applied(seq, int(f.file.Fd())) // not true, and nobody reads again
			conns[i] = conn
		}
		if perDatabase == 0 {
			perDatabase = float64(residentBytes(b)-before) / n / 1024
		}
		for _, conn := range conns {
			if err := conn.Close(false); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(perDatabase, "KiB/db")
}

func residentBytes(b *testing.B) int64 {
	if runtime.GOOS != "linux" {
		b.Skip("reads /proc")
	}
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

func BenchmarkCapture_Checksum(b *testing.B) {
	var page [pageBytes]byte
	b.SetBytes(pageBytes)
	for b.Loop() {
		checksumPage(1, &page)
	}
}
