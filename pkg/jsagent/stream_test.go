package jsagent

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"agentd/pkg/agent"
)

const streamSource = `
exports.Talker = class Talker extends Agent {
  count(stream, n) {
    for (let i = 1; i <= n; i++) stream.send({ i });
    this.sql` + "`CREATE TABLE IF NOT EXISTS t(x)`" + `;
    stream.end("done");
    stream.end("twice");
    return "ignored";
  }
  async slowly(stream) {
    setTimeout(() => { stream.send(1); stream.end(); }, 1000);
  }
  refuse(stream) { stream.send(1); stream.error("no more"); }
  explode(stream) { stream.send(1); throw new TypeError("boom"); }
  plain(x) { return x; }
};
callable({ streaming: true })(exports.Talker.prototype.count);
callable({ streaming: true })(exports.Talker.prototype.slowly);
callable({ streaming: true })(exports.Talker.prototype.refuse);
callable({ streaming: true })(exports.Talker.prototype.explode);
`

// A streaming method's chunks come in order before its end; its return value does
// not count.
func TestStream(t *testing.T) {
	inWorld(t, streamSource, func(w *world) {
		for _, test := range []struct {
			method, args, chunks, result string
			kind                         agent.Kind
			say                          string
		}{
			{method: "count", args: "3", chunks: `{"i":1} {"i":2} {"i":3}`, result: `"done"`},
			{method: "slowly", chunks: "1"},
			{method: "plain", args: "7", result: "7"},
			{method: "refuse", chunks: "1", kind: agent.Exception, say: "no more"},
			{method: "explode", chunks: "1", kind: agent.Exception, say: "boom"},
		} {
			id := id("Talker")
			sub := w.host.Subscribe(id, "topic", 16)
			call := agent.Call{Agent: id, Method: test.method, Stream: "topic"}
			if test.args != "" {
				call.Args = []json.RawMessage{json.RawMessage(test.args)}
			}
			result, err := w.host.Call(context.Background(), call)
			if test.say != "" && (agent.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.say)) {
				t.Errorf("%s: %v, want kind %v that says %q", test.method, err, test.kind, test.say)
			}
			if test.say == "" && (err != nil || string(result.Value) != test.result) {
				t.Errorf("%s: result %s, %v; want %s", test.method, result.Value, err, test.result)
			}
			sub.Close()
			var chunks []string
			for chunk := range sub.C {
				chunks = append(chunks, string(chunk))
			}
			if got := strings.Join(chunks, " "); got != test.chunks {
				t.Errorf("%s: chunks %s, want %s", test.method, got, test.chunks)
			}
		}
	})
}

func TestStream_NeedsAReader(t *testing.T) {
	inWorld(t, streamSource, func(w *world) {
		w.fails(agent.Invalid, "InvokeStream", "Talker", "count", 3)
	})
}
