package sandbox

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dlclark/regexp2/v2"
	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

const invalidLength = "error: RangeError: Invalid length: …"

// hostilePrograms could not be stopped by an interrupt.
var hostilePrograms = []evalCase{
	{"fill", `new Array(3e7).fill(1)`, invalidLength},
	{"join", `new Array(3e7).join("x")`, invalidLength},
	{"join growth", `new Array(1e5).fill("y".repeat(1e6)).join()`, invalidLength},
	{"join separator", `new Array(1e6).join("y".repeat(1e3))`, invalidLength},
	{"toString of holes", `"" + new Array(4e9)`, invalidLength},
	{"template of holes", "`${new Array(4e9)}`", invalidLength},
	{"indexOf array-like", `Array.prototype.indexOf.call({ length: 2 ** 32 }, 1)`, invalidLength},
	{"lastIndexOf", `Array.prototype.lastIndexOf.call({ length: 2 ** 53 - 1 }, 1)`, invalidLength},
	{"includes", `Array.prototype.includes.call({ length: 2 ** 53 - 1 }, 1)`, invalidLength},
	{"reverse", `Array.prototype.reverse.call({ length: 2 ** 53 - 1 })`, invalidLength},
	{"sort", `new Array(4e9).sort()`, invalidLength},
	{"splice", `Array.prototype.splice.call({ length: 2 ** 53 - 1 }, 0, 1)`, invalidLength},
	{"slice", `new Array(4e9).slice()`, invalidLength},
	{"concat", `const a = new Array(6e6); a.concat(a)`, invalidLength},
	{"copyWithin", `Array.prototype.copyWithin.call({ length: 2 ** 53 - 1 }, 1, 0)`, invalidLength},
	{"map of holes", `new Array(4e9).map(x => x)`, invalidLength},
	{"forEach of holes", `new Array(4e9).forEach(x => x)`, invalidLength},
	{"reduce", `new Array(4e9).reduce((a, b) => a, 0)`, invalidLength},
	{"from", `Array.from({ length: 1e9 })`, invalidLength},
	{"from holes", `Array.from(new Array(1e9))`, invalidLength},
	{"spread", `[...new Array(4e9)]`, invalidLength},
	{"spread call", `Math.max(...new Array(4e9))`, invalidLength},
	{"set of holes", `new Set(new Array(4e9))`, invalidLength},
	{"destructure", `const [...rest] = new Array(4e9)`, invalidLength},
	{"apply", `Math.max.apply(null, { length: 1e9 })`, `error: RangeError: too many arguments: …`},
	{"reflect apply", `Reflect.apply(Math.max, null, { length: 1e9 })`, `error: RangeError: too many arguments: …`},
	{"reflect construct", `Reflect.construct(Array, { length: 1e9 })`, `error: RangeError: too many arguments: …`},
	{"stringify", `JSON.stringify(new Array(4e9))`, invalidLength},
	{"stringify deep", `let a = []; for (let i = 0; i < 5e4; i++) a = [a]; JSON.stringify(a)`, `error: RangeError: the value is nested deeper than 2000 levels`},
	{"stringify indent", `const a = []; let b = a; for (let i = 0; i < 1900; i++) { const c = []; b.push(c, c, 1); b = c } JSON.stringify(a, null, 10)`, `error: RangeError: …`},
	{"stringify replacer", `JSON.stringify({}, new Array(4e9))`, invalidLength},
	{"parse deep", `JSON.parse("[".repeat(5e6))`, `error: SyntaxError: JSON is nested deeper than 2000 levels`},
	{"parse deep objects", `JSON.parse('{"a":'.repeat(1e6))`, `error: SyntaxError: JSON is nested deeper than 2000 levels`},
	{"parse huge", `JSON.parse("9".repeat(9e6) + "x")`, `error: SyntaxError: …`},
	{"toString deep", `let a = []; for (let i = 0; i < 5e4; i++) a = [a]; String(a)`, `error: RangeError: Maximum call stack size exceeded`},
	{"flat deep", `let a = []; for (let i = 0; i < 5e4; i++) a = [a]; a.flat(Infinity)`, `error: RangeError: Maximum call stack size exceeded`},
	{"clone deep", `let a = []; for (let i = 0; i < 5e4; i++) a = [a]; structuredClone(a)`, `error: RangeError: …`},
	{"console deep", `let a = []; for (let i = 0; i < 5e4; i++) a = [a]; console.log(a)`, `undefined`},
	{"repeat", `"a".repeat(1e9)`, invalidLength},
	{"repeat doubling", `let s = "abc"; for (;;) s = s.repeat(100)`, invalidLength},
	{"padStart", `"a".padStart(1e9)`, invalidLength},
	{"padEnd", `"a".padEnd(1e9, "xy")`, invalidLength},
	{"concat doubling", `let s = "abc"; for (;;) s = s.concat(s, s)`, invalidLength},
	{"replaceAll growth", `"a".repeat(1e6).replaceAll("a", "b".repeat(1e6))`, invalidLength},
	{"replace regex growth", `"a".repeat(1e5).replace(/a/g, "b".repeat(1e6))`, invalidLength},
	{"replace prefix growth", "\"a\".repeat(1e5).replace(/a/g, \"$`\")", invalidLength},
	{"replace function growth", `const b = "b".repeat(1e6); "a".repeat(1e5).replace(/a/g, () => b)`, invalidLength},
	{"repeat object", `"a".repeat({ valueOf() { return 1e9 } })`, invalidLength},
	{"repeat of object", `String.prototype.repeat.call({ toString() { return "abc" } }, 9e6)`, invalidLength},
	{"length object", `Array.prototype.fill.call({ length: { valueOf() { return 1e10 } } }, 1)`, invalidLength},
	{"buffer object", `new ArrayBuffer({ valueOf() { return 1e11 } })`, invalidLength},
	{"spread keys", `[...new Array(4e9).keys()]`, invalidLength},
	{"sort strings", `new Array(2e6).fill("x").sort()`, invalidLength},
	{"naive search", `const s = "é" + "a".repeat(9e6); s.includes("a".repeat(4e6) + "é")`, `error: RangeError: both strings are too long to look for one in the other`},
	{"digits", `BigInt("9".repeat(9e6))`, `error: RangeError: a BigInt of more than 1000000 digits cannot be read`},
	{"no error class", `delete globalThis.RangeError; "a".repeat(1e9)`, `error: TypeError: Invalid length: …`},
	{"error class throws", `Object.defineProperty(globalThis, "RangeError", { get() { throw 1 } }); "a".repeat(1e9)`, `error: TypeError: Invalid length: …`},
	{"from by literal", `[].constructor.from({ length: 1e9 })`, invalidLength},
	{"raw by literal", `"".constructor.raw({ raw: { length: 1e9 } })`, invalidLength},
	{"digits by literal", `(1n).constructor("9".repeat(9e6))`, `error: RangeError: a BigInt…`},
	{"buffer by view", `new (new Uint8Array(1).buffer.constructor)(1e11)`, invalidLength},
	{"raw", `String.raw({ raw: { length: 1e9 } })`, invalidLength},
	{"buffer", `new ArrayBuffer(1e12)`, invalidLength},
	{"typed array", `new Float64Array(1e9)`, invalidLength},
	{"typed array-like", `new Uint8Array({ length: 1e9 })`, invalidLength},
	{"big text", `(1n << 100000000n).toString()`, invalidLength},
	{"proxies", `let p = {}; for (let i = 0; i < 1e6; i++) p = new Proxy(p, {}); p.x`, `error: RangeError: too many proxies inside each other`},
	{"proxy handlers", `let p = {}; for (let i = 0; i < 1e6; i++) p = new Proxy({}, p); p.x`, `error: RangeError: too many proxies inside each other`},
	{"revocable", `let p = {}; for (let i = 0; i < 1e6; i++) p = Proxy.revocable(p, {}).proxy; p.x`, `error: RangeError: too many proxies inside each other`},
	{"prototypes", `let o = {}; for (let i = 0; i < 1e6; i++) o = Object.create(o); o.x`, `error: RangeError: the prototype chain is too long`},
	{"bound", `let f = () => 1; for (let i = 0; i < 1e6; i++) { f = f.bind(); Object.defineProperty(f, "name", { value: "" }) } f()`, `error: RangeError: the function is bound too many times over`},
	{"deep eval", `eval("(".repeat(1e6))`, `error: EvalError: …`},
	{"deep function", `new Function("return " + "[".repeat(1e6))`, `error: EvalError: …`},
	{"deep async function", `new (async function () {}).constructor("1")`, `error: EvalError: …`},
	{"deep generator function", `new (function* () {}).constructor("1")`, `error: EvalError: …`},
	{"indirect eval", `(0, eval)("1")`, `error: EvalError: …`},
	{"deep regex", `new RegExp("(".repeat(1e6))`, `error: SyntaxError: Invalid regular expression: …`},
	{"deep match", `"x".match("(".repeat(1e6))`, `error: SyntaxError: Invalid regular expression: …`},
	{"long linear regex", `/(?:(?:x{1000}|y{999})z)*q/.test("x".repeat(9e6))`, `error: RangeError: …`},
	{"timers", `for (;;) setTimeout(() => {}, 1e6)`, `error: RangeError: too many pending operations: await some before starting more`},
}

