package node

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"agentd/pkg/agent"
)

// Chunks arrive one by one while the method runs; what the client does with them
// does not hold the agent back.
func TestNode_InvokeStream(t *testing.T) {
	w := start(t, nil)
	w.deploy(`
	export class Talker extends Agent {
	  go: (() => void) | undefined;
	  @callable({ streaming: true })
	  async talk(stream: any, words: string[]) {
	    stream.send(words[0]);
	    await new Promise<void>((resolve) => { this.go = resolve; });
	    for (const word of words.slice(1)) stream.send(word);
	    stream.end({ sent: words.length });
	  }
	  @callable({ streaming: true })
	  async endless(stream: any) {
	    for (let i = 0; !stream.isClosed; i++) { stream.send(i); await new Promise((r) => setTimeout(r, 1)); }
	    this.done();
	  }
	  done = () => {};
	  finished = new Promise<void>((resolve) => { this.done = resolve; });
	  @callable() async ended() { await this.finished; return true; }
	  @callable() next() { this.go!(); }
	  @callable() plain() { return 1; }
	}`)
	a := w.agent("Talker/a")
	var got []string
	result, err := a.CallStream(w.ctx, "talk", []json.RawMessage{json.RawMessage(`["one","two","three"]`)}, func(chunk json.RawMessage) error {
		got = append(got, string(chunk))
		if len(got) == 1 { // the method goes on only because its first chunk has come
			return a.Invoke(w.ctx, "next", nil)
		}
		return nil
	})
	if err != nil || string(result) != `{"sent":3}` || strings.Join(got, " ") != `"one" "two" "three"` {
		t.Errorf("chunks %v, result %s, error %v", got, result, err)
	}
	if result, err := a.CallStream(w.ctx, "plain", nil, func(json.RawMessage) error { return errors.New("a chunk") }); err != nil || string(result) != "1" {
		t.Errorf("a method that does not stream: %s, %v", result, err)
	}
	enough := errors.New("enough")
	if _, err := w.agent("Talker/b").CallStream(w.ctx, "endless", nil, func(json.RawMessage) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("leaving a stream: %v", err)
	}
	w.expect(`true`, "Talker/b", "ended") // the method saw that its reader had gone
	if err := a.Invoke(w.ctx, "talk", nil); agent.KindOf(err) != agent.Invalid {
		t.Errorf("a streaming method called for one result: %v", err)
	}
}
