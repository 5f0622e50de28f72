package jsagent

import (
	"strings"
	"testing"

	"agentd/pkg/agent"
)

const storageSource = `
exports.D = class D extends DurableObject {
  constructor(ctx, env) { super(ctx, env); this.sql = ctx.storage.sql; }
  async kv() {
    const s = this.ctx.storage, out = [];
    await s.put("a", 1);
    await s.put({ b: { x: [1, undefined] }, c: new Date(5), d: new Map([["k", new Set([1n])]]), "é": new Uint8Array([1, 2]), z: undefined === 1 });
    out.push(await s.get("a"), (await s.get("c")).getTime(), (await s.get("d")).get("k").has(1n), Array.from(await s.get("é")), 1 in (await s.get("b")).x);
    out.push([...(await s.get(["d", "a", "nope"])).keys()]);
    out.push(await s.delete("a"), await s.delete("a"), await s.delete(["b", "c", "nope"]), (await s.get("a")) === undefined);
    return out;
  }
  async fill() { for (const k of ["a", "b1", "b2", "b3", "c", "é", "😀"]) await this.ctx.storage.put(k, k.length); }
  async keys(options) { const l = await this.ctx.storage.list(options); return [l instanceof Map, ...l.keys()].slice(1); }
  syncKv() { const kv = this.ctx.storage.kv; kv.put("q", 7); return [kv.get("q"), [...kv.list({ prefix: "q" })], kv.delete("q"), kv.get("q") === undefined]; }
  async badPut(which) {
    const values = { fn: { f() {} }, sym: Symbol("x"), undef: undefined, deep: 1, long: "x".repeat(2100000) };
    if (which === "deep") { let o = {}; values.deep = o; for (let i = 0; i < 600; i++) o = o.o = {}; }
    try { await this.ctx.storage.put(which === "key" ? "k".repeat(2049) : "k", which === "key" ? 1 : values[which]); } catch (e) { return e.name + ": " + e.message; }
  }
  async cyclic() { const o = { a: [] }; o.a.push(o); o.self = o; await this.ctx.storage.put("c", o); const r = await this.ctx.storage.get("c"); return r.a[0] === r && r.self === r; }
  setup() { this.sql.exec("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, v ANY); INSERT INTO t VALUES (?, ?, ?)", 1, "one", 1.5); }
  cursor() {
    const c = this.sql.exec("SELECT id, name FROM t UNION SELECT 2, 'two' UNION SELECT 3, 'three' ORDER BY 1");
    const names = c.columnNames, first = c.next(), rest = [...c], after = c.next().done, read = c.rowsRead;
    const w = this.sql.exec("INSERT INTO t VALUES (9, 'n', NULL), (10, 'm', NULL)").rowsWritten;
    return [names, first, rest, after, read, w, [...this.sql.exec("SELECT 1 AS a, 2 AS a").raw()], this.sql.exec("SELECT 5 AS x").one(), this.sql.databaseSize > 0];
  }
  one(q) { return this.sql.exec(q).one(); }
  exec(q, ...b) { return this.sql.exec(q, ...b).toArray(); }
  blob() { const b = this.sql.exec("SELECT ? AS b, ? AS t, ? AS big", new Uint8Array([1, 2, 3]).buffer, true, 9007199254740993n).one(); return [b.b instanceof ArrayBuffer, b.b.byteLength, b.t, b.big]; }
  sqlError() { try { this.sql.exec("SELEC 1"); } catch (e) { return [e.name, e.message, e instanceof Error]; } }
  syncTxn(fail) {
    try {
      return this.ctx.storage.transactionSync(() => {
        this.ctx.storage.kv.put("t", 1); this.sql.exec("CREATE TABLE IF NOT EXISTS made (x)"); this.ctx.storage.setAlarm(Date.now() + 1000);
        if (fail) throw new TypeError("undo");
        return "kept";
      });
    } catch (e) { return e.name + ": " + e.message; }
  }
  async look() { return [(await this.ctx.storage.get("t")) ?? null, this.exec("SELECT name FROM sqlite_master WHERE name = 'made'").length, (await this.ctx.storage.getAlarm()) !== null]; }
  async txn(how) {
    try {
      return await this.ctx.storage.transaction(async (txn) => {
        await txn.put("t", how); this.sql.exec("CREATE TABLE IF NOT EXISTS made (x)");
        if (how === "throw") throw new TypeError("undo");
        if (how === "rollback") { txn.rollback(); return "rolled back"; }
        if (how === "slow") { await new Promise((d) => setTimeout(d, 10)); try { await txn.put("t", "late"); } catch (e) { this.late = e.message; } }
        if (how === "nested") return await this.ctx.storage.transaction(async () => 1);
        return (await txn.get("t")) + " kept";
      });
    } catch (e) { return e.name + ": " + e.message; }
  }
  lateError() { return this.late; }
  async two() { return await Promise.all([this.txn("first"), this.txn("throw"), this.txn("second")]); }
  async wipe() { this.setup(); await this.ctx.storage.put("k", 1); await this.ctx.storage.setAlarm(Date.now() + 5000); this.sql.exec("CREATE VIEW vw AS SELECT 1");
    await this.ctx.storage.deleteAll();
    return [this.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE 'agentd%' AND name NOT LIKE 'sqlite%'"), (await this.ctx.storage.get("k")) ?? null, await this.ctx.storage.getAlarm()]; }
  async syncs() { await this.ctx.storage.put("k", 1); await this.ctx.storage.sync(); return "durable"; }
  async alarm() {}
};
exports.A = class A extends Agent {
  go(id) { this.sql` + "`CREATE TABLE IF NOT EXISTS u (id INTEGER, name TEXT)`; this.sql`INSERT INTO u VALUES (${id}, ${\"n\"})`; return this.sql`SELECT * FROM u WHERE id = ${id}`" + `; }
  fail() { const x = 1; this.sql` + "`SELECT * FROM nowhere WHERE x = ${x}`" + `; }
  caught() { try { this.fail(); } catch (e) { return [e instanceof SqlError, e.name, e.query, e.message, e.cause instanceof Error]; } }
  param() { try { this.sql` + "`SELECT ${{}}`" + `; } catch (e) { return e.message; } }
  hidden() { try { this.ctx.storage.put("k", 1); this.sql` + "`SELECT * FROM agentd_kv`" + `; } catch (e) { return e.message; } }
};
`

