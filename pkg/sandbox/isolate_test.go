package sandbox

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

func TestIsolate_Programs(t *testing.T) {
	check(t, nil, []evalCase{
		{"value", `return 1 + 1`, `2`},
		{"await timer", `await new Promise(r => setTimeout(r, 50)); return "x"`, `"x"`},
		{"throw", `throw new TypeError("no")`, `error: TypeError: no`},
		{"overflow", `function f() { return f() } f()`, `error: RangeError: Maximum call stack size exceeded`},
		{"eval", `return eval("1")`, `error: EvalError: Code generation from strings disallowed for this context`},
		{"fill", `return new Array(3e7).fill(1).length`, `error: RangeError: Invalid length: 30000000 is over the limit of 10000000 for one call`},
	})
}

func TestIsolate_OverflowLeavesAWorkingIsolate(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.CallDepth = 500 })
	for range 2 {
		for _, code := range []string{
			`function f() { return f() } f()`,
			`function f() { return [1].map(f) } f()`,
			`async function f() { await f() } await f()`,
			`function* g() { yield* g() } for (const x of g()) {}`,
			`const o = { get x() { return this.x } }; o.x`,
			`class A { toString() { return "" + this } } "" + new A()`,
		} {
			if got, want := w.eval(code), "error: RangeError: Maximum call stack size exceeded"; got != want {
				t.Errorf("%s: %s", code, got)
			}
			if got := w.eval(`let s = 0; for (const x of [1, 2]) { s += await x } return s`); got != "3" {
				t.Fatalf("after %s: %s", code, got)
			}
		}
	}
}

// script evaluates an expression list and gives its completion value.
func (w *world) script(code string) goja.Value {
	w.t.Helper()
	p, err := Compile("script.js", []byte("{"+code+"}"), nil)
	if code[0] == '(' || err != nil {
		p, err = Compile("script.js", []byte(code), nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := w.Run(p)
	if err != nil {
		w.t.Fatal(w.Error(err))
	}
	return v
}

func TestIsolate_UnhandledRejections(t *testing.T) {
	for code, want := range map[string]string{
		`Promise.reject(new TypeError("lost"))`:                                        "TypeError: lost",
		`Promise.reject(1).catch(() => {})`:                                            "",
		`const p = Promise.reject(1); Promise.resolve().then(() => p.catch(() => {}))`: "",
		`setTimeout(() => { throw new Error("in timer") }, 1)`:                         "Error: in timer",
		`Promise.reject("text")`:                                                       "Error: text",
		`Promise.reject({ a: 1 })`:                                                     "Error: { a: 1 }",
		`(async () => { await null; throw new RangeError("later") })()`:                "RangeError: later",
		`new EventTarget().dispatchEvent(new Event("x"))`:                              "",
	} {
		w := newWorld(t, nil)
		w.script(code)
		for w.loop.next(false) {
		}
		got := ""
		for _, err := range w.unhandled {
			got += err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", code, got, want)
		}
		if v := w.script(`(1 + 1)`); v.ToInteger() != 2 {
			t.Errorf("%s: broke the isolate", code)
		}
	}
}

func TestIsolate_DoIsOneTurn(t *testing.T) {
	w := newWorld(t, nil)
	f, _ := goja.AssertFunction(w.script(`(function (n) { out.push(n); Promise.resolve().then(() => out.push(n + 10)) })`))
	if err := w.VM().Set("out", w.VM().NewArray()); err != nil {
		t.Fatal(err)
	}
	mine := errors.New("mine")
	err := w.Do(func(vm *goja.Runtime) error {
		for n := range 2 {
			if _, err := f(goja.Undefined(), vm.ToValue(n)); err != nil {
				return err
			}
		}
		return w.Do(func(*goja.Runtime) error { return mine })
	})
	if !errors.Is(err, mine) {
		t.Errorf("error: %v", err)
	}
	if got := w.eval(`return out`); got != `[0,1,10,11]` {
		t.Errorf("microtasks ran inside the turn: %s", got)
	}
}

func TestIsolate_PanicStopsIt(t *testing.T) {
	w := newWorld(t, nil)
	err := w.Do(func(*goja.Runtime) error { panic("broken") })
	if agent.KindOf(err) != agent.Internal || w.interrupted == nil {
		t.Errorf("%v, interrupted %v", err, w.interrupted)
	}
	if err := w.Do(func(*goja.Runtime) error { return nil }); err == nil {
		t.Error("it went on")
	}
}

func TestIsolate_OverflowInMicrotaskStopsIt(t *testing.T) {
	w := newWorld(t, nil)
	got := w.eval(`await null; (function f() { f() })()`)
	if !strings.HasPrefix(got, "error: RangeError: Maximum call stack size exceeded") || agent.KindOf(w.interrupted) != agent.Exception {
		t.Errorf("%s, %v", got, w.interrupted)
	}
}

func TestIsolate_Async(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.Pending = 3 })
	start := func(work func(context.Context) func(*goja.Runtime) (any, error)) func(goja.FunctionCall) goja.Value {
		return func(goja.FunctionCall) goja.Value { return w.Async(work) }
	}
	for name, fn := range map[string]any{
		"value": start(func(context.Context) func(*goja.Runtime) (any, error) {
			return func(vm *goja.Runtime) (any, error) { return vm.ToValue(w.AsyncContext()), nil }
		}),
		"fails": start(func(context.Context) func(*goja.Runtime) (any, error) {
			return func(*goja.Runtime) (any, error) {
				return nil, &agent.Error{Op: "x", Kind: agent.Exception, Name: "TypeError", Msg: "remote"}
			}
		}),
		"panics": start(func(context.Context) func(*goja.Runtime) (any, error) { panic("in work") }),
		"hangs": start(func(ctx context.Context) func(*goja.Runtime) (any, error) {
			<-ctx.Done()
			return func(*goja.Runtime) (any, error) { t.Error("ran after Close"); return nil, nil }
		}),
		"inContext": func(call goja.FunctionCall) goja.Value {
			f, _ := goja.AssertFunction(call.Argument(0))
			var v goja.Value
			if err := w.WithAsyncContext("ctx", func() (err error) { v, err = f(goja.Undefined()); return err }); err != nil {
				panic(err)
			}
			return v
		},
		"context": func(goja.FunctionCall) goja.Value { return w.VM().ToValue(w.AsyncContext()) },
	} {
		if err := w.VM().Set(name, fn); err != nil {
			t.Fatal(err)
		}
	}
	for code, want := range map[string]string{
		`return await inContext(async () => { await null; const a = context(); await new Promise(r => setTimeout(r, 5)); return [a, context(), await value(), context()] })`: `["ctx","ctx","ctx","ctx"]`,
		`return context()`: `null`,
		`try { await fails() } catch (e) { return [e instanceof TypeError, e.message] }`: `[true,"remote"]`,
		`await panics()`: `error: Error: asynchronous operation: panic: in work`,
		`const all = [1, 2, 3, 4].map(() => value()); return (await Promise.allSettled(all)).map(r => r.status)`: `["fulfilled","fulfilled","fulfilled","rejected"]`,
	} {
		if got := w.eval(code); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", code, got, want)
		}
	}
	err := w.Do(func(*goja.Runtime) error {
		_, _, reject := w.Promise()
		reject(io.ErrUnexpectedEOF)
		return nil
	})
	if err != nil || len(w.unhandled) != 1 || !errors.Is(w.unhandled[0], io.ErrUnexpectedEOF) {
		t.Errorf("a Go error does not come back: %v, %v", err, w.unhandled)
	}
	w.script(`hangs(); setTimeout(() => {}, 1)`)
	if w.Pending() != 2 {
		t.Errorf("pending: %d", w.Pending())
	}
	w.Close()
	w.Close()
	w.Wait()
	for len(w.loop.posts) > 0 {
		(<-w.loop.posts)()
	}
	if len(w.loop.timers) != 0 {
		t.Error("a timer survived Close")
	}
	if err := w.Do(func(*goja.Runtime) error { return nil }); agent.KindOf(err) != agent.Reset {
		t.Errorf("after Close: %v", err)
	}
}

