package actor

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"agentd/internal/governor"
	"agentd/pkg/agent"
)

// limiter is a Governor that stops every turn that runs longer than a minute of
// fake time.
type limiter struct{ kind agent.Kind }

type limited struct {
	limiter   limiter
	interrupt func(error)
	clock     *time.Timer
}

func (l limiter) Turn(interrupt func(error)) Turn { return &limited{limiter: l, interrupt: interrupt} }

func (l *limited) Begin() {
	l.clock = time.AfterFunc(time.Minute, func() {
		l.interrupt(&agent.Error{Op: "run turn", Kind: l.limiter.kind, Msg: "over budget"})
	})
}

func (l *limited) End() bool { l.clock.Stop(); return false }

func governed(kind agent.Kind) func(*Config) {
	return func(c *Config) { c.Governor = limiter{kind}; c.Limits.MailboxWait = time.Hour }
}

func TestBudget_TurnIsRolledBackAndTheInstanceReset(t *testing.T) {
	inBubble(t, governed(agent.CPULimit), func(t *testing.T, w *world) {
		w.must(call("a", "set", `1`))
		w.async()
		underway := w.goCall(t.Context(), call("a", "async"))
		synctest.Wait()
		spinning := w.goCall(t.Context(), call("a", "spin"))
		synctest.Wait()
		waiting := w.goCall(t.Context(), call("a", "get"))
		neighbour := w.must(call("b", "echo"))
		pass(2 * time.Minute)
		synctest.Wait()
		wantKind(t, spinning.err, agent.CPULimit)
		wantKind(t, underway.err, agent.Reset)
		if waiting.err != nil || string(waiting.Value) != "1" {
			t.Errorf("the waiting call gave %s, %v", waiting.Value, waiting.err)
		}
		if neighbour == "" || w.instances() != 3 {
			t.Errorf("%d instances", w.instances())
		}
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Resets != 1 || !strings.Contains(s.LastReset, "cpu_limit in call spin") {
			t.Errorf("%+v", s)
		}
	})
}

func TestBudget_InterruptedStartUpFailsTheWaiting(t *testing.T) {
	inBubble(t, governed(agent.MemoryLimit), func(t *testing.T, w *world) {
		w.start = func(p *play, done func(error)) { done(<-p.interrupt) }
		_, err := w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.MemoryLimit)
		if w.instances() != 1 {
			t.Errorf("%d activations", w.instances())
		}
		w.start = nil
		w.wake = func(p *play, done func(error)) { done(<-p.interrupt) }
		wantKind(t, w.host.Wake(t.Context(), id("a")), agent.MemoryLimit)
	})
}

func TestBudget_FactoryIsInterrupted(t *testing.T) {
	inBubble(t, governed(agent.CPULimit), func(t *testing.T, w *world) {
		w.build = func(p *play) error {
			p.OnInterrupt(p.Interrupt)
			return <-p.interrupt
		}
		_, err := w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.CPULimit)
		// One that ends by itself after it was interrupted does not start.
		w.build = func(p *play) error { time.Sleep(2 * time.Minute); return nil }
		w.start = func(*play, func(error)) { t.Error("started after an interrupt") }
		_, err = w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.CPULimit)
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Resets != 2 {
			t.Errorf("%d resets", s.Resets)
		}
	})
}

func TestQuarantine_AfterRepeatedResetsLiftedAndDurable(t *testing.T) {
	inBubble(t, governed(agent.CPULimit), func(t *testing.T, w *world) {
		w.must(call("a", "set", `1`))
		for n := range 3 {
			_, err := w.host.Call(t.Context(), call("a", "spin"))
			wantKind(t, err, agent.CPULimit)
			if quarantined := w.count(EventQuarantined) > 0; quarantined != (n == 2) {
				t.Fatalf("after %d resets: quarantined %v", n+1, quarantined)
			}
		}
		synctest.Wait()
		opened, looked := len(w.disk.opened), w.looked
		_, err := w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.Quarantined)
		for _, part := range []string{"cpu_limit", "call spin", "3 times", "agentd unquarantine Play/a"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is missing in %q", part, err)
			}
		}
		wantKind(t, w.host.Wake(t.Context(), id("a")), agent.Quarantined)
		if len(w.disk.opened) != opened || w.looked != looked || w.host.Live() != 0 {
			t.Error("a quarantined agent cost more than a look into memory")
		}
		// Another process over the same disk knows it too.
		again := &world{t: t, disk: w.disk, methods: w.methods}
		again.host = NewHost(Config{Store: w.disk, Classes: again})
		_, err = again.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.Quarantined)
		again.close()

		s, _ := w.host.Describe(t.Context(), id("a"))
		if s.Phase != PhaseQuarantined || s.Reason == "" || s.Resets != 3 {
			t.Errorf("%+v", s)
		}
		if err := w.host.Lift(t.Context(), id("a")); err != nil {
			t.Fatal(err)
		}
		if got := w.must(call("a", "get")); got != "1" {
			t.Error(got)
		}
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Phase != PhaseLive || s.Resets != 0 {
			t.Errorf("after Lift: %+v", s)
		}
	})
}

