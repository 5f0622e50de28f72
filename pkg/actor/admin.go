package actor

import (
	"context"

	"agentd/pkg/agent"
)

// Describe says where an agent stands. It does not activate it. An agent that
// never was is described too, with Exists false.
func (h *Host) Describe(ctx context.Context, id agent.ID) (Status, error) {
	if err := id.Validate(); err != nil {
		return Status{}, err
	}
	s := Status{ID: id, Phase: PhaseHibernated}
	found, err := h.store.Catalog().Get(ctx, id)
	switch {
	case err == nil:
		s.Entry, s.Exists = found, true
	case !isKind(err, agent.NotFound):
		return Status{}, err
	}
	trouble, resets := h.dossiers.get(id, h.now())
	s.Resets, s.LastReset = resets, trouble.lastReset
	h.mu.Lock()
	a := h.roster.actors[id]
	h.mu.Unlock()
	if a != nil {
		a.inbox.describe(&s)
	}
	switch {
	case s.Phase != PhaseHibernated:
	case trouble.quarantine != "":
		s.Phase, s.Reason = PhaseQuarantined, trouble.quarantine
	case s.Entry.Quarantine != "":
		s.Phase, s.Reason = PhaseQuarantined, s.Entry.Quarantine
	case trouble.failure != "":
		s.Phase, s.Reason = PhaseBroken, trouble.failure
	}
	return s, nil
}

// describe fills in what only the live agent knows.
func (b *inbox) describe(s *Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Mailbox = b.mail.len()
	if b.inst == nil {
		return
	}
	s.Phase, s.Exists = PhaseStarting, true
	if b.inst.live.Load() {
		s.Phase = PhaseLive
	}
	s.StartedAt, s.Turns = b.inst.began, b.inst.turns.Load()
}

// Delete ends the agent's instance after the turn that runs now and deletes its
// data. Calls under way or waiting fail with kind Reset. Deleting what does not
// exist is not an error. If ctx ends first the agent may be deleted all the same.
func (h *Host) Delete(ctx context.Context, id agent.ID) error {
	return h.administer(ctx, id, "delete", (*actor).destroy)
}

// Lift ends a quarantine and forgets the resets that led to it. Lifting what is
// not quarantined is not an error.
func (h *Host) Lift(ctx context.Context, id agent.ID) error {
	return h.administer(ctx, id, "lift the quarantine of", (*actor).lift)
}

// Reset interrupts the turn that runs now, drops its writes and the instance, and
// fails calls under way with kind Reset. Those that wait go to a new instance. An
// agent that is not live is left alone.
func (h *Host) Reset(ctx context.Context, id agent.ID, reason string) error {
	h.mu.Lock()
	a := h.roster.actors[id]
	h.mu.Unlock()
	if a == nil {
		return id.Validate()
	}
	cause := &agent.Error{Op: "reset", Agent: id, Kind: agent.Reset, Msg: "an operator reset the agent: " + reason}
	target := a.inbox.interrupt(cause)
	return h.administer(ctx, id, "reset", func(a *actor) error {
		if target == nil && a.inst != nil { // it was being opened
			a.reset(cause)
		}
		return nil
	})
}

// administer runs act on the agent's loop, where it cannot meet an activation.
func (h *Host) administer(ctx context.Context, id agent.ID, op string, act func(*actor) error) error {
	if err := id.Validate(); err != nil {
		return err
	}
	o := &order{act: act, done: make(chan error, 1)}
	if _, err := h.reach(id, entry{order: o}); err != nil {
		return err
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return agent.FromContext(ctx, op, id)
	}
}

// interrupt stops the instance that runs now and returns it; nil if there is none.
func (b *inbox) interrupt(cause error) *instance {
	b.mu.Lock()
	inst := b.inst
	b.mu.Unlock()
	if inst != nil {
		inst.interrupt(cause)
	}
	return inst
}
