package reference

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// sleeping makes an agent with table t and closes it.
func sleeping(t *testing.T, s *Store, id agent.ID) {
	t.Helper()
	db, err := s.Open(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	run(t, db, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
	if _, err := db.Commit(storage.Wake{At: time.UnixMilli(7)}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

// An agent that wakes, makes sure of its tables, reads and sleeps again costs
// neither a commit, nor a sync, nor a file.
func TestWakeThatChangesNothingWritesNothing(t *testing.T) {
	disk := &recorder{}
	s, err := Open(Config{Dir: t.TempDir(), Now: time.Now, disk: disk.sync})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	id := counterID(1)
	sleeping(t, s, id)
	if err := s.Delete(context.Background(), counterID(2)); err != nil { // the catalog has caught up
		t.Fatal(err)
	}
	disk.mu.Lock()
	disk.ops = nil
	disk.mu.Unlock()
	db, err := s.Open(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	run(t, db, "CREATE TABLE IF NOT EXISTS t(a)")
	run(t, db, "CREATE TABLE IF NOT EXISTS t(a); SELECT a FROM t")
	run(t, db, "DROP TABLE IF EXISTS u")
	ticket, err := db.Commit(storage.Wake{At: time.UnixMilli(7)})
	if err != nil || ticket.Seq() != 1 {
		t.Errorf("commit %d, %v; nothing was to be committed", ticket.Seq(), err)
	}
	if exists(t, db.(*database).path+"-wal") {
		t.Error("there is a log")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	disk.mu.Lock()
	defer disk.mu.Unlock()
	if len(disk.ops) > 0 {
		t.Errorf("synced %v", disk.ops)
	}
}

// What changes the schema is committed, alone or behind a statement that found
// nothing to do.
func TestSchemaChangesAreCommitted(t *testing.T) {
	for _, sql := range []string{
		"CREATE TABLE u(a)", "CREATE TABLE IF NOT EXISTS u(a)", "DROP TABLE t", "CREATE INDEX i ON t(a)", "PRAGMA user_version=5",
		"ALTER TABLE t ADD COLUMN b", "CREATE TABLE IF NOT EXISTS t(a); CREATE VIEW v AS SELECT 1", "CREATE TABLE u AS SELECT 1", "ANALYZE",
	} {
		t.Run(sql, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(Config{Dir: dir, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			sleeping(t, s, counterID(1))
			db, err := s.Open(context.Background(), counterID(1))
			if err != nil {
				t.Fatal(err)
			}
			run(t, db, sql)
			ticket, err := db.Commit(storage.Wake{At: time.UnixMilli(7)})
			if err != nil || ticket.Seq() != 2 {
				t.Fatalf("commit %d, %v", ticket.Seq(), err)
			}
			if err := ticket.Wait(); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(db.(*database).path + "-wal"); err != nil || info.Size() == 0 {
				t.Errorf("the log: %v", err)
			}
		})
	}
}

// The log goes only when the database that it was written back to is durable.
func TestLogIsRemovedAfterTheSync(t *testing.T) {
	for _, bad := range []bool{false, true} {
		t.Run(fmt.Sprintf("failing=%t", bad), func(t *testing.T) {
			disk := &recorder{}
			s, err := Open(Config{Dir: t.TempDir(), Now: time.Now, disk: disk.sync})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			db, err := s.Open(context.Background(), counterID(1))
			if err != nil {
				t.Fatal(err)
			}
			run(t, db, "CREATE TABLE t(a)")
			if _, err := db.Commit(storage.Wake{}); err != nil {
				t.Fatal(err)
			}
			path, synced := db.(*database).path, false
			disk.mu.Lock()
			disk.before = func(op syncOp, f *os.File) {
				if op != syncBack {
					return
				}
				synced = true
				info, err := f.Stat()
				if err != nil || f.Name() != path || info.Size() <= int64(len(s.template)) {
					t.Errorf("%s was synced before the log was written back to it (%v)", f.Name(), err)
				}
				if !exists(t, path+"-wal") {
					t.Error("the log was removed before")
				}
			}
			if bad {
				disk.fail = map[syncOp]error{syncBack: fmt.Errorf("bad sector")}
			}
			disk.mu.Unlock()
			err = db.Close()
			if !synced || (err != nil) != bad || exists(t, path+"-wal") != bad || (s.Err() != nil) != bad {
				t.Errorf("synced %t, close says %v, the store %v, a log is left: %t", synced, err, s.Err(), exists(t, path+"-wal"))
			}
		})
	}
}

// Many agents that hibernate together leave room for those that wake.
func TestFewWriteBackAtOnce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		disk := &recorder{}
		s, err := Open(Config{Dir: dir, Now: time.Now, disk: disk.sync})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var dbs []storage.DB
		for i := range 3 * maxClosing {
			db, err := s.Open(context.Background(), counterID(i))
			if err != nil {
				t.Fatal(err)
			}
			run(t, db, "CREATE TABLE t(a)")
			if _, err := db.Commit(storage.Wake{}); err != nil {
				t.Fatal(err)
			}
			dbs = append(dbs, db)
		}
		var mu sync.Mutex
		now, most := 0, 0
		release := make(chan struct{})
		disk.mu.Lock()
		disk.before = func(op syncOp, _ *os.File) {
			if op == syncBack {
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				<-release
				mu.Lock()
				now--
				mu.Unlock()
			}
		}
		disk.mu.Unlock()
		var wg sync.WaitGroup
		for _, db := range dbs {
			wg.Go(func() {
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if most != maxClosing {
			t.Errorf("%d databases were written back at once, want %d", most, maxClosing)
		}
	})
}

// A mark grows the catalog's log seldom: growing makes its sync twice as long.
func TestCatalogLogHasRoom(t *testing.T) {
	var sizes []int64
	disk := func(op syncOp, f *os.File) error {
		if op == syncCatalog {
			info, err := f.Stat()
			if err != nil {
				t.Error(err)
			}
			sizes = append(sizes, info.Size()) // the writer's goroutine only
		}
		return nil
	}
	s, err := Open(Config{Dir: t.TempDir(), Now: time.Now, disk: disk})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		sleeping(t, s, counterID(i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	marks := len(sizes)
	if grown := len(slices.Compact(sizes)); marks < 40 || grown > 8 {
		t.Errorf("the log had %d sizes in %d syncs", grown, marks)
	}
}

// A data folder may lie behind a symbolic link; an agent's file may not be one.
func TestSymbolicLinks(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Dir: filepath.Join(link, "data"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sleeping(t, s, counterID(1))
	path := s.folder.agentPath(counterID(1))
	if err := os.Rename(path, path+".real"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+".real", path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(context.Background(), counterID(1)); err == nil {
		t.Error("a file that is a link was opened")
	}
}
