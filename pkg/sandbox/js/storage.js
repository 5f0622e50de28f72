// AsyncLocalStorage over the isolate's async context.
(function (host) {
  class AsyncLocalStorage {
    getStore() { return host.get(this); }
    run(store, callback, ...args) { return host.run(this, store, () => callback(...args)); }
    exit(callback, ...args) { return host.run(this, undefined, () => callback(...args)); }
    enterWith(store) { host.enter(this, store); }
    disable() { host.enter(this, undefined); }
    static bind(callback) {
      const snapshot = AsyncLocalStorage.snapshot();
      return function (...args) { return snapshot(() => callback.apply(this, args)); };
    }
    static snapshot() {
      const frame = host.capture();
      return (callback, ...args) => host.restore(frame, () => callback(...args));
    }
  }
  class AsyncResource {
    #snapshot = AsyncLocalStorage.snapshot();
    constructor(type) { this.type = type; }
    runInAsyncScope(callback, self, ...args) { return this.#snapshot(() => callback.apply(self, args)); }
    bind(callback) { return (...args) => this.runInAsyncScope(callback, this, ...args); }
    static bind(callback) { return AsyncLocalStorage.bind(callback); }
    emitDestroy() { return this; }
  }
  return { AsyncLocalStorage, AsyncResource };
})
