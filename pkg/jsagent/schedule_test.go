package jsagent

import (
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

const scheduleSource = `
exports.S = class S extends Agent {
  done(payload, row) { this.add(["done", payload, row.callback, typeof row.payload]); }
  get trap() { throw new Error("trapped"); }
  sqlOf(text) { this.ctx.storage.sql.exec(text); }
  async stubborn() {
    const tries = this.read().filter((x) => x === "try").length;
    this.add("try");
    if (tries < 2) throw Object.assign(new Error("not yet"), { retryable: true });
    this.add("worked");
  }
  async failing() { this.add(["failing"]); throw new Error("never works"); }
  async cancelling(id) { await this.cancelSchedule(id); }
  add(x) { this.sql` + "`CREATE TABLE IF NOT EXISTS log (at INTEGER, x TEXT)`; this.sql`INSERT INTO log VALUES (${Date.now()}, ${JSON.stringify(x)})`" + `; }
  read() { return this.sql` + "`SELECT x FROM log ORDER BY rowid`.map((r) => JSON.parse(r.x))" + `; }
  in(s, callback, payload, options) { return this.schedule(s, callback, payload, options); }
  at(ms, callback, payload) { return this.schedule(new Date(ms), callback, payload); }
  async list(c) { return (await this.listSchedules(c)).map((s) => s.callback); }
  one(id) { return this.getSchedule(id); }
  cancel(id) { return this.cancelSchedule(id); }
  onError(e) { this.add(["onError", e.message]); }
  async cancelsNext() { const later = await this.schedule(2, "done", "x"); await this.schedule(1, "cancelling", later.id); }
  async destroyLater() { await this.schedule(1, "end"); }
  async end() { await this.destroy(); }
  async retried() {
    let n = 0; const seen = [];
    const out = await this.retry(async (attempt) => { seen.push(attempt); if (++n < 3) throw new Error("no"); return "yes"; });
    try { await this.retry(() => { throw new Error("stop"); }, { maxAttempts: 5, shouldRetry: (e, next) => next < 3 }); } catch (e) { seen.push(e.message); }
    return [out, seen];
  }
  async badRetry(o) { try { await this.retry(async () => 1, o); } catch (e) { return e.message; } }
};
exports.Alarmed = class Alarmed extends DurableObject {
  async set(ms, fail = 0) { await this.ctx.storage.put("fail", fail); await this.ctx.storage.setAlarm(Date.now() + ms); return this.ctx.storage.getAlarm(); }
  async alarm(info) {
    const log = (await this.ctx.storage.get("log")) ?? [];
    log.push([info.retryCount, info.isRetry, await this.ctx.storage.getAlarm()]);
    await this.ctx.storage.put("log", log);
    const fail = await this.ctx.storage.get("fail");
    if (fail === "again" && log.length < 3) await this.ctx.storage.setAlarm(Date.now() + 1000);
    if (typeof fail === "number" && log.length <= fail) throw new Error("alarm fails");
  }
  async look() { return [(await this.ctx.storage.get("log")) ?? [], await this.ctx.storage.getAlarm()]; }
  async remove() { await this.ctx.storage.deleteAlarm(); }
};
exports.Mute = class Mute extends DurableObject { async set() { await this.ctx.storage.setAlarm(5); } };
`

func TestSchedule_DelayAndDate(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		out := w.call("S", "in", 60, "done", map[string]int{"n": 1})
		if !strings.Contains(out, `"type":"delayed"`) || !strings.Contains(out, `"delayInSeconds":60`) || !strings.Contains(out, `"payload":{"n":1}`) {
			t.Errorf("schedule gives %s", out)
		}
		w.call("S", "at", time.Now().Add(30*time.Second).UnixMilli(), "done", "date")
		w.call("S", "at", 5, "done")
		w.expect(`["done","done"]`, "S", "list", map[string]any{"type": "scheduled"})
		w.crash()
		w.wakeDue(2 * time.Minute)
		w.expect(`[["done",null,"done","object"],["done","date","done","string"],["done",{"n":1},"done","string"]]`, "S", "read")
		w.expect(`[]`, "S", "list")
	})
}

func TestSchedule_FailureIsRetriedAndConsumed(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.call("S", "in", 1, "failing", nil, map[string]any{"retry": map[string]any{"maxAttempts": 2, "baseDelayMs": 1, "maxDelayMs": 5}})
		w.call("S", "in", 1, "done", "next")
		w.wakeDue(time.Minute)
		w.expect(`[["failing"],["failing"],["onError","never works"],["done","next","done","string"]]`, "S", "read")
		w.expect(`[]`, "S", "list")
	})
}

// What stands in a row is run with what can be made of it, and never in the way of
// the rows after it.
func TestSchedule_PoisonedRowDoesNotStopTheNext(t *testing.T) {
	for name, poison := range map[string]string{
		"attempts below one":    `UPDATE cf_agents_schedules SET retry_options = '{"maxAttempts":0}' WHERE payload = '"poisoned"'`,
		"delays contradict":     `UPDATE cf_agents_schedules SET retry_options = '{"maxAttempts":1,"baseDelayMs":9000,"maxDelayMs":1}' WHERE payload = '"poisoned"'`,
		"options are no object": `UPDATE cf_agents_schedules SET retry_options = '[1' WHERE payload = '"poisoned"'`,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, scheduleSource, func(w *world) {
				w.call("S", "in", 1, "done", "poisoned", map[string]any{"retry": map[string]any{"maxAttempts": 2}})
				w.call("S", "in", 2, "done", "good")
				w.call("S", "sqlOf", poison)
				w.wakeDue(time.Minute)
				w.expect(`[["done","poisoned","done","string"],["done","good","done","string"]]`, "S", "read")
				w.expect(`[]`, "S", "list")
			})
		})
	}
	t.Run("callback became a getter that throws", func(t *testing.T) {
		inWorld(t, scheduleSource, func(w *world) {
			w.call("S", "in", 1, "done", "poisoned")
			w.call("S", "in", 2, "done", "good")
			w.call("S", "sqlOf", `UPDATE cf_agents_schedules SET callback = 'trap' WHERE payload = '"poisoned"'`)
			w.wakeDue(time.Minute)
			w.expect(`[["onError","trapped"],["done","good","done","string"]]`, "S", "read")
		})
	})
}

