package jsagent

import (
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

const callSource = `
class Base extends Agent { inherited() { return "from base"; } }
exports.Counter = class Counter extends Base {
  n = 0;
  arrow = () => 1;
  increment(by = 1) { this.n += by; return this.n; }
  async later(x) { await new Promise((d) => setTimeout(d, 50)); return x; }
  nothing() {}
  nothingLater() { return Promise.resolve(); }
  thenable() { return { then(done) { done("thenned"); } }; }
  all(...args) { return args; }
  boom() { inner(); }
  async boomLater() { await null; throw new TypeError("too late"); }
  boomValue() { throw "a string"; }
  cycle() { const o = { a: {} }; o.a.b = o; return o; }
  big() { return { x: [1n] }; }
  fn() { return () => 1; }
  date() { return new Date(0); }
  _private() { return 1; }
  get prop() { throw new Error("a getter was triggered"); }
  onStart() {}
  fetch() {}
  alarm() {}
  state2() { return this.hook; }
  queueIt() { return this.queue("x"); }
  every() { return this.scheduleEvery(1, "x"); }
  workflow() { return this.runWorkflow("X", {}); }
  socket() { return this.ctx.acceptWebSocket({}); }
  who() { return [this.name, this.ctx.id.name, this.ctx.id.toString(), this.ctx.id.equals(this.env.COUNTER.idFromName(this.name)), this.env.GREETING]; }
  envKeys() { return Object.keys(this.env); }
  unhandled() { Promise.reject(new Error("nobody cares")); return "ok"; }
  spin() { for (;;) {} }
};
function inner() {
  throw new RangeError("out of range");
}`

func TestCall_Values(t *testing.T) {
	inWorld(t, callSource, func(w *world) {
		w.expect("1", "Counter", "increment")
		w.expect("6", "Counter", "increment", 5)
		w.expect(`"from base"`, "Counter", "inherited")
		w.expect("", "Counter", "nothing")
		w.expect("", "Counter", "nothingLater")
		w.expect(`"thenned"`, "Counter", "thenable")
		w.expect(`{"a":[1,null]}`, "Counter", "later", map[string]any{"a": []any{1, nil}})
		w.expect(`[1,"ü",null,{"__proto__":1}]`, "Counter", "all", 1, "ü", nil, map[string]any{"__proto__": 1})
		w.expect(`"1970-01-01T00:00:00.000Z"`, "Counter", "date")
		w.expect(`["a","a","61",true,"hello"]`, "Counter", "who")
		w.expect(`["COUNTER","Counter","GREETING"]`, "Counter", "envKeys")
	})
}

func TestCall_WhatMayBeCalled(t *testing.T) {
	inWorld(t, callSource, func(w *world) {
		for _, name := range []string{"arrow", "n", "_private", "prop", "onStart", "fetch", "alarm", "constructor", "__proto__",
			"toString", "sql", "setState", "state", "runFiber", "hasOwnProperty", "queue", "scheduleEvery"} {
			w.fails(agent.NotCallable, `method "`+name+`" of Counter is private or inherited`, "Counter", name)
		}
		for _, name := range []string{"incremnt", "_nothing", "webSocketMessage", "toJSON", "then"} {
			w.fails(agent.UnknownMethod, `class Counter has no method "`+name+`"; it has all, big`, "Counter", name)
		}
		w.fails(agent.UnknownMethod, `Did you mean "increment"?`, "Counter", "incremnt")
	})
}

func TestCall_Errors(t *testing.T) {
	inWorld(t, callSource, func(w *world) {
		e := w.fails(agent.Exception, "out of range", "Counter", "boom")
		if e.Name != "RangeError" || e.Msg != "out of range" {
			t.Errorf("name %q, message %q", e.Name, e.Msg)
		}
		lines := strings.Split(e.Stack, "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], "at inner (bundle.js:35:") || !strings.Contains(lines[1], "boom") {
			t.Errorf("the stack is not the author's:\n%s", e.Stack)
		}
		e = w.fails(agent.Exception, "too late", "Counter", "boomLater")
		if e.Name != "TypeError" || !strings.Contains(e.Stack, "boomLater") {
			t.Errorf("name %q, stack %q", e.Name, e.Stack)
		}
		w.fails(agent.Exception, "a string", "Counter", "boomValue")
		w.fails(agent.Unserializable, "cycle", "Counter", "cycle")
		w.fails(agent.Unserializable, "BigInt", "Counter", "big")
		w.fails(agent.Unserializable, "function", "Counter", "fn")
		w.expect("1", "Counter", "increment") // still the same instance, still alive
	})
}

func TestCall_GapsNameTheFeature(t *testing.T) {
	inWorld(t, callSource, func(w *world) {
		w.fails(agent.Exception, "this.queue is not available in agentd yet", "Counter", "queueIt")
		w.fails(agent.Exception, "this.scheduleEvery is not available", "Counter", "every")
		w.fails(agent.Exception, "this.runWorkflow is not available", "Counter", "workflow")
		w.fails(agent.Exception, "ctx.acceptWebSocket is not available", "Counter", "socket")
	})
}

func TestCall_UnhandledRejectionIsLoggedAndHarmless(t *testing.T) {
	inWorld(t, callSource, func(w *world) {
		w.expect(`"ok"`, "Counter", "unhandled")
		w.expect("1", "Counter", "increment")
		if log := w.log.String(); !strings.Contains(log, "nobody cares") || !strings.Contains(log, "bundle.js") {
			t.Errorf("the log has no line with a stack:\n%s", log)
		}
	})
}

func TestCall_InterleavesAtAwait(t *testing.T) {
	inWorld(t, `exports.A = class A extends Agent {
		log = [];
		async slow() { this.log.push("slow begins"); await new Promise((d) => setTimeout(d, 100)); this.log.push("slow ends"); return this.log; }
		quick() { this.log.push("quick"); }
	};`, func(w *world) {
		done := make(chan string)
		go func() {
			out, _ := w.try("A", "slow")
			done <- out
		}()
		time.Sleep(10 * time.Millisecond)
		w.call("A", "quick")
		if got := <-done; got != `["slow begins","quick","slow ends"]` {
			t.Errorf("events ran as %s", got)
		}
	})
}

func TestCall_IdleInstanceHibernatesAndBusyOneDoesNot(t *testing.T) {
	inWorld(t, `exports.A = class A extends Agent {
		n = 0;
		up() { return ++this.n; }
		async hold() { this.release = await this.keepAlive(); }
		letGo() { this.release(); this.release(); }
	};`, func(w *world) {
		w.expect("1", "A", "up")
		time.Sleep(time.Minute)
		w.expect("1", "A", "up")
		w.call("A", "hold")
		if _, resume := w.wakeAt("A"); !resume {
			t.Error("an agent that is kept alive is not resumed after a crash")
		}
		time.Sleep(10 * time.Minute)
		w.expect("2", "A", "up")
		w.call("A", "letGo")
		time.Sleep(time.Minute)
		w.expect("1", "A", "up")
	})
}