func TestHostile_NativeCode(t *testing.T) {
	neighbour := newWorld(t, nil)
	before := liveHeap()
	for _, c := range hostilePrograms {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			start := time.Now()
			got := w.eval(c.code)
			took := time.Since(start)
			prefix, cut := strings.CutSuffix(c.want, "…")
			if cut && !strings.HasPrefix(got, prefix) || !cut && got != c.want {
				t.Errorf("got  %.200s\nwant %s", got, c.want)
			}
			if took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if w.stopped() == nil {
				if after := w.eval(`return [1, 2].map(x => x * 2).join()`); after != `"2,4"` {
					t.Errorf("afterwards: %s", after)
				}
			}
			if got := neighbour.eval(`return /b+/.exec("abbc")[0] + new Array(3).fill(1)`); got != `"bb1,1,1"` {
				t.Errorf("neighbour: %s", got)
			}
		})
	}
	if after := liveHeap(); after > before+8<<20 {
		t.Errorf("heap grew from %d to %d KiB", before>>10, after>>10)
	}
}

func TestHostile_Fetches(t *testing.T) {
	check(t, func(c *Config) { c.Limits.Pending = 50 }, []evalCase{
		{"many", `const all = []; for (let i = 0; i < 51; i++) all.push(fetch("http://x/").catch(e => e.message)); return (await Promise.all(all)).filter(m => m.startsWith("too many")).length`, `1`},
	})
}

