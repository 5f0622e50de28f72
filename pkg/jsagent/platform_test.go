package jsagent

import (
	"strings"
	"testing"

	"agentd/pkg/agent"
)

const platformSource = `
exports.P = class P extends Agent {
  initialState = { n: 1 };
  validateStateChange(s) { if (s.bad) throw new Error("bad state"); }
  async big() { await this.ctx.storage.put("big", 5n); await this.ctx.storage.put("map", new Map()); }
  get2() { return this.state; }
};
exports.D = class D extends DurableObject { hi() {} };`

func TestPlatform(t *testing.T) {
	inWorld(t, platformSource, func(w *world) {
		w.call("P", "big")
		for _, c := range []struct{ target, method, args, want string }{
			{"P", agent.MethodStateGet, `{}`, `{"state":{"n":1}}`},
			{"P", agent.MethodStateSet, `{"state":{"n":2}}`, `null`},
			{"P", agent.MethodStateGet, `{}`, `{"state":{"n":2}}`},
			{"D", agent.MethodStateGet, `{}`, `{}`},
			{"P", agent.MethodKVPut, `{"entries":{"a":1,"b":{"x":null},"c":[]}}`, `null`},
			{"P", agent.MethodKVGet, `{"keys":["b","nope","a"]}`, `{"entries":{"a":1,"b":{"x":null}}}`},
			{"P", agent.MethodKVList, `{"prefix":"","start":"b","end":"bb","limit":5}`, `{"entries":[{"key":"b","value":{"x":null}}]}`},
			{"P", agent.MethodKVDelete, `{"keys":["a","a","nope"]}`, `{"deleted":1}`},
			{"P", agent.MethodSQLQuery, `{"query":"CREATE TABLE t (a, b)"}`, `{"columns":[],"rows":[],"truncated":false}`},
			{"P", agent.MethodSQLQuery, `{"query":"INSERT INTO t VALUES (?, ?)","args":[{"$base64":"AQI="},9007199254740993]}`, `{"columns":[],"rows":[],"truncated":false}`},
			{"P", agent.MethodSQLQuery, `{"query":"SELECT a, b, 1.5 AS c, 'x' AS d, NULL AS e FROM t"}`, `{"columns":["a","b","c","d","e"],"rows":[[{"$base64":"AQI="},9007199254740993,1.5,"x",null]],"truncated":false}`},
			{"P", agent.MethodSQLQuery, `{"query":"SELECT typeof(?1) AS a, ?1 AS b, typeof(?2) AS c, ?2 AS d, -?3 AS e","args":[2.0,-9223372036854775808,1e300]}`, `{"columns":["a","b","c","d","e"],"rows":[["real",2.0,"integer",-9223372036854775808,-1e+300]],"truncated":false}`},
			{"P", agent.MethodSQLQuery, `{"query":"SELECT 1 AS n UNION SELECT 2 UNION SELECT 3","maxRows":2}`, `{"columns":["n"],"rows":[[1],[2]],"truncated":true}`},
			{"P", methodStart, `{}`, `null`},
		} {
			out, err := w.platform(c.target, c.method, c.args)
			if err != nil || out != c.want {
				t.Errorf("%s %s = %s, %v; want %s", c.method, c.args, out, err, c.want)
			}
		}
		w.crash()
		w.expect(`{"n":2}`, "P", "get2")
	})
}

func TestPlatform_Refuses(t *testing.T) {
	inWorld(t, platformSource, func(w *world) {
		w.call("P", "big")
		for _, c := range []struct {
			target, method, args string
			kind                 agent.Kind
			text                 string
		}{
			{"P", "state.nope", `{}`, agent.UnknownMethod, "no method"},
			{"P", agent.MethodStateSet, `{}`, agent.Invalid, `"state"`},
			{"P", agent.MethodStateSet, `{"state":{"bad":1}}`, agent.Exception, "bad state"},
			{"P", agent.MethodStateSet, `{"stat":1}`, agent.Invalid, "stat"},
			{"D", agent.MethodStateSet, `{"state":1}`, agent.Invalid, "extends DurableObject"},
			{"D", agent.MethodFiberList, `{}`, agent.Invalid, "extends DurableObject"},
			{"P", agent.MethodSQLQuery, `{"query":"SELEC"}`, agent.SQL, "syntax"},
			{"P", agent.MethodSQLQuery, `{"query":"SELECT 1","maxRows":20000}`, agent.Invalid, "maxRows"},
			{"P", agent.MethodSQLQuery, `{"query":"SELECT ?","args":[[]]}`, agent.Invalid, "parameter 1"},
			{"P", agent.MethodKVGet, `{"keys":["big"]}`, agent.Unserializable, `key "big"`},
			{"P", agent.MethodKVPut, `{"entries":{"":1}}`, agent.Invalid, "must not be empty"},
		} {
			out, err := w.platform(c.target, c.method, c.args)
			if agent.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s %s = %s, %v (%v); want %v …%s…", c.method, c.args, out, err, agent.KindOf(err), c.kind, c.text)
			}
		}
	})
}

func TestPlatform_OwnSQLIsSeenByTheAgent(t *testing.T) {
	inWorld(t, platformSource, func(w *world) {
		w.expect(`{"n":1}`, "P", "get2")
		if _, err := w.platform("P", agent.MethodSQLQuery, `{"query":"UPDATE cf_agents_state SET state = '{\"n\":7}'"}`); err != nil {
			t.Fatal(err)
		}
		w.expect(`{"n":7}`, "P", "get2")
	})
}
