package actor

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// instance is the live form of an agent: a behavior over an open database. The
// loop owns it, except for what is atomic and the gate.
type instance struct {
	a        *actor
	db       storage.DB
	behavior Behavior // nil until the factory returned
	watch    Turn
	gate     gate
	ledger   ledger
	turn     turn

	underway letterList // started and not answered
	timers   map[*timer]struct{}
	started  bool // start-up is done and committed
	served   bool // a letter was started
	busy     bool // what Behavior.Busy said at the end of the last turn
	blocks   int  // Block without release
	log      *slog.Logger

	began  time.Time // of the activation; never changes
	turns  atomic.Uint64
	live   atomic.Bool                 // as started, for Describe
	cause  atomic.Pointer[error]       // why the instance was interrupted
	victim atomic.Pointer[func(error)] // how to stop the code that runs
}

func newInstance(a *actor, db storage.DB, began time.Time) *instance {
	i := &instance{a: a, db: db, began: began, watch: ungoverned{}}
	if g := a.host.governor; g != nil {
		i.watch = g.Turn(i.interrupt)
	}
	i.gate.id, i.gate.deliver = a.id, a.host.deliver
	i.gate.broke = func(err error) { a.inbox.fail(i, err) }
	return i
}

// interrupt stops the code that runs now and condemns the instance. Any goroutine.
func (i *instance) interrupt(cause error) {
	if !i.cause.CompareAndSwap(nil, &cause) {
		return
	}
	if stop := i.victim.Load(); stop != nil {
		(*stop)(cause)
	}
	i.db.Interrupt() // after the code, which could go on to another statement
	// The turn may have ended just before.
	i.a.inbox.fail(i, cause)
}

// start is the first turn.
func (i *instance) start(factory Factory) {
	b, err := factory(i)
	if err != nil {
		i.turn.ready, i.turn.failed = true, err
		return
	}
	i.behavior = b
	i.OnInterrupt(b.Interrupt)
	if i.cause.Load() != nil {
		return // interrupted while the factory ran
	}
	called := false
	b.Start(func(err error) {
		if called {
			return
		}
		called = true
		i.turn.ready, i.turn.failed = true, err
	})
}

// begin starts a letter.
func (i *instance) begin(l *letter) {
	i.served = true
	i.underway.push(l)
	if l.wake {
		i.behavior.Wake(func(err error) { i.reply(l, agent.Result{}, err) })
		return
	}
	if l.keyed != nil && !i.admit(l) {
		return
	}
	i.behavior.Call(l.call, l.cancelled, func(result agent.Result, err error) { i.reply(l, result, err) })
}

// admit looks a call with a key up. False when its outcome comes from elsewhere.
func (i *instance) admit(l *letter) bool {
	if leader := i.ledger.open[l.call.Key]; leader != nil {
		if leader.keyed.hash != l.keyed.hash {
			i.reply(l, agent.Result{}, errKeyReused(l))
			return false
		}
		i.a.inbox.join(l, leader)
		leader.keyed.joiners = append(leader.keyed.joiners, l)
		return false
	}
	out, found, err := i.ledger.lookup(i.db, l, i.Now())
	if found || err != nil {
		if err != nil {
			out = outcome{err: err}
		}
		i.reply(l, out.result, out.err)
		return false
	}
	i.ledger.enter(l)
	return true
}

// reply queues the outcome of a letter, and of those that joined it, behind the
// gate.
func (i *instance) reply(l *letter, result agent.Result, err error) {
	if l.replied || i.a.inst != i {
		return
	}
	if len(result.Value) > agent.MaxResultBytes {
		err = &agent.Error{Op: l.label(), Agent: i.a.id, Kind: agent.TooLarge,
			Msg: fmt.Sprintf("the result has %d bytes; at most %d are allowed: return it in parts", len(result.Value), agent.MaxResultBytes)}
	}
	l.replied, l.outcome = true, outcome{result, err}
	if err != nil {
		l.outcome.result = agent.Result{}
	}
	i.underway.remove(l)
	i.send(output{letter: l})
	if l.keyed == nil {
		return
	}
	for _, joiner := range l.keyed.joiners {
		joiner.replied, joiner.outcome = true, l.outcome
		i.underway.remove(joiner)
		i.send(output{letter: joiner})
	}
	l.keyed.joiners = nil
}

// send adds to what leaves after this turn.
func (i *instance) send(o output) {
	t := &i.turn
	if len(t.outputs) >= maxTurnOutputs && o.letter == nil {
		i.Abort(&agent.Error{Op: "send from", Agent: i.a.id, Kind: agent.TooLarge,
			Msg: fmt.Sprintf("one turn sent %d messages, as many as it may; spread them over several turns", maxTurnOutputs)})
		return
	}
	t.outputs = append(t.outputs, o)
}

// guard runs code of the behavior and turns a panic into an error.
func (i *instance) guard(during string, fn func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			i.Log().Error("the code of an agent panicked", "during", during, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = &agent.Error{Op: during, Agent: i.a.id, Kind: agent.Internal, Msg: fmt.Sprintf("panic: %v; the log of the node has the stack", p)}
		}
	}()
	fn()
	return nil
}

// close ends the instance. It returns when the last commit is durable and its
// outputs have left. The caller has reported the loss of open work.
func (i *instance) close() {
	for t := range i.timers {
		t.done = true
		t.clock.Stop()
	}
	i.timers = nil
	if i.behavior != nil {
		// A panic is logged by guard; there is nothing left to protect.
		_ = i.guard("close", i.behavior.Close)
	}
	if err := i.db.Close(); err != nil {
		i.Log().Warn("closing the database failed", "error", err)
	}
	i.gate.drain()
}

// label names the turn in errors and reasons.
func (i *instance) label() string {
	switch {
	case !i.started:
		return "start-up"
	case i.turn.letter != nil:
		return i.turn.letter.label()
	}
	return "a completion"
}
