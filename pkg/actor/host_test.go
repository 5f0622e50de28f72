package actor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// hang never replies by itself; release lets all of its calls go.
func (w *world) hang() (release func()) {
	gate := make(chan struct{})
	w.methods["hang"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		<-gate // a turn that computes
		reply(agent.Result{}, nil)
	}
	return func() { close(gate) }
}

// async replies when finish is called, in a later turn.
func (w *world) async() (finish func()) {
	gate := make(chan struct{})
	w.methods["async"] = func(p *play, _ agent.Call, cancelled <-chan struct{}, reply func(agent.Result, error)) {
		p.busy = true
		go func() {
			select {
			case <-gate:
			case <-cancelled:
			}
			p.Post(func() {
				p.busy = false
				reply(agent.Result{Value: []byte(`"late"`)}, nil)
			})
		}()
	}
	return func() { close(gate) }
}

func TestMailbox_OverflowIsOverloadedAtOnce(t *testing.T) {
	small := func(c *Config) { c.Limits.MailboxEvents = 3 }
	inBubble(t, small, func(t *testing.T, w *world) {
		release := w.hang()
		w.goCall(t.Context(), call("a", "hang"))
		synctest.Wait()
		for range 3 {
			w.goCall(t.Context(), call("a", "echo"))
		}
		synctest.Wait()
		begun := time.Now()
		_, err := w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.Overloaded)
		if time.Since(begun) != 0 {
			t.Error("refused only after waiting")
		}
		if !strings.Contains(err.Error(), "3 events") {
			t.Errorf("the message does not say how many wait: %v", err)
		}
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Mailbox != 3 {
			t.Errorf("Describe says %d wait", s.Mailbox)
		}
		release()
		synctest.Wait()
		w.must(call("a", "echo"))
	})
}

func TestMailbox_BoundedInBytes(t *testing.T) {
	small := func(c *Config) { c.Limits.MailboxBytes = 10 }
	inBubble(t, small, func(t *testing.T, w *world) {
		release := w.hang()
		w.goCall(t.Context(), call("a", "hang"))
		synctest.Wait()
		w.goCall(t.Context(), call("a", "echo", `"1234567890"`)) // alone it may be larger
		synctest.Wait()
		begun := time.Now()
		_, err := w.host.Call(t.Context(), call("a", "echo", `1`))
		wantKind(t, err, agent.Overloaded)
		if time.Since(begun) != 0 {
			t.Error("refused only after waiting")
		}
		release()
		synctest.Wait()
		w.must(call("a", "echo", `1`))
	})
}

func TestMailbox_WaitIsBounded(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		release := w.hang()
		hung := w.goCall(t.Context(), call("a", "hang"))
		synctest.Wait()
		ran := false
		w.methods["late"] = func(*play, agent.Call, <-chan struct{}, func(agent.Result, error)) { ran = true }
		begun := time.Now()
		_, err := w.host.Call(t.Context(), call("a", "late"))
		wantKind(t, err, agent.Overloaded)
		if waited := time.Since(begun); waited != 30*time.Second {
			t.Errorf("failed after %v, want 30s", waited)
		}
		release()
		<-hung.done
		synctest.Wait()
		if ran {
			t.Error("an event ran after its caller was told that it did not")
		}
	})
}

func TestCall_DeadlineReturnsAtOnce(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		release := w.hang()
		cancelled := make(chan struct{})
		w.methods["watch"] = func(p *play, _ agent.Call, gone <-chan struct{}, reply func(agent.Result, error)) {
			p.busy = true
			go func() {
				<-gone
				close(cancelled)
				p.Post(func() { p.busy = false; reply(agent.Result{}, nil) })
			}()
		}
		// One that has started learns of it.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		_, err := w.host.Call(ctx, call("a", "watch"))
		wantKind(t, err, agent.Deadline)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("returned after %v, want 1s", took)
		}
		<-cancelled
		// One that has not started does not run.
		w.goCall(t.Context(), call("a", "hang"))
		synctest.Wait()
		ran := false
		w.methods["never"] = func(_ *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			ran = true
			reply(agent.Result{}, nil)
		}
		ctx, stop := context.WithCancel(t.Context())
		waiting := w.goCall(ctx, call("a", "never"))
		synctest.Wait()
		stop()
		synctest.Wait()
		if waiting.pending() {
			t.Fatal("a cancelled caller still waits")
		}
		wantKind(t, waiting.err, agent.Canceled)
		release()
		synctest.Wait()
		w.must(call("a", "echo"))
		if ran {
			t.Error("a call ran although its caller gave up before")
		}
	})
}

