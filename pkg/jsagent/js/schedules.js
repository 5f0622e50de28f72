// Schedules, retries and what a wake runs.
(function (host, core, glue) {
"use strict";

async function tryN(o, fn, shouldRetry, onRetry) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await fn(attempt);
    } catch (e) {
      const next = attempt + 1;
      if (next > o.maxAttempts || (shouldRetry && !shouldRetry(e, next))) throw e;
      if (onRetry) onRetry(e, next);
      await sleep(host.backoff(attempt, o.baseDelayMs, o.maxDelayMs, Math.random()));
    }
  }
}

function sleep(ms) { return new Promise((done) => setTimeout(done, ms)); }

const warned = new Set();

function describe(when) {
  let text;
  try { text = JSON.stringify(when); } catch (_) { text = String(when); }
  return text;
}

function addSchedule(agent, when, callback, payload, options) {
  if (typeof callback !== "string") throw new Error("Callback must be a string");
  if (typeof agent[callback] !== "function") throw new Error(`this.${callback} is not a function`);
  if (typeof when === "string") throw new Error("schedule() with a cron expression is not available in agentd yet: use a number of seconds or a Date");
  const isDate = when instanceof Date;
  if (!isDate && typeof when !== "number") {
    throw new Error(`Invalid schedule type: ${describe(when)}(${typeof when}) trying to schedule ${callback}`);
  }
  if (Number.isNaN(isDate ? when.getTime() : when)) {
    throw new Error(`Invalid schedule type: ${describe(when)}(${typeof when}) trying to schedule ${callback}`);
  }
  const o = options ?? {};
  const defaults = glue.optionsOf(agent).retry;
  if (glue.startingUp() && o.idempotent === undefined && !warned.has(callback)) {
    warned.add(callback);
    console.warn(`schedule("${callback}") in onStart adds a row at every start; pass { idempotent: true } to keep one`);
  }
  return host.scheduleAdd(isDate, isDate ? when.getTime() : when, callback, payload, o.retry, o.idempotent, defaults);
}

async function runSchedules(agent) {
  const defaults = glue.optionsOf(agent).retry;
  let kept; // the first error that asks for another try: its row stays, the others go on
  for (const due of host.scheduleDue()) {
    if (host.ending()) return;
    if (!host.schedulePending(due.id)) continue;
    try {
      await runSchedule(agent, due, defaults);
    } catch (e) {
      kept ??= { error: e };
      continue;
    }
    host.scheduleDone(due.id);
  }
  if (kept) throw kept.error; // the platform wakes the agent again
}

async function runSchedule(agent, due, defaults) {
  if (due.corrupt) {
    host.event("schedule:error", { scheduleId: due.id, callback: due.callback, attempts: 0, error: "the stored payload is not JSON" });
    return;
  }
  let attempts = 1;
  try {
    // A getter of the class may throw, as may the host: no row may stop those after it.
    if (typeof agent[due.callback] !== "function") {
      console.error(`schedule ${due.id}: this.${due.callback} is not a function; the schedule is removed`);
      return;
    }
    await tryN(host.storedPolicy(due.retry, defaults), () => agent[due.callback](due.payload, due.row), undefined, (e, next) => {
      attempts = next;
      host.event("schedule:retry", { scheduleId: due.id, callback: due.callback, attempt: next, error: String(e) });
    });
  } catch (e) {
    if (e != null && e.retryable === true) throw e; // it may work later: the row stays
    host.event("schedule:error", { scheduleId: due.id, callback: due.callback, attempts, error: String(e) });
    try { await agent.onError(e); } catch (_) { /* onError has logged it */ }
  }
}

const members = {
  async retry(fn, options) {
    return tryN(host.retryPolicy(options, glue.optionsOf(this).retry), fn, options?.shouldRetry);
  },

  async schedule(when, callback, payload, options) { return addSchedule(this, when, callback, payload, options); },
  getSchedule(id) { return host.scheduleGet(id); },
  getSchedules(criteria) { return host.scheduleList(criteria); },
  async getScheduleById(id) { return host.scheduleGet(id); },
  async listSchedules(criteria) { return host.scheduleList(criteria); },
  async cancelSchedule(id) { return host.scheduleCancel(id); },
};

return {
  members,
  async wake(agent) {
    await agent.onAlarm();
    await runSchedules(agent);
    if (!host.ending() && host.recoveryDue(false)) await host.part("fibers").scan(agent);
  },
};
})
