package sandbox

import (
	"runtime"
	"strings"
	"testing"

	"github.com/dop251/goja"
)

func BenchmarkIsolate_New(b *testing.B) {
	loop := newTestLoop()
	b.ReportAllocs()
	for b.Loop() {
		i, err := New(Config{Scheduler: loop})
		if err != nil {
			b.Fatal(err)
		}
		i.Close()
	}
}

func BenchmarkIsolate_EmptyDo(b *testing.B) {
	w := newWorld(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Do(func(*goja.Runtime) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIsolate_JSON1KiB(b *testing.B) {
	w := newWorld(b, nil)
	raw := []byte(`{"items":[` + strings.Repeat(`{"id":12345,"name":"some name","tags":["a","b"],"ok":true},`, 17) + `null]}`)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		v, err := w.FromJSON(raw)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := w.ToJSON(v); err != nil {
			b.Fatal(err)
		}
	}
}

// memoryPrograms are what isolates hold in memory tests.
var memoryPrograms = map[string]string{
	"empty": ``,
	"small": `globalThis.C = class { constructor() { this.n = 0 } async add(k) { this.n += k; return [this.n].map(x => x) } }; new C().add(1)`,
	"platform": `globalThis.C = class { async f() { const u = new URL("http://a/b"); await new Promise(r => setTimeout(r, 1)); console.log(/x/.test("x"), JSON.stringify({ a: 1 })); return new Response("x") } };
		new C().f(); crypto.randomUUID(); new TextEncoder().encode("x"); new AbortController(); structuredClone({}); [3, 1].sort().join()`,
}

func bytesPerIsolate(tb testing.TB, source string) float64 {
	p, err := Compile("m.js", []byte(source), nil)
	if err != nil {
		tb.Fatal(err)
	}
	const n = 200
	loop := newTestLoop()
	live := make([]*Isolate, n)
	make1 := func() *Isolate {
		i, err := New(Config{Scheduler: loop})
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := i.Run(p); err != nil {
			tb.Fatal(err)
		}
		return i
	}
	make1().Close() // what is made once per process
	before := liveHeap()
	for k := range live {
		live[k] = make1()
	}
	after := liveHeap()
	for _, i := range live {
		i.Close()
	}
	runtime.KeepAlive(live)
	return float64(after-before) / n
}

func BenchmarkIsolate_Memory(b *testing.B) {
	for name, source := range memoryPrograms {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(bytesPerIsolate(b, source), "bytes/isolate")
			}
		})
	}
}

func TestIsolate_Memory(t *testing.T) {
	for name, most := range map[string]float64{"empty": 40 << 10, "small": 60 << 10, "platform": 200 << 10} {
		if got := bytesPerIsolate(t, memoryPrograms[name]); got > most {
			t.Errorf("%s: %.0f bytes per isolate; at most %.0f", name, got, most)
		} else {
			t.Logf("%s: %.0f bytes per isolate", name, got)
		}
	}
}
