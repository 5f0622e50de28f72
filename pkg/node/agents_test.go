package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/client"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage"
)

// A request leaves only when what its turn wrote, before and after it, would
// outlive the process.
func TestNode_FetchLeavesAfterTheWrites(t *testing.T) {
	w := start(t, nil)
	id := agent.ID{Namespace: agent.DefaultNamespace, Class: "F", Name: "a"}
	found := make(chan string, 1)
	target := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		found <- rowsIn(t, w.cfg.DataDir, id)
		rw.Header().Set("X-Method", r.Method)
		rw.WriteHeader(http.StatusTeapot)
		if err := json.NewEncoder(rw).Encode(map[string]string{"got": r.Header.Get("X-Mine")}); err != nil {
			t.Error(err)
		}
	}))
	defer target.Close()
	w.deploy(`export class F extends Agent {
	  onStart() { this.sql` + "`CREATE TABLE IF NOT EXISTS t(v)`" + `; }
	  async go(url: string) {
	    this.sql` + "`INSERT INTO t VALUES('before')`" + `;
	    const pending = fetch(url, { method: "POST", headers: { "X-Mine": "yes" }, body: "x" });
	    this.sql` + "`INSERT INTO t VALUES('after')`" + `;
	    const r = await pending;
	    return [r.status, r.headers.get("x-method"), await r.json()];
	  }
	  async refused(url: string) { try { await fetch(url); } catch (e) { return (e as Error).name; } }
	}`)
	w.expect(`[418,"POST",{"got":"yes"}]`, "F/a", "go", target.URL)
	if got := <-found; got != "before after" {
		t.Errorf("when the request arrived the disk held %q", got)
	}
	target.Close()
	w.expect(`"TypeError"`, "F/a", "refused", target.URL)
}

// rowsIn opens a copy of the data folder, as a new process would after a crash, and
// reads table t of an agent.
func rowsIn(t *testing.T, dir string, id agent.ID) string {
	copied := t.TempDir()
	if err := copyFolder(copied, dir); err != nil {
		t.Error(err)
		return ""
	}
	store, err := single.Open(t.Context(), single.Config{Dir: copied, Now: time.Now})
	if err != nil {
		t.Error(err)
		return ""
	}
	defer store.Close()
	db, err := store.Open(t.Context(), id)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer db.Close()
	rows, err := db.Query("SELECT group_concat(v, ' ') FROM t")
	if err != nil {
		t.Error(err)
		return ""
	}
	row := make([]storage.Value, 1)
	if err := rows.Next(row); err != nil {
		t.Error(err)
	}
	if err := rows.Close(); err != nil {
		t.Error(err)
	}
	text, _ := row[0].(string)
	return text
}