func TestQuarantine_OldResetsDoNotCount(t *testing.T) {
	inBubble(t, governed(agent.CPULimit), func(t *testing.T, w *world) {
		for range 5 {
			_, err := w.host.Call(t.Context(), call("a", "spin"))
			wantKind(t, err, agent.CPULimit)
			pass(6 * time.Minute)
		}
		w.must(call("a", "echo"))
	})
}

func TestQuarantine_WaitingCallsAreAnswered(t *testing.T) {
	once := func(c *Config) { governed(agent.CPULimit)(c); c.Limits.Resets = 1 }
	inBubble(t, once, func(t *testing.T, w *world) {
		w.goCall(t.Context(), call("a", "spin"))
		synctest.Wait()
		_, err := w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.Quarantined)
	})
}

func TestPanic_IsContainedAndCounted(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.must(call("a", "set", `1`))
		_, err := w.host.Call(t.Context(), call("a", "panic"))
		wantKind(t, err, agent.Internal)
		if got := w.must(call("a", "get")); got != "1" {
			t.Errorf("x = %s: the turn that panicked was committed", got)
		}
		for range 2 {
			_, err = w.host.Call(t.Context(), call("a", "panic"))
			wantKind(t, err, agent.Internal)
		}
		_, err = w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.Quarantined)
		w.methods["output"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			p.Output(func(error) { panic("in an output") })
			reply(agent.Result{}, nil)
		}
		w.must(call("b", "output"))
	})
}

func TestIdle_HibernatesAndComesBack(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		sub := w.host.Subscribe(id("a"), "t", 1)
		w.must(call("a", "set", `1`))
		pass(9 * time.Second)
		w.must(call("a", "get"))
		pass(9 * time.Second)
		if w.host.Live() != 1 {
			t.Fatal("hibernated before it was idle for 10 s")
		}
		pass(time.Second + time.Millisecond)
		if w.host.Live() != 0 || w.count(EventHibernated) != 1 {
			t.Fatal("not hibernated after 10 s")
		}
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Phase != PhaseHibernated || !s.Exists {
			t.Errorf("%+v", s)
		}
		if sub.Err() != nil {
			t.Error("hibernation ended a subscription")
		}
		if got := w.must(call("a", "get")); got != "1" || w.instances() != 2 {
			t.Error(got, w.instances())
		}
	})
}

func TestIdle_BusyStaysLive(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		finish := w.async()
		a := w.goCall(t.Context(), call("a", "async"))
		pass(time.Hour)
		if w.host.Live() != 1 || !a.pending() {
			t.Fatal("a busy instance was hibernated")
		}
		finish()
		<-a.done
		pass(25 * time.Second)
		if w.host.Live() != 0 {
			t.Fatal("not hibernated when it was idle again")
		}
	})
}

func TestIdle_WorkWithoutACallStaysLive(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.methods["fiber"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			p.busy = true
			p.AfterFunc(time.Hour, func() { p.busy = false })
			reply(agent.Result{}, nil)
		}
		w.must(call("a", "fiber"))
		pass(time.Hour - time.Second)
		if w.host.Live() != 1 || w.host.EvictIdle(1) != 0 {
			t.Fatal("an instance with work in memory was hibernated")
		}
		pass(20 * time.Second)
		if w.host.Live() != 0 {
			t.Fatal("not hibernated when its work was done")
		}
	})
}

// An event that comes between the decision to hibernate and the deed stops it.
func TestIdle_EventStopsHibernation(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.must(call("a", "echo"))
		synctest.Wait()
		b := &w.host.roster.actors[id("a")].inbox
		ran := false
		b.mu.Lock()
		b.evicting = make(chan struct{})
		w.host.evicting.Add(1)
		refused := b.evicting
		b.posts.push(func() { ran = true })
		b.wakeLocked()
		b.mu.Unlock()
		<-refused
		synctest.Wait()
		if !ran || w.count(EventEvicted) != 0 || w.host.Live() != 1 {
			t.Fatalf("the completion ran: %v; live: %d", ran, w.host.Live())
		}
	})
}

func TestIdle_OpenTicketStaysLive(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.disk.manual = true
		w.goCall(t.Context(), call("a", "set", `1`))
		pass(time.Minute)
		if w.host.Live() != 1 {
			t.Fatal("hibernated with an open commit")
		}
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Phase != PhaseLive {
			t.Fatalf("%s with an open commit", s.Phase)
		}
		w.disk.settle(1, nil)
	})
}

