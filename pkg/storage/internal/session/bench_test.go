package session

import (
	"strings"
	"testing"
	"time"

	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// A turn of two statements and its commit, without a sync.
func BenchmarkSession(b *testing.B) {
	s := open(b, Limits())
	s.run(`CREATE TABLE log(id INTEGER PRIMARY KEY, at INTEGER, body TEXT); CREATE TABLE kv(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID`)
	s.commit()
	body := strings.Repeat("x", 225)
	args := [2][]storage.Value{{"state", body[:100]}, {1000, body}}
	key := testID.Key()
	born := time.UnixMilli(1_700_000_000_000)
	seq := uint64(1000)
	b.ReportAllocs()
	for b.Loop() {
		for i, sql := range []string{"INSERT INTO kv VALUES(?,?) ON CONFLICT DO UPDATE SET v=excluded.v", "INSERT INTO log(at, body) VALUES(?,?)"} {
			rows, err := s.Query(sqlite.User, sql, args[i])
			if err != nil {
				b.Fatal(err)
			}
			if err := rows.Close(); err != nil {
				b.Fatal(err)
			}
		}
		seq++
		_, err := s.Commit(false, func(w Writer) error {
			return WriteMeta(w, Meta{Key: key, Seq: seq, CreatedAt: born, CommittedAt: born})
		})
		if err != nil {
			b.Fatal(err)
		}
		if s.conn.WALFrames() > 512 {
			if err := s.conn.Checkpoint(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkSelect(b *testing.B) {
	s := open(b, Limits())
	s.run("CREATE TABLE log(id INTEGER PRIMARY KEY, at INTEGER, body TEXT); INSERT INTO log VALUES(1,1000,'x')")
	s.commit()
	args, dst := []storage.Value{int64(1)}, make([]storage.Value, 1)
	b.ReportAllocs()
	for b.Loop() {
		rows, err := s.Query(sqlite.User, "SELECT at FROM log WHERE id=?", args)
		if err != nil {
			b.Fatal(err)
		}
		if err := rows.Next(dst); err != nil {
			b.Fatal(err)
		}
		if err := rows.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
