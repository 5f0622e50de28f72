package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// stream is an output that a test may read, and wait for, while a command writes.
type stream struct {
	mu    sync.Mutex // guards the fields below
	buf   bytes.Buffer
	wrote chan struct{} // closed at the next write; nil if nobody waits
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrote != nil {
		close(s.wrote)
		s.wrote = nil
	}
	return s.buf.Write(p)
}

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *stream) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buf.Reset()
}

// await returns what was written as soon as it holds part, and fails after 20 s.
func (s *stream) await(t *testing.T, part string) string {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		s.mu.Lock()
		text := s.buf.String()
		if s.wrote == nil {
			s.wrote = make(chan struct{})
		}
		wrote := s.wrote
		s.mu.Unlock()
		if strings.Contains(text, part) {
			return text
		}
		select {
		case <-wrote:
		case <-limit.C:
			t.Fatalf("%q was not printed; there is %q", part, text)
		}
	}
}

// desk is a person's terminal for tests: commands run in process, in a folder of
// their own.
type desk struct {
	World
	env      map[string]string
	signals  chan os.Signal
	out, err stream
}

func newDesk(t *testing.T) *desk {
	d := &desk{env: map[string]string{}, signals: make(chan os.Signal, 2)}
	d.World = World{
		Stdin: strings.NewReader(""), Stdout: &d.out, Stderr: &d.err,
		Env: func(name string) (string, bool) { v, ok := d.env[name]; return v, ok },
		Dir: t.TempDir(), Now: time.Now, Version: "1.2.3", Signals: d.signals,
		Exit: func(code int) { t.Errorf("Exit(%d) was called", code) },
	}
	return d
}

// run runs one command and returns what it printed since the last.
func (d *desk) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	d.out.reset()
	d.err.reset()
	code = Run(t.Context(), d.World, args)
	return code, d.out.String(), d.err.String()
}

func (d *desk) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(d.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRun_UsageErrors(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string // part of the message
	}{
		{"class without name", []string{"call", "Counter", "increment"}, `"Counter" is not an agent ID: write Class/name`},
		{"empty name", []string{"call", "Counter/", "increment"}, "agent name is empty"},
		{"bad class", []string{"state", "my-class/a"}, "not a JavaScript identifier"},
		{"no method", []string{"call", "Counter/a"}, `expected "<method>"`},
		{"argument is no JSON", []string{"call", "Counter/a", "say", "hello"}, `for a string write '"hello"'`},
		{"argument with a quote", []string{"call", "Counter/a", "say", "it's"}, `write '"it'\''s"'`},
		{"shell ate the quotes", []string{"call", "Counter/a", "say", "{a:1}"}, "put single quotes around it"},
		{"two values in one argument", []string{"call", "Counter/a", "say", "1 2"}, "argument 1 is not JSON"},
		{"empty argument", []string{"call", "Counter/a", "say", "1", ""}, "argument 2 is empty"},
		{"state is no JSON", []string{"state", "Counter/a", "--set", "oops"}, "--set is not JSON"},
		{"set and watch", []string{"state", "Counter/a", "--set", "1", "--watch"}, "can't be used together"},
		{"misspelled command", []string{"calll", "Counter/a"}, `did you mean "call"?`},
		{"misspelled flag", []string{"call", "Counter/a", "m", "--adr", "x"}, `did you mean "--addr"?`},
		{"flag of another command", []string{"--addr", "127.0.0.1:1", "serve"}, "unknown flag --addr"},
		{"bad namespace", []string{"ls", "-n", "No Good"}, "--namespace"},
		{"negative limit", []string{"ls", "--limit", "-1"}, "--limit"},
		{"negative timeout", []string{"ls", "--timeout=-1s"}, "--timeout is negative"},
		{"no data folder", []string{"serve"}, "serve needs a folder for its data"},
		{"reachable address", []string{"serve", "--data", "d", "--listen", "0.0.0.0:7600"}, "neither TLS nor authentication is configured"},
		{"reachable HTTP address", []string{"serve", "--data", "d", "--http", ":7680"}, "neither TLS nor authentication is configured"},
		{"bad memory", []string{"serve", "--data", "d", "--memory", "lots"}, "write 70%, 2GiB or 512MiB"},
		{"too much memory", []string{"serve", "--data", "d", "--memory", "130%"}, "more than the machine has"},
		{"no turn budget", []string{"serve", "--data", "d", "--turn-budget", "0s"}, "--turn-budget must be more than 0"},
		{"unknown log level", []string{"serve", "--data", "d", "--log-level", "loud"}, "--log-level must be one of"},
		{"cluster flags do not exist", []string{"serve", "--data", "d", "--join", "x"}, "unknown flag --join"},
		{"unknown shell", []string{"completion", "tcsh"}, "<shell> must be one of"},
		{"delete without a person", []string{"delete", "Counter/a"}, "needs --yes"},
		{"unknown fiber status", []string{"fiber", "ls", "Counter/a", "--status", "stuck"}, "--status must be one of"},
		{"two tokens", []string{"ls", "--token", "a", "--token-file", "b"}, "both a token and a token file"},
		{"missing token file", []string{"ls", "--token-file", "nowhere"}, "token file"},
		{"deploy a file that is not there", []string{"deploy", "nowhere.ts"}, "nowhere.ts"},
		{"deploy what is no script", []string{"deploy", "notes.docx"}, "notes.docx"},
		{"address without port", []string{"ls", "--addr", "localhost"}, "write host:port"},
		{"version is a number", []string{"class", "rollback", "Counter", "v2"}, "<version>"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := newDesk(t).run(t, test.args...)
			if code != exitUsage || stdout != "" {
				t.Errorf("exit %d, stdout %q; want exit 2 and nothing on stdout", code, stdout)
			}
			if !strings.HasPrefix(stderr, "agentd: ") || !strings.Contains(stderr, test.want) {
				t.Errorf("stderr %q does not say %q", stderr, test.want)
			}
		})
	}
}