// TestMain shortens the limit of one match, which is one per process.
func TestMain(m *testing.M) {
	if err := installTemplates(); err != nil {
		panic(err)
	}
	regexp2.DefaultMatchTimeout = 150 * time.Millisecond
	os.Exit(m.Run())
}

func liveHeap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestHostile_RegexTimeStopsTheIsolate(t *testing.T) {
	for _, code := range []string{
		`/^(?=(a+)+$)\1b/.test("a".repeat(40) + "c")`,
		`"a".repeat(40).concat("c").match(/^(?=a)(a+)+$(?!x)/)`,
		`"a".repeat(40).concat("c").replace(/(?=a)(a+)+$/g, () => "")`,
		`"a".repeat(40).concat("c").split(/(?=a)(a+)+$/)`,
		`[..."a".repeat(40).concat("c").matchAll(/(?=a)(a+)+$/g)]`,
		`"a".repeat(40).concat("c").search("(?=a)(a+)+$")`,
	} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Limits.RegexTime = 100 * time.Millisecond })
			start := time.Now()
			got := w.eval(`try { ` + code + ` } catch (e) { return "caught" } return "went on"`)
			if !strings.Contains(got, "ran for") || time.Since(start) > 2*time.Second {
				t.Errorf("%s after %v", got, time.Since(start))
			}
			if agent.KindOf(w.interrupted) != agent.CPULimit {
				t.Errorf("interrupted: %v", w.interrupted)
			}
			if err := w.Do(func(*goja.Runtime) error { t.Error("ran after the interrupt"); return nil }); agent.KindOf(err) != agent.CPULimit {
				t.Errorf("Do: %v", err)
			}
		})
	}
}

