// What newer editions of the language have and goja lacks.
(function () {
  function collect(items, callback, put) {
    let index = 0;
    for (const item of items) put(callback(item, index++), item);
  }
  return {
    withResolvers() {
      let resolve, reject;
      const promise = new this(function (a, b) { resolve = a; reject = b; });
      return { promise, resolve, reject };
    },
    try(callback, ...args) {
      return new this(function (resolve) { resolve(callback(...args)); });
    },
    groupBy(items, callback) {
      const groups = Object.create(null);
      collect(items, callback, function (key, item) {
        if (typeof key !== "symbol") key = String(key);
        if (key in groups) groups[key].push(item); else groups[key] = [item];
      });
      return groups;
    },
    mapGroupBy(items, callback) {
      const groups = new Map();
      collect(items, callback, function (key, item) {
        const group = groups.get(key);
        if (group) group.push(item); else groups.set(key, [item]);
      });
      return groups;
    },
    async fromAsync(items, mapping, self) {
      const out = typeof this === "function" ? new this() : [];
      let index = 0;
      const add = async function (value) {
        out[index] = mapping ? await mapping.call(self, value, index) : value;
        index++;
      };
      if (items[Symbol.asyncIterator]) {
        const iterator = items[Symbol.asyncIterator]();
        for (let r = await iterator.next(); !r.done; r = await iterator.next()) await add(r.value);
      } else if (items[Symbol.iterator]) {
        for (const item of items) await add(await item);
      } else {
        const n = Number(items.length) || 0;
        while (index < n) await add(await items[index]);
      }
      out.length = index;
      return out;
    },
    // Holds its target strongly: goja has no weak references, and a target that
    // never goes away is within what the language allows.
    WeakRef: class WeakRef {
      #target;
      constructor(target) {
        if ((typeof target !== "object" && typeof target !== "function") || target === null) throw new TypeError("WeakRef: target must be an object");
        this.#target = target;
      }
      deref() { return this.#target; }
      get [Symbol.toStringTag]() { return "WeakRef"; }
    },
    // Never calls back, which the language allows.
    FinalizationRegistry: class FinalizationRegistry {
      constructor(cleanup) {
        if (typeof cleanup !== "function") throw new TypeError("FinalizationRegistry: cleanup must be callable");
      }
      register() {}
      unregister() { return false; }
      get [Symbol.toStringTag]() { return "FinalizationRegistry"; }
    },
  };
})