// A callback that asks to be tried again keeps its row and holds up nobody.
func TestSchedule_RetryableStaysAndLetsOthersPass(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.call("S", "add", "start")
		w.call("S", "in", 1, "stubborn", nil, map[string]any{"retry": map[string]any{"maxAttempts": 1}})
		w.call("S", "in", 1, "done", "good")
		time.Sleep(3 * time.Second)
		w.wakeDue(time.Minute)
		w.expect(`["start","try",["done","good","done","string"],"try","try","worked"]`, "S", "read")
		w.expect(`[]`, "S", "list")
	})
}

func TestSchedule_Refuses(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.fails(agent.Exception, "Callback must be a string", "S", "in", 1, 5)
		w.fails(agent.Exception, "this.nope is not a function", "S", "in", 1, "nope")
		w.fails(agent.Exception, "Invalid schedule type: true(boolean) trying to schedule done", "S", "in", true, "done")
		w.fails(agent.Exception, "cron expression is not available", "S", "in", "* * * * *", "done")
		w.fails(agent.Exception, "retry.maxAttempts must be >= 1", "S", "in", 1, "done", nil, map[string]any{"retry": map[string]any{"maxAttempts": 0}})
	})
}

func TestSchedule_CancelAndLook(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		out := w.call("S", "in", 60, "done")
		_, rest, _ := strings.Cut(out, `"id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		if len(id) != 9 {
			t.Errorf("id %q", id)
		}
		w.expect(out, "S", "one", id)
		w.expect(`true`, "S", "cancel", id)
		w.expect(`false`, "S", "cancel", id)
		w.expect("", "S", "one", id)
		w.call("S", "cancelsNext")
		time.Sleep(5 * time.Second)
		w.wakeDue(time.Minute)
		w.call("S", "add", "end")
		w.expect(`["end"]`, "S", "read")
	})
}

func TestSchedule_IdempotentKeepsOne(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		for range 3 {
			w.call("S", "in", 60, "done", "p", map[string]any{"idempotent": true})
		}
		w.expect(`["done"]`, "S", "list")
	})
}

func TestRetry(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.expect(`["yes",[1,2,3,"stop"]]`, "S", "retried")
		for text, o := range map[string]map[string]any{
			"retry.maxAttempts must be >= 1":                {"maxAttempts": 0},
			"retry.maxAttempts must be an integer":          {"maxAttempts": 1.5},
			"retry.baseDelayMs must be > 0":                 {"baseDelayMs": -1},
			"retry.maxDelayMs must be > 0":                  {"maxDelayMs": 0},
			"retry.baseDelayMs must be <= retry.maxDelayMs": {"baseDelayMs": 5000},
		} {
			w.expect(`"`+text+`"`, "S", "badRetry", o)
		}
	})
}

func TestDestroy(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.call("S", "add", 1)
		w.call("S", "destroyLater")
		w.wakeDue(time.Minute)
		if _, err := w.store.Catalog().Get(t.Context(), id("S")); agent.KindOf(err) != agent.NotFound {
			t.Errorf("a destroyed agent is still there: %v", err)
		}
	})
}

func TestAlarm(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.call("Alarmed", "set", 60000)
		w.crash()
		w.wakeDue(2 * time.Minute)
		w.expect(`[[[0,false,null]],null]`, "Alarmed", "look")
		w.fails(agent.Exception, "no alarm() method", "Mute", "set")
		w.fails(agent.Exception, "setAlarm() needs", "Alarmed", "set", "x")
	})
}

func TestAlarm_FailureIsRetriedWithGaps(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.call("Alarmed", "set", 1000, 2)
		w.wakeDue(time.Minute)
		w.expect(`[[[0,false,null],[1,true,null],[2,true,null]],null]`, "Alarmed", "look")
	})
}

func TestAlarm_GivenUpAfterSixRetries(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.call("Alarmed", "set", 1000, 100)
		w.wakeDue(10 * time.Second)
		w.crash() // the count survives
		w.wakeDue(time.Hour)
		out := w.call("Alarmed", "look")
		if n := strings.Count(out, "[") - 2; n != 7 || !strings.HasSuffix(out, "],null]") {
			t.Errorf("the handler ran %d times: %s", n, out)
		}
	})
}

func TestAlarm_SetByItsHandler(t *testing.T) {
	inWorld(t, scheduleSource, func(w *world) {
		w.call("Alarmed", "set", 1000, "again")
		w.wakeDue(time.Minute)
		w.expect(`[[[0,false,null],[0,false,null],[0,false,null]],null]`, "Alarmed", "look")
		w.call("Alarmed", "set", 1000, "again")
		w.call("Alarmed", "remove")
		if n := w.wakeDue(time.Minute); n != 0 {
			t.Errorf("a deleted alarm woke the agent %d times", n)
		}
	})
}
