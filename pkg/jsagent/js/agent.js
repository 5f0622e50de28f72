// The class Agent: state, sql and start-up. One isolate runs one agent, so the state
// lives in this closure. Other members come from parts when they are first used.
(function (host, core) {
"use strict";

const defaults = {
  sendIdentityOnConnect: true,
  hungScheduleTimeoutSeconds: 30,
  keepAliveIntervalMs: 30000,
  retry: { maxAttempts: 3, baseDelayMs: 100, maxDelayMs: 3000 },
  fiberRecoveryHookTimeoutMs: 10000,
  fiberRecoveryScanDeadlineMs: 10000,
  fiberRecoveryMaxAgeMs: 86400000,
  agentToolReattachNoProgressTimeoutMs: 120000,
  agentToolReattachMaxWindowMs: Infinity,
  detachedMaxBudgetMs: 86400000,
  detachedNoProgressBudgetMs: 3600000,
  maxAlarmMemoryLimitStrikes: 3,
};

let resolved;
function optionsOf(agent) {
  if (resolved === undefined) {
    const own = agent.constructor.options ?? {};
    resolved = { ...defaults, ...own, retry: { ...defaults.retry, ...own.retry } };
  }
  return resolved;
}

// The default of every hook that does nothing.
function noop() {}

let stateValue, stateReady = false, stateLoading = false;

function loadState(agent) {
  const row = host.stateRead();
  if (row !== undefined) {
    try {
      stateValue = JSON.parse(row);
      stateReady = true;
      return stateValue;
    } catch (_) {
      console.warn("stored state is not JSON; it is replaced by initialState");
      if (agent.initialState === undefined) host.stateDelete();
    }
  }
  if (agent.initialState === undefined) {
    stateReady = true;
    return stateValue = undefined;
  }
  stateLoading = true;
  try {
    changeState(agent, agent.initialState, "server");
  } finally {
    stateLoading = false;
  }
  return stateValue;
}

function changeState(agent, next, source) {
  agent.validateStateChange(next, source);
  host.stateWrite(next);
  stateValue = next;
  stateReady = true;
  const hook = agent.onStateChanged !== noop ? "onStateChanged" : agent.onStateUpdate !== noop ? "onStateUpdate" : undefined;
  if (hook !== undefined) host.waitUntil(notifyState(agent, hook, next, source));
}

async function notifyState(agent, hook, next, source) {
  try {
    await agent[hook](next, source);
  } catch (e) {
    try { await agent.onError(e); } catch (_) { /* onError has logged it */ }
  }
}

let deprecated = false, startingUp = false;

class Agent extends core.DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    const own = Object.getPrototypeOf(this);
    const has = (key) => Object.prototype.hasOwnProperty.call(own, key);
    if (has("onStateUpdate")) {
      if (has("onStateChanged")) {
        throw new Error("[Agent] Cannot override both onStateChanged and onStateUpdate. Remove onStateUpdate, which is deprecated.");
      }
      if (!deprecated) console.warn("[Agent] onStateUpdate is deprecated: rename it to onStateChanged");
      deprecated = true;
    }
  }

  get name() { return host.name(); }
  get state() {
    if (stateReady) return stateValue;
    return stateLoading ? this.initialState : loadState(this);
  }
  setState(state) { changeState(this, state, "server"); }
  sql(strings, ...values) { return host.sqlRows(strings.join("?"), values); }
}
// A start-up that awaits nothing makes no promise: an isolate without one is some
// 10 KB smaller.
function start(agent, scanned) {
  if (!scanned && host.recoveryDue(true)) {
    return (async () => { await host.part("fibers").scan(agent); await start(agent, true); })();
  }
  startingUp = true;
  let pending;
  try {
    pending = agent.onStart(undefined);
  } catch (e) {
    startingUp = false;
    throw agent.onError(e);
  }
  if (pending === null || (typeof pending !== "object" && typeof pending !== "function")) {
    startingUp = false;
    return;
  }
  return (async () => {
    try {
      await pending;
    } catch (e) {
      throw agent.onError(e);
    } finally {
      startingUp = false;
    }
  })();
}

const members = host.members(noop);
Object.setPrototypeOf(members, core.DurableObject.prototype);
Object.setPrototypeOf(Agent.prototype, members);

return {
  Agent,
  defaults,
  optionsOf,
  startingUp: () => startingUp,
  dropState() { stateReady = false; stateValue = undefined; },
  readState(agent) { return agent.state; },
  writeState(agent, next) { changeState(agent, next, "server"); },
  start,
};
})
