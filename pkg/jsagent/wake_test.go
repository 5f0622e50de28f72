package jsagent

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"
)

// An agent whose onStart only makes sure of its tables wakes without a commit.
func TestWakingCommitsNothing(t *testing.T) {
	inWorld(t, `exports.A = class A extends Agent {
		onStart() { this.sql`+"`CREATE TABLE IF NOT EXISTS c (n INTEGER)`"+`; }
		add() { this.sql`+"`INSERT INTO c VALUES (1)`"+`; }
		count() { return this.sql`+"`SELECT count(*) AS n FROM c`"+`[0].n; }
	}`, func(w *world) {
		w.call("A", "add")
		seq := func() uint64 {
			e, err := w.store.Catalog().Get(context.Background(), id("A"))
			if err != nil {
				t.Fatal(err)
			}
			return e.Seq
		}
		before := seq()
		for range 3 {
			time.Sleep(time.Minute) // hibernates
			if w.host.Live() != 0 {
				t.Fatal("the agent is live")
			}
			w.expect("1", "A", "count")
		}
		if after := seq(); after != before {
			t.Errorf("waking and reading made %d commits", after-before)
		}
	})
}

// onStart is awaited before the first call whether it returns a promise or not, and
// its error reaches the callers from both.
func TestStartUpIsAwaited(t *testing.T) {
	inWorld(t, `
	exports.Plain = class Plain extends Agent { onStart() { this.ready = true; return null; } ok() { return this.ready; } };
	exports.Async = class Async extends Agent { async onStart() { await new Promise((ok) => setTimeout(ok, 50)); this.ready = true; } ok() { return this.ready; } };
	exports.Thenable = class Thenable extends Agent { onStart() { return { then: (ok) => { setTimeout(() => { this.ready = true; ok(); }, 50); } }; } ok() { return this.ready; } };
	exports.Throws = class Throws extends Agent { onStart() { throw new Error("no start"); } ok() {} };
	exports.Rejects = class Rejects extends Agent { async onStart() { await null; throw new Error("no start"); } ok() {} };
	`, func(w *world) {
		for _, class := range []string{"Plain", "Async", "Thenable"} {
			w.expect("true", class, "ok")
		}
		for _, class := range []string{"Throws", "Rejects"} {
			if _, err := w.try(class, "ok"); err == nil || fmt.Sprint(err) == "" {
				t.Errorf("%s starts", class)
			}
		}
	})
}

// A live agent of a small class keeps at most 90 KB of Go memory. It was 230 KB when
// all glue ran in every isolate, and 16 KB more when comments passed for regular
// expressions.
func TestLiveAgentIsSmall(t *testing.T) {
	w := deployed(t, t.TempDir(), smallBundle)
	defer w.close()
	const agents = 100
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	w.call("Bench/first", "increment")
	before := heap()
	for i := range agents {
		w.call(fmt.Sprintf("Bench/%d", i), "increment")
	}
	if each := (heap() - before) / agents; each > 90<<10 {
		t.Errorf("a live agent keeps %d bytes", each)
	}
}
