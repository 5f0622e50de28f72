package jsagent

import (
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

// The program of the interface's documentation: its second step waits for 20 s.
const snippetSource = `
let steps = [];
async function expensiveOperation() { steps.push("one"); return "s1"; }
async function anotherExpensiveOperation(s) { steps.push("two"); await new Promise((d) => setTimeout(d, 20000)); return s + "+s2"; }
exports.MyAgent = class MyAgent extends Agent {
  async doWork() {
    await this.runFiber("my-task", async (ctx) => {
      const step1 = await expensiveOperation();
      ctx.stash({ step1 });
      const step2 = await anotherExpensiveOperation(step1);
      this.setState({ ...this.state, result: step2 });
    });
  }
  start() { this.doWork().catch(() => {}); }
  async startAndThrow() { try { await this.runFiber("my-task", async () => { throw new TypeError("mine"); }); } catch (e) { return [e.name, e.message]; } }
  async onFiberRecovered(ctx) {
    this.recovered = ctx;
    if (ctx.name !== "my-task") return;
    const { step1 } = ctx.snapshot ?? {};
    if (step1) {
      const step2 = await anotherExpensiveOperation(step1);
      this.setState({ ...this.state, result: step2 });
    }
  }
  report() { return { state: this.state, steps, recovered: this.recovered && { ...this.recovered, id: this.recovered.id.length, createdAt: this.recovered.createdAt > 0 } }; }
  rows() { return this.sql` + "`SELECT name, snapshot FROM cf_agents_runs`" + `; }
};`

func TestFiber_SnippetRunsToItsEnd(t *testing.T) {
	inWorld(t, snippetSource, func(w *world) {
		w.call("MyAgent", "doWork")
		w.expect(`{"state":{"result":"s1+s2"},"steps":["one","two"]}`, "MyAgent", "report")
		w.expect(`[]`, "MyAgent", "rows")
		if at, resume := w.wakeAt("MyAgent"); !at.IsZero() || resume {
			t.Errorf("a finished fiber leaves a wake: %v %v", at, resume)
		}
	})
}

func TestFiber_SnippetSurvivesACrash(t *testing.T) {
	inWorld(t, snippetSource, func(w *world) {
		w.call("MyAgent", "start")
		w.expect(`[{"name":"my-task","snapshot":"{\"step1\":\"s1\"}"}]`, "MyAgent", "rows")
		if _, resume := w.wakeAt("MyAgent"); !resume {
			t.Fatal("an interrupted agent would not be resumed")
		}
		w.crash()
		if n := w.wakeDue(2 * time.Minute); n == 0 {
			t.Fatal("nothing woke the agent")
		}
		w.expect(`{"state":{"result":"s1+s2"},"steps":[]}`, "MyAgent", "report") // unloaded since
		w.expect(`[]`, "MyAgent", "rows")
	})
}

func TestFiber_RecoveryComesBeforeTheFirstCall(t *testing.T) {
	inWorld(t, snippetSource, func(w *world) {
		w.call("MyAgent", "start")
		w.crash()
		began := time.Now()
		w.expect(`{"state":{"result":"s1+s2"},"steps":["two"],"recovered":{"id":21,"name":"my-task","snapshot":{"step1":"s1"},"createdAt":true,"recoveryReason":"interrupted"}}`, "MyAgent", "report")
		if d := time.Since(began); d < 20*time.Second {
			t.Errorf("the call was answered after %v, before the hook had ended", d)
		}
	})
}

func TestFiber_ThrowIsNotRecovered(t *testing.T) {
	inWorld(t, snippetSource, func(w *world) {
		w.expect(`["TypeError","mine"]`, "MyAgent", "startAndThrow")
		w.expect(`[]`, "MyAgent", "rows")
		w.crash()
		w.expect(`{"steps":[]}`, "MyAgent", "report")
	})
}

const fiberSource = `
exports.F = class F extends Agent {
  static options = { keepAliveIntervalMs: 30000, fiberRecoveryMaxAgeMs: 3600000 };
  fieldsVisible = "yes"; log = [];
  onStart() { this.started = true; }
  async onFiberRecovered(ctx) {
    this.log.push([ctx.name, ctx.snapshot, this.fieldsVisible, this.started === true, ctx.status ?? null]);
    if (ctx.name === "poison") { this.sql` + "`CREATE TABLE IF NOT EXISTS tries (at INTEGER)`; this.sql`INSERT INTO tries VALUES (${Date.now()})`" + `; throw new Error("not today"); }
    if (ctx.name === "fixed") return { status: "completed", snapshot: { fixed: true } };
  }
  hang(name, snapshot) { this.runFiber(name, async (ctx) => { ctx.stash(snapshot); await new Promise(() => {}); }); }
  tries() { return this.sql` + "`SELECT at FROM tries ORDER BY at`.map((r) => r.at)" + `; }
  looks() { return this.log; }
  rows() { return this.sql` + "`SELECT name, snapshot FROM cf_agents_runs`" + `; }
  async interleaved() {
    const work = (name) => this.runFiber(name, async () => {
      for (let i = 0; i < 3; i++) { this.stash({ name, i }); await new Promise((d) => setTimeout(d, name === "x" ? 7 : 5)); }
      this.stash({ name, i: "end" });
      const own = this.sql` + "`SELECT snapshot FROM cf_agents_runs WHERE name = ${name}`" + `;
      return own[0].snapshot;
    });
    return Promise.all([work("x"), work("y")]);
  }
  outside() { try { this.stash(1); } catch (e) { return e.message; } }
  async context() {
    return this.runFiber("c", async (ctx) => {
      const seen = [ctx.id.length, ctx.snapshot, ctx.signal.aborted, ctx.signal instanceof AbortSignal];
      try { ctx.stash({ x: 1n }); } catch (e) { seen.push(e.name); }
      return seen;
    });
  }
  notSync() { let ran = false; this.runFiber("s", async () => { ran = true; }); return ran; }
  nested() { this.runFiber("outer", () => this.runFiber("inner", () => { this.stash("in"); return new Promise(() => {}); })); }

  async managed(options, ms = 0, fail = false) {
    return trim(await this.startFiber("job", async (ctx) => {
      this.runs = (this.runs ?? 0) + 1;
      ctx.stash({ at: "begin" });
      if (ms) await new Promise((d) => setTimeout(d, ms));
      if (fail) throw new Error("broken");
    }, options));
  }
  async abortable() { await this.startFiber("job", (ctx) => new Promise((_, no) => ctx.signal.addEventListener("abort", () => { this.reason = ctx.signal.reason; no(new Error("stopped")); })), { fiberId: "ab" }); }
  async fixedJob() { await this.startFiber("fixed", () => new Promise(() => {}), { fiberId: "fx", metadata: { m: 1 } }); }
  async lostJob() { await this.startFiber("lost", () => new Promise(() => {}), { fiberId: "lo", idempotencyKey: "lk" }); }
  async inspect(id) { const f = await this.inspectFiber(id); return f && trim(f); }
  async byKey(key) { const f = await this.inspectFiberByKey(key); return f && f.fiberId; }
  cancel(id, why) { return this.cancelFiber(id, why); }
  resolve(id, result) { return this.resolveFiber(id, result); }
  async list(o) { return (await this.listFibers(o)).map((f) => f.fiberId); }
  remove(o) { return this.deleteFibers(o); }
  count() { return [this.runs ?? 0, this.reason ?? null]; }
};
function trim(f) { const { createdAt, startedAt, settledAt, ...rest } = f; return rest; }
`

func TestFiber_HookSeesFieldsButNotOnStart(t *testing.T) {
	inWorld(t, fiberSource, func(w *world) {
		w.call("F", "hang", "plain", map[string]int{"n": 1})
		w.call("F", "hang", "other")
		w.crash()
		w.expect(`[["plain",{"n":1},"yes",false,null],["other",null,"yes",false,null]]`, "F", "looks")
		w.expect(`[]`, "F", "rows")
	})
}

func TestFiber_NestedFibersAreBothReported(t *testing.T) {
	inWorld(t, fiberSource, func(w *world) {
		w.call("F", "nested")
		w.crash()
		w.expect(`[["outer",null,"yes",false,null],["inner","in","yes",false,null]]`, "F", "looks")
	})
}

func TestFiber_HookThatThrowsIsRetriedWithGrowingGapsAndDropped(t *testing.T) {
	inWorld(t, fiberSource, func(w *world) {
		w.call("F", "hang", "poison", 1)
		w.crash()
		w.wakeDue(90 * time.Minute)
		tries := w.call("F", "tries")
		if n := strings.Count(tries, ","); n < 5 || n > 20 {
			t.Errorf("hook ran at %s", tries)
		}
		w.expect(`[]`, "F", "rows")
		if at, resume := w.wakeAt("F"); !at.IsZero() || resume {
			t.Errorf("a dropped fiber leaves a wake: %v %v", at, resume)
		}
		if log := w.log.String(); !strings.Contains(log, "max_age_exceeded") || !strings.Contains(log, "handler_error") {
			t.Error("recovery events are not logged")
		}
	})
}

func TestFiber_Interleaved(t *testing.T) {
	inWorld(t, fiberSource, func(w *world) {
		w.expect(`["{\"name\":\"x\",\"i\":\"end\"}","{\"name\":\"y\",\"i\":\"end\"}"]`, "F", "interleaved")
	})
}

func TestFiber_Context(t *testing.T) {
	inWorld(t, fiberSource, func(w *world) {
		w.expect(`"stash() called outside a fiber"`, "F", "outside")
		w.expect(`[21,null,false,true,"TypeError"]`, "F", "context")
		w.expect(`false`, "F", "notSync")
	})
}

func TestManaged_DedupesByIDAndKey(t *testing.T) {
	type o = map[string]any
	inWorld(t, fiberSource, func(w *world) {
		w.expect(`{"fiberId":"f1","name":"job","idempotencyKey":"k1","status":"pending","metadata":{"a":1},"accepted":true}`,
			"F", "managed", o{"fiberId": "f1", "idempotencyKey": "k1", "metadata": o{"a": 1}})
		w.expect(`{"fiberId":"f1","name":"job","idempotencyKey":"k1","status":"completed","snapshot":{"at":"begin"},"metadata":{"a":1},"accepted":false}`,
			"F", "managed", o{"idempotencyKey": "k1", "metadata": o{"a": 2}})
		w.expect(`[1,null]`, "F", "count")
		w.expect(`"f1"`, "F", "byKey", "k1")
		w.fails(agent.Exception, "fiberId must not be blank", "F", "managed", o{"fiberId": " "})
		w.fails(agent.Exception, "idempotencyKey must not be blank", "F", "managed", o{"idempotencyKey": ""})
		w.fails(agent.Exception, "fiberId and idempotencyKey refer to different fibers", "F", "managed", o{"fiberId": "f2", "idempotencyKey": "k1"})
		w.expect(`null`, "F", "inspect", "nope")
	})
}

func TestManaged_WaitForCompletion(t *testing.T) {
	type o = map[string]any
	inWorld(t, fiberSource, func(w *world) {
		w.expect(`{"fiberId":"w","name":"job","status":"completed","snapshot":{"at":"begin"},"accepted":true}`,
			"F", "managed", o{"fiberId": "w", "waitForCompletion": true}, 100)
		w.expect(`{"fiberId":"e","name":"job","status":"error","snapshot":{"at":"begin"},"error":"broken","accepted":true}`,
			"F", "managed", o{"fiberId": "e", "waitForCompletion": true}, 1, true)
		w.call("F", "managed", o{"fiberId": "j"}, 60000)
		began := time.Now()
		w.expect(`{"fiberId":"j","name":"job","status":"completed","snapshot":{"at":"begin"},"accepted":false}`,
			"F", "managed", o{"fiberId": "j", "waitForCompletion": true})
		if d := time.Since(began); d < 50*time.Second {
			t.Errorf("joined for %v only", d)
		}
		w.expect(`["j","e","w"]`, "F", "list", o{})
		w.expect(`["e"]`, "F", "list", o{"status": "error"})
		w.expect(`["j"]`, "F", "list", o{"status": []string{"completed"}, "limit": 1})
		w.expect(`1`, "F", "remove", o{"status": []string{"error"}})
		w.expect(`2`, "F", "remove")
		w.expect(`[]`, "F", "list", o{})
	})
}

func TestManaged_Cancel(t *testing.T) {
	inWorld(t, fiberSource, func(w *world) {
		w.call("F", "abortable")
		w.expect(`{"fiberId":"ab","name":"job","status":"running"}`, "F", "inspect", "ab")
		w.expect(`true`, "F", "cancel", "ab", "enough")
		w.expect(`false`, "F", "cancel", "ab", "again")
		w.expect(`{"fiberId":"ab","name":"job","status":"aborted","error":"enough"}`, "F", "inspect", "ab")
		w.expect(`[0,"enough"]`, "F", "count")
		w.expect(`false`, "F", "cancel", "nope")
	})
}

func TestManaged_Recovery(t *testing.T) {
	type o = map[string]any
	inWorld(t, fiberSource, func(w *world) {
		w.call("F", "fixedJob")
		w.call("F", "lostJob")
		w.crash()
		w.expect(`{"fiberId":"fx","name":"fixed","status":"completed","snapshot":{"fixed":true},"metadata":{"m":1}}`, "F", "inspect", "fx")
		w.expect(`{"fiberId":"lo","name":"lost","idempotencyKey":"lk","status":"interrupted"}`, "F", "inspect", "lo")
		w.expect(`[["fixed",null,"yes",false,"interrupted"],["lost",null,"yes",false,"interrupted"]]`, "F", "looks")
		w.expect(`true`, "F", "resolve", "lo", o{"status": "aborted", "reason": "given up"})
		w.expect(`false`, "F", "resolve", "lo", o{"status": "completed"})
		w.expect(`{"fiberId":"lo","name":"lost","idempotencyKey":"lk","status":"aborted","error":"given up"}`, "F", "inspect", "lo")
		w.fails(agent.Exception, "needs a result", "F", "resolve", "lo")
	})
}

func TestFiber_ForPlatform(t *testing.T) {
	inWorld(t, fiberSource, func(w *world) {
		w.call("F", "abortable")
		w.call("F", "hang", "h", 1)
		out, err := w.platform("F", agent.MethodFiberList, `{}`)
		if err != nil || strings.Count(out, `"fiberId"`) != 2 || !strings.Contains(out, `"name":"h","status":"running"`) {
			t.Errorf("fiber.list = %s, %v", out, err)
		}
		out, err = w.platform("F", agent.MethodFiberGet, `{"id":"ab"}`)
		if err != nil || !strings.Contains(out, `"status":"running"`) {
			t.Errorf("fiber.get = %s, %v", out, err)
		}
		if _, err = w.platform("F", agent.MethodFiberGet, `{"id":"nope"}`); agent.KindOf(err) != agent.NotFound {
			t.Errorf("fiber.get of nothing: %v", err)
		}
		out, err = w.platform("F", agent.MethodFiberCancel, `{"id":"ab","reason":"operator"}`)
		if err != nil || out != `{"cancelled":true}` {
			t.Errorf("fiber.cancel = %s, %v", out, err)
		}
		w.expect(`[0,"operator"]`, "F", "count")
	})
}

func TestFiber_ScanDeadlineLeavesTheRestForLater(t *testing.T) {
	inWorld(t, `exports.F = class F extends Agent {
		static options = { fiberRecoveryScanDeadlineMs: 50, keepAliveIntervalMs: 1000 };
		hang(name) { this.runFiber(name, () => new Promise(() => {})); }
		async onFiberRecovered(ctx) {
			await new Promise((d) => setTimeout(d, 100));
			const seen = (await this.ctx.storage.get("seen")) ?? [];
			await this.ctx.storage.put("seen", [...seen, ctx.name]);
		}
		seen() { return this.ctx.storage.get("seen"); }
	};`, func(w *world) {
		for _, name := range []string{"a", "b", "c"} {
			w.call("F", "hang", name)
		}
		w.crash()
		w.expect(`["a"]`, "F", "seen")
		if !strings.Contains(w.log.String(), "scan_deadline_exceeded") {
			t.Error("the deadline is not logged")
		}
		w.wakeDue(time.Minute)
		w.expect(`["a","b","c"]`, "F", "seen")
	})
}

func TestFiber_InternalHookHasATimeLimit(t *testing.T) {
	inWorld(t, `exports.F = class F extends Agent {
		hang() { this.runFiber("x", () => new Promise(() => {})); }
		_handleInternalFiberRecovery(ctx) { return new Promise(() => {}); }
		ok() { return true; }
	};`, func(w *world) {
		w.call("F", "hang")
		w.crash()
		w.expect(`true`, "F", "ok")
		if log := w.log.String(); !strings.Contains(log, "Fiber recovery hook timed out after 10000ms for") {
			t.Errorf("no time-out in the log:\n%s", log)
		}
	})
}

// A fiber that an earlier instance left and a hook that starts it again: the new
// fiber is a row of its own and does not hold back start-up.
func TestFiber_HookMayStartAnother(t *testing.T) {
	inWorld(t, `exports.F = class F extends Agent {
		hang() { this.work(60000); }
		work(ms) { this.runFiber("job", async (ctx) => { ctx.stash({ ms }); await new Promise((d) => setTimeout(d, ms)); this.setState("done"); }); }
		async onFiberRecovered(ctx) { this.work(1000); }
		look() { return [this.state ?? null, this.sql`+"`SELECT count(*) AS n FROM cf_agents_runs`"+`[0].n]; }
	};`, func(w *world) {
		w.call("F", "hang")
		w.crash()
		w.expect(`[null,1]`, "F", "look")
		time.Sleep(2 * time.Second)
		w.expect(`["done",0]`, "F", "look")
	})
}