// The calls race with hibernation in real time: each must be answered by an
// instance that is open (play panics otherwise), and none may be lost.
func TestIdle_RaceWithCalls(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.Idle = 20 * time.Microsecond })
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 2000 {
				c := call(fmt.Sprint("a", n%3), "echo")
				if n%2 == 0 {
					c.Method = "get"
				}
				if _, err := w.host.Call(t.Context(), c); err != nil {
					t.Errorf("worker %d: %v", g, err)
					return
				}
				if n%50 == 0 {
					w.host.EvictIdle(1)
				}
			}
		})
	}
	wg.Wait()
	if w.count(EventHibernated)+w.count(EventEvicted) == 0 {
		t.Error("nothing was hibernated; the test tests nothing")
	}
	w.close()
}

func TestEvict_LeastRecentlyUsedFirst(t *testing.T) {
	small := func(c *Config) { c.Limits.MaxLive = 3 }
	inBubble(t, small, func(t *testing.T, w *world) {
		for _, name := range []string{"a", "b", "c", "a"} {
			w.must(call(name, "echo"))
		}
		synctest.Wait()
		w.must(call("d", "echo"))
		synctest.Wait()
		live := ""
		for _, name := range []string{"a", "b", "c", "d"} {
			if s, _ := w.host.Describe(t.Context(), id(name)); s.Phase == PhaseLive {
				live += name
			}
		}
		if live != "acd" || w.count(EventEvicted) != 1 {
			t.Fatalf("live: %s", live)
		}
		if n := w.host.EvictIdle(2); n != 2 {
			t.Errorf("EvictIdle asked %d", n)
		}
		synctest.Wait()
		if w.host.Live() != 1 {
			t.Errorf("%d live", w.host.Live())
		}
		if s, _ := w.host.Describe(t.Context(), id("d")); s.Phase != PhaseLive {
			t.Error("the most recently used was evicted")
		}
	})
}

func TestEvict_NoneIdleIsOverloaded(t *testing.T) {
	small := func(c *Config) { c.Limits.MaxLive = 2 }
	inBubble(t, small, func(t *testing.T, w *world) {
		finish := w.async()
		w.goCall(t.Context(), call("a", "async"))
		b := w.goCall(t.Context(), call("b", "async"))
		synctest.Wait()
		_, err := w.host.Call(t.Context(), call("c", "echo"))
		wantKind(t, err, agent.Overloaded)
		finish()
		<-b.done
		synctest.Wait()
		w.must(call("c", "echo"))
		// Administration works on a full host.
		if err := w.host.Delete(t.Context(), id("z")); err != nil {
			t.Error(err)
		}
	})
}

func TestEvict_ManyNewAgentsAtOnce(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.MaxLive = 8 })
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for n := range 500 {
				_, err := w.host.Call(t.Context(), call(fmt.Sprint(g, "-", n), "echo"))
				if err != nil && agent.KindOf(err) != agent.Overloaded {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := w.host.Live(); n > 8+4 {
		t.Errorf("%d live, limit 8", n)
	}
	w.close()
	if n := w.host.evicting.Load(); n != 0 {
		t.Errorf("%d evictions without end", n)
	}
}

func TestSubscription_OverflowCloseAndLimit(t *testing.T) {
	few := func(c *Config) { c.Limits.Subscriptions = 2 }
	inBubble(t, few, func(t *testing.T, w *world) {
		w.methods["emit"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			p.Publish("t", []byte("m"))
			reply(agent.Result{}, nil)
		}
		slow, quick := w.host.Subscribe(id("a"), "t", 1), w.host.Subscribe(id("a"), "t", 2)
		if s := w.host.Subscribe(id("a"), "t", 1); agent.KindOf(s.Err()) != agent.Overloaded {
			t.Error("one more than the limit")
		} else if _, open := <-s.C; open {
			t.Error("a refused subscription is open")
		}
		w.must(call("a", "emit"))
		w.must(call("a", "emit"))
		<-slow.C
		if _, open := <-slow.C; open || agent.KindOf(slow.Err()) != agent.Overloaded {
			t.Errorf("slow reader: %v", slow.Err())
		}
		<-quick.C
		<-quick.C
		quick.Close()
		quick.Close()
		slow.Close()
		if _, open := <-quick.C; open || quick.Err() != nil {
			t.Error("Close")
		}
		w.must(call("a", "emit"))
		if len(w.host.exchange.agents) != 0 || w.host.exchange.total.Load() != 0 {
			t.Error("the exchange keeps ended subscriptions")
		}
	})
}

// real adapts the governor as the node does.
type real struct{ *governor.Governor }

func (r real) Turn(interrupt func(error)) Turn { return r.Governor.Turn(interrupt) }

func TestBudget_RealGovernorStopsAndRetiresThreads(t *testing.T) {
	g := governor.New(governor.Config{Budget: 60 * time.Millisecond, LongAfter: 5 * time.Millisecond})
	g.Start()
	defer g.Close()
	w := newWorld(t, func(c *Config) { c.Governor = real{g} })
	w.must(call("a", "set", `1`))
	_, err := w.host.Call(t.Context(), call("a", "spin"))
	wantKind(t, err, agent.CPULimit)
	for range 20 {
		if got := w.must(call("a", "get")); got != "1" {
			t.Fatal(got)
		}
	}
	if err := w.host.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
