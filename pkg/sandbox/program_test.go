package sandbox

import (
	"errors"
	"strings"
	"testing"

	"github.com/evanw/esbuild/pkg/api"
)

func bundle(t *testing.T, source string) (code, sourceMap []byte) {
	t.Helper()
	r := api.Transform(source, api.TransformOptions{Loader: api.LoaderTS, Sourcefile: "src/agent.ts", Sourcemap: api.SourceMapExternal,
		SourcesContent: api.SourcesContentInclude, MinifyWhitespace: true, Target: api.ES2017})
	if len(r.Errors) > 0 {
		t.Fatal(r.Errors)
	}
	return r.Code, r.Map
}

func TestCompile_ErrorsAreInTheAuthorsFile(t *testing.T) {
	code, sourceMap := bundle(t, "type T = string;\n\nconst first: T = 'x';\nconst second = () => 1;\n")
	broken := strings.Replace(string(code), "second", "second second", 1)
	_, err := Compile("bundle.js", []byte(broken), sourceMap)
	var e *SourceError
	if !errors.As(err, &e) {
		t.Fatalf("%v", err)
	}
	if e.File != "src/agent.ts" || e.Line != 4 || e.SourceLine != "const second = () => 1;" {
		t.Errorf("%+v", e)
	}
	_, err = Compile("plain.js", []byte("let a = 1;\nlet a = 2;"), nil)
	if !errors.As(err, &e) || e.File != "plain.js" || e.Line != 2 || e.SourceLine != "let a = 2;" {
		t.Errorf("%+v", err)
	}
	_, err = Compile("plain.js", []byte("\n\nfoo bar"), nil)
	if !errors.As(err, &e) || e.Line != 3 || e.Column != 5 || !strings.HasPrefix(e.Error(), "plain.js:3:5: ") {
		t.Errorf("%v", err)
	}
	if _, err = Compile("bundle.js", []byte("1"), []byte("{")); !errors.As(err, &e) {
		t.Errorf("bad map: %v", err)
	}
}

func TestError_StackIsTheAuthors(t *testing.T) {
	code, sourceMap := bundle(t, `interface X { a: number }

class Worker {
  step(x: X): number {
    throw new RangeError("deep");
  }
}

function outer() {
  return [1].map((n) => new Worker().step({ a: n }));
}
outer();
`)
	p, err := Compile("bundle.js", code, sourceMap)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, nil)
	_, err = w.Run(p)
	e := w.Error(err)
	if e == nil || e.Name != "RangeError" || e.Message != "deep" || e.Value == nil {
		t.Fatalf("%+v", e)
	}
	lines := strings.Split(e.Stack, "\n")
	want := []string{"src/agent.ts:5:", "src/agent.ts:10:", "src/agent.ts:10:", "src/agent.ts:12:"}
	if len(lines) != len(want) {
		t.Fatalf("stack:\n%s", e.Stack)
	}
	for k, line := range lines {
		if !strings.HasPrefix(line, "at ") || !strings.Contains(line, want[k]) {
			t.Errorf("frame %d: %q, want %q", k, line, want[k])
		}
	}
	if w.Error(nil) != nil {
		t.Error("nil is an error")
	}
}

func TestError_Odd(t *testing.T) {
	check(t, nil, []evalCase{
		{"thrown text", `throw "x"`, `error: Error: x`},
		{"thrown undefined", `throw undefined`, `error: Error: undefined`},
		{"own name", `class MyError extends Error { get name() { return "MyError" } } throw new MyError("m")`, `error: MyError: m`},
		{"hostile getter", `const e = new Error("x"); Object.defineProperty(e, "message", { get() { throw 1 } }); throw e`, `error: Error: the thrown object cannot be read`},
		{"dom", `throw new DOMException("d", "AbortError")`, `error: AbortError: d`},
		{"not a constructor", `new (1)()`, `error: TypeError: …`},
		{"null read", `null.x`, `error: TypeError: …`},
	})
}

// A literal that is overlooked would run without a time limit.
func TestCompile_FindsRegularExpressions(t *testing.T) {
	for source, want := range map[string]bool{
		`// a / b / c` + "\nlet x = 4 / 2 / 1, y = '/x/', z = `/x/`; /* /x/ */": false,
		`const s = "a"; if (s) /a+/.test(s);`:                                   true,
		`class A { static p = /x/; }`:                                           true,
		`class A { [/x/.source]() {} }`:                                         true,
		`function f(a = /x/) {}`:                                                true,
		`const { a = /x/ } = {};`:                                               true,
		"`${/x/}`":                                                              true,
		"f`${[/x/]}`; function f() {}":                                          true,
		`async () => { for (const a of [await /x/]) {} }`:                       true,
		`switch (1) { case /x/: }`:                                              true,
		`try { throw /x/ } catch ({ a = 1 }) {}`:                                true,
		`a: while (1) { if (0) {} else (() => /x/)(); }`:                        true,
		`({ get a() { return { ...{ b: /x/ } } } })`:                            true,
		`new Foo(1, /x/); var Foo = class {}`:                                   true,
		`let a = b ?? /x/, b;`:                                                  true,
		strings.Repeat("1+", 20_000) + "/x/":                                    true,
		strings.Repeat("(", 1_000) + "/x/" + strings.Repeat(")", 1_000):         true,
	} {
		p, err := Compile("a.js", []byte(source), nil)
		if err != nil {
			t.Errorf("%.80q: %v", source, err)
		} else if p.regex != want {
			t.Errorf("%.80q holds a literal: %v, want %v", source, p.regex, want)
		}
	}
}
