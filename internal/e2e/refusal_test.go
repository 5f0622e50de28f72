package e2e

import (
	"bytes"
	"context"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"agentd/pkg/agent"
)

// serve runs the binary until it ends and returns what it said.
func serve(t *testing.T, credential *syscall.Credential, args ...string) (code int, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"serve"}, args...)...)
	var out bytes.Buffer
	cmd.Stderr = &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	_ = cmd.Run() // the exit code is looked at below
	if ctx.Err() != nil {
		t.Fatalf("the node started although it should have refused\n%s", out.String())
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

func TestE2E_StartIsRefusedClearly(t *testing.T) {
	w := newWorld(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	foreign := t.TempDir()
	for _, path := range []string{file, filepath.Join(foreign, "holiday.jpg")} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	free := []string{"--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}
	for name, test := range map[string]struct {
		args []string
		say  []string
	}{
		"port in use":             {[]string{"--data", t.TempDir(), "--listen", taken.Addr().String(), "--http", "127.0.0.1:0"}, []string{"in use", "--listen"}},
		"HTTP port in use":        {[]string{"--data", t.TempDir(), "--listen", "127.0.0.1:0", "--http", taken.Addr().String()}, []string{"in use", "--http"}},
		"data folder in use":      {append([]string{"--data", w.data}, free...), []string{"in use", "--data"}},
		"data folder is a file":   {append([]string{"--data", file}, free...), []string{file}},
		"data folder is foreign":  {append([]string{"--data", foreign}, free...), []string{foreign}},
		"open to other machines":  {[]string{"--data", t.TempDir(), "--listen", "0.0.0.0:0"}, []string{"--insecure"}},
		"address without a port":  {[]string{"--data", t.TempDir(), "--listen", "localhost"}, []string{"HOST:PORT"}},
		"budget that is no time":  {append([]string{"--data", t.TempDir(), "--turn-budget", "soon"}, free...), []string{"turn-budget"}},
		"no data folder is given": {free, []string{"--data"}},
	} {
		t.Run(name, func(t *testing.T) {
			code, stderr := serve(t, nil, test.args...)
			if code == 0 {
				t.Error("exit code 0")
			}
			for _, word := range test.say {
				if !strings.Contains(stderr, word) {
					t.Errorf("the message does not say %q:\n%s", word, stderr)
				}
			}
			if strings.Contains(stderr, "goroutine ") {
				t.Errorf("a stack of ours instead of a message:\n%s", stderr)
			}
		})
	}
}

func TestE2E_DataFolderNotWritable(t *testing.T) {
	dir := t.TempDir()
	var who *syscall.Credential
	if os.Getuid() == 0 { // root may write everywhere
		who = &syscall.Credential{Uid: 65534, Gid: 65534}
		for path := filepath.Dir(binary); path != "/"; path = filepath.Dir(path) {
			if err := os.Chmod(path, 0o755); err != nil && path == filepath.Dir(binary) {
				t.Fatal(err)
			}
			if path == os.TempDir() {
				break
			}
		}
	} else if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if who != nil {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	code, stderr := serve(t, who, "--data", dir, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if code == 0 || !strings.Contains(stderr, dir) {
		t.Errorf("exit code %d; the message must name the folder:\n%s", code, stderr)
	}
}

// Only the agent whose file is damaged fails, and its error says how to restore it.
func TestE2E_DamagedFileConcernsOneAgent(t *testing.T) {
	w := newWorld(t, "--idle", "50ms")
	w.deploy([]string{"testdata/worker.ts"}, nil)
	ctx := context.Background()
	for _, name := range []string{"good", "bad"} {
		if err := w.current().Agent("Counter", name).Invoke(ctx, "add", nil); err != nil {
			t.Fatal(err)
		}
	}
	var total int
	if err := w.node.Stop(); err != nil {
		t.Fatal(err)
	}
	damage(t, w.data, "default/Counter/bad")
	w.start()
	if err := w.current().Agent("Counter", "good").Invoke(ctx, "total", &total); err != nil || total != 1 {
		t.Errorf("the neighbour of a damaged agent: %d, %v", total, err)
	}
	err := w.current().Agent("Counter", "bad").Invoke(ctx, "total", nil)
	if agent.KindOf(err) != agent.Corrupt || !strings.Contains(err.Error(), "restore") || !strings.Contains(err.Error(), ".db") {
		t.Errorf("got %v; want kind corrupt, the file, and how to restore it", err)
	}
}

// damage overwrites the file whose content names the agent.
func damage(t *testing.T, data, key string) {
	t.Helper()
	found := false
	err := filepath.WalkDir(filepath.Join(data, "agents"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(content, []byte(key)) {
			return err
		}
		found = true
		for i := range content {
			content[i] ^= 0x5a
		}
		return os.WriteFile(path, content, 0o600)
	})
	if err != nil || !found {
		t.Fatalf("the file of %s was not found: %v", key, err)
	}
}
