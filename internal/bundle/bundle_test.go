package bundle

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-sourcemap/sourcemap"

	"agentd/pkg/agent"
	"agentd/pkg/placement"
)

// courier has the shape of the programs that people try first: its class is not
// exported, and the operations that it calls are declared in another file.
const courier = `import { Agent } from "agents";
import type { FiberRecoveryContext } from "agents";

class Courier extends Agent {
  async deliver() {
    await this.runFiber("delivery", async (ctx) => {
      const parcel = await pickUp();
      ctx.stash({ parcel });
      this.setState({ ...this.state, receipt: await handOver(parcel) });
    });
  }

  async onFiberRecovered(ctx: FiberRecoveryContext) {
    if (ctx.name !== "delivery") return;
  }
}
`

func TestBuild_PreludeForms(t *testing.T) {
	t.Parallel()
	forms := map[string]string{
		"exports": `export async function pickUp() { return "one" }
export const handOver = async (x: unknown): Promise<string> => x + "+two";`,
		"top level": `async function pickUp(): Promise<string> { return step("one") }
const step = (s: string) => s, handOver = async (x: unknown) => x + "+two";
interface Unused { pickUp: number }`,
		"globals": `(globalThis as any).pickUp = async () => "one";
globalThis.handOver = async (x: unknown) => x + "+two";`,
		"destructured": "const { pickUp, nested: [handOver] } = { pickUp: async () => `one`," +
			" nested: [async (x: string) => `${x}+two`] };",
	}
	const check = `{ const a = new exports.Courier(); await a.deliver(); return [a.constructor.name, a.stashed, a.state] }`
	const want = `["Courier",{"parcel":"one"},{"receipt":"one+two"}]`
	for name, ops := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, map[string]string{"courier.ts": courier, "ops.ts": ops, "package.json": `{"sideEffects": false}`})
			for _, opts := range []Options{
				{Files: []string{"courier.ts"}, Prelude: []string{"ops.ts"}},
				{Files: []string{"courier.ts", "ops.ts"}},
				{Files: []string{"ops.ts", filepath.Join(dir, "courier.ts")}, Minify: true},
			} {
				opts.WorkDir = dir
				wantRun(t, build(t, opts), check, want)
			}
		})
	}
}

func TestBuild_PreludeScope(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"agent.ts": `import { Agent } from "agents"; import { seen } from "pkg"; import { inner } from "./lib";
export class A extends Agent { all() { return [op(), inner(), seen(), { op }.op(), local()] } }
function local() { const op = () => "shadow"; return op() }`,
		"lib.ts":                        `export const inner = () => "lib " + op()`,
		"first.ts":                      `export const op = () => "op " + second`,
		"second.ts":                     `const second = 2`,
		"node_modules/pkg/package.json": `{"name": "pkg", "main": "index.js"}`,
		"node_modules/pkg/index.js":     `exports.seen = () => typeof op`,
	})
	out := build(t, Options{WorkDir: dir, Files: []string{"agent.ts"}, Prelude: []string{"first.ts", "second.ts"}})
	wantRun(t, out, `new exports.A().all()`, `["op 2","lib op 2","undefined","op 2","shadow"]`)
}

