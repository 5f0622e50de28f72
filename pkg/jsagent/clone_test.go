package jsagent

import (
	"bytes"
	"errors"
	"testing"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// cloneCases are expressions and a test that must hold for x, the value read back.
var cloneCases = []struct{ expr, holds string }{
	{`undefined`, `x === undefined`},
	{`null`, `x === null`},
	{`[true, false]`, `x[0] === true && x[1] === false && x.length === 2`},
	{`[1, -1, 1.5, NaN, Infinity, -0, 2 ** 53, 2 ** 60]`, `x[2] === 1.5 && Number.isNaN(x[3]) && x[4] === Infinity && Object.is(x[5], -0) && x[7] === 2 ** 60`},
	{`["", "a", "ü😀", "\ud800", "a\0b"]`, `x[2] === "ü😀" && x[3] === "\ud800" && x[4] === "a\0b"`},
	{`[0n, -5n, 2n ** 100n]`, `x[2] === 2n ** 100n && x[1] === -5n`},
	{`[new Date(5), new Date(NaN)]`, `x[0].getTime() === 5 && Number.isNaN(x[1].getTime())`},
	{`new Map([[1, {a: 1}], ["k", new Set([1, "s"])]])`, `x instanceof Map && x.get(1).a === 1 && x.get("k").has("s") && x.size === 2`},
	{`[new Uint8Array([1, 2]), new Float64Array([1.5]), new Uint8Array([9, 8, 7]).subarray(1), new ArrayBuffer(3)]`,
		`x[0] instanceof Uint8Array && x[1][0] === 1.5 && x[2].length === 2 && x[2][0] === 8 && x[3].byteLength === 3`},
	{`new RangeError("far")`, `x instanceof RangeError && x.message === "far" && x.name === "RangeError"`},
	{`/a+/gi`, `x.test("AA") && x.flags === "gi"`},
	{`({ __proto__: null, a: undefined, "": 1 })`, `"a" in x && x[""] === 1`},
	{`JSON.parse('{"__proto__": {"evil": 1}}')`, `x.evil === undefined && Object.keys(x)[0] === "__proto__"`},
	{`(() => { const s = {}; return [s, s]; })()`, `x[0] === x[1]`},
	{`(() => { const m = new Map(); m.set("me", m); return m; })()`, `x.get("me") === x`},
	{`[1, , 3]`, `x.length === 3 && x[1] === undefined`},
	{`(() => { class P { constructor() { this.a = 1; } get b() { return 2; } } return new P(); })()`, `x.a === 1 && !("b" in x)`},
}

func TestClone_RoundTrip(t *testing.T) {
	for _, c := range cloneCases {
		vm := goja.New()
		v, err := vm.RunString(c.expr)
		if err != nil {
			v, err = vm.RunString("(" + c.expr + ")")
		}
		if err != nil {
			t.Fatalf("%s: %v", c.expr, err)
		}
		stored, err := encode(vm, v)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		back, err := decode(vm, stored)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		if err := vm.Set("x", back); err != nil {
			t.Fatal(err)
		}
		if ok, err := vm.RunString(c.holds); err != nil || !ok.ToBoolean() {
			t.Errorf("%s comes back as %v (%v): %s does not hold", c.expr, back, err, c.holds)
		}
	}
}

func TestClone_Refuses(t *testing.T) {
	for _, expr := range []string{`() => 1`, `({ a: [() => 1] })`, `Symbol("s")`, `Promise.resolve()`, `new WeakMap()`, `new Proxy(function () {}, {})`} {
		vm := goja.New()
		v, err := vm.RunString(expr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := encode(vm, v); agent.KindOf(err) != agent.Unserializable {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

func FuzzClone(f *testing.F) {
	vm := goja.New()
	for _, c := range cloneCases {
		if v, err := vm.RunString("(" + c.expr + ")"); err == nil {
			stored, err := encode(vm, v)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(stored)
		}
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		if len(stored) > 1<<16 {
			return
		}
		vm := goja.New()
		var v goja.Value
		var err error
		if ex := vm.Try(func() { v, err = decode(vm, stored) }); ex != nil {
			return // the constructor of a value threw, which reaches the program
		}
		if err != nil {
			if v != nil && !errors.Is(err, errDamaged) {
				t.Logf("damaged input gives %v", err)
			}
			return
		}
		again, err := encode(vm, v)
		if err != nil {
			return // deeper or larger than may be written
		}
		back, err := decode(vm, again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		third, err := encode(vm, back)
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("writing is not stable: %x %x %v", again, third, err)
		}
	})
}
