package actor

import (
	"errors"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// turn is what one event does, collected until its end. The loop owns it.
type turn struct {
	open      bool    // begun and not ended
	letter    *letter // whose turn it is; nil for start-up and completions
	outputs   []output
	published int // bytes
	wake      storage.Wake

	ready    bool  // start-up ended in this turn
	failed   error // with this error
	aborted  error // Loop.Abort
	panicked error
	destroy  bool // Loop.Destroy
}

// output is one thing that leaves when the turn's commit is durable; one of
// letter, fn and topic is set.
type output struct {
	letter *letter
	fn     func(error)
	id     agent.ID // of a publish, with topic and data
	topic  string
	data   []byte
}

// runTurn runs one event to quiescence: a letter, or post. The turn ends in
// endTurn, in another goroutine if retire says that this one's thread is spoilt.
func (a *actor) runTurn(at time.Time, l *letter, post func()) (retire bool) {
	i := a.inst
	a.active = at
	i.turn.open, i.turn.letter = true, l
	i.turns.Add(1)
	i.watch.Begin()
	i.turn.panicked = i.guard("run turn", func() {
		if post != nil {
			post()
		} else {
			i.begin(l)
		}
		if i.behavior != nil {
			i.turn.wake, i.busy = i.behavior.NextWake(), i.behavior.Busy()
		}
	})
	return i.watch.End()
}

// endTurn commits what the turn wrote and lets out what it sent, or resets the
// instance.
func (a *actor) endTurn() {
	i := a.inst
	t := &i.turn
	t.open = false
	if err := i.verdict(); err != nil {
		a.reset(err)
		return
	}
	if t.destroy {
		if err := a.destroy(); err != nil {
			a.host.log.Error("deleting an agent that destroyed itself failed", "agent", a.id.Key(), "error", err)
		}
		return
	}
	if err := i.ledger.record(i.db, t.outputs, i.Now()); err != nil {
		a.reset(err)
		return
	}
	ticket, err := i.db.Commit(t.wake)
	if err != nil {
		if late := i.verdict(); late != nil {
			err = late // an interrupt that hit the commit
		}
		a.reset(err)
		return
	}
	outputs, ready := t.outputs, t.ready
	if i.gate.push(ticket, outputs) {
		outputs = nil
	}
	clear(outputs)
	*t = turn{outputs: outputs[:0]}
	if ready {
		a.startedUp()
	}
}

// verdict says why the turn must not be committed.
func (i *instance) verdict() error {
	switch cause := i.cause.Load(); {
	case cause != nil:
		return *cause
	case i.turn.panicked != nil:
		return i.turn.panicked
	case i.turn.aborted != nil:
		return i.turn.aborted
	}
	return i.turn.failed
}

// startedUp opens the instance to letters.
func (a *actor) startedUp() {
	a.inst.started = true
	a.inst.live.Store(true)
	a.host.dossiers.setFailure(a.id, "")
	a.host.tell(Event{Kind: EventActivated, Agent: a.id, Took: a.host.now().Sub(a.inst.began)})
}

// reset drops the instance with everything that is not committed. Letters that
// have not started stay for the next instance, unless there is reason to believe
// that it would not get to them either.
func (a *actor) reset(cause error) {
	i := a.inst
	t := i.turn
	label := i.label()
	fault := t.panicked != nil || isKind(cause, agent.CPULimit) || isKind(cause, agent.MemoryLimit)
	underway := i.underway.takeAll()
	a.inbox.detach()
	a.drop()

	a.noteReset(cause, label, fault)
	own := errTurn(a.id, label, cause)
	for k := range t.outputs {
		a.host.deliver(&t.outputs[k], own)
	}
	for _, l := range underway {
		if l.sharesTurn(t.letter) || (t.aborted != nil && !fault) {
			l.answer(agent.Result{}, own)
		} else {
			l.answer(agent.Result{}, errReset(l, cause))
		}
	}
	if !i.started || (!i.served && !fault && !isKind(cause, agent.Reset)) {
		a.host.dossiers.setFailure(a.id, own.Error())
		a.answerWaiting(own)
	}
}

// destroy drops the instance, if there is one, and deletes the agent's data. What
// the present turn sends leaves once that is done; everything else that waits is
// answered with kind Reset.
func (a *actor) destroy() error {
	var underway []*letter
	var outputs []output
	if i := a.inst; i != nil {
		underway, outputs = i.underway.takeAll(), i.turn.outputs
		a.inbox.detach()
		a.drop()
	}
	err := a.host.store.Delete(a.host.life, a.id)
	for k := range outputs {
		a.host.deliver(&outputs[k], err)
	}
	gone := &agent.Error{Op: "reach", Agent: a.id, Kind: agent.Reset, Msg: "the agent was deleted; the next call makes a new one"}
	for _, l := range underway {
		l.answer(agent.Result{}, errReset(l, gone))
	}
	a.answerWaiting(gone)
	if err == nil {
		a.host.dossiers.forget(a.id)
	}
	return err
}

func isKind(err error, kind agent.Kind) bool { return agent.KindOf(err) == kind }

// errTurn is for the call whose turn failed. It keeps the cause's kind.
func errTurn(id agent.ID, label string, cause error) error {
	var e *agent.Error
	if errors.As(cause, &e) && e.Kind == agent.Exception {
		return e // as the author's code threw it
	}
	return &agent.Error{Op: label, Agent: id, Kind: agent.KindOf(cause), Err: cause}
}

// errReset is for a call that was under way when its instance went.
func errReset(l *letter, cause error) error {
	return &agent.Error{Op: l.label(), Agent: l.call.Agent, Kind: agent.Reset,
		Msg: "the agent was reset while this was under way, so its outcome is unknown; retry with the same idempotency key", Err: cause}
}

// errLost is for everything that depends on a commit that may not be on disk.
func errLost(id agent.ID, cause error) error {
	return &agent.Error{Op: "commit", Agent: id, Kind: agent.OutcomeUnknown,
		Msg: "the commit could not be confirmed, so the outcome is unknown; retry with the same idempotency key", Err: cause}
}

func errStuck(id agent.ID) error {
	return &agent.Error{Op: "start", Agent: id, Kind: agent.Exception, Name: "Error",
		Msg: "start-up waits for something that will never happen; look for a promise in onStart that nothing settles"}
}