func TestBuild_WhichClasses(t *testing.T) {
	t.Parallel()
	const head = `import { Agent, callable } from "agents";` + "\n"
	tests := []struct{ name, src, want string }{
		{"exported", head + `export class A extends Agent {} class B extends Agent {}`, `["A"]`},
		{"none exported", head + `class A extends Agent {} class B extends A {} class E extends Error {} class P {}`, `["A","B"]`},
		{"only a helper exported", head + `class A extends Agent {} export class E extends Error {} export const k = 1`, `["A","E"]`},
		{"export list", head + `class A extends Agent {} class B extends Agent {} export { A, B as C }`, `["A","C"]`},
		{"default", head + `export default class A extends Agent {}`, `["A"]`},
		{"default by name", head + `class A extends Agent {} export default A`, `["A"]`},
		{"default beside others", head + `export class A extends Agent {} export default { fetch() {} }`, `["A"]`},
		{"expression", head + `export const A = class extends Agent {}`, `["A"]`},
		{"mixin", head + `const mix = (B: any) => class extends B {}; class A extends mix(Agent) {}`, `["A"]`},
		{"decorated", head + "function tag(o: object) { return (c: any, x: any) => c }\n@tag({\n a: 1,\n b: `class Z extends Agent`,\n})\nclass A extends Agent {}", `["A"]`},
		{"exported and decorated", head + "const tag = (c: any, x: any) => c;\n@tag export class A extends Agent {}", `["A"]`},
		{"abstract base", head + `abstract class Base extends Agent {} export class A extends Base {}`, `["A"]`},
		{"re-exported", `export { A } from "./lib"; export { default as B } from "./lib";`, `["A","B"]`},
		{"star", `export * from "./lib"`, `["A"]`},
		{"text that looks like a class", head + "const s = `\nclass Z extends Agent {\n`; // class Y extends Agent {\nclass A extends Agent { s = s }", `["A"]`},
		{"durable object", `import { DurableObject } from "cloudflare:workers"; export class A extends DurableObject<Env> {}`, `["A"]`},
		{"namespace import", `import * as sdk from "agents"; class A extends sdk.Agent<unknown, { a: 1 }> {}`, `["A"]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, map[string]string{"main.ts": tt.src,
				"lib.ts": head + `export class A extends Agent {} export default class Other extends Agent {}`})
			out := build(t, Options{WorkDir: dir, Files: []string{"main.ts"}})
			wantRun(t, out, `Object.keys(exports).filter((k) => typeof exports[k] === "function" && /^class/.test(String(exports[k]))).sort()`, tt.want)
		})
	}
}

func TestBuild_CommonJSEntry(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"main.cjs": `const { Agent } = require("agents"); class A extends Agent { f() { return op() } } module.exports = { A };`,
		"ops.js":   `function op() { return 1 }`,
	})
	wantRun(t, build(t, Options{WorkDir: dir, Files: []string{"ops.js", "main.cjs"}}), `new exports.A().f()`, `1`)
}

func TestBuild_Language(t *testing.T) {
	t.Parallel()
	const src = `import { Agent, callable } from "agents";
import type { Gone } from "./does-not-exist";
import { type Gone2 } from "./types";
import data from "./data.json";
import page from "./page.html";
import query from "./q.sql";
import { EventEmitter } from "events";
enum Color { Red = 3 }
export class A extends Agent {
  #secret = 41;
  static count = 0;
  accessor size = 5;
  readonly name2 = A.name;
  @callable() reveal() { this.#bump(); return this.#secret }
  #bump() { this.#secret += 1; A.count ||= 7 }
  async *numbers() { yield 1; yield await Promise.resolve(2); yield* [3] }
  async sum() { let n = 0; for await (const x of this.numbers()) n += x; return n }
  parts(...args: unknown[]) { const { a, ...rest } = { a: 1, b: 2, c: 3 }; return [a, rest, Color.Red, data.x, page, query, typeof EventEmitter, this?.size ?? 0, 2 ** 3] }
  text(): string { return ` + "`é ${this.name2} \\u{1F600}`" + ` }
  big() { return String(2n ** 70n) }
  async later() { return [typeof (await import("cloudflare:workers")).DurableObject, (await import("./later")).default, (await import("./data.json")).default] }
  match() { return "2026-11".match(/(?<year>\d+)-/)!.groups!.year }
}
const helper = function namedFunction() {};
export const names = () => [A.name, helper.name, (() => { class Inner {} return Inner.name })()];
`
	dir := folder(t, map[string]string{"a.ts": src, "types.ts": "export interface Gone2 {}", "later.ts": `export default "later"`, "data.json": `{"x": [1]}`,
		"page.html": "<p>", "q.sql": "SELECT 1", "tsconfig.json": `{
  // comments are allowed
  "extends": "./base.json", "compilerOptions": {"experimentalDecorators": true, "emitDecoratorMetadata": true},
}`, "base.json": `{"compilerOptions": {"strict": true}}`})
	for _, minify := range []bool{false, true} {
		out := build(t, Options{WorkDir: dir, Files: []string{"a.ts"}, Minify: minify})
		wantRun(t, out, `[new exports.A().reveal(), callables, exports.A.count]`, `[42,["reveal"],7]`)
		wantRun(t, out, `new exports.A().sum()`, `6`)
		wantRun(t, out, `new exports.A().parts()`, `[1,{"b":2,"c":3},3,[1],"<p>","SELECT 1","function",5,8]`)
		wantRun(t, out, `[new exports.A().text(), new exports.A().match()]`, `["é A 😀","2026"]`)
		wantRun(t, out, `new exports.A().big()`, `"1180591620717411303424"`)
		wantRun(t, out, `new exports.A().later()`, `["function","later",{"x":[1]}]`)
		if len(out.Warnings) > 0 {
			t.Errorf("warnings: %v", out.Warnings)
		}
		wantRun(t, out, `exports.names()`, `["A","namedFunction","Inner"]`)
		if bytes.Contains(out.Code, []byte("sourceMappingURL")) || bytes.Contains(out.Code, []byte(dir)) {
			t.Error("the code names its source map or the author's folder")
		}
	}
}

func TestBuild_Packages(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"app/src/a.ts": `import { Agent } from "agents"; import esm from "esm-pkg"; import { sub } from "esm-pkg/sub"; import cjs, { two } from "cjs-pkg"; import { p } from "@scope/p";
export class A extends Agent { all() { return [esm, sub, cjs.one, two, p] } }`,
		"app/package.json":                         `{"type": "module"}`,
		"app/node_modules/esm-pkg/package.json":    `{"name":"esm-pkg","exports":{".":{"node":"./node.js","workerd":"./w.mjs","default":"./d.js"},"./sub":{"import":"./sub.mjs","require":"./sub.cjs"}}}`,
		"app/node_modules/esm-pkg/w.mjs":           `export default "workerd"`,
		"app/node_modules/esm-pkg/sub.mjs":         `export const sub = "sub " + process.env.NODE_ENV + " " + (global === globalThis)`,
		"node_modules/cjs-pkg/package.json":        `{"name":"cjs-pkg","main":"lib"}`,
		"node_modules/cjs-pkg/lib/index.js":        `try { require("fs") } catch (e) {} Object.assign(exports, { one: 1, two: require("./two") })`,
		"node_modules/cjs-pkg/lib/two.js":          `module.exports = 2`,
		"app/node_modules/@scope/p/package.json":   `{"name":"@scope/p","module":"m.js","main":"missing.js"}`,
		"app/node_modules/@scope/p/m.js":           `export const p = "p"`,
		"app/node_modules/esm-pkg/d.js":            `export default "default"`,
		"app/node_modules/esm-pkg/node_modules/.x": ``,
	})
	out := build(t, Options{WorkDir: filepath.Join(dir, "app"), Files: []string{"src/a.ts"}})
	wantRun(t, out, `new exports.A().all()`, `["workerd","sub production true",1,2,"p"]`)
	if want := []string{filepath.Join(dir, "app/src/a.ts")}; !slices.Equal(out.Inputs, want) {
		t.Errorf("inputs = %v, want %v", out.Inputs, want)
	}
}

func TestBuild_InstalledPackageWinsOverNodeModule(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"a.ts":                             `import { Agent } from "agents"; import { mine } from "events"; export class A extends Agent { m = mine }`,
		"node_modules/events/package.json": `{"name":"events","main":"i.js"}`,
		"node_modules/events/i.js":         `exports.mine = "installed"`,
	})
	wantRun(t, build(t, Options{WorkDir: dir, Files: []string{"a.ts"}}), `new exports.A().m`, `"installed"`)
}

func TestBuild_TsconfigPathsHold(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"src/a.ts":      `import { Agent } from "agents"; import { x } from "#lib/x"; export class A extends Agent { x = x }`,
		"lib/x.ts":      `export const x = 1`,
		"tsconfig.json": `{"compilerOptions": {"paths": {"#lib/*": ["./lib/*"]}}}`,
	})
	out := build(t, Options{WorkDir: dir, Files: []string{"src/a.ts"}})
	wantRun(t, out, `new exports.A().x`, `1`)
	for _, name := range []string{"tsconfig.json", "src/a.ts", "lib/x.ts"} {
		if !slices.Contains(out.Inputs, filepath.Join(dir, name)) {
			t.Errorf("inputs %v lack %s", out.Inputs, name)
		}
	}
}

func TestBuild_SourceMap(t *testing.T) {
	t.Parallel()
	const boom = `throw new Error("boom")`
	ops := "// first line\nexport function pickUp(): never {\n  // here\n  " + boom + ";\n}\n"
	dir := folder(t, map[string]string{"src/courier.ts": courier, "src/ops.ts": ops})
	out := build(t, Options{WorkDir: dir, Files: []string{"src/courier.ts"}, Prelude: []string{"src/ops.ts"}})
	m, err := sourcemap.Parse("", out.SourceMap)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]struct {
		file string
		line int
		all  string
	}{
		boom:                       {"src/ops.ts", 4, ops},
		`this.runFiber("delivery"`: {"src/courier.ts", 6, courier},
		`ctx.name !== "delivery"`:  {"src/courier.ts", 14, courier},
	} {
		line, column := position(t, out.Code, text)
		file, _, l, _, ok := m.Source(line, column)
		if !ok || file != want.file || l != want.line {
			t.Errorf("%s comes from %s:%d (%v), want %s:%d", text, file, l, ok, want.file, want.line)
		}
		if got := m.SourceContent(want.file); got != want.all {
			t.Errorf("source content of %s is\n%s", want.file, got)
		}
	}
}

// position gives line from 1 and column from 0, as engines report them.
func position(t *testing.T, code []byte, text string) (line, column int) {
	t.Helper()
	at := bytes.Index(code, []byte(text))
	if at < 0 {
		t.Fatalf("code lacks %s:\n%s", text, code)
	}
	before := string(code[:at])
	return strings.Count(before, "\n") + 1, at - (strings.LastIndexByte(before, '\n') + 1)
}

func TestBuild_IsDeterministic(t *testing.T) {
	t.Parallel()
	files := map[string]string{"courier.ts": courier, "ops.ts": `export const pickUp = 1, b = 2`, "tsconfig.json": `{}`}
	var first placement.Bundle
	for i := range 2 {
		out := build(t, Options{WorkDir: folder(t, files), Files: []string{"courier.ts", "ops.ts"}})
		b := placement.Bundle{Code: out.Code, SourceMap: out.SourceMap}
		if i > 0 && b.Hash() != first.Hash() {
			t.Errorf("the same files in another folder give another bundle:\n%s\n%s", first.Code, b.Code)
		}
		first = b
	}
}

func TestBuild_Errors(t *testing.T) {
	t.Parallel()
	const a = `import { Agent } from "agents"; export class A extends Agent {}`
	tests := []struct {
		name  string
		files map[string]string
		opts  Options
		kind  agent.Kind
		want  []string
	}{
		{"syntax", map[string]string{"src/a.ts": a + "\n\tconst é = 1 2;\n"}, Options{Files: []string{"src/a.ts"}}, agent.Compile,
			[]string{"src/a.ts:2:14: ", "    2 | \tconst é = 1 2;\n      | \t            ^"}},
		{"syntax in an import", map[string]string{"a.ts": `import "./b"; ` + a, "b.ts": "let x =\n\n;"}, Options{Files: []string{"a.ts"}}, agent.Compile, []string{"b.ts:3:1: "}},
		{"missing package", map[string]string{"sub/a.ts": `import ms from "ms/lib"; export const m = ms;` + a, "package.json": "{}"}, Options{Files: []string{"sub/a.ts"}}, agent.Compile,
			[]string{"sub/a.ts:1:16: ", `"ms/lib"`, "npm install ms` in DIR"}},
		{"missing scoped package", map[string]string{"a.ts": `import ms from "@x/y/z"; export const m = ms;` + a}, Options{Files: []string{"a.ts"}}, agent.Compile, []string{"npm install @x/y` in DIR"}},
		{"missing file", map[string]string{"a.ts": `import x from "./nope"; export const m = x;` + a}, Options{Files: []string{"a.ts"}}, agent.Compile, []string{"a.ts:1:15: ", `"./nope"`}},
		{"missing export", map[string]string{"a.js": `import { x } from "./b";` + a + ";x()", "b.js": "export const y = 1"}, Options{Files: []string{"a.js"}}, agent.Compile, []string{"a.js:1:10: ", `"x"`}},
		{"node module", map[string]string{"a.ts": `import { readFile } from "fs/promises"; export const r = readFile;` + a}, Options{Files: []string{"a.ts"}}, agent.Compile, []string{"agentd does not provide Node's fs module"}},
		{"no class", map[string]string{"a.ts": `const x = 1`}, Options{Files: []string{"a.ts"}}, agent.Compile, []string{"a.ts: declares no agent class", "extends Agent"}},
		{"no class in several", map[string]string{"a.ts": `export const x = 1`, "b.ts": "export class E extends Error {}"}, Options{Files: []string{"a.ts", "b.ts"}}, agent.Compile,
			[]string{"a.ts: declares no agent class", "b.ts: declares no agent class"}},
		{"anonymous default", map[string]string{"a.ts": `import { Agent } from "agents"; export default class extends Agent {}`}, Options{Files: []string{"a.ts"}}, agent.Compile, []string{"a.ts: ", "has no name"}},
		{"same class twice", map[string]string{"a.ts": a, "b.ts": a}, Options{Files: []string{"a.ts", "b.ts"}}, agent.Compile, []string{"b.ts: class A is exported by a.ts as well", "rename"}},
		{"same prelude name twice", map[string]string{"a.ts": a, "b.ts": "export const x = 1", "c.ts": "const x = 2"}, Options{Files: []string{"a.ts"}, Prelude: []string{"b.ts", "c.ts"}}, agent.Compile,
			[]string{"c.ts: x is provided by b.ts as well"}},
		{"CommonJS prelude", map[string]string{"a.ts": a, "b.js": "module.exports = { x: 1 }"}, Options{Files: []string{"a.ts"}, Prelude: []string{"b.js"}}, agent.Compile, []string{"b.js: a prelude cannot use module.exports"}},
		{"assignment to a prelude's name", map[string]string{"a.ts": a + "\nx = 2;", "b.ts": "export let x = 1"}, Options{Files: []string{"a.ts"}, Prelude: []string{"b.ts"}}, agent.Compile, []string{"a.ts:2:1: ", `"x"`}},
		{"no such file", nil, Options{Files: []string{"nope.ts"}}, agent.Invalid, []string{"nope.ts: cannot be read: no such file"}},
		{"folder", map[string]string{"d.ts/x": ""}, Options{Files: []string{"d.ts"}}, agent.Invalid, []string{"d.ts: cannot be read"}},
		{"not a script", map[string]string{"a.py": ""}, Options{Files: []string{"a.py"}}, agent.Invalid, []string{"a.py: is not TypeScript or JavaScript", ".mjs"}},
		{"nothing", nil, Options{}, agent.Invalid, []string{"no file to deploy"}},
		{"file and prelude", map[string]string{"a.ts": a}, Options{Files: []string{"a.ts"}, Prelude: []string{"./a.ts"}}, agent.Invalid, []string{"choose one"}},
		{"unknown data", map[string]string{"a.ts": `import x from "./x.png"; export const y = x;` + a, "x.png": "?"}, Options{Files: []string{"a.ts"}}, agent.Compile, []string{"a.ts:1:15: ", "x.png"}},
		{"too many files", nil, Options{Files: make([]string, MaxFiles+1)}, agent.Invalid, []string{"at most 256"}},
		{"broken json", map[string]string{"a.ts": `import x from "./x.json"; export const y = x;` + a, "x.json": "{\n \"a\": }"}, Options{Files: []string{"a.ts"}}, agent.Compile, []string{"x.json:2:7: "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, tt.files)
			tt.opts.WorkDir = dir
			e := buildError(t, tt.opts)
			wantText(t, strings.ReplaceAll(e.Error(), dir, "DIR"), tt.want...)
			if got := agent.KindOf(e); got != tt.kind {
				t.Errorf("kind = %v, want %v", got, tt.kind)
			}
			if tt.kind == agent.Compile && len(e.Inputs) == 0 {
				t.Error("the error names no inputs to watch")
			}
		})
	}
}

func TestBuild_SameClassThroughTwoFiles(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"src/index.ts":   `export * from "./counter"; export { version } from "./counter"`,
		"src/counter.ts": `import { Agent } from "agents"; export class Counter extends Agent {} export const version = 1`,
	})
	for _, files := range [][]string{{"src/index.ts", "src/counter.ts"}, {"src/counter.ts", "src/index.ts"}} {
		out := build(t, Options{WorkDir: dir, Files: files})
		wantRun(t, out, `Object.keys(exports).sort()`, `["Counter","version"]`)
		if len(out.Warnings) > 0 {
			t.Errorf("warnings: %v", out.Warnings)
		}
	}
}