func TestStart_IsClosedToCallsAndOpenToPosts(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		var order []string
		fetched := make(chan struct{})
		w.start = func(p *play, done func(error)) {
			order = append(order, "start")
			go func() {
				<-fetched
				p.Post(func() {
					order = append(order, "post")
					p.AfterFunc(time.Second, func() { order = append(order, "timer"); done(nil) })
				})
			}()
		}
		w.methods["note"] = func(_ *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			order = append(order, "call")
			reply(agent.Result{}, nil)
		}
		a := w.goCall(t.Context(), call("a", "note"))
		synctest.Wait()
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Phase != PhaseStarting || s.Mailbox != 1 {
			t.Errorf("during start-up: %+v", s)
		}
		close(fetched)
		<-a.done
		if s := fmt.Sprint(order); a.err != nil || s != "[start post timer call]" {
			t.Fatal(s, a.err)
		}
	})
}

func TestStart_FailureAnswersAllAndIsNotRepeated(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		thrown := &agent.Error{Op: "start", Kind: agent.Exception, Name: "TypeError", Msg: "no"}
		begin := make(chan struct{})
		w.start = func(p *play, done func(error)) { <-begin; p.set("x", "1"); done(thrown) }
		first, second := w.goCall(t.Context(), call("a", "echo")), w.goCall(t.Context(), call("a", "echo"))
		synctest.Wait()
		close(begin)
		synctest.Wait()
		wantKind(t, first.err, agent.Exception)
		wantKind(t, second.err, agent.Exception)
		if w.instances() != 1 || w.host.Live() != 0 {
			t.Errorf("%d activations, %d live", w.instances(), w.host.Live())
		}
		s, err := w.host.Describe(t.Context(), id("a"))
		if err != nil || s.Phase != PhaseBroken || !strings.Contains(s.Reason, "no") || s.Exists {
			t.Errorf("Describe: %+v, %v", s, err)
		}
		w.start = nil
		w.must(call("a", "echo"))
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Phase != PhaseLive || s.Reason != "" {
			t.Errorf("after a good start: %+v", s)
		}
	})
}

func TestStart_ThatCanNeverEndIsGivenUp(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.start = func(*play, func(error)) {}
		_, err := w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.Exception)
	})
}

func TestActivate_FailuresTouchNoMoreThanNeeded(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		_, err := w.host.Call(t.Context(), agent.Call{Agent: agent.ID{Namespace: "default", Class: "Nope", Name: "a"}, Method: "m"})
		wantKind(t, err, agent.UnknownClass)
		if len(w.disk.opened) != 0 {
			t.Error("an unknown class touched a file")
		}
		w.disk.openErr = &agent.Error{Op: "open", Kind: agent.Corrupt, Msg: "page 3"}
		_, err = w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.Corrupt)
		synctest.Wait()
		if len(w.disk.opened) != 1 {
			t.Errorf("opened %d times for one call", len(w.disk.opened))
		}
		if s, _ := w.host.Describe(t.Context(), id("a")); s.Phase != PhaseBroken || !strings.Contains(s.Reason, "page 3") {
			t.Errorf("%+v", s)
		}
	})
}

func TestActivate_CommitOfStartUpFails(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.start = func(p *play, done func(error)) { p.set("x", "1"); done(nil) }
		w.disk.refuse = &agent.Error{Op: "commit", Kind: agent.StorageFull}
		_, err := w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.StorageFull)
		synctest.Wait()
		if w.instances() != 1 {
			t.Errorf("%d activations for one call", w.instances())
		}
	})
}

func TestActivate_LostCommitOfStartUpIsNotRetriedInALoop(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.disk.manual = true
		hold := make(chan struct{})
		w.start = func(p *play, done func(error)) {
			p.set("x", "1")
			release := p.Block()
			go func() { <-hold; p.Post(release) }()
			done(nil)
		}
		a := w.goCall(t.Context(), call("a", "echo"))
		synctest.Wait()
		w.disk.settle(1, errors.New("lost"))
		synctest.Wait()
		wantKind(t, a.err, agent.OutcomeUnknown)
		if w.instances() != 1 {
			t.Errorf("%d activations", w.instances())
		}
		close(hold)
	})
}

