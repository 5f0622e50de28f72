// ctx.storage: keys, alarm, transactions.
(function (host) {
"use strict";

class SyncKv {
  get(key) { return host.kvGet(key); }
  put(key, value) { host.kvPut(key, value); }
  delete(key) { return host.kvDelete(key); }
  list(options) { return host.kvList(options); }
}

function getMany(keyOrKeys) {
  if (!Array.isArray(keyOrKeys)) return host.kvGet(keyOrKeys);
  const out = new Map();
  for (const key of [...keyOrKeys].sort()) {
    const value = host.kvGet(key);
    if (value !== undefined) out.set(key, value);
  }
  return out;
}

function putMany(keyOrEntries, value, count) {
  if (typeof keyOrEntries === "object" && keyOrEntries !== null) {
    host.kvPutAll(Object.keys(keyOrEntries), keyOrEntries);
    return;
  }
  if (count < 2) throw new TypeError("put(key, value) needs a value");
  host.kvPut(keyOrEntries, value);
}

function deleteMany(keyOrKeys) {
  if (!Array.isArray(keyOrKeys)) return host.kvDelete(keyOrKeys);
  let n = 0;
  for (const key of keyOrKeys) if (host.kvDelete(key)) n++;
  return n;
}

class Transaction {
  async get(key) { return getMany(key); }
  async put(key, value) { putMany(key, value, arguments.length); }
  async delete(key) { return deleteMany(key); }
  async list(options) { return new Map(host.kvList(options)); }
  async getAlarm() { return host.getAlarm(); }
  async setAlarm(time) { host.setAlarm(time); }
  async deleteAlarm() { host.deleteAlarm(); }
}

class DurableObjectTransaction extends Transaction {
  rollback() { host.txnRollback(); }
}

// Transactions run one after another; each is a savepoint, and savepoints nest.
let lastTransaction = Promise.resolve();
function transact(closure) {
  if (host.inTransaction()) return Promise.reject(new Error("transaction() inside transaction(): use the one that is open"));
  const run = lastTransaction.then(() => host.transaction(closure, new DurableObjectTransaction()));
  lastTransaction = run.then(() => {}, () => {});
  return run;
}

class DurableObjectStorage extends Transaction {
  #kv;
  get sql() { return host.part("sql").sql; }
  get kv() { return this.#kv ??= new SyncKv(); }
  async deleteAll() { host.deleteAll(); }
  async sync() { await host.sync(); }
  transactionSync(closure) { return host.transactionSync(closure); }
  transaction(closure) {
    if (typeof closure !== "function") return Promise.reject(new TypeError("transaction() needs a function"));
    return transact(closure);
  }
}

return { storage: new DurableObjectStorage() };
})
