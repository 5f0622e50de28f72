package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// process is a command that runs until it is told to stop.
type process struct {
	*desk
	ended chan int
}

// start runs a command in a goroutine of the test; the test ends it.
func start(t *testing.T, d *desk, args ...string) *process {
	p := &process{desk: d, ended: make(chan int, 1)}
	go func() { p.ended <- Run(t.Context(), d.World, args) }()
	return p
}

// stop sends a signal and returns the exit code.
func (p *process) stop(t *testing.T, signal os.Signal) int {
	t.Helper()
	p.signals <- signal
	return <-p.ended
}

var readyLine = regexp.MustCompile(`^ready grpc=(127\.0\.0\.1:\d+) http=(127\.0\.0\.1:\d+) node=(\S+) data=(\S+)\n$`)

// serve starts a node and returns its address; it is drained when the test ends.
func serve(t *testing.T, args ...string) (p *process, addr string) {
	t.Helper()
	d := newDesk(t)
	p = start(t, d, append([]string{"serve", "--data", "data", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--node", "n1"}, args...)...)
	t.Cleanup(func() {
		select {
		case code := <-p.ended:
			p.ended <- code
		default:
			if code := p.stop(t, syscall.SIGTERM); code != exitOK {
				t.Errorf("serve: exit %d after SIGTERM\n%s", code, p.err.String())
			}
		}
	})
	match := readyLine.FindStringSubmatch(d.out.await(t, "\n"))
	if match == nil {
		t.Fatalf("ready line %q; log %s", d.out.String(), d.err.String())
	}
	if match[3] != "n1" || match[4] != filepath.Join(d.Dir, "data") {
		t.Errorf("ready line %q", match[0])
	}
	return p, match[1]
}

const probe = `import { Agent } from "agents";
export class Probe extends Agent {
  increment(by = 1) {
    this.setState({ n: (this.state?.n ?? 0) + by });
    return this.state.n;
  }
  echo(...args) { return args; }
  nothing() {}
  fail() {
    throw new TypeError("out of cheese");
  }
  never() { return new Promise(() => {}); }
  start() { this.startFiber("long", () => new Promise(() => {})); }
}
`

// talkingTo is a desk whose commands talk to addr.
func talkingTo(t *testing.T, addr string) *desk {
	d := newDesk(t)
	d.env["AGENTD_ADDR"] = addr
	d.write(t, "probe.ts", probe)
	return d
}

func TestCommands(t *testing.T) {
	_, addr := serve(t)
	d := talkingTo(t, addr)
	for _, step := range []struct {
		args   string // separated by spaces
		code   int
		stdout string // a regular expression for all of it
		stderr string // a part
	}{
		{"call Probe/a increment", 3, `^$`, "Probe"},
		{"class ls", 0, `^CLASS +VERSION +DEPLOYED +BUNDLE +METHODS\n$`, ""},
		{"deploy probe.ts", 0, `^Probe v1 deployed \(\d.* KiB\) methods: echo, fail, increment, never, nothing, start\ntry: agentd call --addr 127.0.0.1:\d+ Probe/test echo\n$`, ""},
		{"call Probe/a increment", 0, `^1\n$`, ""},
		{"call Probe/a increment -3", 0, `^-2\n$`, ""},
		{"call Probe/a increment 10 --key k", 0, `^8\n$`, ""},
		{"call Probe/a increment 10 --key k", 0, `^8\n$`, ""},
		{`call Probe/a echo 1 "x" {"a":[true,null]} 12345678901234567890`, 0, `^\[1,"x",\{"a":\[true,null\]\},\d+\]\n$`, ""},
		{"call Probe/a nothing", 0, `^null\n$`, ""},
		{"call Probe/a fail", 1, `^$`, "TypeError: out of cheese\n    at fail (probe.ts:10:"},
		{"call Probe/a fail --json", 1, `^$`, `{"error":{"kind":"exception",`},
		{"call Probe/a missing", 3, `^$`, "missing"},
		{"call Probe/a never --timeout 50ms", 5, `^$`, "within 50ms; --timeout sets the limit"},
		{"state Probe/a", 0, `^\{"n":8\}\n$`, ""},
		{`state Probe/a --set {"n":41}`, 0, `^$`, ""},
		{"call Probe/a increment", 0, `^42\n$`, ""},
		{"state Probe/fresh", 0, `^(null|\{\})\n$`, ""},
		{"sql Probe/a create/**/table/**/t(a,b)", 0, `^$`, ""},
		{`sql Probe/a insert/**/into/**/t/**/values(?,?) 4503599627370497 "x"`, 0, `^$`, ""},
		{"sql Probe/a select/**/*/**/from/**/t", 0, `^a\tb\n4503599627370497\tx\n$`, ""},
		{"sql Probe/a select/**/a/**/from/**/t --json", 0, `^\{"columns":\["a"\],"rows":\[\[4503599627370497\]\],"truncated":false\}\n$`, ""},
		{"sql Probe/a select/**/?,?,?,?,? null true 1.0 -2 \"x\"", 0, `\n\\N\t1\t1(\.0)?\t-2\tx\n$`, ""},
		{"sql Probe/a select/**/x'00ff',2.5", 0, `\nx'00ff'\t2.5\n$`, ""},
		{"sql Probe/a select/**/? [1]", 2, `^$`, "pass it as text: '\"[1]\"'"},
		{"sql Probe/a selekt", 1, `^$`, "syntax error"},
		{"call Probe/a start", 0, `^null\n$`, ""},
		{"fiber ls Probe/a", 0, `^FIBER +NAME +STATUS +CREATED +SETTLED +ERROR\n\S+ +long +running +\S+ \(.*\) +- +\n$`, ""},
		{"fiber ls Probe/a --status completed --json", 0, `^\[\]\n$`, ""},
		{"fiber get Probe/a nosuchfiber", 3, `^$`, "nosuchfiber"},
		{"ls", 0, `^AGENT +LIVE +SIZE +CREATED +NEXT WAKE\nProbe/a +yes +\d\S* (B|KiB) +`, ""},
		{"ls Nobody --json", 0, `^\[\]\n$`, ""},
		{"call Probe/z increment", 0, `^1\n$`, ""},
		{"ls --limit 1 --json", 0, `^\[\n\{"namespace":"default","class":"Probe","name":"a",.*\}\n\]\n$`, "--limit 0 lists all"},
		{"describe Probe/a", 0, `^agent +Probe/a\nnamespace +default\nphase +live\n`, ""},
		{"describe Probe/a --json", 0, `^\{"namespace":"default","class":"Probe","name":"a","exists":true,`, ""},
		{"describe Probe/nobody", 3, `^$`, "there is no such agent"},
		{"unquarantine Probe/a", 0, ``, ""},
		{"class versions Probe", 0, `\nProbe +v1 +\S+ \(.*\) +[0-9a-f]{12} +echo, fail`, ""},
		{"class rollback Probe 1", 0, `^Probe v\d deployed with the code of v1\n$`, ""},
		{"class rollback Probe 99", 3, `^$`, "99"},
		{"class versions Nobody", 3, `^$`, "Nobody"},
		{"delete Probe/a --yes", 0, `^Probe/a deleted\n$`, ""},
		{"call Probe/a increment -n other", 3, `^$`, ""},
	} {
		t.Run(step.args, func(t *testing.T) {
			args := strings.Fields(step.args)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "/**/", " ")
			}
			code, stdout, stderr := d.run(t, args...)
			if code != step.code || !regexp.MustCompile(step.stdout).MatchString(stdout) || !strings.Contains(stderr, step.stderr) {
				t.Errorf("exit %d\nstdout %s\nstderr %s\nwant exit %d, %s, %s", code, stdout, stderr, step.code, step.stdout, step.stderr)
			}
		})
	}
}

func TestFiberCancel(t *testing.T) {
	_, addr := serve(t)
	d := talkingTo(t, addr)
	d.run(t, "deploy", "probe.ts")
	d.run(t, "call", "Probe/a", "start")
	_, stdout, stderr := d.run(t, "fiber", "ls", "Probe/a", "--json")
	var fibers []struct {
		ID     string `json:"fiberId"`
		Status string `json:"status"`
	}
	if err := json.Unmarshal([]byte(stdout), &fibers); err != nil || len(fibers) != 1 {
		t.Fatalf("%q, %v, %s", stdout, err, stderr)
	}
	id := fibers[0].ID
	if code, stdout, stderr := d.run(t, "fiber", "cancel", "Probe/a", id, "--reason", "test"); code != 0 || stdout != id+" cancelled\n" {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	if code, stdout, _ := d.run(t, "fiber", "get", "Probe/a", id); code != 0 || !strings.Contains(stdout, "status   aborted\n") {
		t.Errorf("exit %d, %q", code, stdout)
	}
	if code, stdout, _ := d.run(t, "fiber", "cancel", "Probe/a", id, "--json"); code != 0 || stdout != `{"cancelled":false}`+"\n" {
		t.Errorf("the second time: exit %d, %q", code, stdout)
	}
}

func TestState_WatchUntilInterrupted(t *testing.T) {
	_, addr := serve(t)
	d := talkingTo(t, addr)
	d.run(t, "deploy", "probe.ts")
	d.run(t, "call", "Probe/a", "increment")
	watcher := start(t, talkingTo(t, addr), "state", "Probe/a", "--watch")
	watcher.out.await(t, `{"n":1}`+"\n")
	d.run(t, "call", "Probe/a", "increment")
	watcher.out.await(t, `{"n":1}`+"\n"+`{"n":2}`+"\n")
	if code := watcher.stop(t, os.Interrupt); code != exitInterrupted || watcher.err.String() != "agentd: interrupted\n" {
		t.Errorf("exit %d, stderr %q", code, watcher.err.String())
	}
}

func TestCall_Interrupted(t *testing.T) {
	_, addr := serve(t)
	d := talkingTo(t, addr)
	d.run(t, "deploy", "probe.ts")
	d.signals <- os.Interrupt
	if code, stdout, stderr := d.run(t, "call", "Probe/a", "never"); code != exitInterrupted || stdout != "" || stderr != "agentd: interrupted\n" {
		t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestServe_Refusals(t *testing.T) {
	p, addr := serve(t)
	d := newDesk(t)
	one := func(stderr string) string {
		t.Helper()
		lines := strings.Split(strings.TrimSpace(stderr), "\n")
		last := lines[len(lines)-1]
		if strings.Count(stderr, "agentd: ") != 1 || !strings.HasPrefix(last, "agentd: ") {
			t.Errorf("want one clear line: %s", stderr)
		}
		return last
	}
	code, stdout, stderr := d.run(t, "serve", "--data", "d", "--listen", addr, "--http", "127.0.0.1:0")
	if _, port, _ := strings.Cut(addr, ":"); code != exitFailed || stdout != "" || !strings.Contains(one(stderr), port) || !strings.Contains(stderr, "--listen") {
		t.Errorf("gRPC port in use: exit %d, %s", code, stderr)
	}
	code, _, stderr = d.run(t, "serve", "--data", "d", "--listen", "127.0.0.1:0", "--http", addr)
	if code != exitFailed || !strings.Contains(one(stderr), "--http") {
		t.Errorf("HTTP port in use: exit %d, %s", code, stderr)
	}
	inUse := filepath.Join(p.Dir, "data")
	code, _, stderr = d.run(t, "serve", "--data", inUse, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if code != exitFailed || !strings.Contains(one(stderr), inUse) {
		t.Errorf("data folder in use: exit %d, %s", code, stderr)
	}
	file := d.write(t, "file", "x")
	code, _, stderr = d.run(t, "serve", "--data", file, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if code != exitFailed || !strings.Contains(one(stderr), file) {
		t.Errorf("data folder is a file: exit %d, %s", code, stderr)
	}
}

func TestServe_ReadyAsJSONAndDoctor(t *testing.T) {
	p, addr := serve(t, "--json=false")
	match := readyLine.FindStringSubmatch(p.out.String())
	d := newDesk(t)
	code, stdout, stderr := d.run(t, "doctor", "--addr", addr, "--listen", addr, "--http", match[2])
	if code != exitOK || !strings.Contains(stdout, "answers, version 1.2.3") || strings.Count(stdout, "agentd is running") != 2 {
		t.Errorf("exit %d, %s%s", code, stdout, stderr)
	}
	other := start(t, newDesk(t), "serve", "--data", "x y", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--node", "n", "--json")
	var ready map[string]string
	if err := json.Unmarshal([]byte(other.out.await(t, "\n")), &ready); err != nil || ready["grpc"] == "" || ready["node"] != "n" || filepath.Base(ready["data"]) != "x y" {
		t.Errorf("ready %v, %v", ready, err)
	}
	if code := other.stop(t, os.Interrupt); code != exitOK {
		t.Errorf("exit %d after SIGINT", code)
	}
}

func TestDev_RedeploysAndKeepsTheOldVersion(t *testing.T) {
	d := newDesk(t)
	file := d.write(t, "probe.ts", probe)
	p := start(t, d, "dev", "probe.ts", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--node", "n1")
	text := d.out.await(t, "try: agentd call")
	if !strings.Contains(text, "Probe v1 deployed") || !strings.Contains(text, filepath.Join(d.Dir, ".agentd")) {
		t.Errorf("printed %s", text)
	}
	addr := regexp.MustCompile(`gRPC +(\S+)`).FindStringSubmatch(text)[1]
	caller := talkingTo(t, addr)

	d.out.reset()
	if err := os.WriteFile(file, []byte("export class Probe extends {"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.err.await(t, "agentd: probe.ts:1:")
	if code, stdout, stderr := caller.run(t, "call", "Probe/a", "increment"); code != 0 || stdout != "1\n" {
		t.Errorf("the old version: exit %d, %q, %q", code, stdout, stderr)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(probe, "this.state.n;", "this.state.n * 100;", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.out.await(t, "Probe v2 deployed")
	if code, stdout, stderr := caller.run(t, "call", "Probe/b", "increment"); code != 0 || stdout != "100\n" {
		t.Errorf("the new version: exit %d, %q, %q", code, stdout, stderr)
	}
	if code := p.stop(t, os.Interrupt); code != exitOK {
		t.Errorf("exit %d after SIGINT: %s", code, d.err.String())
	}
}
