package bundle

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/sandbox"
)

// folder writes files and returns where.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func build(t *testing.T, opts Options) *Output {
	t.Helper()
	out, err := Build(opts)
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	return out
}

func buildError(t *testing.T, opts Options) *Error {
	t.Helper()
	out, err := Build(opts)
	if err == nil {
		t.Fatalf("build succeeded:\n%s", out.Code)
	}
	var e *Error
	if !errors.As(err, &e) || len(e.Messages) == 0 {
		t.Fatalf("error is %T %v; want an *Error with messages", err, err)
	}
	return e
}

func wantText(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("got:\n%s\nwant it to contain %q", got, part)
		}
	}
}

// noLoop is a world without events: programs of these tests end by themselves.
type noLoop struct{}

func (noLoop) Post(func()) bool                                   { return false }
func (noLoop) AfterFunc(time.Duration, func()) (stop func() bool) { return func() bool { return true } }
func (noLoop) Now() time.Time                                     { return time.Unix(1_700_000_000, 0) }

// platform stands for the modules that agentd provides.
const platform = `var platform = {
	agents: {
		Agent: class Agent { setState(s) { this.state = s } async runFiber(name, fn) { return fn({ stash: (s) => { this.stashed = s } }) } },
		callable: () => (target, context) => { if (!context || context.kind !== "method") throw new Error("not a stage-3 decorator"); callables.push(context.name); return target },
	},
	"cloudflare:workers": { DurableObject: class DurableObject {} },
	"node:events": { EventEmitter: class EventEmitter {} },
}, callables = [], module = { exports: {} };
function require(name) { if (!(name in platform)) throw new Error("no module " + name); return platform[name] }
`

// run loads the bundle in the sandbox and gives what expr, an expression over
// exports that may be a promise, evaluates to, as JSON.
func run(t *testing.T, out *Output, expr string) string {
	t.Helper()
	iso, err := sandbox.New(sandbox.Config{Scheduler: noLoop{}})
	if err != nil {
		t.Fatal(err)
	}
	defer iso.Close()
	eval := func(src string) string {
		t.Helper()
		p, err := sandbox.Compile("test.js", []byte(src), nil)
		if err != nil {
			t.Fatalf("compile: %v", err)
		}
		v, err := iso.Run(p)
		if err != nil {
			t.Fatalf("run: %v\n%s", err, iso.Error(err).Stack)
		}
		return v.String()
	}
	if _, err := sandbox.Compile("bundle.js", out.Code, out.SourceMap); err != nil {
		t.Fatalf("the sandbox refuses the bundle: %v", err)
	}
	eval(platform + "\n;(" + string(out.Code) + "\n)(module.exports, require, module);\nvar exports = module.exports, result;\n" +
		"(async () => " + expr + ")().then((v) => { result = { value: v } }, (e) => { result = { error: String(e && e.stack || e) } });")
	text := eval("JSON.stringify(result === undefined ? { error: 'did not settle' } : result)")
	var got struct {
		Value json.RawMessage
		Error string
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("result %q: %v", text, err)
	}
	if got.Error != "" {
		t.Fatalf("%s: %s", expr, got.Error)
	}
	return string(got.Value)
}

func wantRun(t *testing.T, out *Output, expr, want string) {
	t.Helper()
	if got := run(t, out, expr); got != want {
		t.Errorf("%s\n got %s\nwant %s", expr, got, want)
	}
}
