package engine

import (
	"context"

	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// Delete removes an agent; see storage.Store.
func (s *Store) Delete(ctx context.Context, id agent.ID) error {
	const op = "delete agent"
	if ctx.Err() != nil {
		return agent.FromContext(ctx, op, id)
	}
	if err := s.take(op, id, false); err != nil {
		return err
	}
	defer s.leave(id)
	s.dropParked(func(parked agent.ID) bool { return parked == id })
	entry, known, err := s.catalog.Entry(id)
	if err != nil || !known {
		return err
	}
	// From here on the work is finished whatever happens to ctx: half of it would
	// confuse the next Open.
	return s.order(s.life, op, &record.Record{Kind: record.Delete, Agent: id, Base: entry.Seq, At: s.now()})
}

// order proposes a record that is no commit and waits until it is applied.
func (s *Store) order(ctx context.Context, op string, r *record.Record) error {
	proposer, _, err := s.owner(op, r.Agent)
	if err != nil {
		return err
	}
	done := s.expect(r.Agent)
	defer s.forget(r.Agent, done)
	defer s.applier.Hurry()()
	settled := make(chan error, 1)
	if err := proposer.Propose(record.Append(nil, r), func(err error) { settled <- err }); err != nil {
		return err
	}
	for {
		select {
		case err := <-settled:
			if err != nil {
				return err
			}
			settled = nil
		case <-done:
			return nil
		case <-s.failure.ch:
			return s.Err()
		case <-ctx.Done():
			if s.life.Err() != nil {
				return closing(op, r.Agent)
			}
			return agent.FromContext(ctx, op, r.Agent)
		}
	}
}

// expect is closed when the applier is done with the agent's next record that is no
// commit.
func (s *Store) expect(id agent.ID) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := make(chan struct{})
	s.waits[id] = append(s.waits[id], ch)
	return ch
}

func (s *Store) forget(id agent.ID, ch chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rest []chan struct{}
	for _, c := range s.waits[id] {
		if c != ch {
			rest = append(rest, c)
		}
	}
	if s.waits[id] = rest; rest == nil {
		delete(s.waits, id)
	}
}

// done is called by the applier after a record that is no commit. Records of one
// agent come in the order in which they were proposed.
func (s *Store) done(id agent.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if list := s.waits[id]; len(list) > 0 {
		close(list[0])
		s.waits[id] = list[1:]
	}
}

// quarantine makes an agent's quarantine durable for the catalog.
func (s *Store) quarantine(ctx context.Context, id agent.ID, reason string) error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return closing("quarantine agent", id)
	}
	return s.order(ctx, "quarantine agent", &record.Record{Kind: record.Quarantine, Agent: id, At: s.now(), Reason: reason})
}
