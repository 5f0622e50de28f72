// storage.sql and its cursor.
(function (host) {
"use strict";

class SqlCursor {
  #data; #at = 0;
  constructor(data) { this.#data = data; this.columnNames = data.columns; }
  get rowsRead() { return this.#at; }
  get rowsWritten() { return this.#data.written; }
  #values() {
    const rows = this.#data.rows;
    return this.#at < rows.length ? rows[this.#at++] : undefined;
  }
  #object(values) {
    const row = {};
    const names = this.columnNames;
    for (let i = 0; i < names.length; i++) row[names[i]] = values[i];
    return row;
  }
  next() {
    const values = this.#values();
    return values === undefined ? { done: true, value: undefined } : { done: false, value: this.#object(values) };
  }
  toArray() {
    const out = [];
    for (let values; (values = this.#values()) !== undefined;) out.push(this.#object(values));
    return out;
  }
  one() {
    const left = this.#data.rows.length - this.#at;
    if (left !== 1) throw new Error(`Expected exactly one result from SQL query, but got ${left === 0 ? "no results" : "multiple results"}.`);
    return this.#object(this.#values());
  }
  raw() {
    const next = () => {
      const value = this.#values();
      return { done: value === undefined, value };
    };
    return {
      next,
      toArray: () => { const out = []; for (let r; !(r = next()).done;) out.push(r.value); return out; },
      [Symbol.iterator]() { return this; },
    };
  }
  [Symbol.iterator]() { return this; }
}

class SqlStorage {
  exec(query, ...bindings) { return new SqlCursor(host.sqlExec(query, bindings)); }
  get databaseSize() { return host.databaseSize(); }
}

return { sql: new SqlStorage() };
})
