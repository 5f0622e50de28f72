package jsagent

import (
	"strings"
	"testing"

	"agentd/pkg/agent"
)

const stateSource = `
exports.A = class A extends Agent {
  set(s) { this.setState(s); return this.state; }
  get2() { return { s: this.state }; }
  bad(what) {
    const cyclic = {}; cyclic.me = cyclic;
    const value = { cycle: cyclic, bigint: { a: 1n }, fn: () => 1, undef: undefined }[what];
    try { this.setState(value); } catch (e) { return [e.name, e.message, this.state === undefined ? "none" : this.state]; }
  }
  badEscapes() { this.setState({ n: 1n }); }
  alias() { const o = { n: 1 }; this.setState(o); return this.state === o; }
  async throwsAfter() { this.setState({ kept: true }); throw new Error("afterwards"); }
  raw() { return this.sql` + "`SELECT state FROM cf_agents_state WHERE id = ${'cf_state_row_id'}`" + `; }
  corrupt() { this.sql` + "`UPDATE cf_agents_state SET state = '{'`" + `; }
  count() { return this.sql` + "`SELECT count(*) AS n FROM cf_agents_state`" + `[0].n; }
};
exports.B = class B extends Agent {
  initialState = { n: 0 };
  seen = [];
  validateStateChange(next, source) { if (next.n < 0) throw new Error("negative"); this.seen.push(["validate", next.n, source]); }
  onStateChanged(s, source) { this.seen.push(["changed", s.n, source]); if (s.n === 13) throw new Error("unlucky"); }
  onError(e) { this.seen.push(["error", e.message]); }
  set(n) { this.setState({ n }); return this.seen; }
  get2() { return [this.state, this.seen]; }
};
exports.Falsy = class Falsy extends Agent {
  initialState = "initial";
  set(s) { this.setState(s); }
  get2() { return [this.state]; }
};
exports.Old = class Old extends Agent { onStateUpdate(s) { this.last = s; } set(s) { this.setState(s); return this.last; } };
`

func TestState_PersistsAndReplaces(t *testing.T) {
	inWorld(t, stateSource, func(w *world) {
		w.expect(`{}`, "A", "get2")
		w.expect(`{"a":1,"b":2}`, "A", "set", map[string]int{"a": 1, "b": 2})
		w.expect(`{"c":3}`, "A", "set", map[string]int{"c": 3})
		w.expect(`[{"state":"{\"c\":3}"}]`, "A", "raw")
		w.expect(`true`, "A", "alias")
		w.crash()
		w.expect(`{"s":{"n":1}}`, "A", "get2")
		w.fails(agent.Exception, "afterwards", "A", "throwsAfter")
		w.crash()
		w.expect(`{"s":{"kept":true}}`, "A", "get2")
	})
}

func TestState_FalsyValuesAreStates(t *testing.T) {
	inWorld(t, stateSource, func(w *world) {
		w.expect(`["initial"]`, "Falsy", "get2")
		for _, c := range []struct {
			in   any
			want string
		}{{nil, "[null]"}, {0, "[0]"}, {false, "[false]"}, {"", `[""]`}} {
			w.call("Falsy", "set", c.in)
			w.restart()
			w.expect(c.want, "Falsy", "get2")
		}
	})
}

func TestState_ValueWithoutJSONChangesNothing(t *testing.T) {
	inWorld(t, stateSource, func(w *world) {
		for _, c := range []struct{ what, text string }{
			{"cycle", "the state has no JSON form"}, {"bigint", "BigInt"}, {"fn", "function"}, {"undef", "undefined"},
		} {
			out := w.call("A", "bad", c.what)
			if !strings.HasPrefix(out, `["TypeError","`) || !strings.Contains(out, c.text) || !strings.HasSuffix(out, `,"none"]`) {
				t.Errorf("setState(%s) → %s", c.what, out)
			}
		}
		e := w.fails(agent.Unserializable, "the state has no JSON form", "A", "badEscapes")
		if !strings.Contains(e.Stack, "badEscapes") {
			t.Errorf("stack %q", e.Stack)
		}
		w.expect(`{}`, "A", "get2")
	})
}

func TestState_OrderOfHooks(t *testing.T) {
	inWorld(t, stateSource, func(w *world) {
		w.expect(`[{"n":0},[["validate",0,"server"],["changed",0,"server"]]]`, "B", "get2")
		w.fails(agent.Exception, "negative", "B", "set", -1)
		w.expect(`[{"n":0},[["validate",0,"server"],["changed",0,"server"]]]`, "B", "get2")
		w.call("B", "set", 13)
		w.expect(`[{"n":13},[["validate",0,"server"],["changed",0,"server"],["validate",13,"server"],["changed",13,"server"],["error","unlucky"]]]`, "B", "get2")
		w.restart()
		w.expect(`[{"n":13},[]]`, "B", "get2")
		w.expect(`5`, "Old", "set", 5)
		if !strings.Contains(w.log.String(), "onStateUpdate is deprecated") {
			t.Error("no warning about onStateUpdate")
		}
	})
}

func TestState_CorruptRow(t *testing.T) {
	inWorld(t, stateSource, func(w *world) {
		w.call("A", "set", 1)
		w.call("A", "corrupt")
		w.expect(`{}`, "A", "get2")
		w.expect(`0`, "A", "count")
	})
}

func TestState_IsPublished(t *testing.T) {
	inWorld(t, stateSource, func(w *world) {
		sub := w.host.Subscribe(id("A"), TopicState, 10)
		defer sub.Close()
		w.call("A", "set", []int{1})
		if got := <-sub.C; string(got) != "[1]" {
			t.Errorf("published %q, %v", got, sub.Err())
		}
	})
}
