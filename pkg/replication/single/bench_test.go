package single

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// BenchmarkTransactions is two statements and a durable commit, by one agent and by
// 64 at once.
func BenchmarkTransactions(b *testing.B) {
	for _, agents := range []int{1, 64} {
		b.Run(fmt.Sprint(agents), func(b *testing.B) {
			s, err := Open(b.Context(), Config{Dir: b.TempDir(), Now: time.Now})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			dbs := make([]storage.DB, agents)
			for i := range dbs {
				dbs[i] = benchAgent(b, s, i)
				defer dbs[i].Close()
			}
			for last := -1; last != s.Stats().Log.Spares; time.Sleep(time.Second) { // zeroed in the background
				last = s.Stats().Log.Spares
			}
			before := s.Stats()
			b.ResetTimer()
			var wg sync.WaitGroup
			for k, db := range dbs {
				wg.Go(func() {
					for i := k; i < b.N; i += agents {
						if err := transact(db, i); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			after := s.Stats()
			b.ReportMetric(float64(b.N)/float64(max(1, after.Log.Batches-before.Log.Batches)), "commits/write")
			b.ReportMetric(float64(after.RecordBytes-before.RecordBytes)/float64(b.N), "bytes/commit")
		})
	}
}

func benchAgent(b *testing.B, s storage.Store, n int) storage.DB {
	b.Helper()
	db, err := s.Open(context.Background(), agent.ID{Namespace: "default", Class: "Bench", Name: fmt.Sprint(n)})
	if err != nil {
		b.Fatal(err)
	}
	run(b, db, `CREATE TABLE log(id INTEGER PRIMARY KEY, kind TEXT, body BLOB); CREATE INDEX log_kind ON log(kind);
		CREATE TABLE kv(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID`)
	ticket, err := db.Commit(storage.Wake{})
	if err == nil {
		err = ticket.Wait()
	}
	if err != nil {
		b.Fatal(err)
	}
	return db
}

func run(b *testing.B, db storage.DB, sql string, args ...any) {
	b.Helper()
	rows, err := db.Query(sql, args...)
	if err == nil {
		_, err = rows.Each(nil)
	}
	if err != nil {
		b.Fatal(err)
	}
}

var body = func() []byte {
	b := make([]byte, 225)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}()

func transact(db storage.DB, i int) error {
	rows, err := db.Query("INSERT INTO log(kind, body) VALUES(?, ?)", i%16, body)
	if err == nil {
		_, err = rows.Each(nil)
	}
	if err == nil {
		rows, err = db.Query("INSERT INTO kv VALUES(?, ?) ON CONFLICT(k) DO UPDATE SET v=excluded.v", i%256, body[:100])
	}
	if err == nil {
		_, err = rows.Each(nil)
	}
	if err != nil {
		return err
	}
	ticket, err := db.Commit(storage.Wake{})
	if err != nil {
		return err
	}
	return ticket.Wait()
}