func TestKV(t *testing.T) {
	inWorld(t, storageSource, func(w *world) {
		w.expect(`[1,5,true,[1,2],true,["a","d"],true,false,2,true]`, "D", "kv")
		w.expect(`[7,[["q",7]],true,true]`, "D", "syncKv")
		w.expect(`true`, "D", "cyclic")
	})
}

func TestKV_Refuses(t *testing.T) {
	inWorld(t, storageSource, func(w *world) {
		for which, text := range map[string]string{"fn": "function cannot be stored", "sym": "symbol cannot", "undef": "has no value",
			"deep": "nested more than", "long": "at most 2000000", "key": "at most 2048"} {
			if out := w.call("D", "badPut", which); !strings.Contains(out, text) {
				t.Errorf("put(%s) → %s, want %s", which, out, text)
			}
		}
	})
}

func TestKV_List(t *testing.T) {
	type o = map[string]any
	inWorld(t, storageSource, func(w *world) {
		w.expect(`[]`, "D", "keys", o{})
		w.call("D", "fill")
		w.restart()
		for _, c := range []struct {
			options o
			want    string
		}{
			{o{}, `["a","b1","b2","b3","c","é","😀"]`},
			{o{"prefix": "b"}, `["b1","b2","b3"]`},
			{o{"prefix": "é"}, `["é"]`},
			{o{"start": "b2"}, `["b2","b3","c","é","😀"]`},
			{o{"startAfter": "b2"}, `["b3","c","é","😀"]`},
			{o{"start": "b1", "end": "b3"}, `["b1","b2"]`},
			{o{"reverse": true, "limit": 2}, `["😀","é"]`},
			{o{"prefix": "b", "reverse": true, "limit": 1}, `["b3"]`},
			{o{"prefix": "x"}, `[]`},
		} {
			w.expect(c.want, "D", "keys", c.options)
		}
		w.fails(agent.Exception, "start or startAfter", "D", "keys", o{"start": "a", "startAfter": "b"})
		w.fails(agent.Exception, "limit must be", "D", "keys", o{"limit": 0})
	})
}

