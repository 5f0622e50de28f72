package actor

import (
	"errors"
	"fmt"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// activate opens the agent and runs the first turn of a new instance.
func (a *actor) activate(at time.Time) (retire bool) {
	if a.room != nil {
		<-a.room // a loop that leaves; it always does or refuses
		a.room = nil
	}
	factory, db, err := a.open()
	if err != nil {
		if !isKind(err, agent.Quarantined) {
			a.host.dossiers.setFailure(a.id, err.Error())
		}
		a.answerWaiting(err)
		return false
	}
	a.inst = newInstance(a, db, at)
	a.inbox.attach(a.inst)
	a.touchIdle(a.host.limits.Idle)
	return a.runTurn(at, nil, func() { a.inst.start(factory) })
}

// open finds the class before it touches a file.
func (a *actor) open() (Factory, storage.DB, error) {
	h := a.host
	factory, err := h.classes.Factory(a.id)
	if err != nil {
		return nil, nil, err
	}
	found, err := h.store.Catalog().Get(h.life, a.id)
	if err != nil && !isKind(err, agent.NotFound) {
		return nil, nil, err
	}
	if found.Quarantine != "" {
		h.dossiers.setQuarantine(a.id, found.Quarantine)
	}
	if reason := h.dossiers.quarantine(a.id); reason != "" {
		return nil, nil, errQuarantined(a.id, reason)
	}
	db, err := h.store.Open(h.life, a.id)
	if err != nil {
		return nil, nil, err
	}
	return factory, db, nil
}

// noteReset reports a reset and quarantines the agent if faults (the code ran too
// long, took too much memory, or panicked) pile up. The instance is gone already;
// what waits learns of a quarantine when the next one is to be opened.
func (a *actor) noteReset(cause error, label string, fault bool) {
	h := a.host
	now := h.now()
	h.tell(Event{Kind: EventReset, Agent: a.id, Err: cause})
	last := fmt.Sprintf("%s in %s at %s: %v", agent.KindOf(cause), label, now.UTC().Format(time.RFC3339), cause)
	n := h.dossiers.addReset(a.id, now, last, fault)
	h.log.Warn("agent reset", "agent", a.id.Key(), "kind", agent.KindOf(cause).String(), "during", label, "error", cause)
	if n < h.limits.Resets {
		return
	}
	reason := fmt.Sprintf("reset %d times within %v; the last: %s. To let it run again: agentd unquarantine %s",
		n, h.limits.ResetWindow, last, a.id)
	h.dossiers.setQuarantine(a.id, reason)
	if err := a.quarantine(reason); err != nil {
		h.log.Error("a quarantine could not be stored and ends with this process", "agent", a.id.Key(), "error", err)
	}
	h.tell(Event{Kind: EventQuarantined, Agent: a.id, Err: errQuarantined(a.id, reason)})
}

// quarantine stores the reason. An agent that never committed has no place for it,
// so its database is made: it shall be listed, and stopped after a restart too.
func (a *actor) quarantine(reason string) error {
	h := a.host
	err := h.store.Catalog().SetQuarantine(h.life, a.id, reason)
	if !isKind(err, agent.NotFound) {
		return err
	}
	db, err := h.store.Open(h.life, a.id)
	if err != nil {
		return err
	}
	_, err = exec(db, ledgerSchema)
	if err == nil {
		var ticket *storage.Ticket
		if ticket, err = db.Commit(storage.Wake{}); err == nil {
			err = ticket.Wait()
		}
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	return h.store.Catalog().SetQuarantine(h.life, a.id, reason)
}

// lift is the order behind Host.Lift.
func (a *actor) lift() error {
	h := a.host
	err := h.store.Catalog().SetQuarantine(h.life, a.id, "")
	if err != nil && !isKind(err, agent.NotFound) {
		return err
	}
	h.dossiers.forget(a.id)
	h.tell(Event{Kind: EventLifted, Agent: a.id})
	return nil
}

func errQuarantined(id agent.ID, reason string) error {
	return &agent.Error{Op: "activate", Agent: id, Kind: agent.Quarantined, Msg: "the agent is quarantined: " + reason}
}
