package reference

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// populate makes agents 0 to n-1 with a little data and wakes, and closes the store.
func populate(t *testing.T, dir string, n int) {
	t.Helper()
	s, err := Open(Config{Dir: dir, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		db, err := s.Open(context.Background(), counterID(i))
		if err != nil {
			t.Fatal(err)
		}
		run(t, db, "CREATE TABLE t(a); INSERT INTO t SELECT value FROM json_each('[1,2,3]'); CREATE TABLE big(b); INSERT INTO big VALUES(zeroblob(100000))")
		if _, err := db.Commit(storage.Wake{At: time.UnixMilli(int64(1000 + i))}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path string, offset int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

// readAllOf opens an agent and reads everything it has.
func readAllOf(s *Store, id agent.ID) error {
	db, err := s.Open(context.Background(), id)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, sql := range []string{"SELECT sum(a) FROM t", "SELECT max(b) FROM big"} {
		rows, err := db.Query(sql)
		if err != nil {
			return err
		}
		if err := rows.Next(make([]storage.Value, 1)); err != nil && err != io.EOF {
			return err
		}
		rows.Close()
	}
	return nil
}

// Damage of every sort is reported with the file and what to do, concerns that
// agent alone, and ends when the file is moved away.
func TestDamagedFile(t *testing.T) {
	garbage := []byte(strings.Repeat("garbage!", 512))
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, path, other string)
	}{
		{"zeroed header", func(t *testing.T, path, _ string) { overwrite(t, path, 0, make([]byte, 4096)) }},
		{"garbage header", func(t *testing.T, path, _ string) { overwrite(t, path, 0, garbage) }},
		{"garbage pages", func(t *testing.T, path, _ string) {
			for page := int64(1); page < 8; page++ {
				overwrite(t, path, page*4096, garbage)
			}
		}},
		{"garbage in a table", func(t *testing.T, path, _ string) { overwrite(t, path, 2*4096, garbage) }},
		{"truncated to a page", func(t *testing.T, path, _ string) { truncate(t, path, 4096) }},
		{"truncated within a page", func(t *testing.T, path, _ string) { truncate(t, path, 9000) }},
		{"truncated to nothing", func(t *testing.T, path, _ string) { truncate(t, path, 0) }},
		{"a text file", func(t *testing.T, path, _ string) {
			if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"another agent's file", func(t *testing.T, path, other string) {
			data, err := os.ReadFile(other)
			if err == nil {
				err = os.WriteFile(path, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			populate(t, dir, 2)
			s, err := Open(Config{Dir: dir, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			path := s.folder.agentPath(counterID(0))
			c.damage(t, path, s.folder.agentPath(counterID(1)))
			for range 2 {
				err = readAllOf(s, counterID(0))
				if agent.KindOf(err) != agent.Corrupt || !strings.Contains(err.Error(), path) {
					t.Errorf("error %v (%v)", err, agent.KindOf(err))
				}
			}
			if err := readAllOf(s, counterID(1)); err != nil {
				t.Errorf("its neighbour: %v", err)
			}
			if err := os.Rename(path, path+".bad"); err != nil {
				t.Fatal(err)
			}
			db, err := s.Open(context.Background(), counterID(0))
			if err != nil {
				t.Fatal(err)
			}
			run(t, db, "CREATE TABLE t(a)")
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// A catalog that is lost, damaged or of another form is made anew; files that
// cannot be read do not stop the others.
func TestCatalogRebuilt(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, path string)
	}{
		{"missing", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}},
		{"empty", func(t *testing.T, path string) { truncate(t, path, 0) }},
		{"zeroed", func(t *testing.T, path string) { overwrite(t, path, 0, make([]byte, 4096)) }},
		{"garbage pages", func(t *testing.T, path string) { overwrite(t, path, 4096, []byte(strings.Repeat("garbage!", 1024))) }},
		{"another form", func(t *testing.T, path string) { overwrite(t, path, 60, []byte{0, 0, 0, 77}) }},
		{"left half built", func(t *testing.T, path string) {
			if err := os.Rename(path, path+".new"); err != nil {
				t.Fatal(err)
			}
			truncate(t, path+".new", 5000)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			populate(t, dir, 5)
			f := &folder{dir: dir}
			overwrite(t, f.agentPath(counterID(4)), 0, make([]byte, 100))
			c.damage(t, filepath.Join(dir, catalogName))
			s, err := Open(Config{Dir: dir, Now: time.Now})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if n, err := s.Catalog().Count(context.Background()); err != nil || n != 4 {
				t.Errorf("count %d, %v", n, err)
			}
			due, next, err := s.Catalog().Due(context.Background(), time.UnixMilli(1002), 10)
			if err != nil || len(due) != 3 || due[0].ID != counterID(0) || !next.Equal(time.UnixMilli(1003)) {
				t.Errorf("due %v, next %v, %v", due, next, err)
			}
			for i := range 4 {
				if err := readAllOf(s, counterID(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// What was live when the process ended is read from its file, and is due at once if
// it had unfinished work. A live agent whose file is then unreadable is listed so.
func TestRecoveryOfLiveAgents(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	s, err := Open(Config{Dir: dir, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		db, err := s.Open(context.Background(), counterID(i))
		if err != nil {
			t.Fatal(err)
		}
		run(t, db, "CREATE TABLE t(a)")
		if i == 3 { // never commits
			if err := s.catalog.awaitMark(db.(*database).life); err != nil {
				t.Fatal(err)
			}
			continue
		}
		ticket, err := db.Commit(storage.Wake{At: time.UnixMilli(int64(5000 + i)), Resume: i == 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := ticket.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil { // as a kill would leave it: nothing runs now
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	broken := (&folder{dir: copied}).agentPath(counterID(2))
	overwrite(t, broken, 0, make([]byte, 100))
	if err := os.Remove(broken + "-wal"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start finds the same
		s, err = Open(Config{Dir: copied, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		due, next, err := s.Catalog().Due(context.Background(), time.UnixMilli(1), 10)
		if err != nil || len(due) != 1 || due[0].ID != counterID(1) || due[0].Live || !next.Equal(time.UnixMilli(5000)) {
			t.Errorf("due %v, next %v, %v", due, next, err)
		}
		e, err := s.Catalog().Get(context.Background(), counterID(3))
		if agent.KindOf(err) != agent.NotFound || err == nil {
			t.Errorf("an agent without commits: %+v, %v", e, err)
		}
		if _, err := os.Stat(s.folder.agentPath(counterID(3))); !os.IsNotExist(err) {
			t.Errorf("its file: %v", err)
		}
		e, err = s.Catalog().Get(context.Background(), counterID(2))
		if err != nil || !strings.Contains(e.Quarantine, broken) {
			t.Errorf("the damaged agent: %+v, %v", e, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMaxOpen(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir(), Now: time.Now, MaxOpen: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var dbs []storage.DB
	for i := range 2 {
		db, err := s.Open(context.Background(), counterID(i))
		if err != nil {
			t.Fatal(err)
		}
		dbs = append(dbs, db)
	}
	if _, err := s.Open(context.Background(), counterID(2)); agent.KindOf(err) != agent.Overloaded {
		t.Errorf("one too many: %v", err)
	}
	if err := dbs[0].Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(context.Background(), counterID(2)); err != nil {
		t.Error(err)
	}
}
