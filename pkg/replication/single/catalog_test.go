package single

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// TestCatalog_IsRebuiltWhenItIsLost: a catalog that is gone, with and without a log
// that is ahead of the last checkpoint, comes back from the files.
func TestCatalog_IsRebuiltWhenItIsLost(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		t.Run(fmt.Sprintf("crashed=%t", crashed), func(t *testing.T) {
			dir := t.TempDir()
			cfg := Config{Dir: dir, Now: time.Now, SegmentBytes: 1 << 20}
			s := mustOpen(t, cfg)
			const agents = 20
			at := time.UnixMilli(1_900_000_000_000)
			write := func(n, rounds int) {
				db, err := s.Open(t.Context(), named(n))
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				for range rounds {
					must(t, exec(db, "CREATE TABLE IF NOT EXISTS t(a)"))
					must(t, exec(db, "INSERT INTO t VALUES(1)"))
					ticket, err := db.Commit(storage.Wake{At: at.Add(time.Duration(n) * time.Second)})
					must(t, err)
					must(t, ticket.Wait())
				}
			}
			for n := range agents {
				write(n, 2)
			}
			must(t, s.Checkpoint(t.Context()))
			for n := range agents / 2 {
				write(n, 3)
			}
			if crashed {
				crash := t.TempDir()
				must(t, os.CopyFS(crash, os.DirFS(dir)))
				cfg.Dir = crash
			}
			must(t, s.Close())
			for _, name := range []string{"catalog.db", "catalog.db-wal"} {
				if err := os.Remove(filepath.Join(cfg.Dir, name)); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
			for range 2 { // the second start must believe the first one's work
				s = mustOpen(t, cfg)
				for n := range agents {
					want := uint64(2)
					if n < agents/2 {
						want = 5
					}
					e, err := s.Catalog().Get(t.Context(), named(n))
					if err != nil || e.Seq != want || !e.Wake.At.Equal(at.Add(time.Duration(n)*time.Second)) {
						t.Errorf("agent %d: %+v, %v; want commit %d", n, e, err, want)
					}
				}
				write(0, 0)
				must(t, s.Close())
			}
		})
	}
}

func mustOpen(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func named(n int) agent.ID {
	return agent.ID{Namespace: "default", Class: "Thing", Name: fmt.Sprint(n)}
}

func exec(db storage.DB, sql string, args ...any) error {
	_, err := everything(db, sql, args...)
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
