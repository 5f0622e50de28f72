// Members of Agent that most agents never touch.
(function (host) {
"use strict";

const members = {
  onRequest(_request) { return new Response("Not implemented", { status: 404 }); },
  fetch(request) { return this.onRequest(request); },
  onError(connectionOrError, error) {
    const e = error === undefined ? connectionOrError : error;
    console.error("error in agent " + this.name + ":", e);
    throw e;
  },
  shouldConnectionBeReadonly() { return false; },
  shouldSendProtocolMessages() { return true; },
  getConnectionTags() { return []; },
  broadcast(message, _without) { host.broadcast(message); },
  *getConnections(_tag) {},
  getConnection(_id) { return undefined; },
  getCallableMethods() {
    const { callableMetadata } = host.part("sdk");
    const found = new Map();
    for (let p = Object.getPrototypeOf(this); p !== null && p !== Object.prototype; p = Object.getPrototypeOf(p)) {
      for (const key of Object.getOwnPropertyNames(p)) {
        if (key === "constructor" || found.has(key)) continue;
        const d = Object.getOwnPropertyDescriptor(p, key);
        if (d === undefined || typeof d.value !== "function" || d.value !== this[key]) continue;
        const metadata = callableMetadata.get(d.value);
        if (metadata !== undefined) found.set(key, metadata);
      }
    }
    return found;
  },
  async destroy() { host.destroy(); },
  async keepAlive() {
    host.keepAlive(1);
    let held = true;
    return () => {
      if (held) host.keepAlive(-1);
      held = false;
    };
  },
  async keepAliveWhile(fn) {
    const release = await this.keepAlive();
    try { return await fn(); } finally { release(); }
  },
};

return { members };
})
