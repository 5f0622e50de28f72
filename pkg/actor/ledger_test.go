package actor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"agentd/internal/governor"
	"agentd/pkg/agent"
	"agentd/pkg/storage/reference"
)

// clock is a time that the test moves.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time          { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// newSQLWorld is a world over a real database.
func newSQLWorld(t *testing.T) (*world, *clock, *int) {
	t.Helper()
	c := &clock{}
	c.ms.Store(1_700_000_000_000)
	store, err := reference.Open(reference.Config{Dir: t.TempDir(), Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(cfg *Config) { cfg.Store, cfg.Now = store, c.now })
	runs := 0
	w.methods["count"] = func(p *play, call agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		runs++
		reply(agent.Result{Value: fmt.Appendf(nil, "%d", runs)}, nil)
	}
	t.Cleanup(func() {
		if err := w.host.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, c, &runs
}

func keyedCall(key, method string, args ...string) agent.Call {
	c := call("a", method, args...)
	c.Key = key
	return c
}

// rowsOf counts the rows of the ledger on the agent's loop; -1 without a table.
func (w *world) rowsOf() (n int64) {
	w.methods["rows"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		n = -1
		rows, err := p.DB().Query("SELECT count(*) FROM agentd_calls")
		if err == nil {
			var row [1]any
			if rows.Next(row[:]) == nil {
				n = row[0].(int64)
			}
			rows.Close()
		}
		reply(agent.Result{}, nil)
	}
	w.must(call("a", "rows"))
	return n
}

func TestIdempotency_ReplaysTheStoredOutcome(t *testing.T) {
	w, _, runs := newSQLWorld(t)
	w.must(call("a", "count"))
	if n := w.rowsOf(); n != -1 {
		t.Fatalf("the table exists before a key was used (%d rows)", n)
	}
	first := w.must(keyedCall("k", "count", `1`))
	if again := w.must(keyedCall("k", "count", `1`)); again != first || *runs != 2 {
		t.Fatalf("%s then %s, %d runs", first, again, *runs)
	}
	// It survives the instance.
	if err := w.host.Reset(t.Context(), id("a"), "test"); err != nil {
		t.Fatal(err)
	}
	if again := w.must(keyedCall("k", "count", `1`)); again != first || *runs != 2 {
		t.Fatalf("after a reset: %s, %d runs", again, *runs)
	}
	if w.must(keyedCall("other", "count", `1`)) == first {
		t.Fatal("another key gave the same outcome")
	}
}

func TestIdempotency_SameKeyForAnotherCallIsAConflict(t *testing.T) {
	w, _, runs := newSQLWorld(t)
	w.must(keyedCall("k", "count", `1`))
	for _, other := range []agent.Call{keyedCall("k", "count", `2`), keyedCall("k", "count"), keyedCall("k", "echo", `1`),
		{Agent: id("a"), Surface: agent.SurfacePlatform, Method: "count", Args: keyedCall("", "", `1`).Args, Key: "k"}} {
		_, err := w.host.Call(t.Context(), other)
		wantKind(t, err, agent.Conflict)
	}
	if *runs != 1 {
		t.Fatalf("%d runs", *runs)
	}
}

func TestIdempotency_SameKeyInFlightJoins(t *testing.T) {
	w, _, _ := newSQLWorld(t)
	finish := w.async()
	first := w.goCall(t.Context(), keyedCall("k", "async"))
	ctx, cancel := context.WithCancel(t.Context())
	second := w.goCall(ctx, keyedCall("k", "async"))
	w.awaitTurns(t, 3) // start-up and both calls
	_, err := w.host.Call(t.Context(), keyedCall("k", "async", `1`))
	wantKind(t, err, agent.Conflict)
	// One caller who gives up does not cancel what the other waits for.
	cancel()
	<-second.done
	wantKind(t, second.err, agent.Canceled)
	third := w.goCall(t.Context(), keyedCall("k", "async"))
	w.awaitTurns(t, 5)
	if !first.pending() || !third.pending() {
		t.Fatal("answered too early")
	}
	finish()
	<-first.done
	<-third.done
	if first.err != nil || third.err != nil || string(first.Value) != `"late"` || string(third.Value) != `"late"` {
		t.Fatal(first, third)
	}
	if n := w.rowsOf(); n != 1 {
		t.Fatalf("%d rows for one key", n)
	}
}

// awaitTurns polls until a's instance has run n turns.
func (w *world) awaitTurns(t *testing.T, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		s, err := w.host.Describe(t.Context(), id("a"))
		if err == nil && s.Turns >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %d turns: %+v, %v", n, s, err)
		}
		runtime.Gosched()
	}
}

func TestIdempotency_AllCallersGoneCancels(t *testing.T) {
	w, _, _ := newSQLWorld(t)
	w.async() // replies when cancelled
	ctx, cancel := context.WithCancel(t.Context())
	w.goCall(ctx, keyedCall("k", "async"))
	w.goCall(ctx, keyedCall("k", "async"))
	w.awaitTurns(t, 3)
	cancel()
	w.awaitTurns(t, 4) // the completion that follows the cancellation
}

func TestIdempotency_Expiry(t *testing.T) {
	w, c, runs := newSQLWorld(t)
	w.must(keyedCall("k", "count"))
	c.advance(keyLife - time.Second)
	w.must(keyedCall("k", "count"))
	if *runs != 1 {
		t.Fatal("expired too early")
	}
	c.advance(2 * time.Second)
	w.must(keyedCall("k", "count"))
	if *runs != 2 {
		t.Fatal("not expired after 24 h")
	}
	w.must(keyedCall("k", "count"))
	if *runs != 2 {
		t.Fatal("the new outcome was not stored")
	}
}

func TestIdempotency_OldRowsArePurgedInSteps(t *testing.T) {
	w, c, _ := newSQLWorld(t)
	for n := range 100 {
		w.must(keyedCall(fmt.Sprint("k", n), "count"))
	}
	c.advance(keyLife + time.Minute)
	w.must(keyedCall("new", "count"))
	if n := w.rowsOf(); n != 101-purgeRows {
		t.Fatalf("%d rows after one step", n)
	}
	for n := range 4 {
		w.must(keyedCall(fmt.Sprint("n", n), "count"))
	}
	if n := w.rowsOf(); n != 5 {
		t.Fatalf("%d rows, want the 5 new ones", n)
	}
}

func TestIdempotency_WhichFailuresAreStored(t *testing.T) {
	w, _, _ := newSQLWorld(t)
	runs := 0
	var failure error
	w.methods["fail"] = func(_ *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		runs++
		reply(agent.Result{}, failure)
	}
	for kind, stored := range map[agent.Kind]bool{agent.Exception: true, agent.SQL: true, agent.Unserializable: true,
		agent.Overloaded: false, agent.Canceled: false, agent.CPULimit: false, agent.Reset: false, agent.Internal: false} {
		runs, failure = 0, &agent.Error{Op: "call fail", Agent: id("a"), Kind: kind, Name: "RangeError", Msg: "out of range", Stack: "at x.ts:1"}
		key := kind.String()
		_, first := w.host.Call(t.Context(), keyedCall(key, "fail"))
		_, again := w.host.Call(t.Context(), keyedCall(key, "fail"))
		wantKind(t, again, kind)
		if (runs == 1) != stored {
			t.Errorf("%s: %d runs", kind, runs)
		}
		if stored && !reflect.DeepEqual(first, again) {
			t.Errorf("%s: replayed as %#v", kind, again)
		}
	}
}

func TestIdempotency_OutcomeIsPartOfTheTurn(t *testing.T) {
	w, _, runs := newSQLWorld(t)
	w.methods["abort"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		*runs++
		reply(agent.Result{Value: []byte("1")}, nil)
		p.Abort(nil)
	}
	_, err := w.host.Call(t.Context(), keyedCall("k", "abort"))
	wantKind(t, err, agent.Reset)
	w.methods["abort"] = w.methods["count"]
	w.must(keyedCall("k", "abort"))
	if *runs != 2 {
		t.Fatal("an outcome of a turn that was dropped was stored")
	}
}

func TestIdempotency_ValuesComeBackAsTheyWere(t *testing.T) {
	w, _, _ := newSQLWorld(t)
	large := `"` + strings.Repeat("x", 3*partBytes) + `"`
	for n, value := range []string{"", "null", `"<&>"`, `{"a":[1,2,{"b":null}]}`, large} {
		var raw json.RawMessage
		if value != "" {
			raw = json.RawMessage(value)
		}
		w.methods["value"] = func(_ *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			reply(agent.Result{Value: raw}, nil)
		}
		key := fmt.Sprint("k", n)
		w.must(keyedCall(key, "value"))
		w.methods["value"] = nil
		r, err := w.host.Call(t.Context(), keyedCall(key, "value"))
		if err != nil || string(r.Value) != value || (r.Value == nil) != (value == "") {
			t.Errorf("%.40q came back as %.40q, %v", value, r.Value, err)
		}
	}
}

func TestHashCall_TellsCallsApart(t *testing.T) {
	seen := map[[32]byte]string{}
	for _, c := range []agent.Call{call("a", "m"), call("a", "m", `1`), call("a", "m", `1`, `2`), call("a", "m", `12`),
		call("a", "m1"), {Agent: id("a"), Method: "m", Surface: agent.SurfacePlatform}} {
		sum := hashCall(c)
		if other, ok := seen[sum]; ok {
			t.Errorf("%v and %s have one hash", c, other)
		}
		seen[sum] = fmt.Sprint(c)
	}
	if hashCall(call("a", "m", `1`)) != hashCall(keyedCall("k", "m", `1`)) {
		t.Error("the key is part of the hash")
	}
}

func FuzzDecodeOutcome(f *testing.F) {
	for _, s := range []string{`{}`, `{"value":null}`, `{"value":[1]}`, `{"error":{"kind":"exception","msg":"x"}}`, `{"error":null}`, `[`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		out, err := decodeOutcome(id("a"), stored)
		if err != nil {
			wantKind(t, err, agent.Corrupt)
			return
		}
		again, err := encodeOutcome(out)
		if err != nil {
			t.Fatalf("%q decodes but does not encode: %v", stored, err)
		}
		back, err := decodeOutcome(id("a"), again)
		if err != nil || agent.KindOf(back.err) != agent.KindOf(out.err) || (back.err == nil) != (out.err == nil) {
			t.Fatalf("%q came back as %+v, %v", stored, back, err)
		}
	})
}

