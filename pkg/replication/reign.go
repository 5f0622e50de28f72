package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"agentd/internal/raftgroup"
	"agentd/pkg/agent"
)

// reign is one term of this node's ownership of a shard, from Lead to Resign: the
// Proposer that the engine is given.
//
// Records gather in pending while MaxInFlight entries are under way; the first that
// comes when fewer are goes out at once. Whoever finds something to send and nobody
// sending does it (pump), so a lone record reaches the group on its writer's own
// goroutine.
type reign struct {
	shard  int
	term   uint64
	limits limits
	full   func() bool
	submit func(term uint64, data []byte) // does not block
	press  func()                         // the log is full; does not block

	// settling is held while settle functions are called: it keeps them one at a time
	// and in order. It is taken before mu, never under it.
	settling sync.Mutex

	mu      sync.Mutex // guards what follows; nothing is called under it
	quiet   *sync.Cond // sending became false
	sending bool       // a goroutine is in pump
	closed  error      // why nothing is taken any more; nil while it is
	starved bool       // the log is full, so what is pending cannot be sent
	over    bool       // nothing is settled as committed any more
	pending []proposal // taken, not in an entry yet
	flight  []batch    // given to the group, oldest first; at most limits.inFlight
	spare   []proposal // an empty slice to fill
	bytes   int64      // of records that are not settled
	records int
	drained chan struct{} // closed when records is 0; nil while nobody waits
}

type limits struct {
	bytes    int64
	records  int
	inFlight int
	entry    int
}

type proposal struct {
	record []byte
	settle func(error)
}

// batch is the content of one entry.
type batch struct {
	data      []byte
	proposals []proposal
	bytes     int64
}

func newReign(s *shard, term uint64) *reign {
	r := &reign{shard: s.id, term: term, limits: s.limits, full: s.full, submit: s.submit, press: s.press}
	r.quiet = sync.NewCond(&r.mu)
	return r
}

// Propose implements Proposer.
func (r *reign) Propose(record []byte, settle func(error)) error {
	size := int64(len(record))
	switch {
	case len(record) == 0:
		return r.refusal(agent.Invalid, "a record is empty")
	case size > MaxRecordBytes:
		return r.refusal(agent.TooLarge, fmt.Sprintf("a record of %d bytes is over the limit of %d: change less in one transaction", size, MaxRecordBytes))
	case r.full():
		r.press()
		return errFull
	}
	r.mu.Lock()
	switch {
	case r.closed != nil:
		err := r.closed
		r.mu.Unlock()
		return err
	case r.records >= r.limits.records || r.records > 0 && r.bytes+size > r.limits.bytes:
		err := r.refusal(agent.Overloaded, fmt.Sprintf("%d records (%d bytes) of shard %d wait for the disk, the most allowed; retry later", r.records, r.bytes, r.shard))
		r.mu.Unlock()
		return err
	}
	r.pending = append(r.pending, proposal{record, settle})
	r.bytes += size
	r.records++
	send := r.claimLocked()
	r.mu.Unlock()
	if send {
		r.pump()
	}
	return nil
}

var errFull error = &agent.Error{Op: "replicate", Kind: agent.StorageFull,
	Msg: "the log has no room: free space on the data folder's disk; reads go on"}

func (r *reign) refusal(kind agent.Kind, msg string) error {
	return &agent.Error{Op: "replicate", Kind: kind, Msg: msg}
}

// claimLocked makes the caller the sender if there is something to send.
func (r *reign) claimLocked() bool {
	if r.sending || !r.sendableLocked() {
		return false
	}
	r.sending = true
	return true
}

func (r *reign) sendableLocked() bool {
	return !r.over && !r.starved && len(r.pending) > 0 && len(r.flight) < r.limits.inFlight
}

// pump gives batches to the group while there are any; the caller has claimed it.
//
// Records may have been taken when the log had room that others have used since.
// What the log keeps in reserve holds the entries under way and no more, so such
// records are never sent: the shard ends this reign and begins another.
func (r *reign) pump() {
	for {
		full := r.full()
		r.mu.Lock()
		if !r.sendableLocked() || full {
			r.starved = r.starved || full && r.sendableLocked()
			starved := r.starved
			if starved {
				r.closed = errFull
				r.wakeLocked()
			}
			r.sending = false
			r.quiet.Broadcast()
			r.mu.Unlock()
			if starved {
				r.press()
			}
			return
		}
		b := r.cutLocked()
		r.mu.Unlock()
		b.data = b.join()
		r.mu.Lock()
		r.flight = append(r.flight, b)
		r.mu.Unlock()
		r.submit(r.term, b.data)
	}
}

