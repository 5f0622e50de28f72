package actor

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// inBubble runs a test in fake time; every goroutine must have ended with it.
func inBubble(t *testing.T, change func(*Config), test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, change)
		defer func() {
			w.disk.set(func(d *disk) { d.manual = false })
			w.disk.settle(len(w.disk.open), nil)
			w.close()
		}()
		test(t, w)
	})
}

func TestGate_HoldsReplyUntilTheTicketSettles(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.disk.manual = true
		a := w.goCall(t.Context(), call("a", "set", `1`))
		synctest.Wait()
		if !a.pending() {
			t.Fatal("the reply left before the commit was durable")
		}
		w.disk.settle(1, nil)
		synctest.Wait()
		if a.pending() || a.err != nil {
			t.Fatalf("no reply after the commit was durable: %v", a.err)
		}
	})
}

func TestGate_NextTurnRunsWhileATicketIsOpen(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.disk.manual = true
		first := w.goCall(t.Context(), call("a", "set", `1`))
		synctest.Wait()
		second := w.goCall(t.Context(), call("a", "set", `2`))
		synctest.Wait()
		if len(w.disk.open) != 2 {
			t.Fatalf("%d commits are open, want 2: the loop waited for the first", len(w.disk.open))
		}
		// The second commit settles first; its reply must not overtake.
		w.disk.open[1].Settle(nil)
		synctest.Wait()
		if !second.pending() {
			t.Fatal("the second reply overtook the first")
		}
		w.disk.open[0].Settle(nil)
		synctest.Wait()
		if first.pending() || second.pending() {
			t.Fatal("replies are missing")
		}
	})
}

func TestGate_FailedTicketIsOutcomeUnknownAndResets(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.must(call("a", "echo"))
		w.disk.manual = true
		first := w.goCall(t.Context(), call("a", "set", `1`))
		synctest.Wait()
		second := w.goCall(t.Context(), call("a", "set", `2`))
		read := w.goCall(t.Context(), call("a", "get"))
		synctest.Wait()
		w.disk.settle(1, errors.New("the disk is gone"))
		synctest.Wait()
		wantKind(t, first.err, agent.OutcomeUnknown)
		w.disk.settle(len(w.disk.open), nil)
		synctest.Wait()
		wantKind(t, second.err, agent.OutcomeUnknown)
		wantKind(t, read.err, agent.OutcomeUnknown)
		if w.count(EventReset) != 1 || w.instances() != 1 {
			t.Fatalf("%d resets, %d instances", w.count(EventReset), w.instances())
		}
		w.disk.set(func(d *disk) { d.manual = false })
		w.must(call("a", "echo"))
		if w.instances() != 2 {
			t.Fatal("the broken instance served another call")
		}
	})
}

func TestGate_ReadOnlyTurnWaitsForTheNewestEarlierCommit(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.disk.manual = true
		w.goCall(t.Context(), call("a", "set", `7`))
		synctest.Wait()
		read := w.goCall(t.Context(), call("a", "get"))
		synctest.Wait()
		if !read.pending() {
			t.Fatal("an answer from data that is not durable has left")
		}
		w.disk.settle(1, nil)
		synctest.Wait()
		if read.pending() || string(read.Value) != "7" {
			t.Fatalf("read gave %q", read.Value)
		}
	})
}

func TestGate_OutputsAndPublishesLeaveInOrderBehindTheCommit(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.disk.manual = true
		var seen []string
		w.methods["emit"] = func(p *play, c agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			n := string(c.Args[0])
			p.set("x", n)
			p.Output(func(err error) { seen = append(seen, fmt.Sprint("output ", n, " ", err == nil)) })
			p.Publish("news", []byte(n))
			reply(agent.Result{}, nil)
		}
		sub := w.host.Subscribe(id("a"), "news", 4)
		w.goCall(t.Context(), call("a", "emit", `1`))
		synctest.Wait()
		w.goCall(t.Context(), call("a", "emit", `2`))
		synctest.Wait()
		if len(seen) > 0 || len(sub.C) > 0 {
			t.Fatal("something left before the commit was durable")
		}
		w.disk.settle(2, nil)
		synctest.Wait()
		if got := fmt.Sprint(seen) + string(<-sub.C) + string(<-sub.C); got != "[output 1 true output 2 true]12" {
			t.Fatal(got)
		}
	})
}

func TestGate_FailedCommitFailsItsTurnAndResets(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.must(call("a", "set", `1`))
		failed := make(chan error, 1)
		w.methods["write"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			p.set("x", "2")
			p.Output(func(err error) { failed <- err })
			reply(agent.Result{}, nil)
		}
		w.disk.set(func(d *disk) { d.refuse = &agent.Error{Op: "commit", Kind: agent.StorageFull} })
		_, err := w.host.Call(t.Context(), call("a", "write"))
		wantKind(t, err, agent.StorageFull)
		if err := <-failed; err == nil {
			t.Fatal("an output of a turn that was not committed has left")
		}
		w.disk.set(func(d *disk) { d.refuse = nil })
		if got := w.must(call("a", "get")); got != "1" {
			t.Fatalf("x = %s after a refused commit", got)
		}
	})
}

func TestGate_BackpressureHoldsTheLoop(t *testing.T) {
	limit := func(c *Config) { c.Limits.Unsettled = 4 }
	inBubble(t, limit, func(t *testing.T, w *world) {
		w.disk.manual = true
		for range 10 {
			w.goCall(t.Context(), call("a", "set", `1`))
		}
		synctest.Wait()
		if n := len(w.disk.open); n != 4 {
			t.Fatalf("%d commits are open, want 4", n)
		}
		w.disk.settle(1, nil)
		synctest.Wait()
		if n := len(w.disk.open); n != 4 {
			t.Fatalf("%d commits are open after one settled, want 4", n)
		}
		for len(w.disk.open) > 0 {
			w.disk.settle(1, nil)
			synctest.Wait()
		}
	})
}

func TestGate_FailureBehindAnOpenTicketKeepsOrder(t *testing.T) {
	var got []string
	g := gate{deliver: func(o *output, err error) { o.fn(err) }, broke: func(error) { got = append(got, "broke") }}
	push := func(name string) *storage.Ticket {
		ticket := storage.NewTicket(1)
		g.push(ticket, []output{{fn: func(err error) { got = append(got, fmt.Sprint(name, err == nil)) }}})
		return ticket
	}
	a, b, c := push("a"), push("b"), push("c")
	c.Settle(nil)
	b.Settle(errors.New("lost"))
	a.Settle(nil)
	if s := fmt.Sprint(got); s != "[broke atrue bfalse cfalse]" {
		t.Fatal(s)
	}
	if !g.empty() {
		t.Fatal("the gate holds something")
	}
}

// pass lets fake time go by and everything that is due in it finish.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
