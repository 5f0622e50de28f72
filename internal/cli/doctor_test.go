package cli

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// doctor runs the command as JSON and returns its findings by name.
func (d *desk) doctor(t *testing.T, args ...string) (int, map[string]finding) {
	t.Helper()
	code, stdout, stderr := d.run(t, append([]string{"doctor", "--json", "--addr", "127.0.0.1:1"}, args...)...)
	var out struct{ Checks []finding }
	if err := json.Unmarshal([]byte(stdout), &out); err != nil {
		t.Fatalf("%v: %q, stderr %q", err, stdout, stderr)
	}
	found := map[string]finding{}
	for _, f := range out.Checks {
		found[f.Check] = f
	}
	return code, found
}

func TestDoctor_AllChecksRun(t *testing.T) {
	d := newDesk(t)
	code, found := d.doctor(t, "--data", "new/data", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if code != exitOK {
		t.Errorf("exit %d: %+v", code, found)
	}
	for _, name := range []string{"agentd", "system", "memory", "descriptors", "data folder", "disk space", "synced write", "grpc port", "http port", "server"} {
		if f, ok := found[name]; !ok || f.Fact == "" {
			t.Errorf("check %q is missing or says nothing: %+v", name, f)
		}
	}
	if f := found["server"]; f.Verdict != verdictWarn {
		t.Errorf("no server runs, yet: %+v", f)
	}
	if left, err := os.ReadDir(d.Dir); err != nil || len(left) > 0 {
		t.Errorf("doctor left %v, %v", left, err)
	}
}

func TestDoctor_PortTaken(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	d := newDesk(t)
	code, found := d.doctor(t, "--listen", other.Addr().String(), "--http", "127.0.0.1:0")
	if f := found["grpc port"]; code != exitFailed || f.Verdict != verdictFail || !strings.Contains(f.Todo, "--listen") {
		t.Errorf("exit %d, %+v", code, f)
	}
}

func TestDoctor_DataFolderIsAFile(t *testing.T) {
	d := newDesk(t)
	d.write(t, "file", "")
	code, found := d.doctor(t, "--data", filepath.Join(d.Dir, "file"), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if f := found["data folder"]; code != exitFailed || f.Verdict != verdictFail {
		t.Errorf("exit %d, %+v", code, f)
	}
}

func TestDoctor_ForPeople(t *testing.T) {
	d := newDesk(t)
	_, stdout, _ := d.run(t, "doctor", "--addr", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 10 {
		t.Errorf("%d lines:\n%s", len(lines), stdout)
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "ok ") && !strings.HasPrefix(line, "warn ") && !strings.HasPrefix(line, "fail ") {
			t.Errorf("line %q has no verdict", line)
		}
	}
}
