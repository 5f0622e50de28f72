package jsagent

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/placement"
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
	w := deployed(b, b.TempDir(), smallBundle)
	b.Cleanup(w.close)
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

// BenchmarkWake is the first call of an agent that hibernated.
func BenchmarkWake(b *testing.B) {
	w := deployed(b, b.TempDir(), smallBundle)
	b.Cleanup(w.close)
	const agents = 64
	for n := range agents {
		w.call(fmt.Sprintf("Bench/%d", n), "nothing")
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n%agents == 0 {
			b.StopTimer()
			for w.host.Live() > 0 {
				w.host.EvictIdle(agents)
				runtime.Gosched()
			}
			b.StartTimer()
		}
		if _, err := w.try(fmt.Sprintf("Bench/%d", n%agents), "nothing"); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// smallBundle is what `agentd deploy` makes of a class that uses nothing but Agent.
var smallBundle = placement.Bundle{Code: []byte(`(function (exports, require, module) {
var __defProp = Object.defineProperty;
var __getOwnPropDesc = Object.getOwnPropertyDescriptor;
var __getOwnPropNames = Object.getOwnPropertyNames;
var __hasOwnProp = Object.prototype.hasOwnProperty;
var __name = (target, value) => __defProp(target, "name", { value, configurable: true });
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};
var __copyProps = (to, from, except, desc) => {
  if (from && typeof from === "object" || typeof from === "function") {
    for (let key of __getOwnPropNames(from))
      if (!__hasOwnProp.call(to, key) && key !== except)
        __defProp(to, key, { get: () => from[key], enumerable: !(desc = __getOwnPropDesc(from, key)) || desc.enumerable });
  }
  return to;
};
var __toCommonJS = (mod) => __copyProps(__defProp({}, "__esModule", { value: true }), mod);

// agentd:entry
var agentd_entry_exports = {};
__export(agentd_entry_exports, {
  Bench: () => Bench
});
module.exports = __toCommonJS(agentd_entry_exports);

// src/bench.ts
var import_agents = require("agents");
var _Bench = class _Bench extends import_agents.Agent {
  onStart() { this.sql` + "`CREATE TABLE IF NOT EXISTS c (id INTEGER PRIMARY KEY, n INTEGER)`" + `; }
  nothing() {}
  increment() { this.sql` + "`INSERT INTO c VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1`" + `; }
};
__name(_Bench, "Bench");
var Bench = _Bench;
})`)}