// A function that replace calls back may take its time.
func TestHostile_RegexTimeIsNotTheCallbacks(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.RegexTime = 50 * time.Millisecond })
	got := w.eval(`return "a".replace(/a/, () => { let n = 0; for (let i = 0; i < 1e6; i++) n++; return "b" })`)
	if got != `"b"` {
		t.Error(got)
	}
}

func TestHostile_InterruptStops(t *testing.T) {
	cause := &agent.Error{Op: "turn", Kind: agent.CPULimit, Msg: "over budget"}
	for _, code := range []string{
		`for (;;) {}`,
		`while (true) await null`,
		`(function f() { return Promise.resolve().then(f) })(); await new Promise(() => {})`,
		`function* g() { for (;;) yield 1 } for (const x of g()) {}`,
		`const o = { get x() { for (;;) {} } }; o.x`,
		`try { for (;;) {} } finally { for (;;) {} }`,
		`new Promise(() => { for (;;) {} })`,
		`[1].map(() => { for (;;) {} })`,
		`const p = new Proxy({}, { get() { return 1 } }); for (;;) p.x`,
		`queueMicrotask(function f() { queueMicrotask(f) }); await new Promise(() => {})`,
		`[3, 2, 1].sort(() => { for (;;) {} })`,
		`for (;;) { try { (function f() { f() })() } catch {} }`,
	} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t, nil)
			stopped := make(chan time.Time, 1)
			timer := time.AfterFunc(20*time.Millisecond, func() { stopped <- time.Now(); w.Interrupt(cause) })
			defer timer.Stop()
			p, err := Compile("t.js", []byte("(async function () {"+code+"\n})()"), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, err = w.Run(p)
			select {
			case at := <-stopped:
				if late := time.Since(at); late > 200*time.Millisecond {
					t.Errorf("stopped %v late", late)
				}
				if !errors.Is(err, cause) {
					t.Errorf("error: %v", err)
				}
			default:
				// An overflow in a program that never ends is an end, too.
				if !isOverflow(err) {
					t.Errorf("ended by itself: %v", err)
				}
				return
			}
			if _, err := w.Run(p); !errors.Is(err, cause) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestCompile_RefusesDeepPrograms(t *testing.T) {
	for name, src := range map[string]string{
		"brackets":   strings.Repeat("(", 1e6),
		"arrays":     strings.Repeat("[", 1e6),
		"blocks":     strings.Repeat("{", 1e6),
		"not":        strings.Repeat("!", 1e6) + "1",
		"plus":       "x=" + strings.Repeat("1+", 1e6) + "1",
		"arrows":     strings.Repeat("a=>", 1e6) + "1",
		"ternaries":  strings.Repeat("a?{}:", 1e6) + "1",
		"else":       strings.Repeat("if(1){}else ", 1e6) + "{}",
		"assign":     strings.Repeat("a=", 1e6) + "1",
		"labels":     strings.Repeat("a:", 1e6) + ";",
		"whiles":     strings.Repeat("while(1)", 1e6) + ";",
		"templates":  strings.Repeat("`${", 1e6),
		"members":    "a" + strings.Repeat(".a", 1e6),
		"calls":      "a" + strings.Repeat("()", 1e6),
		"typeof":     strings.Repeat("typeof ", 1e6) + "1",
		"pattern":    "x=/" + strings.Repeat("(", 1e5) + "/",
		"after quot": "'\\'';" + strings.Repeat("[", 1e6),
		"digits":     "x=" + strings.Repeat("9", 2e6) + "n",
		"hidden":     "x=a/b;/*[*/" + strings.Repeat("[", 1e6),
	} {
		t.Run(name, func(t *testing.T) {
			var source *SourceError
			if _, err := Compile("deep.js", []byte(src), nil); !errors.As(err, &source) {
				t.Errorf("%v", err)
			}
		})
	}
	// Long is not deep.
	long := "var a = [" + strings.Repeat("{x:[1,'[[[',`((`,/[(]/]},\n", 50_000) + "];" + strings.Repeat("function f(a) { return a / 2 }\n", 50_000)
	if _, err := Compile("long.js", []byte(long), nil); err != nil {
		t.Errorf("long: %v", err)
	}
}
