// IDs, namespaces and stubs: how an agent names and calls others.
(function (host) {
"use strict";

function unavailable(what) {
  return new Error(what + " is not available in agentd");
}

// id.toString() is the name as hexadecimal UTF-8, so that idFromString can go back.
class DurableObjectId {
  constructor(name) { this.name = name; }
  toString() { return host.hexOfName(this.name); }
  equals(other) { return other instanceof DurableObjectId && other.name === this.name; }
}

// Names that other code asks any object for. They are never methods of an agent.
const notMethods = new Set(["then", "catch", "finally", "toJSON", "toString", "valueOf", "constructor",
  "prototype", "$$typeof", "nodeType", "asymmetricMatch", "inspect"]);
const notYet = new Set(["fetch", "connect", "dup"]);

const stubTraps = {
  get(target, key) {
    if (typeof key === "symbol" || Object.prototype.hasOwnProperty.call(target, key)) return target[key];
    if (notMethods.has(key)) return Object.prototype[key];
    const what = target.what;
    let method;
    if (notYet.has(key)) {
      method = async () => { throw unavailable(`${key}() on a stub of ${what}`); };
    } else {
      const send = target.send;
      method = (...args) => send(key, args);
    }
    Object.defineProperty(target, key, { value: method });
    return method;
  },
  set(target, key) { throw new TypeError(`a stub of ${target.what} is read-only: ${String(key)}`); },
};

function makeStub(className, id) {
  const target = { id, name: id.name };
  Object.defineProperty(target, "what", { value: className });
  Object.defineProperty(target, "send", { value: host.stub(className, id.name) });
  return new Proxy(target, stubTraps);
}

class DurableObjectNamespace {
  #class;
  constructor(className) { this.#class = className; }
  idFromName(name) { return new DurableObjectId(host.checkName(name)); }
  idFromString(text) { return new DurableObjectId(host.nameOfHex(text)); }
  newUniqueId() { return new DurableObjectId(host.uniqueName()); }
  get(id) {
    if (!(id instanceof DurableObjectId)) throw new TypeError(`get() of ${this.#class} needs an id: use idFromName(name)`);
    return makeStub(this.#class, id);
  }
  getByName(name) { return makeStub(this.#class, this.idFromName(name)); }
  jurisdiction() { throw unavailable("jurisdiction()"); }
}

return {
  newId: (name) => new DurableObjectId(name),
  newNamespace: (className) => new DurableObjectNamespace(className),
};
})