func TestSQL_Cursor(t *testing.T) {
	inWorld(t, storageSource, func(w *world) {
		w.call("D", "setup")
		w.expect(`[["id","name"],{"done":false,"value":{"id":1,"name":"one"}},[{"id":2,"name":"two"},{"id":3,"name":"three"}],true,3,2,[[1,2]],{"x":5},true]`, "D", "cursor")
		w.fails(agent.Exception, "Expected exactly one result from SQL query, but got no results.", "D", "one", "SELECT 1 WHERE 0")
		w.fails(agent.Exception, "multiple results", "D", "one", "SELECT 1 UNION SELECT 2")
		w.expect(`[true,3,1,9007199254740992]`, "D", "blob")
		if out := w.call("D", "sqlError"); !strings.HasPrefix(out, `["Error","`) || !strings.Contains(out, "syntax error") {
			t.Errorf("sql.exec throws %s", out)
		}
		w.fails(agent.SQL, "syntax error", "D", "exec", "SELEC 1")
		w.fails(agent.SQL, "", "D", "exec", "COMMIT")
		w.fails(agent.SQL, "", "D", "exec", "SELECT * FROM agentd_kv")
	})
}

func TestSQL_Tag(t *testing.T) {
	inWorld(t, storageSource, func(w *world) {
		w.expect(`[{"id":4,"name":"n"}]`, "A", "go", 4)
		out := w.call("A", "caught")
		if !strings.HasPrefix(out, `[true,"SqlError","SELECT * FROM nowhere WHERE x = ?","SQL query failed: `) || !strings.HasSuffix(out, `,true]`) {
			t.Errorf("SqlError is %s", out)
		}
		e := w.fails(agent.SQL, "SQL query failed: no such table: nowhere", "A", "fail")
		if e.Name != "SqlError" || !strings.HasPrefix(e.Stack, "at fail (bundle.js:") {
			t.Errorf("name %q, stack %q", e.Name, e.Stack)
		}
		if out := w.call("A", "param"); !strings.Contains(out, "parameter 1") {
			t.Errorf("binding an object: %s", out)
		}
		if out := w.call("A", "hidden"); !strings.Contains(out, "SQL query failed") {
			t.Errorf("agentd_kv is readable: %s", out)
		}
	})
}

func TestTransactionSync(t *testing.T) {
	inWorld(t, storageSource, func(w *world) {
		w.expect(`"TypeError: undo"`, "D", "syncTxn", true)
		w.expect(`[null,0,false]`, "D", "look")
		w.expect(`"kept"`, "D", "syncTxn", false)
		w.expect(`[1,1,true]`, "D", "look")
		w.crash()
		w.expect(`[1,1,true]`, "D", "look")
	})
}

func TestTransaction(t *testing.T) {
	for _, c := range []struct{ how, want, after string }{
		{"x", `"x kept"`, `["x",1,false]`},
		{"throw", `"TypeError: undo"`, `[null,0,false]`},
		{"rollback", `"rolled back"`, `[null,0,false]`},
		{"nested", `"Error: transaction() inside transaction(): use the one that is open"`, `[null,0,false]`},
	} {
		t.Run(c.how, func(t *testing.T) {
			inWorld(t, storageSource, func(w *world) {
				w.expect(c.want, "D", "txn", c.how)
				w.expect(c.after, "D", "look")
				w.crash()
				w.expect(c.after, "D", "look")
			})
		})
	}
}

func TestTransaction_CannotOutliveItsTurn(t *testing.T) {
	inWorld(t, storageSource, func(w *world) {
		if out := w.call("D", "txn", "slow"); !strings.Contains(out, "awaited something other than storage") {
			t.Errorf("a slow transaction gives %s", out)
		}
		w.expect(`[null,0,false]`, "D", "look")
		w.wakeDue(1e9)
		if out := w.call("D", "lateError"); !strings.Contains(out, "rolled back") {
			t.Errorf("a late write gives %s", out)
		}
		w.expect(`[null,0,false]`, "D", "look")
	})
}

func TestTransaction_OneAfterTheOther(t *testing.T) {
	inWorld(t, storageSource, func(w *world) {
		w.expect(`["first kept","TypeError: undo","second kept"]`, "D", "two")
		w.expect(`["second",1,false]`, "D", "look")
	})
}

func TestDeleteAll(t *testing.T) {
	inWorld(t, storageSource, func(w *world) {
		w.expect(`[[],null,null]`, "D", "wipe")
		w.crash()
		w.expect(`[null,0,false]`, "D", "look")
		w.expect(`"durable"`, "D", "syncs")
	})
}
