package disktrial

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage/reference"
)

// picture is all that can be seen of a folder from outside.
func picture(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := fmt.Sprint(info.Mode(), info.ModTime().UnixNano())
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d bytes %x", len(data), sha256.Sum256(data))
		}
		all[path] = text
		return nil
	}))
	return all
}

// unchanged fails if the folder does not look as before.
func unchanged(t *testing.T, dir string, before map[string]string) {
	t.Helper()
	after := picture(t, dir)
	if maps.Equal(before, after) {
		return
	}
	for path := range after {
		if before[path] != after[path] {
			t.Errorf("a refused start changed %s: %q, was %q", path, after[path], before[path])
		}
	}
	for path := range before {
		if after[path] == "" {
			t.Errorf("a refused start removed %s", path)
		}
	}
}

// refuses opens a folder, which must fail at once, say why, and change nothing.
func refuses(t *testing.T, dir, watched string, kind agent.Kind, words string) {
	t.Helper()
	before := picture(t, watched)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := single.Open(ctx, plan{Dir: dir}.config())
	if err == nil {
		must(t, s.Close())
		t.Fatalf("%s was opened", dir)
	}
	if agent.KindOf(err) != kind || !strings.Contains(err.Error(), words) {
		t.Errorf("kind %v, want %v, with the words %q: %v", agent.KindOf(err), kind, words, err)
	}
	unchanged(t, watched, before)
}

// aStore makes a folder with a few agents, closed in order.
func aStore(t *testing.T, dir string, agents int) {
	t.Helper()
	s, err := single.Open(t.Context(), plan{Dir: dir}.config())
	must(t, err)
	for k := range agents {
		db, err := s.Open(t.Context(), agentID(k))
		must(t, err)
		for n := range int64(20) {
			c := content{life: int64(k + 1), n: n + 1}
			must(t, c.write(db, 3000))
			ticket, err := db.Commit(c.wake())
			must(t, err)
			must(t, ticket.Wait())
		}
		must(t, db.Close())
	}
	must(t, s.Close())
}

func TestRefusals(t *testing.T) {
	t.Run("newer format", func(t *testing.T) {
		dir := t.TempDir() + "/data"
		aStore(t, dir, 1)
		path := filepath.Join(dir, "FORMAT")
		text, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, []byte(strings.Replace(string(text), "version 2", "version 99", 1)), 0o600))
		refuses(t, dir, dir, agent.Invalid, "newer agentd")
	})
	t.Run("older format", func(t *testing.T) {
		dir := t.TempDir() + "/data"
		s, err := reference.Open(reference.Config{Dir: dir, Now: time.Now})
		must(t, err)
		must(t, s.Close())
		refuses(t, dir, dir, agent.Invalid, "reference engine")
	})
	t.Run("foreign folder", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "letter.txt"), []byte("dear"), 0o600))
		refuses(t, dir, dir, agent.Invalid, "choose an empty folder")
	})
	t.Run("a file", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "data"), nil, 0o600))
		refuses(t, dir+"/data", dir, agent.Invalid, "not a folder")
	})
	t.Run("in use", func(t *testing.T) {
		tr := newTrial(t, t.TempDir()+"/data")
		tr.OpenOnly = true
		child := tr.start()
		child.await("the store was open", child.ready)
		refuses(t, tr.Dir, tr.Dir, agent.InUse, fmt.Sprintf("in use by process %d", child.cmd.Process.Pid))
	})
}

func TestRefusals_ReadOnlyVolume(t *testing.T) {
	v := newVolume(t, 64)
	dir := filepath.Join(v.dir, "data")
	aStore(t, dir, 1)
	v.remount("-o", "ro")
	refuses(t, dir, v.dir, agent.Denied, "cannot be written")
	refuses(t, filepath.Join(v.dir, "fresh"), v.dir, agent.Denied, "cannot be written")
}

// Folders of somebody else: root could open them all, so a child gives up root.
func TestRefusals_Permissions(t *testing.T) {
	if os.Getuid() != 0 {
		missing(t, "becoming another user needs root, this is uid %d", os.Getuid())
	}
	for _, c := range []struct {
		name    string
		deny    func(dir string) error
		touched bool // the lock is taken, and what needs no permission is opened, before the refusal
	}{
		{"the folder", func(dir string) error { return os.Chmod(dir, 0o700) }, false},
		{"all files", func(dir string) error { return os.Chmod(dir, 0o755) }, false},
		{"the folder above", os.RemoveAll, false},
		{"the log", func(dir string) error { return chown(dir, "log") }, true},
		{"agents' files", func(dir string) error { return chown(dir, "agents") }, true},
		{"the catalog", func(dir string) error { return chown(dir, "catalog.db") }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := t.TempDir()
			must(t, os.Chmod(filepath.Dir(base), 0o755)) // the test framework closes it to others
			must(t, os.Chmod(base, 0o755))
			tr := newTrial(t, base+"/data")
			aStore(t, tr.Dir, rotAgents)
			must(t, c.deny(tr.Dir))
			before := picture(t, base)
			tr.UID, tr.OpenOnly = nobody, true
			child := tr.start()
			select {
			case <-child.ended:
			case <-child.ready:
				child.kill()
				t.Error("the store opens")
			case <-time.After(childTimeout):
				t.Fatal("neither open nor refused")
			}
			said := strings.Join(tr.ledger.broken(), " ")
			if !strings.HasPrefix(said, "refused denied ") || !strings.Contains(said, "change its owner or mode") {
				t.Errorf("got %q", said)
			}
			if !c.touched {
				unchanged(t, base, before)
				return
			}
			open(t, tr.Dir).whole(t, 0, 1, 2, 3) // root may
		})
	}
}

const nobody = 65534

// chown gives everything away, but for one entry, which stays root's alone.
func chown(dir, but string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == but {
			err = os.Chmod(path, 0o700)
			if d.IsDir() {
				return fs.SkipDir
			}
			return err
		}
		return os.Chown(path, nobody, nobody)
	})
}