func TestRun_UsageErrorAsJSON(t *testing.T) {
	_, _, stderr := newDesk(t).run(t, "call", "Counter", "m", "--json")
	if want := `{"error":{"kind":"usage","message":"`; !strings.HasPrefix(stderr, want) {
		t.Errorf("stderr %q does not begin with %q", stderr, want)
	}
}

func TestRun_HelpAndVersion(t *testing.T) {
	d := newDesk(t)
	for _, args := range [][]string{{}, {"--help"}, {"help-is-a-flag", "--help"}, {"call", "--help"}} {
		code, stdout, _ := d.run(t, args...)
		if len(args) > 0 && args[0] == "help-is-a-flag" {
			if code != exitUsage {
				t.Errorf("%v: exit %d, want 2", args, code)
			}
			continue
		}
		if code != 0 || !strings.HasPrefix(stdout, "Usage: agentd") {
			t.Errorf("%v: exit %d, stdout %q", args, code, stdout)
		}
	}
	if code, stdout, _ := d.run(t, "version"); code != 0 || !strings.HasPrefix(stdout, "agentd 1.2.3 (go") {
		t.Errorf("version: exit %d, %q", code, stdout)
	}
	if _, stdout, _ := d.run(t, "version", "--json"); !strings.Contains(stdout, `"version":"1.2.3"`) {
		t.Errorf("version --json: %q", stdout)
	}
}

func TestCompletion_Scripts(t *testing.T) {
	for shell, want := range map[string]string{"bash": "complete -o default", "zsh": "bashcompinit", "fish": "complete -f -c agentd"} {
		code, stdout, stderr := newDesk(t).run(t, "completion", shell)
		if code != 0 || !strings.Contains(stdout, want) || stderr != "" {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", shell, code, stdout, stderr)
		}
	}
}

func TestCompletion_Candidates(t *testing.T) {
	for line, want := range map[string]string{
		"agentd unq":          "unquarantine\n",
		"agentd fiber c":      "cancel\n",
		"agentd call --name":  "--namespace\n",
		"agentd completion b": "bash\n",
	} {
		// The completion library reads the process's environment.
		t.Setenv("COMP_LINE", line)
		d := newDesk(t)
		d.env["COMP_LINE"] = line
		if code, stdout, _ := d.run(t); code != 0 || stdout != want {
			t.Errorf("%q: exit %d, candidates %q, want %q", line, code, stdout, want)
		}
	}
}

func TestDeploy_CompileError(t *testing.T) {
	d := newDesk(t)
	d.write(t, "bad.ts", "export class A {\n  m() { return 1 1; }\n}\n")
	code, stdout, stderr := d.run(t, "deploy", "bad.ts", "--addr", "127.0.0.1:1")
	if code != exitFailed || stdout != "" || !strings.HasPrefix(stderr, "agentd: bad.ts:") || !strings.Contains(stderr, "^") {
		t.Errorf("exit %d, stdout %q, stderr %q; want the place and a caret", code, stdout, stderr)
	}
}

func TestRun_NotReachable(t *testing.T) {
	d := newDesk(t)
	code, stdout, stderr := d.run(t, "ls", "--addr", "127.0.0.1:1")
	if code != exitUnavailable || stdout != "" || !strings.Contains(stderr, "127.0.0.1:1") {
		t.Errorf("exit %d, stdout %q, stderr %q; want exit 4 and the address", code, stdout, stderr)
	}
}

func TestRun_Interrupted(t *testing.T) {
	d := newDesk(t)
	d.signals <- os.Interrupt
	var in io.Reader
	in, d.World.StdinTTY = newBlockedReader(t), true
	d.Stdin = in
	code, _, stderr := d.run(t, "delete", "Counter/a")
	if code != exitInterrupted || !strings.HasSuffix(stderr, "agentd: interrupted\n") {
		t.Errorf("exit %d, stderr %q; want 130", code, stderr)
	}
}

// newBlockedReader never gives anything until the test ends.
func newBlockedReader(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

func TestRun_SecondSignalExitsAtOnce(t *testing.T) {
	d := newDesk(t)
	exits := make(chan int, 1)
	d.Exit = func(code int) { exits <- code }
	s := &session{World: d.World}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := s.watchSignals(cancel)
	defer stop()
	d.signals <- os.Interrupt
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), errInterrupted) {
		t.Errorf("cause %v", context.Cause(ctx))
	}
	d.signals <- os.Interrupt
	if code := <-exits; code != exitInterrupted {
		t.Errorf("exit %d, want 130", code)
	}
}

func TestDelete_AsksAndTakesNoForAnAnswer(t *testing.T) {
	for _, answer := range []string{"n\n", "\n", "", "yesterday\n"} {
		d := newDesk(t)
		d.Stdin, d.StdinTTY = strings.NewReader(answer), true
		code, _, stderr := d.run(t, "delete", "Counter/a", "--addr", "127.0.0.1:1")
		if code != exitFailed || !strings.Contains(stderr, "Delete Counter/a in namespace default") || !strings.Contains(stderr, "nothing was deleted") {
			t.Errorf("answer %q: exit %d, stderr %q", answer, code, stderr)
		}
	}
}