func TestBuild_OddNames(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"it's \"ä\"/a b\u200b.ts":     courier,
		"it's \"ä\"/$(ops).mts":       `export const pickUp = () => 1; export const handOver = () => 2`,
		"node_modules/own/courier.ts": courier,
	})
	build(t, Options{WorkDir: dir, Files: []string{"it's \"ä\"/a b\u200b.ts"}, Prelude: []string{"it's \"ä\"/$(ops).mts"}})
	build(t, Options{WorkDir: dir, Files: []string{"node_modules/own/courier.ts"}}) // named, so not taken for a package
}

func TestBuild_FailureNamesFilesToWatch(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"a.ts": `import { Agent } from "agents"; import { b } from "./lib/b"; export class A extends Agent { b = b }`,
		"lib/b.ts": "export const b = ;", "tsconfig.json": "{}"})
	e := buildError(t, Options{WorkDir: dir, Files: []string{"a.ts"}})
	want := []string{filepath.Join(dir, "a.ts"), filepath.Join(dir, "lib/b.ts"), filepath.Join(dir, "tsconfig.json")}
	if !slices.Equal(e.Inputs, want) {
		t.Errorf("inputs = %q", e.Inputs)
	}
}

func TestBuild_BrokenTsconfig(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"a.ts": `import { Agent } from "agents"; export class A extends Agent {}`, "tsconfig.json": "{\n  \"compilerOptions\": {,}\n}"})
	e := buildError(t, Options{WorkDir: dir, Files: []string{"a.ts"}})
	wantText(t, e.Error(), "tsconfig.json:2:")
}

