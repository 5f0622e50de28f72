package actor

import (
	"fmt"
	"time"

	"agentd/pkg/agent"
)

// mailbox holds the letters that have not started, oldest first. inbox.mu guards
// it.
type mailbox struct {
	letters letterList
	bytes   int // arguments of all letters
	timer   *time.Timer
	armed   bool // timer runs, for the oldest letter or one before it
}

func (m *mailbox) len() int { return m.letters.len }

// push refuses with kind Overloaded what the limits do not allow.
func (m *mailbox) push(l *letter, limits *Limits) error {
	size := l.call.ArgsBytes()
	if m.letters.len >= limits.MailboxEvents || (m.letters.len > 0 && m.bytes+size > limits.MailboxBytes) {
		return &agent.Error{Op: l.label(), Agent: l.call.Agent, Kind: agent.Overloaded,
			Msg: fmt.Sprintf("%d events with %d bytes of arguments are waiting (at most %d events, %d bytes); retry later",
				m.letters.len, m.bytes, limits.MailboxEvents, limits.MailboxBytes)}
	}
	l.waiting = true
	m.bytes += size
	m.letters.push(l)
	return nil
}

func (m *mailbox) remove(l *letter) {
	l.waiting = false
	m.bytes -= l.call.ArgsBytes()
	m.letters.remove(l)
}

// takeExpired removes and returns the letters that came limit or longer ago.
func (m *mailbox) takeExpired(now time.Time, limit time.Duration) (expired []*letter) {
	for m.letters.head != nil && now.Sub(m.letters.head.since) >= limit {
		l := m.letters.head
		m.remove(l)
		expired = append(expired, l)
	}
	return expired
}

func (m *mailbox) takeAll() []*letter {
	for l := m.letters.head; l != nil; l = l.next {
		l.waiting = false
	}
	m.bytes = 0
	return m.letters.takeAll()
}

// arm makes fire run after d unless it is going to run anyway. It is called only
// when letters cannot be taken at once, so that a quick agent needs no timer.
func (m *mailbox) arm(fire func(), d time.Duration) {
	if m.armed {
		return
	}
	m.armed = true
	if m.timer == nil {
		m.timer = time.AfterFunc(d, fire)
	} else {
		m.timer.Reset(d)
	}
}

// rearm is called by the timer when it has fired.
func (m *mailbox) rearm(now time.Time, limit time.Duration) {
	if m.armed = m.letters.head != nil; m.armed {
		m.timer.Reset(limit - now.Sub(m.letters.head.since))
	}
}

func (m *mailbox) disarm() {
	if m.timer != nil {
		m.timer.Stop()
	}
}

// keptPosts is the room that an empty postQueue keeps.
const keptPosts = 64

// postQueue is a queue of functions; inbox.mu guards it.
type postQueue struct {
	fns  []func()
	head int
}

func (q *postQueue) len() int { return len(q.fns) - q.head }

func (q *postQueue) push(fn func()) {
	if len(q.fns) == cap(q.fns) && q.head > len(q.fns)/2 {
		n := copy(q.fns, q.fns[q.head:])
		clear(q.fns[n:])
		q.fns, q.head = q.fns[:n], 0
	}
	q.fns = append(q.fns, fn)
}

func (q *postQueue) pop() func() {
	fn := q.fns[q.head]
	q.fns[q.head] = nil
	if q.head++; q.head == len(q.fns) {
		q.fns, q.head = q.fns[:0], 0
		if cap(q.fns) > keptPosts {
			q.fns = nil
		}
	}
	return fn
}
