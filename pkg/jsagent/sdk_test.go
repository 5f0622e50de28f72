package jsagent

import (
	"strings"
	"testing"
	"time"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
)

// stopwatch is a governor that gives every turn the same wall time.
type stopwatch time.Duration

type stopwatchTurn struct {
	limit     time.Duration
	interrupt func(error)
	timer     *time.Timer
}

func (s stopwatch) Turn(interrupt func(error)) actor.Turn {
	return &stopwatchTurn{limit: time.Duration(s), interrupt: interrupt}
}

func (t *stopwatchTurn) Begin() {
	t.timer = time.AfterFunc(t.limit, func() {
		t.interrupt(&agent.Error{Op: "turn", Kind: agent.CPULimit, Msg: "the turn took too long"})
	})
}

func (t *stopwatchTurn) End() bool {
	t.timer.Stop()
	return false
}

// Real time: a loop that spins lets no fake time pass.
func TestInterrupt_StopsTheTurnAndLosesItsWrites(t *testing.T) {
	w := newWorld(t, t.TempDir(), `exports.A = class A extends Agent {
		spin() { this.setState("lost"); try { for (;;) {} } catch (e) { this.setState("caught"); } finally { this.setState("finally"); } }
		async spinLater() { await null; for (;;) {} }
		look() { return [this.state ?? null]; }
	};`)
	w.close()
	w.governor = stopwatch(300 * time.Millisecond)
	w.open()
	defer w.close()
	w.fails(agent.CPULimit, "the turn took too long", "A", "spin")
	w.expect(`[null]`, "A", "look")
	w.fails(agent.CPULimit, "the turn took too long", "A", "spinLater")
	w.expect(`[null]`, "A", "look")
}

func TestSDK_Exports(t *testing.T) {
	inWorld(t, `
		const sdk = require("agents");
		// What a bundler makes of a namespace import.
		const wrapped = Object.create(Object.getPrototypeOf(sdk));
		class Base extends wrapped.Agent { inherited() {} overridden() {} }
		const mark = (o, key, m) => Object.defineProperty(o, key, { value: sdk.callable(m)(o[key], {}) });
		mark(Base.prototype, "inherited", { description: "d" }); mark(Base.prototype, "overridden");
		exports.A = class A extends Base {
			overridden() {}
			callables() { return [...this.getCallableMethods()]; }
			kebab() { return ["MyAgent", "TestOAuthAgent", "MY_AGENT", "x_"].map(sdk.camelCaseToKebabCase); }
			constants() { return [sdk.MessageType.CF_AGENT_STATE, sdk.MessageType.RPC, sdk.DEFAULT_AGENT_STATIC_OPTIONS.retry, sdk.__esModule, sdk.unstable_callable === sdk.callable, sdk.nothing === undefined]; }
			stream() {
				const frames = [], s = new sdk.StreamingResponse({ send: (f) => frames.push(JSON.parse(f)) }, "7");
				return [s.send(1), s.end(2), s.send(3), s.end(), s.isClosed, frames];
			}
			sqlError() { const e = new sdk.SqlError("SELECT", new Error("why")); return [e.name, e.message, e.query, e instanceof Error]; }
			inherits() { return [this.onStart === wrapped.Agent.prototype.onStart, "runFiber" in this, Object.keys(this).sort(), this instanceof DurableObject]; }
			own() { this.queue = 5; this.onStart = () => 6; return [this.queue, this.onStart()]; }
			superCall() { return super.getCallableMethods().size; }
			async kept() { return this.keepAliveWhile(async () => "done"); }
			send() { this.broadcast("hello"); }
		};`, func(w *world) {
		w.expect(`[["inherited",{"description":"d"}]]`, "A", "callables")
		w.expect(`["my-agent","test-o-auth-agent","my-agent","x"]`, "A", "kebab")
		w.expect(`["cf_agent_state","rpc",{"maxAttempts":3,"baseDelayMs":100,"maxDelayMs":3000},true,true,true]`, "A", "constants")
		w.expect(`[true,true,false,false,true,[{"done":false,"id":"7","result":1,"success":true,"type":"rpc"},{"done":true,"id":"7","result":2,"success":true,"type":"rpc"}]]`, "A", "stream")
		w.expect(`["SqlError","SQL query failed: why","SELECT",true]`, "A", "sqlError")
		w.expect(`[true,true,["ctx","env"],true]`, "A", "inherits")
		w.expect(`[5,6]`, "A", "own")
		w.expect(`1`, "A", "superCall")
		w.expect(`"done"`, "A", "kept")
		sub := w.host.Subscribe(id("A"), TopicBroadcast, 1)
		defer sub.Close()
		w.call("A", "send")
		if got := <-sub.C; string(got) != "hello" {
			t.Errorf("broadcast published %q", got)
		}
	})
}

func TestConsole_GoesToTheLog(t *testing.T) {
	inWorld(t, `exports.A = class A extends Agent { say() { console.warn("careful", { a: 1 }); console.debug("fine"); } };`, func(w *world) {
		w.call("A", "say")
		log := w.log.String()
		for _, text := range []string{"level=WARN", "careful", "level=DEBUG", "fine", "class=A", "agent=default/A/a"} {
			if !strings.Contains(log, text) {
				t.Errorf("the log lacks %q:\n%s", text, log)
			}
		}
	})
}

func TestAsyncLocalStorage(t *testing.T) {
	inWorld(t, `
		const { AsyncLocalStorage } = require("node:async_hooks");
		const als = new AsyncLocalStorage();
		exports.A = class A extends Agent {
			async go() { return als.run({ n: 1 }, async () => { await new Promise((d) => setTimeout(d, 5)); return [als.getStore().n, getCurrentAgent().agent === this]; }); }
		};`, func(w *world) { w.expect(`[1,true]`, "A", "go") })
}
