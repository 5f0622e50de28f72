// Package process runs agentd as a separate process, for the demonstration, the
// benchmarks and the tests that kill it. It is not part of the server.
package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startTimeout bounds how long a node may take to say that it is ready.
const startTimeout = 60 * time.Second

// Node is one running `agentd serve`. Its methods may be called from any goroutine.
type Node struct {
	GRPC  string // address of gRPC
	HTTP  string // address of HTTP
	Ready time.Time

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is gone and its output was read
	err    error         // of Wait, set before exited is closed
	mu     sync.Mutex    // guards tail
	tail   []string      // last lines of the log, for error messages
}

// Options of Start.
type Options struct {
	Binary string
	Data   string
	Args   []string          // further flags of serve
	OnLog  func(line string) // every line of the log; called from one goroutine
}

// Start runs the node on free ports and returns when it is ready. The process is
// told to end when ctx does.
func Start(ctx context.Context, o Options) (*Node, error) {
	args := append([]string{"serve", "--data", o.Data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--node", "local"}, o.Args...)
	n := &Node{cmd: exec.CommandContext(ctx, o.Binary, args...), exited: make(chan struct{})}
	// Its own process group: a Ctrl-C on our terminal is ours to pass on.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Binary, err)
	}
	stderr, err := n.cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Binary, err)
	}
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Binary, err)
	}
	ready := make(chan string, 1)
	var readers sync.WaitGroup
	readers.Go(func() { n.readLog(stderr, o.OnLog) })
	readers.Go(func() { readReady(stdout, ready) })
	go func() {
		readers.Wait()
		n.err = n.cmd.Wait()
		close(n.exited)
	}()
	return n, n.awaitReady(ready)
}

func (n *Node) awaitReady(ready <-chan string) error {
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case line := <-ready:
		n.Ready = time.Now()
		for _, field := range strings.Fields(line) {
			key, value, _ := strings.Cut(field, "=")
			switch key {
			case "grpc":
				n.GRPC = value
			case "http":
				n.HTTP = value
			}
		}
		return nil
	case <-n.exited:
		return fmt.Errorf("agentd ended before it was ready: %w\n%s", n.err, n.Tail())
	case <-timer.C:
		n.Kill()
		return fmt.Errorf("agentd was not ready after %v\n%s", startTimeout, n.Tail())
	}
}

func readReady(r io.Reader, ready chan<- string) {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		if line := scanner.Text(); strings.HasPrefix(line, "ready ") {
			select {
			case ready <- line:
			default:
			}
		}
	}
}

func (n *Node) readLog(r io.Reader, onLog func(string)) {
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		line := scanner.Text()
		n.mu.Lock()
		n.tail = append(n.tail, line)
		if len(n.tail) > 40 {
			n.tail = n.tail[1:]
		}
		n.mu.Unlock()
		if onLog != nil {
			onLog(line)
		}
	}
}

// Tail is the end of the log.
func (n *Node) Tail() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.tail, "\n")
}

// PID is the process's number.
func (n *Node) PID() int { return n.cmd.Process.Pid }

// Kill sends SIGKILL and waits until the process is gone.
func (n *Node) Kill() {
	_ = n.cmd.Process.Kill() // it may be gone already
	<-n.exited
}

// Stop sends SIGTERM and waits; a node that has not drained after a minute is
// killed and reported.
func (n *Node) Stop() error {
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop agentd: %w", err)
	}
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	select {
	case <-n.exited:
		if n.err != nil {
			return fmt.Errorf("agentd did not end well: %w\n%s", n.err, n.Tail())
		}
		return nil
	case <-timer.C:
		n.Kill()
		return fmt.Errorf("agentd did not drain within a minute\n%s", n.Tail())
	}
}

// Exited is closed when the process is gone.
func (n *Node) Exited() <-chan struct{} { return n.exited }

// Run runs another agentd command against the node and returns its standard
// output. An error carries what the command said.
func (n *Node) Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.cmd.Path, args...)
	cmd.Env = append(os.Environ(), "AGENTD_ADDR="+n.GRPC)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("agentd %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// Memory is what the process holds in RAM, in bytes.
func (n *Node) Memory() (uint64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(n.PID()), "statm"))
	if err != nil {
		return 0, fmt.Errorf("read memory of the node: %w", err)
	}
	var total, resident uint64
	if _, err := fmt.Sscan(string(data), &total, &resident); err != nil {
		return 0, fmt.Errorf("read memory of the node: %w", err)
	}
	return resident * uint64(os.Getpagesize()), nil
}