func TestLedger_ErrorOfTheDatabaseReachesTheCaller(t *testing.T) {
	w := newWorld(t, nil) // its disk does not know the ledger's statements
	_, err := w.host.Call(t.Context(), keyedCall("k", "echo"))
	if err == nil || errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	w.must(call("a", "echo"))
	w.close()
}

// The quarantine must outlive the process, also of an agent that never got as far
// as its first commit.
func TestQuarantine_OutlivesTheStore(t *testing.T) {
	dir := t.TempDir()
	open := func() (*world, func()) {
		store, err := reference.Open(reference.Config{Dir: dir, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, func(c *Config) { c.Store = store })
		return w, func() {
			w.close()
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	w, done := open()
	w.methods["write"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		_, err := exec(p.DB(), "CREATE TABLE t (x)")
		reply(agent.Result{}, err)
	}
	w.must(call("written", "write"))
	for _, name := range []string{"written", "empty"} {
		c := call(name, "fail")
		w.methods["fail"] = func(*play, agent.Call, <-chan struct{}, func(agent.Result, error)) { panic("boom") }
		for range 3 {
			_, err := w.host.Call(t.Context(), c)
			wantKind(t, err, agent.Internal)
		}
	}
	done()
	w, done = open()
	for _, name := range []string{"written", "empty"} {
		_, err := w.host.Call(t.Context(), call(name, "echo"))
		wantKind(t, err, agent.Quarantined)
		if s, err := w.host.Describe(t.Context(), id(name)); err != nil || s.Phase != PhaseQuarantined {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
		if err := w.host.Lift(t.Context(), id(name)); err != nil {
			t.Fatal(err)
		}
		w.must(call(name, "echo"))
	}
	done()
}

func TestBudget_StopsAStatement(t *testing.T) {
	g := governor.New(governor.Config{Budget: 100 * time.Millisecond})
	g.Start()
	defer g.Close()
	store, err := reference.Open(reference.Config{Dir: t.TempDir(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *Config) { c.Store, c.Governor = store, real{g} })
	w.methods["endless"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		_, err := exec(p.DB(), "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
		reply(agent.Result{}, err)
	}
	_, err = w.host.Call(t.Context(), call("a", "endless"))
	wantKind(t, err, agent.CPULimit)
	w.must(call("a", "echo"))
	w.close()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}