func copyFolder(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && strings.HasSuffix(path, ".new") {
			return nil // a file that was being made
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
}

func TestNode_AgentsCallEachOther(t *testing.T) {
	w := start(t, nil)
	w.deploy(`
	export class Ledger extends Agent {
	  initialState = { sum: 0 };
	  add(n: number) { if (n < 0) throw new RangeError("negative"); this.setState({ sum: this.state.sum + n }); return this.state.sum; }
	}
	export class Payer extends Agent {
	  async pay(to: string, n: number) { return this.env.LEDGER.getByName(to).add(n); }
	  async byName(to: string, n: number) { return (await getAgentByName(this.env.LEDGER, to)).add(n); }
	  async many(to: string) { const stub = this.env.LEDGER.getByName(to); return Promise.all([1, 2, 3].map((n) => stub.add(n))); }
	  async fails(to: string) { try { await this.env.LEDGER.getByName(to).add(-1); } catch (e) { return [(e as Error).name, (e as Error).message]; } }
	  async missing() { return this.env.LEDGER.getByName("x").nope(); }
	  async itself(n: number): Promise<number> { return n === 0 ? 0 : 1 + (await this.env.PAYER.getByName(this.name).itself(n - 1)); }
	}`)
	w.expect(`5`, "Payer/p", "pay", "l", 5)
	w.expect(`12`, "Payer/p", "byName", "l", 7)
	w.expect(`[1,3,6]`, "Payer/p", "many", "m")
	w.expect(`["RangeError","negative"]`, "Payer/p", "fails", "l")
	w.expect(`3`, "Payer/p", "itself", 3)
	if err := w.agent("Payer/p").Invoke(w.ctx, "missing", nil); err == nil || !strings.Contains(err.Error(), `no method "nope"`) {
		t.Errorf("a method that the other lacks: %v", err)
	}
	w.expect(`12`, "Ledger/l", "add", 0)
}

const dataSource = `
export class D extends Agent<{}, { n: number }> {
  initialState = { n: 0 };
  onStart() { this.sql` + "`CREATE TABLE IF NOT EXISTS t(i INTEGER, r REAL, b BLOB, s TEXT, v)`" + `; }
  set(n: number) { this.setState({ n }); }
  async put(key: string, v: unknown) { await this.ctx.storage.put(key, v); }
  async get(key: string) { return (await this.ctx.storage.get(key)) ?? null; }
}
`

func TestNode_WatchState(t *testing.T) {
	w := start(t, nil)
	w.deploy(dataSource)
	states, failed := make(chan string, 10), make(chan error, 1)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	go func() {
		for state, err := range w.agent("D/a").WatchState(ctx) {
			if err != nil {
				failed <- err
				return
			}
			states <- string(state)
		}
	}()
	next := func(want string) {
		t.Helper()
		select {
		case got := <-states:
			if got != want {
				t.Errorf("state %s, want %s", got, want)
			}
		case err := <-failed:
			t.Fatal(err)
		case <-w.ctx.Done():
			t.Fatal("no state came")
		}
	}
	next(`{"n":0}`)
	w.call("D/a", "set", 1)
	next(`{"n":1}`)
	if err := w.agent("D/a").SetState(w.ctx, json.RawMessage(`{"n":2}`)); err != nil {
		t.Fatal(err)
	}
	next(`{"n":2}`)
	cancel()
	if err := <-failed; agent.KindOf(err) != agent.Canceled {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestNode_KV(t *testing.T) {
	w := start(t, nil)
	w.deploy(dataSource)
	a := w.agent("D/a")
	if err := a.KVPut(w.ctx, map[string]json.RawMessage{"a": json.RawMessage(`1`), "b": json.RawMessage(`{"x":null}`), "c": json.RawMessage(`[]`)}); err != nil {
		t.Fatal(err)
	}
	w.expect(`{"x":null}`, "D/a", "get", "b")
	w.call("D/a", "put", "d", "from code")
	got, err := a.KVGet(w.ctx, "a", "d", "nope")
	if want := map[string]json.RawMessage{"a": json.RawMessage(`1`), "d": json.RawMessage(`"from code"`)}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("get: %s, %v", got, err)
	}
	list, err := a.KVList(w.ctx, client.KVRange{Start: "b", End: "d", Reverse: true})
	if want := []client.KVEntry{{Key: "c", Value: json.RawMessage(`[]`)}, {Key: "b", Value: json.RawMessage(`{"x":null}`)}}; err != nil || !reflect.DeepEqual(list, want) {
		t.Errorf("list: %s, %v", list, err)
	}
	if n, err := a.KVDelete(w.ctx, "a", "nope"); err != nil || n != 1 {
		t.Errorf("delete: %d, %v", n, err)
	}
}

// Values keep type and digits on their way through the client and back.
func TestNode_QueryKeepsValues(t *testing.T) {
	w := start(t, nil)
	w.deploy(dataSource)
	values := []any{nil, int64(0), int64(-1), int64(1<<53 + 1), int64(math.MaxInt64), int64(math.MinInt64),
		0.0, 1.0, -2.0, 0.1, 1e300, 5e-324, math.MaxFloat64, float64(1 << 53), float64(1 << 63), 1e21, 123456789012345680.0,
		"", "text", "9007199254740993", "{\"$base64\":\"AQI=\"}", "zwölf 😀", []byte{}, []byte{0, 1, 255}}
	for _, v := range values {
		table, err := w.agent("D/a").Query(w.ctx, "SELECT ?1 AS v, typeof(?1) AS t", v)
		if err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		kind := map[string]string{"<nil>": "null", "int64": "integer", "float64": "real", "string": "text", "[]uint8": "blob"}[fmt.Sprintf("%T", v)]
		if got := table.Rows[0]; !sameValue(got[0], v) || got[1] != kind {
			t.Errorf("%T %v came back as %T %v (%v)", v, v, got[0], got[0], got[1])
		}
	}
	if _, err := w.agent("D/a").Query(w.ctx, "INSERT INTO t(v) VALUES(?), (?)", int64(math.MaxInt64), 3.0); err != nil {
		t.Fatal(err)
	}
	table, err := w.agent("D/a").Query(w.ctx, "SELECT v, typeof(v) FROM t ORDER BY rowid")
	if want := [][]any{{int64(math.MaxInt64), "integer"}, {3.0, "real"}}; err != nil || !reflect.DeepEqual(table.Rows, want) {
		t.Errorf("stored: %+v, %v", table, err)
	}
	table, err = w.agent("D/a").Query(w.ctx, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 1500) SELECT i FROM n")
	if err != nil || len(table.Rows) != 1000 || !table.Truncated {
		t.Errorf("%d rows, truncated %v, %v", len(table.Rows), table != nil && table.Truncated, err)
	}
	if _, err := w.agent("D/a").Query(w.ctx, "SELECT 1; SELEC"); agent.KindOf(err) != agent.SQL {
		t.Errorf("bad SQL: %v", err)
	}
}

func sameValue(a, b any) bool {
	x, ok := a.([]byte)
	y, ok2 := b.([]byte)
	if ok && ok2 {
		return string(x) == string(y)
	}
	return reflect.DeepEqual(a, b)
}

func TestNode_DescribeListDelete(t *testing.T) {
	w, g := start(t, func(c *Config) { c.Idle = time.Hour }), newGate(t)
	w.deploy(dataSource + `
	export class Slow extends Agent { async onStart() { await fetch(` + "`" + g.URL + "`" + `); } hi() { return 1; } }
	export class Broken extends Agent { onStart() { throw new Error("no start"); } hi() {} }`)
	describe := func(id string) *client.AgentInfo {
		t.Helper()
		info, err := w.agent(id).Describe(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if info := describe("D/never"); info.Exists || info.Phase != "hibernated" {
		t.Errorf("an agent that never was: %+v", info)
	}
	w.call("D/a", "set", 1)
	small := describe("D/a")
	if !small.Exists || !small.Live || small.Phase != "live" || small.Seq == 0 || small.Turns == 0 || small.SizeBytes < 4096 || small.CreatedAt.IsZero() || small.StartedAt.IsZero() {
		t.Errorf("a live agent: %+v", small)
	}
	if _, err := w.agent("D/a").Query(w.ctx, "INSERT INTO t(b) VALUES(zeroblob(1000000))"); err != nil {
		t.Fatal(err)
	}
	list, err := w.client.List(w.ctx, client.ListOptions{Class: "D"})
	if err != nil || len(list) != 1 || list[0].Name != "a" || list[0].SizeBytes < small.SizeBytes+990_000 {
		t.Errorf("list: %+v, %v", list, err)
	}
	started := make(chan error, 1)
	go func() { started <- w.agent("Slow/s").Invoke(w.ctx, "hi", nil) }()
	w.enter(g)
	if info := describe("Slow/s"); info.Phase != "starting" || info.Mailbox != 1 {
		t.Errorf("an agent that starts: %+v", info)
	}
	g.release()
	if err := <-started; err != nil {
		t.Error(err)
	}
	if err := w.agent("Broken/b").Invoke(w.ctx, "hi", nil); agent.KindOf(err) != agent.Exception || !strings.Contains(err.Error(), "no start") {
		t.Errorf("a failing onStart: %v", err)
	}
	w.await("the phase broken", func() bool {
		info := describe("Broken/b")
		return info.Phase == "broken" && strings.Contains(info.Reason, "no start")
	})
	if err := w.agent("D/a").Delete(w.ctx); err != nil {
		t.Fatal(err)
	}
	if info := describe("D/a"); info.Exists || info.Live {
		t.Errorf("after Delete: %+v", info)
	}
	if err := w.agent("D/a").Delete(w.ctx); err != nil {
		t.Errorf("a second Delete: %v", err)
	}
	if state, _, err := w.agent("D/a").State(w.ctx); err != nil || string(state) != `{"n":0}` {
		t.Errorf("the next agent of that name has state %s, %v", state, err)
	}
}

// An agent leaves memory when it has nothing to do, and a schedule brings it back
// without anybody asking.
func TestNode_HibernatesAndWakes(t *testing.T) {
	w, g := start(t, func(c *Config) { c.Idle = 50 * time.Millisecond }), newGate(t)
	g.release()
	w.deploy(`export class S extends Agent {
	  born = crypto.randomUUID();
	  async later(url: string) { await this.schedule(2, "tick", url); return this.born; }
	  async tick(url: string) { await fetch(url + "/" + this.born); }
	}`)
	born := strings.Trim(w.call("S/a", "later", g.URL), `"`)
	info, err := w.agent("S/a").Describe(w.ctx)
	if err != nil || !info.Exists || info.Wake.IsZero() {
		t.Errorf("an agent with a schedule: %+v, %v", info, err)
	}
	select {
	case path := <-g.entered:
		if path == "/"+born {
			t.Error("the instance that woke is the one that slept")
		}
	case <-w.ctx.Done():
		t.Fatal("the schedule did not run")
	}
	w.await("hibernation after the wake", func() bool {
		info, err := w.agent("S/a").Describe(w.ctx)
		return err == nil && info.Phase == "hibernated" && !info.Live && info.Wake.IsZero()
	})
}

// What was due while the node was down runs when it is back.
func TestNode_WakesAfterRestart(t *testing.T) {
	w, g := start(t, nil), newGate(t)
	g.release()
	w.deploy(`export class S extends Agent {
	  async later(url: string) { await this.schedule(1, "tick", url); }
	  async tick(url: string) { await fetch(url); }
	}`)
	w.call("S/a", "later", g.URL)
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.enter(g)
}

// An agent whose turns are stopped again and again is set aside, and an operator
// brings it back; its neighbour notices nothing.
func TestNode_Quarantine(t *testing.T) {
	w := start(t, func(c *Config) { c.TurnBudget = 50 * time.Millisecond })
	w.deploy(badSource)
	w.call("Bad/good", "echo", 1)
	for range 3 {
		if err := w.agent("Bad/bad").Invoke(w.ctx, "endless", nil); agent.KindOf(err) != agent.CPULimit {
			t.Fatalf("an endless turn: %v", err)
		}
	}
	var e *agent.Error
	w.await("the quarantine", func() bool {
		err := w.agent("Bad/bad").Invoke(w.ctx, "echo", nil, 1)
		return errors.As(err, &e) && e.Kind == agent.Quarantined
	})
	if !strings.Contains(e.Msg, "agentd unquarantine Bad/bad") {
		t.Errorf("the message does not say what to do: %s", e.Msg)
	}
	if info, err := w.agent("Bad/bad").Describe(w.ctx); err != nil || info.Phase != "quarantined" || info.Reason == "" {
		t.Errorf("%+v, %v", info, err)
	}
	w.expect(`2`, "Bad/good", "echo", 2)
	if err := w.agent("Bad/bad").Unquarantine(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.expect(`3`, "Bad/bad", "echo", 3)
}

// Two calls with one key are one call, also when the instance and the node went
// away in between.
func TestNode_IdempotencyKey(t *testing.T) {
	w := start(t, nil)
	w.deploy(`export class C extends Agent { initialState = { n: 0 }; add() { this.setState({ n: this.state.n + 1 }); return this.state.n; } }`)
	for i := range 3 {
		got, err := w.agent("C/a").Call(w.ctx, "add", nil, client.WithKey("k"))
		if err != nil || string(got) != "1" {
			t.Errorf("call %d: %s, %v", i, got, err)
		}
		if i == 1 {
			if err := w.close(); err != nil {
				t.Fatal(err)
			}
			w.open()
		}
	}
	if _, err := w.agent("C/a").Call(w.ctx, "add", []json.RawMessage{json.RawMessage("1")}, client.WithKey("k")); agent.KindOf(err) != agent.Conflict {
		t.Errorf("the key with other arguments: %v", err)
	}
	w.expect(`2`, "C/a", "add")
}
