package reference

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	datafolder "agentd/pkg/storage/internal/folder"
)

// openClose opens a store and closes it again if that worked.
func openClose(t *testing.T, dir string) error {
	t.Helper()
	s, err := Open(Config{Dir: dir, Now: time.Now})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return nil
}

func TestFolderRefused(t *testing.T) {
	write := func(name, text string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name  string
		setUp func(*testing.T, string)
		sub   string // opened below the folder
		kind  agent.Kind
		says  string
	}{
		{"foreign folder", write("photo.jpg", "x"), "", agent.Invalid, "photo.jpg"},
		{"newer format", write(formatName, "agentd data folder\nversion 9\n"), "", agent.Invalid, "newer"},
		{"strange format", write(formatName, "something else"), "", agent.Invalid, "not a format file"},
		{"format without number", write(formatName, "agentd data folder\nversion x\n"), "", agent.Invalid, "not a format file"},
		{"is a file", write("file", "x"), "file", agent.Invalid, "is a file"},
		{"below a file", write("file", "x"), "file/data", agent.Invalid, "is a file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.setUp(t, dir)
			err := openClose(t, filepath.Join(dir, c.sub))
			if agent.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), dir) {
				t.Errorf("error %v (%v), want kind %v, the path, and %q", err, agent.KindOf(err), c.kind, c.says)
			}
		})
	}
	t.Run("not writable", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may write everywhere")
		}
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if err := openClose(t, dir); agent.KindOf(err) != agent.Denied || !strings.Contains(err.Error(), dir) {
			t.Errorf("error %v", err)
		}
	})
}

func TestFolderAccepted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	for range 2 {
		if err := openClose(t, dir); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// A first start that was cut short, and the folder of a disk of its own.
	dir = t.TempDir()
	for _, name := range []string{datafolder.LockName, formatName + ".tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := openClose(t, dir); err != nil {
		t.Error(err)
	}
}

func TestFolderInUseNamesTheProcess(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = openClose(t, dir)
	if agent.KindOf(err) != agent.InUse || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("error %v", err)
	}
}

func TestConfigRefused(t *testing.T) {
	for _, c := range []Config{{Now: time.Now}, {Dir: t.TempDir()}, {Dir: t.TempDir(), Now: time.Now, MaxOpen: -1}} {
		if _, err := Open(c); agent.KindOf(err) != agent.Invalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
