// Fibers: running them, the recovery scan, and the members of Agent about them.
(function (host, core, glue) {
"use strict";

const contexts = new Map(); // id -> FiberContext of the fibers that run here
const waiters = new Map();  // id -> functions to call when a managed fiber settles

class FiberContext {
  #controller; #aborted = false; #reason;
  constructor(id) { this.id = id; this.snapshot = null; this.stash = (data) => host.stash(id, data); }
  get signal() {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted) this.#controller.abort(this.#reason);
    }
    return this.#controller.signal;
  }
  static aborted(ctx) { return ctx.#aborted; }
  static abort(ctx, reason) {
    ctx.#aborted = true;
    ctx.#reason = reason;
    if (ctx.#controller !== undefined) ctx.#controller.abort(reason);
  }
}

function settled(status) {
  return status !== "pending" && status !== "running";
}

function wakeWaiters(id) {
  const list = waiters.get(id);
  if (list === undefined) return;
  waiters.delete(id);
  for (const done of list) done();
}

// Runs an accepted fiber to its end; the row is gone in the turn of its last effects.
async function execute(id, fn, managed) {
  const ctx = new FiberContext(id);
  contexts.set(id, ctx);
  try {
    await undefined; // fn never runs inside the call that started it
    const result = FiberContext.aborted(ctx) ? undefined : await host.inFiber(id, fn, ctx);
    host.fiberEnd(id, managed, FiberContext.aborted(ctx) ? "aborted" : "completed");
    return result;
  } catch (e) {
    host.fiberEnd(id, managed, FiberContext.aborted(ctx) ? "aborted" : "error", e);
    if (!managed) throw e;
    console.error(`fiber ${id} failed:`, e);
  } finally {
    contexts.delete(id);
    wakeWaiters(id);
  }
}

async function waitForFiber(agent, id) {
  if (!contexts.has(id)) await scan(agent);
  for (;;) {
    const seen = host.fiberInspect(id);
    if (seen === null) throw new Error(`Fiber ${id} no longer exists`);
    if (settled(seen.status)) return seen;
    await new Promise((done) => {
      const list = waiters.get(id);
      if (list === undefined) waiters.set(id, [done]); else list.push(done);
    });
  }
}

let scanning; // the promise of the scan under way

function scan(agent) {
  return scanning ??= runScan(agent).finally(() => { scanning = undefined; });
}

async function runScan(agent) {
  const o = glue.optionsOf(agent);
  const started = host.now();
  const count = host.recoveryList();
  let progress = false, pending = 0;
  for (let i = 0; i < count; i++) {
    if (o.fiberRecoveryScanDeadlineMs > 0 && host.now() - started > o.fiberRecoveryScanDeadlineMs) {
      host.recoverySkipped(i, "scan_deadline_exceeded");
      pending += count - i;
      break;
    }
    const ctx = host.recoveryBegin(i);
    if (ctx === null) {
      progress = true;
    } else if (await recoverOne(agent, o, i, ctx)) {
      progress = true;
    } else {
      pending++;
    }
    wakeWaiters(host.recoveryID(i));
  }
  host.recoveryEnd(progress, pending, o.keepAliveIntervalMs);
}

// Reports whether the fiber needs no further scan.
async function recoverOne(agent, o, i, ctx) {
  try {
    let result, by = "internal";
    if (!await internalHook(agent, o, ctx)) {
      by = "user";
      result = await agent.onFiberRecovered(ctx);
    }
    host.recoveryDone(i, result, by);
    return true;
  } catch (e) {
    console.error(`recovery of fiber ${ctx.id} (${ctx.name}) failed:`, e);
    return host.recoveryFailed(i, e, o.fiberRecoveryMaxAgeMs);
  }
}

async function internalHook(agent, o, ctx) {
  if (agent._handleInternalFiberRecovery === members._handleInternalFiberRecovery) return false;
  const limit = o.fiberRecoveryHookTimeoutMs;
  if (!(limit > 0)) return agent._handleInternalFiberRecovery(ctx);
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`Fiber recovery hook timed out after ${limit}ms for "${ctx.name}" (${ctx.id})`)), limit);
  });
  try {
    return await Promise.race([agent._handleInternalFiberRecovery(ctx), late]);
  } finally {
    clearTimeout(timer);
  }
}

// id is the cancelled fiber, null if nothing was to be cancelled.
function cancelled(id, reason) {
  if (id === null) return false;
  const ctx = contexts.get(id);
  if (ctx !== undefined) FiberContext.abort(ctx, reason);
  wakeWaiters(id);
  return true;
}

const members = {
  async runFiber(name, fn) { return execute(host.fiberStart(name), fn, false); },
  async startFiber(name, fn, options) {
    const o = options ?? {};
    const seen = host.fiberAccept(name, o.fiberId, o.idempotencyKey, o.metadata || undefined);
    const id = seen.fiberId;
    if (seen.running) host.waitUntil(execute(id, fn, true));
    const accepted = seen.accepted;
    const last = o.waitForCompletion ? await waitForFiber(this, id) : seen.inspection;
    return { ...last, accepted };
  },
  stash(data) { host.stash(undefined, data); },
  async inspectFiber(id) { return host.fiberInspect(id); },
  async inspectFiberByKey(key) { return host.fiberInspectByKey(key); },
  async listFibers(options) { return host.fiberList(options); },
  async cancelFiber(id, reason) { return cancelled(host.fiberCancel(id, reason), reason); },
  async cancelFiberByKey(key, reason) { return cancelled(host.fiberCancelByKey(key, reason), reason); },
  async resolveFiber(id, result) { return host.fiberResolve(id, result); },
  async deleteFibers(options) { return host.fiberDelete(options); },
  async onFiberRecovered(ctx) {
    console.warn(`fiber ${ctx.id} (${ctx.name}) was interrupted and is dropped: override onFiberRecovered to pick it up`);
  },
  async _handleInternalFiberRecovery(_ctx) { return false; },
};

return {
  members,
  scan,
  cancelFiber(id, reason) { return cancelled(host.fiberCancel(id, reason), reason); },
};
})