func TestLoop_BlockHoldsCallsNotPosts(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		var order []string
		w.methods["block"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			outer, inner := p.Block(), p.Block()
			p.AfterFunc(time.Second, func() { order = append(order, "inner"); inner(); inner() })
			p.AfterFunc(2*time.Second, func() { order = append(order, "outer"); outer() })
			reply(agent.Result{}, nil)
		}
		w.methods["note"] = func(_ *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			order = append(order, "call")
			reply(agent.Result{}, nil)
		}
		w.must(call("a", "block"))
		w.must(call("a", "note"))
		if s := fmt.Sprint(order); s != "[inner outer call]" {
			t.Fatal(s)
		}
	})
}

func TestLoop_TimersStopAndDieWithTheInstance(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		fired := map[string]int{}
		w.methods["timers"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			p.AfterFunc(time.Second, func() { fired["one"]++ })
			stopped := p.AfterFunc(time.Second, func() { fired["stopped"]++ })
			if !stopped() || stopped() {
				t.Error("stop reports wrongly")
			}
			p.AfterFunc(5*time.Second, func() { fired["dead"]++ })
			far := p.AfterFunc(1000*time.Hour, func() { fired["far"]++ })
			_ = far
			reply(agent.Result{}, nil)
		}
		w.must(call("a", "timers"))
		pass(2 * time.Second) // fake time: let the first fire
		if err := w.host.Reset(t.Context(), id("a"), "test"); err != nil {
			t.Fatal(err)
		}
		pass(25 * 24 * time.Hour)
		if fired["one"] != 1 || len(fired) != 1 {
			t.Fatal(fired)
		}
	})
}

func TestLoop_TimerDelayIsClamped(t *testing.T) {
	inBubble(t, func(c *Config) { c.Limits.Idle = 1000 * 24 * time.Hour }, func(t *testing.T, w *world) {
		var after time.Duration
		w.methods["far"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			begun := p.Now()
			p.AfterFunc(-time.Hour, func() {})
			p.AfterFunc(1<<62, func() { after = p.Now().Sub(begun) })
			reply(agent.Result{}, nil)
		}
		w.must(call("a", "far"))
		pass(25 * 24 * time.Hour)
		if after != maxTimer {
			t.Fatalf("fired after %v", after)
		}
	})
}

func TestLoop_AbortDropsTheTurnAndFailsWaitingReplies(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.must(call("a", "set", `1`))
		finish := w.async()
		late := w.goCall(t.Context(), call("a", "async"))
		synctest.Wait()
		w.methods["abort"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			p.set("x", "2")
			reply(agent.Result{}, nil)
			p.Abort(&agent.Error{Op: "abort", Kind: agent.Exception, Name: "Error", Msg: "enough"})
		}
		_, err := w.host.Call(t.Context(), call("a", "abort"))
		wantKind(t, err, agent.Exception)
		synctest.Wait()
		wantKind(t, late.err, agent.Exception)
		finish()
		if got := w.must(call("a", "get")); got != "1" {
			t.Errorf("x = %s: the aborted turn was committed", got)
		}
		if w.instances() != 2 {
			t.Errorf("%d instances", w.instances())
		}
	})
}

func TestLoop_DestroyDeletesAndAnswers(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.must(call("a", "set", `1`))
		finish := w.async()
		late := w.goCall(t.Context(), call("a", "async"))
		synctest.Wait()
		w.methods["destroy"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			p.Destroy()
			reply(agent.Result{Value: []byte(`"bye"`)}, nil)
		}
		if got := w.must(call("a", "destroy")); got != `"bye"` {
			t.Error(got)
		}
		synctest.Wait()
		wantKind(t, late.err, agent.Reset)
		finish()
		s, err := w.host.Describe(t.Context(), id("a"))
		if err != nil || s.Exists || s.Phase != PhaseHibernated {
			t.Errorf("%+v %v", s, err)
		}
		if got := w.must(call("a", "get")); got != "" {
			t.Errorf("x = %s after destroy", got)
		}
	})
}

func TestLoop_TooManyPostsResetTheInstance(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.methods["flood"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			for n := range MaxPosts + 1 {
				if ok := p.Post(func() {}); ok != (n < MaxPosts) {
					t.Errorf("post %d: %v", n, ok)
				}
			}
		}
		_, err := w.host.Call(t.Context(), call("a", "flood"))
		wantKind(t, err, agent.Reset)
		w.must(call("a", "echo"))
	})
}

func TestHost_DeleteEndsALiveAgent(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.must(call("a", "set", `1`))
		if err := w.host.Delete(t.Context(), id("a")); err != nil {
			t.Fatal(err)
		}
		if got := w.must(call("a", "get")); got != "" {
			t.Errorf("x = %s after Delete", got)
		}
		if err := w.host.Delete(t.Context(), id("never")); err != nil {
			t.Errorf("deleting what is not there: %v", err)
		}
	})
}

