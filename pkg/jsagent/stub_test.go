package jsagent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

const stubSource = `
exports.Caller = class Caller extends Agent {
  async add(n) { return this.env.Target.getByName("t").add(n); }
  async order() { const s = this.env.Target.get(this.env.Target.idFromName("o")); await Promise.all([1, 2, 3, 4, 5].map((n) => s.add(n))); return s.seen(); }
  async needsSecond() { const s = this.env.Target.getByName("n"); const first = s.waitForRelease(); await s.release(); return first; }
  async errors(method, ...args) { try { await this.env.Target.getByName("e")[method](...args); } catch (e) { return [e.name, e.message, e.remote, e.retryable, e.overloaded]; } }
  async escapes() { await this.env.Target.getByName("e").fail(); }
  async undef() { try { await this.env.TARGET.getByName("e").add(undefined); } catch (e) { return e.message; } }
  async func() { try { await this.env.TARGET.getByName("e").add(() => 1); } catch (e) { return e.message; } }
  async fetchIt() { try { await this.env.TARGET.getByName("e").fetch("http://x"); } catch (e) { return e.message; } }
  async awaited() { const s = await this.env.TARGET.getByName("e"); return [typeof s, s.name, s.then === undefined, JSON.stringify(s) !== undefined]; }
  async self() { return (await this.env.Caller.getByName(this.name).plain()) + 1; }
  plain() { return 41; }
  ids() { const n = this.env.Target, i = n.idFromName("ü"), u = n.newUniqueId(); return [n.idFromString(i.toString()).name, i.equals(n.idFromString(i.toString())), u.equals(n.newUniqueId()), n.idFromString(u.toString()).equals(u), u.toString().length]; }
  async byName() { const s = await getAgentByName(this.env.Target, "g"); return s.started(); }
  async gate() { this.setState("before"); await this.env.Target.getByName("t").add(1); return "ok"; }
  same() { return this.env.Target === this.env.TARGET; }
  async badName() { try { this.env.Target.getByName(""); } catch (e) { return e.message; } }
  current() { const a = getCurrentAgent(); return a.agent === this; }
  async currentLater() {
    const seen = [];
    const look = () => seen.push(getCurrentAgent().agent === this);
    await null; look();
    await new Promise((d) => setTimeout(() => { look(); d(); }, 5)); look();
    await this.plain2().then(look);
    await this.env.Target.getByName("t").add(0); look();
    return seen;
  }
  async plain2() { await new Promise((d) => setTimeout(d, 1)); }
  onStart() { this.inStart = getCurrentAgent().agent === this; }
  startContext() { return [this.inStart, outside === undefined]; }
};
const outside = getCurrentAgent().agent;
exports.Target = class Target extends Agent {
  list = [];
  async onStart() { await new Promise((d) => setTimeout(d, 20)); this.ready = true; if (this.name === "broken") throw new Error("cannot start"); }
  add(n) { this.list.push(n); return this.list.reduce((a, b) => a + b, 0); }
  seen() { return this.list; }
  waitForRelease() { return new Promise((d) => { this.go = d; }); }
  release() { this.go("released"); }
  fail() { throw new TypeError("remote trouble"); }
  started() { return this.ready; }
};`

func TestStub_Calls(t *testing.T) {
	inWorld(t, stubSource, func(w *world) {
		w.expect(`2`, "Caller", "add", 2)
		w.expect(`5`, "Caller", "add", 3)
		w.expect(`[1,2,3,4,5]`, "Caller", "order")
		w.expect(`"released"`, "Caller", "needsSecond")
		w.expect(`42`, "Caller", "self")
		w.expect(`"ok"`, "Caller", "gate")
		w.expect(`true`, "Caller", "same")
		w.expect(`["ü",true,false,true,64]`, "Caller", "ids")
		w.expect(`["object","e",true,true]`, "Caller", "awaited")
	})
}