// cutLocked takes the proposals of the next entry.
func (r *reign) cutLocked() batch {
	var b batch
	n := 0
	for n < len(r.pending) {
		size := int64(len(r.pending[n].record))
		if n > 0 && b.bytes+size > int64(r.limits.entry) {
			break
		}
		b.bytes += size
		n++
	}
	if n == len(r.pending) {
		b.proposals, r.pending, r.spare = r.pending, r.spare, nil
	} else {
		b.proposals = append(b.proposals, r.pending[:n]...)
		r.pending = slices.Delete(r.pending, 0, n)
	}
	return b
}

// join is the entry's bytes; a single record is not copied.
func (b *batch) join() []byte {
	if len(b.proposals) == 1 {
		return b.proposals[0].record
	}
	data := make([]byte, 0, b.bytes)
	for _, p := range b.proposals {
		data = append(data, p.record...)
	}
	return data
}

// errForeign means that raft committed an entry in this node's term which it did not
// propose next: an acknowledgement would go to the wrong record.
var errForeign = errors.New("an entry of this node's term is not the one that it proposed next")

// committed settles the oldest entry under way: it is on a majority's disks. It is
// called on the group's goroutine for committed entries, before the engine sees it.
func (r *reign) committed(e raftgroup.Entry) error {
	r.settling.Lock()
	defer r.settling.Unlock()
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return nil
	}
	if len(r.flight) == 0 || !same(r.flight[0].data, e.Data) {
		r.mu.Unlock()
		return errForeign
	}
	b := r.flight[0]
	r.flight[0] = batch{}
	if r.flight = r.flight[1:]; len(r.flight) == 0 {
		r.flight = nil
	}
	r.bytes -= b.bytes
	r.records -= len(b.proposals)
	send := r.claimLocked()
	r.mu.Unlock()
	if send {
		r.pump() // the disk works while the records below are settled
	}
	for _, p := range b.proposals {
		p.settle(nil)
	}
	r.recycle(b.proposals)
	return nil
}

// same compares by identity: the leader's own log hands back what it was given.
func same(a, b []byte) bool { return len(a) == len(b) && len(a) > 0 && &a[0] == &b[0] }

// recycle keeps a settled batch's slice for the next, and wakes drain.
func (r *reign) recycle(list []proposal) {
	clear(list)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.spare == nil && cap(list) <= 4096 {
		r.spare = list[:0]
	}
	if r.records == 0 {
		r.wakeLocked()
	}
}

// wakeLocked ends a drain.
func (r *reign) wakeLocked() {
	if r.drained != nil {
		close(r.drained)
		r.drained = nil
	}
}

// starving says that the reign must end because the log is full.
func (r *reign) starving() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starved
}

// end settles everything that is left as failed, in order. When it returns nothing
// of this reign is on its way to the group any more.
func (r *reign) end(reason error) {
	r.settling.Lock()
	defer r.settling.Unlock()
	r.mu.Lock()
	if r.over {
		r.mu.Unlock()
		return
	}
	r.over, r.closed = true, lost(agent.Unavailable, reason)
	for r.sending {
		r.quiet.Wait()
	}
	flight, pending := r.flight, r.pending
	r.flight, r.pending, r.spare, r.bytes, r.records = nil, nil, nil, 0, 0
	r.wakeLocked()
	r.mu.Unlock()
	for _, b := range flight {
		for _, p := range b.proposals {
			p.settle(lost(agent.OutcomeUnknown, reason))
		}
	}
	for _, p := range pending {
		p.settle(lost(agent.Unavailable, reason))
	}
}

func lost(kind agent.Kind, reason error) error {
	if kind == agent.Unavailable && errors.Is(reason, errFull) {
		return errFull
	}
	msg := "this node does not own the agent's shard any more; retry"
	if kind == agent.OutcomeUnknown {
		msg = "this node lost the agent's shard before the commit was confirmed: it may or may not have taken effect; retry with the same key"
	}
	return &agent.Error{Op: "replicate", Kind: kind, Msg: msg, Err: reason}
}

// drain takes no more records and returns when those taken are settled; with an error
// when ctx ends first, or when they cannot be sent.
func (r *reign) drain(ctx context.Context, reason error) error {
	r.mu.Lock()
	if r.closed == nil {
		r.closed = lost(agent.Unavailable, reason)
	}
	if r.records == 0 || r.starved {
		err := r.stuckLocked()
		r.mu.Unlock()
		return err
	}
	if r.drained == nil {
		r.drained = make(chan struct{})
	}
	drained := r.drained
	r.mu.Unlock()
	select {
	case <-drained:
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.stuckLocked()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *reign) stuckLocked() error {
	if r.starved {
		return errFull
	}
	return nil
}

// load is what is not settled.
func (r *reign) load() (records int, bytes int64, inFlight int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records, r.bytes, len(r.flight)
}