func TestHost_ResetInterruptsTheRunningTurn(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.must(call("a", "set", `1`))
		spinning := w.goCall(t.Context(), call("a", "spin"))
		synctest.Wait()
		next := w.goCall(t.Context(), call("a", "get"))
		synctest.Wait()
		if err := w.host.Reset(t.Context(), id("a"), "stuck"); err != nil {
			t.Fatal(err)
		}
		<-next.done
		<-spinning.done
		wantKind(t, spinning.err, agent.Reset)
		if next.err != nil || string(next.Value) != "1" {
			t.Errorf("the waiting call gave %s, %v", next.Value, next.err)
		}
		if err := w.host.Reset(t.Context(), id("none"), "x"); err != nil {
			t.Errorf("resetting what is not live: %v", err)
		}
	})
}

func TestHost_WakeRunsWhatIsDue(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.disk.manual = true
		at := time.Now().Add(time.Hour)
		w.wake = func(p *play, done func(error)) { p.wakeAt = storage.Wake{At: at}; done(nil) }
		ended := make(chan error, 1)
		go func() { ended <- w.host.Wake(t.Context(), id("a")) }()
		synctest.Wait()
		if len(ended) > 0 {
			t.Fatal("Wake returned before its writes were durable")
		}
		w.disk.settle(1, nil)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if s, _ := w.host.Describe(t.Context(), id("a")); !s.Entry.Wake.At.Equal(at) {
			t.Errorf("the wake in the catalog is %v", s.Entry.Wake)
		}
	})
}

func TestHost_CloseLetsTheTurnEndAndCommits(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		gate := make(chan struct{})
		w.methods["slow"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			<-gate
			p.set("x", "done")
			reply(agent.Result{}, nil)
		}
		w.must(call("idle", "echo"))
		running := w.goCall(t.Context(), call("a", "slow"))
		synctest.Wait()
		waiting := w.goCall(t.Context(), call("a", "echo"))
		sub := w.host.Subscribe(id("a"), "t", 1)
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- w.host.Close(context.Background()) }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Fatal("Close did not wait for the running turn")
		}
		_, err := w.host.Call(t.Context(), call("b", "echo"))
		wantKind(t, err, agent.Unavailable)
		_, err = w.host.Call(t.Context(), call("a", "echo"))
		wantKind(t, err, agent.Unavailable)
		close(gate)
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		<-running.done
		if running.err != nil || w.disk.value(id("a"), "x") != "done" {
			t.Errorf("the running turn: %v", running.err)
		}
		<-waiting.done
		wantKind(t, waiting.err, agent.Unavailable)
		if _, open := <-sub.C; open || agent.KindOf(sub.Err()) != agent.Unavailable {
			t.Errorf("subscription: %v", sub.Err())
		}
	})
}

func TestHost_CloseInterruptsWhatOutlastsItsContext(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		spinning := w.goCall(t.Context(), call("a", "spin"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.host.Close(ctx); err != nil {
			t.Fatal(err)
		}
		<-spinning.done
		wantKind(t, spinning.err, agent.Unavailable)
		if w.disk.value(id("a"), "x") != nil {
			t.Error("an interrupted turn was committed")
		}
	})
}

func TestHost_RefusesBadRequests(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		_, err := w.host.Call(t.Context(), agent.Call{Agent: id("a")})
		wantKind(t, err, agent.Invalid)
		_, err = w.host.Call(t.Context(), call("a", "echo", `{`))
		wantKind(t, err, agent.Invalid)
		wantKind(t, w.host.Wake(t.Context(), agent.ID{}), agent.Invalid)
		wantKind(t, w.host.Delete(t.Context(), agent.ID{}), agent.Invalid)
		wantKind(t, w.host.Lift(t.Context(), agent.ID{}), agent.Invalid)
		wantKind(t, w.host.Reset(t.Context(), agent.ID{}, ""), agent.Invalid)
		_, err = w.host.Describe(t.Context(), agent.ID{})
		wantKind(t, err, agent.Invalid)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = w.host.Call(ended, call("a", "echo"))
		wantKind(t, err, agent.Canceled)
		if w.instances() != 0 {
			t.Error("a bad request activated an agent")
		}
	})
}

func TestCall_ResultTooLarge(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.methods["big"] = func(_ *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
			reply(agent.Result{Value: make([]byte, agent.MaxResultBytes+1)}, nil)
		}
		_, err := w.host.Call(t.Context(), call("a", "big"))
		wantKind(t, err, agent.TooLarge)
	})
}
