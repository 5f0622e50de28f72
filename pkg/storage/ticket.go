package storage

import (
	"sync"
	"time"
)

// Ticket is the promise that a commit will be durable. All methods may be called
// from any goroutine.
type Ticket struct {
	seq uint64
	at  time.Time

	mu      sync.Mutex
	settled bool
	err     error
	then    []func(error)
}

// NewTicket is for engines: a ticket of the agent's commit number seq.
func NewTicket(seq uint64) *Ticket { return &Ticket{seq: seq} }

// NewTicketAt is NewTicket with the time of the commit.
func NewTicketAt(seq uint64, at time.Time) *Ticket { return &Ticket{seq: seq, at: at} }

// Seq is the agent's commit number; it grows by one per commit.
func (t *Ticket) Seq() uint64 { return t.seq }

// Bookmark names the state of the agent's database after this commit; empty if
// the engine keeps no times or nothing was ever committed. Bookmarks of one agent
// sort as text in the order of its commits.
func (t *Ticket) Bookmark() string {
	if t.seq == 0 || t.at.IsZero() {
		return ""
	}
	return Bookmark(t.at, t.seq)
}

// Settle is for engines: the first call decides and runs what waits, in the order
// of Then. Later calls do nothing.
func (t *Ticket) Settle(err error) {
	t.mu.Lock()
	if t.settled {
		t.mu.Unlock()
		return
	}
	t.settled, t.err = true, err
	then := t.then
	t.then = nil
	t.mu.Unlock()
	for _, fn := range then {
		fn(err)
	}
}

// Then runs fn once: with nil when the commit is on disk, with an error when it is
// known not to be or its fate is unknown. fn runs on the engine's goroutine, or at
// once on the caller's when the ticket is settled; it must not block.
func (t *Ticket) Then(fn func(error)) {
	t.mu.Lock()
	if !t.settled {
		t.then = append(t.then, fn)
		t.mu.Unlock()
		return
	}
	err := t.err
	t.mu.Unlock()
	fn(err)
}

// Settled says whether the outcome is known and what it is.
func (t *Ticket) Settled() (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settled, t.err
}

// Wait blocks until the ticket settles.
func (t *Ticket) Wait() error {
	ch := make(chan error, 1)
	t.Then(func(err error) { ch <- err })
	return <-ch
}
