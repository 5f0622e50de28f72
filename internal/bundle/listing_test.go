package bundle

import (
	"slices"
	"strings"
	"testing"

	"github.com/evanw/esbuild/pkg/api"
)

func TestTopNames(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, src, want string }{
		{"declarations", `function f() {} async function g() {} function* h() {} class C {} const a = 1, b = 2; let c; var d`, "C a b c d f g h"},
		{"patterns", `const { a, b: { c = 1 }, ...rest } = x, [e, , f] = y`, "a c e f rest"},
		{"inner scopes", `function f(p) { const inner = 1; function deep() {} } { let block = 1; var hoisted = 2 } for (let i = 0;;) {}`, "f hoisted"},
		{"imports", `import d, * as ns from "x"; import { a as b } from "y"; const own = [d, ns, b]`, "own"},
		{"types", `interface I {} type T = I; declare const gone: number; declare function lost(): void; enum E { a } const enum F { b } namespace N { export const x = 1 }`, "E F N"},
		{"literals", "const a = `${`const z = 1`}\nconst y = 2`, b = /const x = 3/; // const w = 4\n/* let v */ 'var u'", "a b"},
		{"unicode", `const größe = 1, $_ = 2; let λ`, "$_ größe λ"},
		{"nothing", `globalThis.x = 1`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := topNames(&source{path: "/p/x.ts", name: "x.ts", text: tt.src})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			if strings.Join(got, " ") != tt.want {
				t.Errorf("names = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestListing_IsAgent(t *testing.T) {
	t.Parallel()
	const src = `import { Agent, SqlError } from "agents";
import Base, * as lib from "./lib";
class A extends Agent {}
class B extends A {}
class C extends lib.Deep.Base {}
class D extends Base {}
class E extends Unknown {}
class F extends mixin(Object) {}
class G {}
class H extends Error {}
class I extends H {}
class J extends SqlError {}
class K extends null {}
class L extends G {}
class M extends N {}
class N extends M {}
const O = class extends Agent {};
const P = class Inner extends Agent {};
`
	l := readListing(printed(t, src))
	want := map[string]bool{"A": true, "B": true, "C": true, "D": true, "E": true, "F": true, "G": false, "H": false, "I": false,
		"J": false, "K": false, "L": false, "M": false, "N": false, "O": true, "P": true}
	for name, agent := range want {
		if l.isAgent(name) != agent {
			t.Errorf("isAgent(%s) = %v; it extends %+v", name, !agent, l.bases[name])
		}
	}
	if len(l.names) != len(want) {
		t.Errorf("classes = %q", l.names)
	}
}

func printed(t testing.TB, src string) string {
	t.Helper()
	r := api.Transform(src, api.TransformOptions{Loader: api.LoaderTS, Target: api.ESNext, Format: api.FormatESModule,
		Charset: api.CharsetUTF8, LegalComments: api.LegalCommentsNone, Supported: outlineFeatures()})
	if len(r.Errors) > 0 {
		t.Fatal(r.Errors)
	}
	return string(r.Code)
}

func FuzzReadListing(f *testing.F) {
	f.Add("import { A as B } from \"x\";\nclass C extends B {\n}\nexport {\n  C\n};\n")
	f.Add("@d({\n})\nclass A extends (x, y).z {")
	f.Add("var a = b;\nvar b = a;\nexport { a as default")
	f.Add("import \"")
	f.Fuzz(func(t *testing.T, code string) {
		l := readListing(code)
		for _, name := range l.names {
			l.isAgent(name)
			l.exported(name)
		}
		for name := range l.aliases {
			l.isAgent(name)
		}
	})
}

// FuzzTopNames holds that a name that is said to be at top level can be exported.
func FuzzTopNames(f *testing.F) {
	f.Add("const { a, b: [c] } = x; function f() {}")
	f.Add("import a, { b as c } from 'x'; class D extends a {}")
	f.Add("const s = `${`let q`}`; var r = /let z/; @dec class E {}")
	f.Add("let yield_ = 1; label: for (;;) { var v }")
	f.Fuzz(func(t *testing.T, src string) {
		s := &source{path: "/p/x.ts", name: "x.ts", text: src}
		names, err := topNames(s)
		if err != nil || len(names) == 0 {
			return
		}
		if api.Transform(src+"\nexport {};", api.TransformOptions{Loader: api.LoaderTS}).Errors != nil {
			return // holds what no module may: an octal literal, with
		}
		r := api.Transform(src+"\nexport { "+strings.Join(names, ", ")+" };", api.TransformOptions{Loader: api.LoaderTS, Target: api.ESNext})
		if len(r.Errors) > 0 {
			t.Fatalf("%q of %q cannot be exported: %v", names, src, r.Errors)
		}
	})
}

func FuzzFreeNames(f *testing.F) {
	f.Add("op(); const x = { op }")
	f.Add("const op = 1; op")
	f.Fuzz(func(t *testing.T, src string) {
		names, err := freeNames(src, "/p/x.ts", []string{"op", "module"})
		if err != nil {
			return
		}
		for _, name := range names {
			if !strings.Contains(src, name) {
				t.Fatalf("%q is not in %q", name, src)
			}
		}
	})
}
