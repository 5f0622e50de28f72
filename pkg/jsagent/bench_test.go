package jsagent

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"agentd/pkg/agent"
)

const benchSource = `
exports.Bench = class Bench extends Agent {
  initialState = { count: 0 };
  nothing() {}
  up() { this.sql` + "`CREATE TABLE IF NOT EXISTS c (id INTEGER PRIMARY KEY, n INTEGER)`" + `; }
  upsert() { this.sql` + "`INSERT INTO c VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1`" + `; }
  increment() { this.setState({ count: this.state.count + 1 }); return this.state.count; }
  async fiber() { await this.runFiber("f", async (ctx) => { ctx.stash({ step: 1 }); this.setState({ count: 1 }); }); }
};`

func benchWorld(b *testing.B) *world {
	b.Helper()
	w := newWorld(b, b.TempDir(), benchSource)
	b.Cleanup(w.close)
	return w
}

func benchCall(b *testing.B, method string, prepare ...string) {
	w := benchWorld(b)
	for _, m := range prepare {
		w.call("Bench", m)
	}
	call := agent.Call{Agent: id("Bench"), Method: method}
	w.call("Bench", method)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.host.Call(context.Background(), call); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCall_Empty(b *testing.B)    { benchCall(b, "nothing") }
func BenchmarkCall_Upsert(b *testing.B)   { benchCall(b, "upsert", "up") }
func BenchmarkCall_SetState(b *testing.B) { benchCall(b, "increment") }
func BenchmarkCall_Fiber(b *testing.B)    { benchCall(b, "fiber") }

// BenchmarkActivate is the first call of an agent that has no file.
func BenchmarkActivate(b *testing.B) {
	w := benchWorld(b)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		if _, err := w.try(fmt.Sprintf("Bench/%d", n), "nothing"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLiveBytes reports what one live agent with a small class keeps.
func BenchmarkLiveBytes(b *testing.B) {
	w := benchWorld(b)
	w.call("Bench", "nothing")
	const agents = 500
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range agents {
		w.call(fmt.Sprintf("Bench/%d", i), "increment")
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if w.host.Live() < agents {
		b.Fatalf("only %d agents are live", w.host.Live())
	}
	for b.Loop() {
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/agents, "B/agent")
}

func BenchmarkLoad(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Load(b.Context(), wrap(benchSource), LoadOptions{TimeLimit: time.Second}); err != nil {
			b.Fatal(err)
		}
	}
}
