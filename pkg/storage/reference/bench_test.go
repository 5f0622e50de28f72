package reference

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

func benchStore(b *testing.B) *Store {
	b.Helper()
	s, err := Open(Config{Dir: b.TempDir(), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

func counterID(i int) agent.ID {
	return agent.ID{Namespace: "default", Class: "Counter", Name: "c" + strconv.Itoa(i)}
}

func run(tb testing.TB, db storage.DB, query string, args ...storage.Value) {
	tb.Helper()
	rows, err := db.Query(query, args...)
	if err != nil {
		tb.Fatal(err)
	}
	if err := rows.Close(); err != nil {
		tb.Fatal(err)
	}
}

const benchSchema = `CREATE TABLE log(id INTEGER PRIMARY KEY, at INTEGER, body TEXT); CREATE INDEX log_at ON log(at);
CREATE TABLE kv(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID`

func transaction(tb testing.TB, db storage.DB, i int, body string) *storage.Ticket {
	run(tb, db, "INSERT INTO log(at, body) VALUES(?,?)", i, body)
	run(tb, db, "INSERT INTO kv VALUES(?,?) ON CONFLICT DO UPDATE SET v=excluded.v", "state", body[:100])
	ticket, err := db.Commit(storage.Wake{})
	if err != nil {
		tb.Fatal(err)
	}
	return ticket
}

// One durable transaction of two statements after the other; and 64 agents at once.
func BenchmarkCommit(b *testing.B) {
	body := strings.Repeat("x", 225)
	for _, agents := range []int{1, 64} {
		b.Run(fmt.Sprintf("agents=%d", agents), func(b *testing.B) {
			s := benchStore(b)
			dbs := make([]storage.DB, agents)
			for i := range dbs {
				db, err := s.Open(context.Background(), counterID(i))
				if err != nil {
					b.Fatal(err)
				}
				run(b, db, benchSchema)
				dbs[i] = db
			}
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i, db := range dbs {
				wg.Go(func() {
					for n := i; n < b.N; n += agents {
						if err := transaction(b, db, n, body).Wait(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// The work of the loop alone: commits are synced behind it, many at once.
func BenchmarkCommitPipelined(b *testing.B) {
	body := strings.Repeat("x", 225)
	db, err := benchStore(b).Open(context.Background(), counterID(0))
	if err != nil {
		b.Fatal(err)
	}
	run(b, db, benchSchema)
	b.ReportAllocs()
	b.ResetTimer()
	var last *storage.Ticket
	for n := range b.N {
		last = transaction(b, db, n, body)
	}
	if err := last.Wait(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkSelect(b *testing.B) {
	db, err := benchStore(b).Open(context.Background(), counterID(0))
	if err != nil {
		b.Fatal(err)
	}
	run(b, db, benchSchema)
	transaction(b, db, 1, strings.Repeat("x", 225))
	dst := make([]storage.Value, 2)
	b.ReportAllocs()
	for b.Loop() {
		rows, err := db.UserQuery("SELECT at, body FROM log WHERE id=?", 1)
		if err != nil {
			b.Fatal(err)
		}
		if err := rows.Next(dst); err != nil {
			b.Fatal(err)
		}
		rows.Close()
	}
}

// Wake an agent from disk, read, and hibernate it again.
func BenchmarkOpen(b *testing.B) {
	s := benchStore(b)
	db, err := s.Open(context.Background(), counterID(0))
	if err != nil {
		b.Fatal(err)
	}
	run(b, db, benchSchema)
	transaction(b, db, 1, strings.Repeat("x", 225))
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	dst := make([]storage.Value, 1)
	for _, close := range []bool{false, true} {
		b.Run(fmt.Sprintf("close=%t", close), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if close {
					b.StopTimer()
				}
				db, err := s.Open(context.Background(), counterID(0))
				if err != nil {
					b.Fatal(err)
				}
				rows, err := db.Query("SELECT v FROM kv WHERE k='state'")
				if err != nil {
					b.Fatal(err)
				}
				if err := rows.Next(dst); err != nil {
					b.Fatal(err)
				}
				rows.Close()
				if close {
					b.StartTimer()
				} else {
					b.StopTimer()
				}
				if err := db.Close(); err != nil {
					b.Fatal(err)
				}
				if !close {
					b.StartTimer()
				}
			}
		})
	}
}

// The first durable commit of a new agent.
func BenchmarkCreate(b *testing.B) {
	s := benchStore(b)
	for i := range b.N {
		db, err := s.Open(context.Background(), counterID(i))
		if err != nil {
			b.Fatal(err)
		}
		run(b, db, benchSchema)
		if err := transaction(b, db, i, strings.Repeat("x", 225)).Wait(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// The yardstick: 4 KiB written to a file of full size, and synced.
func BenchmarkSyncedWrite4K(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "x"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const size = 16 << 20
	if _, err := f.Write(make([]byte, size)); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	page := make([]byte, 4096)
	b.ResetTimer()
	for i := range b.N {
		if _, err := f.WriteAt(page, int64(i)*4096%size); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
}

func residentBytes(tb testing.TB) int64 {
	tb.Helper()
	runtime.GC()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Skip("no /proc")
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// Memory of an open database that has read and written.
func BenchmarkOpenMemory(b *testing.B) {
	const agents = 1000
	for range b.N {
		s, err := Open(Config{Dir: b.TempDir(), Now: time.Now})
		if err != nil {
			b.Fatal(err)
		}
		before := residentBytes(b)
		for i := range agents {
			db, err := s.Open(context.Background(), counterID(i))
			if err != nil {
				b.Fatal(err)
			}
			run(b, db, benchSchema)
			transaction(b, db, 1, strings.Repeat("x", 225))
		}
		b.ReportMetric(float64(residentBytes(b)-before)/agents/1024, "KiB/agent")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// Start with 100 000 hibernated agents, and ask who is due.
func BenchmarkHibernated(b *testing.B) {
	const agents = 100_000
	dir := b.TempDir()
	s, err := Open(Config{Dir: dir, Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	s.catalog.fileMu.Lock()
	err = s.catalog.file.transaction(func() error {
		for i := range agents {
			wake := storage.Wake{At: time.UnixMilli(int64(1e12 + i))}
			if err := s.catalog.file.put(storage.Entry{ID: counterID(i), Seq: 1, Wake: wake, CreatedAt: time.UnixMilli(1)}, false); err != nil {
				return err
			}
		}
		return nil
	})
	s.catalog.fileMu.Unlock()
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		before := residentBytes(b)
		started := time.Now()
		s, err := Open(Config{Dir: dir, Now: time.Now})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(started).Microseconds())/1000, "ms/start")
		b.ReportMetric(max(0, float64(residentBytes(b)-before)/agents), "B/agent")
		started = time.Now()
		if _, _, err := s.Catalog().Due(context.Background(), time.UnixMilli(1e12+10), 100); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(started).Nanoseconds())/1000, "µs/due")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
