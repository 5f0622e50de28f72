// The part of node:events that programs use.
(function () {
  class EventEmitter {
    #list = new Map();
    #add(name, listener, wrapped, first) {
      if (typeof listener !== "function") throw new TypeError('The "listener" argument must be of type function');
      const list = this.#list.get(name) || [];
      this.#list.set(name, first ? [wrapped, ...list] : [...list, wrapped]);
      return this;
    }
    #once(name, listener) {
      const wrapped = (...args) => { this.removeListener(name, wrapped); listener.apply(this, args); };
      wrapped.listener = listener;
      return wrapped;
    }
    on(name, listener) { return this.#add(name, listener, listener, false); }
    addListener(name, listener) { return this.on(name, listener); }
    prependListener(name, listener) { return this.#add(name, listener, listener, true); }
    once(name, listener) { return this.#add(name, listener, this.#once(name, listener), false); }
    prependOnceListener(name, listener) { return this.#add(name, listener, this.#once(name, listener), true); }
    removeListener(name, listener) {
      const list = this.#list.get(name) || [];
      let at = list.length - 1;
      while (at >= 0 && list[at] !== listener && list[at].listener !== listener) at--;
      if (at >= 0) this.#list.set(name, list.filter((_, k) => k !== at));
      return this;
    }
    off(name, listener) { return this.removeListener(name, listener); }
    removeAllListeners(name) { if (name === undefined) this.#list.clear(); else this.#list.delete(name); return this; }
    emit(name, ...args) {
      const list = this.#list.get(name) || [];
      if (list.length === 0) {
        if (name === "error") throw args[0] instanceof Error ? args[0] : new Error("Unhandled error. (" + String(args[0]) + ")");
        return false;
      }
      for (const listener of list) listener.apply(this, args);
      return true;
    }
    listeners(name) { return (this.#list.get(name) || []).map((l) => l.listener || l); }
    rawListeners(name) { return [...(this.#list.get(name) || [])]; }
    listenerCount(name) { return (this.#list.get(name) || []).length; }
    eventNames() { return [...this.#list.keys()].filter((n) => this.listenerCount(n) > 0); }
    setMaxListeners() { return this; }
    getMaxListeners() { return 10; }
    static once(emitter, name) {
      return new Promise((resolve, reject) => {
        const fail = (e) => { emitter.removeListener(name, done); reject(e); };
        const done = (...args) => { emitter.removeListener("error", fail); resolve(args); };
        emitter.once(name, done);
        if (name !== "error") emitter.once("error", fail);
      });
    }
  }
  EventEmitter.EventEmitter = EventEmitter;
  EventEmitter.default = EventEmitter;
  EventEmitter.defaultMaxListeners = 10;
  return EventEmitter;
})
