package sandbox

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/dop251/goja"
)

func TestJSON_Language(t *testing.T) {
	check(t, nil, []evalCase{
		{"dropped", `return JSON.stringify({ a: undefined, b() {}, c: Symbol(), d: [undefined, () => 1, Symbol()], e: null, f: NaN, g: -Infinity, h: -0, i: 1e21 })`, `"{\"d\":[null,null,null],\"e\":null,\"f\":null,\"g\":null,\"h\":0,\"i\":1e+21}"`},
		{"toJSON", `return JSON.stringify({ d: new Date(0), t: { toJSON(k) { return k + "!" } } })`, `"{\"d\":\"1970-01-01T00:00:00.000Z\",\"t\":\"t!\"}"`},
		{"boxed", `return JSON.stringify([new String("x"), new Number(2), new Boolean(false), Object(1)])`, `"[\"x\",2,false,1]"`},
		{"surrogates", `return JSON.stringify("\ud800a\udc00 \ud83d\ude00 é\u2028\u0001\"\\\n") === '"\\ud800a\\udc00 \ud83d\ude00 é\u2028\\u0001\\"\\\\\\n"'`, `true`},
		{"gap", `return JSON.stringify({ a: [1, { b: 2 }], c: [], d: {} }, null, 2)`, `"{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ],\n  \"c\": [],\n  \"d\": {}\n}"`},
		{"replacer", `return JSON.stringify({ a: 1, b: { a: 2, c: 3 } }, (k, v) => k === "c" ? undefined : typeof v === "number" ? v + 1 : v)`, `"{\"a\":2,\"b\":{\"a\":3}}"`},
		{"names", `return JSON.stringify({ a: 1, b: { a: 2, c: 3 } }, ["b", "c", "b", 1])`, `"{\"b\":{\"c\":3}}"`},
		{"nothing", `return [JSON.stringify(undefined), JSON.stringify(() => 1), JSON.stringify(Symbol())]`, `[null,null,null]`},
		{"holes", `return JSON.stringify([1, , 3])`, `"[1,null,3]"`},
		{"getter and proxy", `return JSON.stringify({ get x() { return 1 }, p: new Proxy({ a: 1 }, {}), q: new Proxy([1, 2], {}) })`, `"{\"x\":1,\"p\":{\"a\":1},\"q\":[1,2]}"`},
		{"cycle", `const a = {}; a.b = [a]; try { JSON.stringify(a) } catch (e) { return e.name }`, `"TypeError"`},
		{"bigint", `try { JSON.stringify(1n) } catch (e) { return e.name }`, `"TypeError"`},
		{"twice is no cycle", `const a = {}; return JSON.stringify([a, a])`, `"[{},{}]"`},
		{"throws", `JSON.stringify({ get x() { throw new RangeError("mine") } })`, `error: RangeError: mine`},
		{"parse", `return JSON.parse(' {"a":[1,-2.5e3,true,null,"\\u00e9\\ud83d\\ude00\\n"],"__proto__":1} ').a`, `[1,-2500,true,null,"é😀\n"]`},
		{"parse edge numbers", `const v = JSON.parse("[-0, 1e999, 123456789012345678901, 0.1]"); return [Object.is(v[0], -0), v[1] === Infinity, v[2] === 123456789012345680000, v[3]]`, `[true,true,true,0.1]`},
		{"parse lone surrogate", `return JSON.parse('"\\ud800"').charCodeAt(0)`, `55296`},
		{"parse proto", `const o = JSON.parse('{"__proto__":{"x":1}}'); return [o.x === undefined, Object.keys(o)]`, `[true,["__proto__"]]`},
		{"parse duplicate", `return JSON.parse('{"a":1,"a":2}').a`, `2`},
		{"reviver", `return JSON.parse('{"a":1,"b":[2,3],"c":4}', function (k, v) { return k === "c" ? undefined : typeof v === "number" ? v * 2 : v })`, `{"a":2,"b":[4,6]}`},
		{"parse error", `JSON.parse("{bad}")`, `error: SyntaxError: Unexpected token 'b' in JSON at position 1`},
		{"parse end", `JSON.parse('{"a":')`, `error: SyntaxError: Unexpected end of JSON input`},
		{"parse strict", `let n = 0; for (const s of ["01", "1.", ".5", "+1", "[1,]", "{a:1}", "'x'", '"\t"', "tru", "nul l", "1 2", "", "\u00a01", '"\\x"', "-", "1e"]) { try { JSON.parse(s) } catch (e) { if (e instanceof SyntaxError) n++ } } return n`, `16`},
		{"shape", `return [JSON.parse.name, JSON.parse.length, JSON.stringify.name, JSON.stringify.length]`, `["parse",2,"stringify",3]`},
	})
}

func TestToJSON_Refuses(t *testing.T) {
	w := newWorld(t, nil)
	for code, want := range map[string]string{
		`const a = { b: {} }; a.b.c = a; a`:  "TypeError: a value that contains itself has no JSON form: cycle at .b.c",
		`const a = [1, []]; a[1].push(a); a`: "TypeError: a value that contains itself has no JSON form: cycle at [1][0]",
		`({ a: [1, 2n] })`:                   "TypeError: a BigInt has no JSON form at .a[1]; convert it with String() or Number()",
		`5n`:                                 "TypeError: a BigInt has no JSON form; convert it with String() or Number()",
		`(function () {})`:                   "TypeError: a function has no JSON form",
		`Symbol("x")`:                        "TypeError: a symbol has no JSON form",
		`"x".repeat(9e6) + "x".repeat(9e6)`:  "RangeError: the JSON text is longer than 16777216 bytes",
		`({ get a() { throw new URIError("from getter") } })`: "URIError: from getter",
	} {
		_, err := w.ToJSON(w.script(code))
		var e *ScriptError
		if !errors.As(err, &e) || e.Error() != want {
			t.Errorf("%s\ngot  %v\nwant %s", code, err, want)
		}
	}
	if raw, err := w.ToJSON(goja.Undefined()); raw != nil || err != nil {
		t.Errorf("undefined: %s, %v", raw, err)
	}
	if v, err := w.FromJSON(nil); err != nil || !goja.IsUndefined(v) {
		t.Errorf("nil: %v, %v", v, err)
	}
	if _, err := w.FromJSON(json.RawMessage(`{`)); err == nil || err.Error() != "SyntaxError: Unexpected end of JSON input" {
		t.Errorf("bad: %v", err)
	}
}

// FuzzJSON compares with encoding/json: both take the same texts, and what was
// read is written back as the same value.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2,{"b":null}]}`, `"\ud800"`, `[1e400]`, `-0`, `"é\u0000"`, `[[[]]]`, `{"":1}`, `1.0`, `"\x"`} {
		f.Add(s)
	}
	w := newWorld(f, nil)
	f.Fuzz(func(t *testing.T, text string) {
		v, err := w.FromJSON(json.RawMessage(text))
		if valid := json.Valid([]byte(text)); valid != (err == nil) {
			t.Fatalf("%q: %v, valid: %t", text, err, valid)
		}
		if err != nil {
			return
		}
		raw, err := w.ToJSON(v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.FromJSON(raw)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, raw, err)
		}
		if second, err := w.ToJSON(again); err != nil || string(second) != string(raw) {
			t.Fatalf("%q, then %q, %v", raw, second, err)
		}
	})
}
