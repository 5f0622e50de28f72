// What every agent needs: the base class, and how methods are found.
(function (host) {
"use strict";

class DurableObject {
  constructor(ctx, env) { this.ctx = ctx; this.env = env; }
}

// Entry points of the platform are for the platform only, however a class names them.
function reserved(base, key) {
  return key[0] === "_" || key === "fetch" || key === "alarm" || key === "webSocketMessage" || key === "webSocketClose" ||
    key === "webSocketError" || key in base.prototype;
}

return {
  DurableObject,
  // Finds what a caller may run without triggering a getter: the function, or why not.
  method(object, base, key) {
    if (!reserved(base, key)) {
      for (let p = Object.getPrototypeOf(object); p !== base.prototype; p = Object.getPrototypeOf(p)) {
        const d = Object.getOwnPropertyDescriptor(p, key);
        if (d !== undefined) return typeof d.value === "function" ? d.value : "private";
      }
    }
    return key in object ? "private" : "unknown";
  },
  // Lists the public methods of a class below base; undefined if it does not extend base.
  methodsOf(fn, base) {
    if (typeof fn !== "function" || fn.prototype === null || typeof fn.prototype !== "object" || !(fn.prototype instanceof base)) return undefined;
    const names = new Set();
    for (let p = fn.prototype; p !== base.prototype; p = Object.getPrototypeOf(p)) {
      for (const key of Object.getOwnPropertyNames(p)) {
        if (reserved(base, key)) continue;
        const d = Object.getOwnPropertyDescriptor(p, key);
        if (typeof d.value === "function") names.add(key);
      }
    }
    return [...names].sort();
  },
};
})