func TestStub_Errors(t *testing.T) {
	inWorld(t, stubSource, func(w *world) {
		w.expect(`["TypeError","remote trouble",true,false,false]`, "Caller", "errors", "fail")
		out := w.call("Caller", "errors", "nope")
		if !strings.HasPrefix(out, `["Error","class Target has no method`) || !strings.HasSuffix(out, `,true,false,false]`) {
			t.Errorf("an unknown method gives %s", out)
		}
		e := w.fails(agent.Exception, "remote trouble", "Caller", "escapes")
		if e.Name != "TypeError" || e.Agent.Class != "Caller" {
			t.Errorf("escaped as %q of %v", e.Name, e.Agent)
		}
		for method, text := range map[string]string{"undef": "argument 1 of Target.add is undefined", "func": "argument 1 of Target.add has no JSON form",
			"fetchIt": "fetch() on a stub of Target is not available", "badName": "is empty"} {
			if out := w.call("Caller", method); !strings.Contains(out, text) {
				t.Errorf("%s gives %s", method, out)
			}
		}
	})
}

func TestStub_GetAgentByNameWaitsForStart(t *testing.T) {
	inWorld(t, stubSource, func(w *world) { w.expect(`true`, "Caller", "byName") })
}

func TestGetCurrentAgent(t *testing.T) {
	inWorld(t, stubSource, func(w *world) {
		w.expect(`true`, "Caller", "current")
		w.expect(`[true,true,true,true,true]`, "Caller", "currentLater")
		w.expect(`[true,true]`, "Caller", "startContext")
	})
}

func TestStart_FailureIsTriedAgain(t *testing.T) {
	inWorld(t, stubSource, func(w *world) {
		for range 2 {
			w.fails(agent.Exception, "cannot start", "Target/broken", "started")
		}
	})
}

const blockSource = `
exports.B = class B extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.blockConcurrencyWhile(async () => { await new Promise((d) => setTimeout(d, 50)); this.ready = true; if (ctx.id.name === "bad") throw new Error("no start"); });
  }
  look() { return this.ready; }
  async block(ms) { return await this.ctx.blockConcurrencyWhile(async () => { this.inside = true; await new Promise((d) => setTimeout(d, ms)); this.inside = false; return "done"; }); }
  isInside() { return this.inside; }
  stop() { this.ctx.storage.kv.put("x", 1); this.ctx.abort("enough"); this.ctx.storage.kv.put("y", 1); }
  read() { return [this.ctx.storage.kv.get("x") ?? null, this.ctx.storage.kv.get("y") ?? null]; }
  waits() { this.ctx.waitUntil(new Promise((d) => setTimeout(d, 60000)).then(() => this.ctx.storage.put("x", "late"))); this.ctx.waitUntil(Promise.reject(new Error("background"))); }
};`

func TestBlockConcurrencyWhile(t *testing.T) {
	inWorld(t, blockSource, func(w *world) {
		w.expect(`true`, "B", "look")
		w.fails(agent.Exception, "no start", "B/bad", "look")
		done := make(chan string)
		go func() {
			out, err := w.try("B", "block", 1000)
			done <- fmt.Sprint(out, err)
		}()
		time.Sleep(10 * time.Millisecond)
		began := time.Now()
		w.expect(`false`, "B", "isInside")
		if d := time.Since(began); d < 900*time.Millisecond {
			t.Errorf("a call was let in after %v", d)
		}
		if got := <-done; got != `"done"<nil>` {
			t.Errorf("block gives %s", got)
		}
		w.fails(agent.Reset, "took longer than 30s", "B", "block", 40000)
		w.expect(`true`, "B", "look")
	})
}

func TestAbortAndWaitUntil(t *testing.T) {
	inWorld(t, blockSource, func(w *world) {
		w.fails(agent.Reset, "enough", "B", "stop")
		w.expect(`[null,null]`, "B", "read")
		w.call("B", "waits")
		time.Sleep(2 * time.Minute)
		w.expect(`["late",null]`, "B", "read")
		if !strings.Contains(w.log.String(), "background") {
			t.Error("the rejection of a waitUntil is not logged")
		}
	})
}
