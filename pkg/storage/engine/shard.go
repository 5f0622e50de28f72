package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"agentd/pkg/agent"
)

// Proposer makes records of one shard durable, in one term of this node's ownership.
// It is declared here by its user; package replication has it.
type Proposer interface {
	// Propose hands over one encoded record, which belongs to the proposer from then
	// on. It does not wait for the disk. settle is called exactly once, in the order
	// of Propose, and must not block: nil when the record is committed. After the
	// first failure every later record of the term fails too. An error means that
	// nothing was taken and settle is not called.
	Propose(record []byte, settle func(error)) error
}

// shard is this node's part in one shard.
type shard struct {
	mu       sync.Mutex // guards what follows; nothing blocks under it
	term     uint64
	proposer Proposer // nil while another node, or nobody, owns the shard
	reason   error    // why it is nil, once it was not
}

// owner is the proposer of the present term, or an error of kind Unavailable.
func (s *Store) owner(op string, id agent.ID) (Proposer, int, error) {
	n := s.shardOf(id)
	if err := s.applier.Damage(n); err != nil {
		return nil, n, err
	}
	sh := &s.shards[n]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.proposer != nil {
		return sh.proposer, n, nil
	}
	e := &agent.Error{Op: op, Agent: id, Kind: agent.Unavailable, Err: sh.reason,
		Msg: fmt.Sprintf("this node does not own shard %d now: it is starting, or lost it; retry", n)}
	if kind := agent.KindOf(sh.reason); sh.reason != nil && kind == agent.Corrupt {
		e.Kind, e.Msg = kind, fmt.Sprintf("shard %d cannot be served", n)
	}
	return nil, n, e
}

// Lead tells the store that this node owns the shard: everything committed before is
// applied, and p takes the records of this term. Any goroutine; one call at a time
// for each shard.
func (s *Store) Lead(n int, term uint64, p Proposer) {
	s.redo.finished(n)
	sh := &s.shards[n]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.term, sh.proposer, sh.reason = term, p, nil
	s.catalog.Wakened() // agents of the shard may be due here now
}

// Resign ends the ownership that began with term. Databases of the shard are broken:
// what they hold beyond the committed records is discarded, never written.
func (s *Store) Resign(n int, term uint64, reason error) {
	if term == 0 {
		s.redo.finished(n) // it will never be led
	}
	sh := &s.shards[n]
	sh.mu.Lock()
	held := sh.proposer != nil && sh.term == term
	if sh.proposer == nil || held {
		sh.proposer, sh.reason = nil, reason
	}
	sh.mu.Unlock()
	if !held {
		return
	}
	s.dropParked(func(id agent.ID) bool { return s.shardOf(id) == n })
	for _, db := range s.openOf(n) {
		db.session.Break(&agent.Error{Op: "use database", Agent: db.id, Kind: agent.Unavailable, Err: reason,
			Msg: "this node lost the agent's shard; retry"})
	}
}

// Apply takes one committed entry of a shard: see apply.Applier.Apply. An error
// means that the shard can apply nothing more.
func (s *Store) Apply(n int, index uint64, entry []byte) error {
	err := s.applier.Apply(n, index, entry)
	if s.catalog.RecentLen() > maxRecent {
		s.flush()
	}
	return err
}

// maxRecent is how many agents may have changed since the last checkpoint before the
// catalog writes them: some 200 bytes of memory each.
const maxRecent = 100_000

// flush begins a checkpoint in the background unless one is under way.
func (s *Store) flush() {
	if !s.flushing.CompareAndSwap(false, true) {
		return
	}
	s.wg.Go(func() {
		defer s.flushing.Store(false)
		if err := s.Checkpoint(s.life); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("checkpoint failed", "error", err)
		}
	})
}

// Checkpoint makes everything that was applied before the call durable in agents'
// files and the catalog, so that the log before it is no longer needed.
// There is none while the log of a rebuilt catalog is applied again: kind Unavailable.
func (s *Store) Checkpoint(ctx context.Context) error {
	if s.redo.underWay(len(s.shards)) {
		return &agent.Error{Op: "make checkpoint", Kind: agent.Unavailable, Msg: "the log is being applied to files whose catalog was lost"}
	}
	return s.applier.Checkpoint(ctx)
}

// Wait returns when the shard has applied the entry of the index.
func (s *Store) Wait(ctx context.Context, n int, index uint64) error {
	return s.applier.Wait(ctx, n, index)
}
