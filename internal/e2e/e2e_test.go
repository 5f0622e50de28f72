// Package e2e holds tests that run the real binary as a process and kill it.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"agentd/internal/bundle"
	"agentd/internal/process"
	"agentd/pkg/client"
)

// binary is built once for all tests of the package.
var binary string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "agentd-e2e-")
	if err == nil {
		binary = filepath.Join(dir, "agentd")
		build := exec.Command("go", "build", "-o", binary, "agentd/cmd/agentd")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "build agentd:", err)
	} else {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// world is one data folder and the node that now runs on it.
type world struct {
	t    *testing.T
	data string
	args []string

	mu     sync.Mutex // guards what follows
	node   *process.Node
	client *client.Client
	logged []string
}

func newWorld(t *testing.T, args ...string) *world {
	t.Helper()
	w := &world{t: t, data: filepath.Join(t.TempDir(), "data"), args: append([]string{"--log-format", "json", "--log-level", "debug"}, args...)}
	w.start()
	t.Cleanup(func() {
		_ = w.current().Close()
		w.node.Kill()
	})
	return w
}

func (w *world) start() {
	w.t.Helper()
	node, err := process.Start(context.Background(), process.Options{Binary: binary, Data: w.data, Args: w.args, OnLog: w.log})
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := client.Dial(context.Background(), client.WithAddr(node.GRPC))
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	old := w.client
	w.node, w.client = node, c
	w.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

// crash kills the node without warning and starts it again.
func (w *world) crash() {
	w.t.Helper()
	w.node.Kill()
	w.mu.Lock()
	w.logged = nil
	w.mu.Unlock()
	w.start()
}

func (w *world) current() *client.Client {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.client
}

func (w *world) log(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logged = append(w.logged, line)
}

// lines counts the log lines since the last start that hold text.
func (w *world) lines(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, line := range w.logged {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (w *world) deploy(files, prelude []string) {
	w.t.Helper()
	out, err := bundle.Build(bundle.Options{Files: files, Prelude: prelude, WorkDir: "."})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.current().Deploy(context.Background(), client.Deployment{Code: out.Code, SourceMap: out.SourceMap}); err != nil {
		w.t.Fatal(err)
	}
}

// await polls until ok or a deadline that only a failure reaches.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(90 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}