func TestBuild_TooLarge(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789abcdef", (placement.MaxBundleBytes/2+1024)/16)
	dir := folder(t, map[string]string{"a.ts": `import { Agent } from "agents"; import t from "./big.txt"; export class A extends Agent { t = t }`, "big.txt": big})
	e := buildError(t, Options{WorkDir: dir, Files: []string{"a.ts"}})
	wantText(t, e.Error(), "at most 32 MiB", "big.txt: 16.0 MiB")
	if agent.KindOf(e) != agent.TooLarge {
		t.Errorf("kind = %v", agent.KindOf(e))
	}
}

func TestBuild_ManyErrorsAreCut(t *testing.T) {
	t.Parallel()
	src := `import { Agent } from "agents"; export class A extends Agent {}` + "\n"
	for range MaxMessages + 7 {
		src += "export { nothing };\n"
	}
	dir := folder(t, map[string]string{"a.js": src})
	e := buildError(t, Options{WorkDir: dir, Files: []string{"a.js"}})
	if len(e.Messages) != MaxMessages || e.Dropped == 0 {
		t.Errorf("%d messages, %d dropped", len(e.Messages), e.Dropped)
	}
}

func TestBuild_LostExportIsAWarning(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{
		"a.ts": `import { Agent } from "agents"; export class A extends Agent {} export const version = 1`,
		"b.ts": `import { Agent } from "agents"; export class B extends Agent {} export const version = 2`,
	})
	out := build(t, Options{WorkDir: dir, Files: []string{"a.ts", "b.ts"}})
	wantRun(t, out, `Object.keys(exports).sort()`, `["A","B"]`)
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0].String(), "version is exported by a.ts as well") {
		t.Errorf("warnings = %v", out.Warnings)
	}
}

