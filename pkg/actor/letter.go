package actor

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"time"

	"agentd/pkg/agent"
)

// letter is one call or wake on its way: in the mailbox, then under way in an
// instance, then answered. It is answered exactly once, through done.
type letter struct {
	call agent.Call // of a wake only Agent is set
	wake bool
	done chan outcome // buffer of one

	// cancelled is closed when nobody waits for the answer any more.
	cancelled <-chan struct{}
	keyed     *keyed // nil without an idempotency key

	// guarded by inbox.mu
	since   time.Time // entered the mailbox
	waiting bool      // in the mailbox; false once started or given up

	// guarded by inbox.mu while in the mailbox, afterwards owned by the loop
	prev, next *letter

	// owned by the loop
	outcome outcome
	replied bool
}

// keyed is what a call with an idempotency key carries along.
type keyed struct {
	hash    [sha256.Size]byte
	joiners []*letter // calls that share this one's outcome; owned by the loop

	// guarded by inbox.mu
	abandoned chan struct{} // becomes the letter's cancelled
	callers   int           // that still wait for this outcome
	leader    *letter       // whose outcome this letter shares; nil for itself
}

// outcome is the answer to a letter.
type outcome struct {
	result agent.Result
	err    error
}

func newCall(ctx context.Context, call agent.Call) *letter {
	l := &letter{call: call, done: make(chan outcome, 1), cancelled: ctx.Done()}
	if call.Key != "" {
		// The context of one caller must not cancel what another one joined.
		l.keyed = &keyed{hash: hashCall(call), abandoned: make(chan struct{}), callers: 1}
		l.cancelled = l.keyed.abandoned
	}
	return l
}

func newWake(ctx context.Context, id agent.ID) *letter {
	return &letter{call: agent.Call{Agent: id}, wake: true, done: make(chan outcome, 1), cancelled: ctx.Done()}
}

// label names what the letter asks for, in errors and reasons.
func (l *letter) label() string {
	if l.wake {
		return "wake"
	}
	return "call " + l.call.Method
}

// sharesTurn says whether own is this letter or the one whose outcome it shares.
func (l *letter) sharesTurn(own *letter) bool {
	return own != nil && (l == own || (l.keyed != nil && l.keyed.leader == own))
}

// answer gives the outcome to the caller, who may be gone.
func (l *letter) answer(result agent.Result, err error) {
	select {
	case l.done <- outcome{result, err}:
	default: // answered before
	}
}

// hashCall tells two calls with the same key apart. Every part is preceded by its
// length, so that no two calls have the same bytes.
func hashCall(call agent.Call) (sum [sha256.Size]byte) {
	h := sha256.New()
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	part([]byte{byte(call.Surface)})
	part([]byte(call.Method))
	for _, arg := range call.Args {
		part(arg)
	}
	h.Sum(sum[:0])
	return sum
}

// letterList is a queue from which any element can be taken in constant time.
type letterList struct {
	head, tail *letter
	len        int
}

func (q *letterList) push(l *letter) {
	l.prev, l.next = q.tail, nil
	if q.tail == nil {
		q.head = l
	} else {
		q.tail.next = l
	}
	q.tail = l
	q.len++
}

func (q *letterList) remove(l *letter) {
	if l.prev == nil {
		q.head = l.next
	} else {
		l.prev.next = l.next
	}
	if l.next == nil {
		q.tail = l.prev
	} else {
		l.next.prev = l.prev
	}
	l.prev, l.next = nil, nil
	q.len--
}

// takeAll empties the queue.
func (q *letterList) takeAll() []*letter {
	all := make([]*letter, 0, q.len)
	for q.head != nil {
		l := q.head
		q.remove(l)
		all = append(all, l)
	}
	return all
}
