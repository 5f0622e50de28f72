package folder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"agentd/pkg/agent"
)

func TestOpen_KeepsItsIDAndRefusesOthers(t *testing.T) {
	dir := t.TempDir()
	f, err := Open(dir, Engine, (*os.File).Sync)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Engine, (*os.File).Sync); agent.KindOf(err) != agent.InUse {
		t.Errorf("a second process: %v", err)
	}
	id := f.ID
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(dir, Engine, (*os.File).Sync)
	if err != nil {
		t.Fatal(err)
	}
	if len(id) != 2*idBytes || again.ID != id {
		t.Errorf("ID %q, then %q", id, again.ID)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	refused := func(says string) {
		t.Helper()
		if _, err := Open(dir, Engine, (*os.File).Sync); agent.KindOf(err) != agent.Invalid || err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one that says %q", err, says)
		}
	}
	format := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, FormatName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	format("agentd data folder\nversion 1\nid " + id + "\n")
	refused("the reference engine")
	format("agentd data folder\nversion 2\n")
	refused("names no ID")
	format("agentd data folder\nversion 3\nid " + id + "\n")
	refused("newer")
}
