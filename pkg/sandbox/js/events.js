// DOMException, events and abort signals.
(function (host) {
  const codes = {
    IndexSizeError: 1, NotFoundError: 8, NotSupportedError: 9, InUseAttributeError: 10, InvalidStateError: 11, SyntaxError: 12,
    InvalidModificationError: 13, NamespaceError: 14, InvalidAccessError: 15, TypeMismatchError: 17, SecurityError: 18,
    NetworkError: 19, AbortError: 20, URLMismatchError: 21, QuotaExceededError: 22, TimeoutError: 23, DataCloneError: 25,
  };
  class DOMException extends Error {
    #name;
    constructor(message = "", options = "Error") {
      super(String(message));
      this.#name = typeof options === "object" && options !== null ? String(options.name ?? "Error") : String(options);
      if (typeof options === "object" && options !== null && "cause" in options) this.cause = options.cause;
    }
    get name() { return this.#name; }
    get code() { return codes[this.#name] || 0; }
    get [Symbol.toStringTag]() { return "DOMException"; }
  }

  const flags = new WeakMap(); // event → {stop, prevented, target, current}
  class Event {
    constructor(type, init = {}) {
      if (arguments.length === 0) throw new TypeError("Event: a type is required");
      const o = init || {};
      flags.set(this, { stop: false, prevented: false, target: null, dispatched: false });
      this.type = String(type);
      this.bubbles = !!o.bubbles;
      this.cancelable = !!o.cancelable;
      this.composed = !!o.composed;
      this.timeStamp = host.now();
    }
    get target() { return flags.get(this).target; }
    get currentTarget() { return flags.get(this).dispatched ? flags.get(this).target : null; }
    get srcElement() { return this.target; }
    get eventPhase() { return flags.get(this).dispatched ? 2 : 0; }
    get isTrusted() { return false; }
    get defaultPrevented() { return flags.get(this).prevented; }
    get returnValue() { return !this.defaultPrevented; }
    get cancelBubble() { return false; }
    composedPath() { return this.target ? [this.target] : []; }
    preventDefault() { if (this.cancelable) flags.get(this).prevented = true; }
    stopPropagation() {}
    stopImmediatePropagation() { flags.get(this).stop = true; }
    get [Symbol.toStringTag]() { return "Event"; }
  }
  class CustomEvent extends Event {
    #detail;
    constructor(type, init = {}) {
      super(type, init);
      this.#detail = init?.detail ?? null;
    }
    get detail() { return this.#detail; }
    get [Symbol.toStringTag]() { return "CustomEvent"; }
  }

  const listeners = new WeakMap(); // target → [{type, callback, capture, once}]
  class EventTarget {
    addEventListener(type, callback, options) {
      if (callback === null || callback === undefined) return;
      if (typeof callback !== "function" && typeof callback !== "object") throw new TypeError("addEventListener: the listener must be a function or an object");
      const o = typeof options === "object" && options !== null ? options : { capture: !!options };
      if (o.signal?.aborted) return;
      let list = listeners.get(this);
      if (!list) listeners.set(this, list = []);
      const capture = !!o.capture;
      type = String(type);
      if (list.some((l) => l.type === type && l.callback === callback && l.capture === capture)) return;
      list.push({ type, callback, capture, once: !!o.once, removed: false });
      if (o.signal) o.signal.addEventListener("abort", () => this.removeEventListener(type, callback, { capture }), { once: true });
    }
    removeEventListener(type, callback, options) {
      const list = listeners.get(this);
      if (!list) return;
      const capture = !!(typeof options === "object" && options !== null ? options.capture : options);
      const at = list.findIndex((l) => l.type === String(type) && l.callback === callback && l.capture === capture);
      if (at >= 0) { list[at].removed = true; list.splice(at, 1); }
    }
    dispatchEvent(event) {
      const state = flags.get(event);
      if (!state) throw new TypeError("dispatchEvent: the argument is not an Event");
      if (state.dispatched) throw new DOMException("The event is already being dispatched", "InvalidStateError");
      state.target = this;
      state.dispatched = true;
      state.stop = false;
      try {
        const own = this["on" + event.type];
        const list = (listeners.get(this) || []).filter((l) => l.type === event.type);
        if (typeof own === "function" && handlers.get(this)?.has(event.type)) list.unshift({ callback: own });
        for (const l of list) {
          if (l.removed) continue;
          if (l.once) this.removeEventListener(l.type, l.callback, { capture: l.capture });
          try {
            if (typeof l.callback === "function") l.callback.call(this, event);
            else l.callback.handleEvent(event);
          } catch (e) { host.report(e); }
          if (state.stop) break;
        }
      } finally { state.dispatched = false; }
      return !state.prevented;
    }
    get [Symbol.toStringTag]() { return "EventTarget"; }
  }
  const handlers = new WeakMap(); // target → Map of on… attributes
  function attribute(target, type, value) {
    let own = handlers.get(target);
    if (!own) handlers.set(target, own = new Map());
    if (typeof value === "function") own.set(type, value); else own.delete(type);
  }

  const secret = Symbol();
  class AbortSignal extends EventTarget {
    #aborted = false;
    #reason = undefined;
    #dependents = [];
    constructor(key) {
      if (key !== secret) throw new TypeError("Illegal constructor");
      super();
    }
    get aborted() { return this.#aborted; }
    get reason() { return this.#reason; }
    get onabort() { return handlers.get(this)?.get("abort") ?? null; }
    set onabort(f) { attribute(this, "abort", f); }
    throwIfAborted() { if (this.#aborted) throw this.#reason; }
    static fire(key, signal, reason) {
      if (key !== secret) throw new TypeError("Illegal invocation");
      if (signal.#aborted) return;
      signal.#aborted = true;
      signal.#reason = reason === undefined ? new DOMException("This operation was aborted", "AbortError") : reason;
      signal.dispatchEvent(new Event("abort"));
      for (const d of signal.#dependents.splice(0)) fire(secret, d, signal.#reason);
    }
    static abort(reason) {
      const s = new AbortSignal(secret);
      fire(secret, s, reason);
      return s;
    }
    static timeout(ms) {
      ms = Number(ms);
      if (!(ms >= 0 && ms <= Number.MAX_SAFE_INTEGER)) throw new TypeError("AbortSignal.timeout: the time must be a number of milliseconds from 0");
      const s = new AbortSignal(secret);
      setTimeout(() => fire(secret, s, new DOMException("The operation was aborted due to timeout", "TimeoutError")), ms);
      return s;
    }
    static any(signals) {
      const s = new AbortSignal(secret);
      const all = [...signals];
      for (const other of all) {
        if (other.aborted) { fire(secret, s, other.reason); return s; }
      }
      for (const other of all) other.#dependents.push(s);
      return s;
    }
    get [Symbol.toStringTag]() { return "AbortSignal"; }
  }
  const fire = AbortSignal.fire;
  delete AbortSignal.fire;
  class AbortController {
    #signal = new AbortSignal(secret);
    get signal() { return this.#signal; }
    abort(reason) { fire(secret, this.#signal, reason); }
    get [Symbol.toStringTag]() { return "AbortController"; }
  }
  return { DOMException, Event, CustomEvent, EventTarget, AbortSignal, AbortController };
})