func TestIsolate_Await(t *testing.T) {
	w := newWorld(t, nil)
	for code, want := range map[string]string{
		`(5)`:                                           "then 5",
		`(Promise.resolve(6))`:                          "then 6",
		`(Promise.reject(7))`:                           "catch 7",
		`({ then(f) { f(8) } })`:                        "then 8",
		`({ then(f, g) { g(9) } })`:                     "catch 9",
		`({ get then() { throw 10 } })`:                 "catch 10",
		`({ then: 11, toString() { return "plain" } })`: "then plain",
	} {
		got, v := "", w.script(code)
		w.unhandled = nil // a rejection that nobody had awaited by the end of its turn
		w.Await(v, func(v goja.Value) { got = "then " + v.String() }, func(v goja.Value) { got = "catch " + v.String() })
		if got != want || len(w.unhandled) > 0 {
			t.Errorf("%s: %q, want %q; unhandled %v", code, got, want, w.unhandled)
		}
	}
}

// Guards must not show: same names, lengths, descriptors and behaviour.
func TestGuards_AreInvisible(t *testing.T) {
	inspect := `(function () {
		const seen = [], show = (path, o) => {
			for (const k of Reflect.ownKeys(o)) {
				const d = Object.getOwnPropertyDescriptor(o, k), v = d.value;
				seen.push([path, String(k), d.writable, d.enumerable, d.configurable, typeof v, typeof v === "function" ? [v.name, v.length, "prototype" in v, String(v)] : 0].join());
			}
		};
		show("Array.prototype", Array.prototype); show("String.prototype", String.prototype); show("Function.prototype", Function.prototype);
		show("RegExp.prototype", RegExp.prototype); show("JSON", JSON); show("Reflect", Reflect); show("Uint8Array", Uint8Array); show("ArrayBuffer", ArrayBuffer); show("Proxy", Proxy);
		class B extends Uint8Array {} class A extends Array {} class R extends RegExp {}
		seen.push(new B(3).length, new B(2) instanceof B, new A(3).length, A.from([1]) instanceof A, new R("x").test("x"), [].concat.call(1, 2).length, Array.prototype.indexOf.call("abc", "b"),
			[1, 2, 3].values().next().value, Array.prototype[Symbol.iterator] === Array.prototype.values, "aXbX".replace(/X/g, "$&-"), "a-b".replaceAll("-", m => m + m), RegExp("a").source);
		return seen.filter(s => !String(s).startsWith("Proxy,name")).join("\n");
	})()`
	p, err := goja.Compile("t.js", inspect, false)
	if err != nil {
		t.Fatal(err)
	}
	want, err := goja.New().RunProgram(p)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, nil)
	guarded, err := Compile("t.js", []byte(inspect), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Run(guarded)
	if err != nil {
		t.Fatal(err)
	}
	a, b := strings.Split(want.String(), "\n"), strings.Split(got.String(), "\n")
	for k := range min(len(a), len(b)) {
		if a[k] != b[k] {
			t.Fatalf("got  %s\nwant %s", b[k], a[k])
		}
	}
	if len(a) != len(b) {
		t.Errorf("%d lines, want %d", len(b), len(a))
	}
}