func TestBuild_MissingPlatformModuleIsAWarning(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"a.ts": `import { Agent } from "agents"; import { McpAgent } from "agents/mcp"; import fs from "node:fs"; import { randomUUID } from "crypto"; import unused from "node:os";
try { require("node:path") } catch {}
export class A extends Agent { x = [McpAgent, fs, randomUUID] }`})
	out := build(t, Options{WorkDir: dir, Files: []string{"a.ts"}})
	var got []string
	for _, w := range out.Warnings {
		got = append(got, w.File+": "+w.Text)
	}
	want := []string{`a.ts: agentd has no module "agents/mcp": loading the bundle will fail`, `a.ts: agentd has no module "node:fs": loading the bundle will fail`}
	if !slices.Equal(got, want) {
		t.Errorf("warnings = %q", got)
	}
}

func TestMessage_LongLineIsCutAroundTheColumn(t *testing.T) {
	t.Parallel()
	line := strings.Repeat("a", 5000) + "X" + strings.Repeat("b", 5000)
	m := Message{File: "a.js", Text: "bad"}
	m.place(3, 5000, line)
	parts := strings.Split(m.String(), "\n")
	if m.Column != 5001 || len(parts[1]) > 200 || parts[1][strings.IndexByte(parts[2], '^')] != 'X' {
		t.Errorf("message is\n%s", m)
	}
}

func TestOutput_MapIsValid(t *testing.T) {
	t.Parallel()
	out := build(t, Options{WorkDir: folder(t, map[string]string{"courier.ts": courier}), Files: []string{"courier.ts"}})
	var m sourceMap
	if err := json.Unmarshal(out.SourceMap, &m); err != nil || m.Version != 3 || !slices.Contains(m.Sources, "courier.ts") {
		t.Errorf("map %s: %v", out.SourceMap, err)
	}
	if !bytes.HasPrefix(out.Code, []byte(wrapperHead)) || !bytes.HasSuffix(bytes.TrimSpace(out.Code), []byte(wrapperTail)) {
		t.Errorf("code is not one function expression:\n%s", out.Code)
	}
}
