package actor

import (
	"time"

	"agentd/pkg/agent"
)

// jobKind is what the loop does next.
type jobKind uint8

const (
	jobLeave    jobKind = iota // nothing to do and no instance
	jobActivate                // letters wait and there is no instance
	jobLetter
	jobPost
	jobOrder
	jobReset // err says why
	jobStop  // the host closes
	jobIdle  // the idle timer fired
	jobEvict // room is needed
)

// job is one thing for the loop to do.
type job struct {
	kind   jobKind
	letter *letter
	post   func()
	order  *order
	err    error
	at     time.Time // when the loop took it
}

// posture is what the loop tells the inbox about the instance before it looks for
// work.
type posture struct {
	held  bool // letters must wait: start-up, Block, or too much under way
	quiet bool // nothing keeps the instance in memory
}

// next waits for work. Completions come before letters, since letters wait for
// what completions finish; orders come before both.
func (b *inbox) next(p posture) job {
	b.mu.Lock()
	b.held = p.held
	for {
		if j, ok := b.takeLocked(); ok {
			j.at = b.now()
			expired := b.pickLocked(&j)
			if b.mail.len() > 0 {
				b.mail.arm(b.expire, b.limits.MailboxWait)
			}
			b.mu.Unlock()
			for _, l := range expired {
				l.answer(agent.Result{}, errWaited(l, b.limits.MailboxWait))
			}
			if j.kind != jobLetter || j.letter != nil {
				return j
			}
			b.mu.Lock()
			continue
		}
		if b.mail.len() > 0 {
			b.mail.arm(b.expire, b.limits.MailboxWait)
		}
		b.parked = true
		b.asleep.Store(b.inst != nil && p.quiet)
		b.mu.Unlock()
		<-b.signal
		b.mu.Lock()
	}
}

// takeLocked decides what comes next.
func (b *inbox) takeLocked() (j job, ok bool) {
	switch {
	case b.broken != nil:
		return job{kind: jobReset, err: b.broken}, true
	case len(b.orders) > 0:
		j = job{kind: jobOrder, order: b.orders[0]}
		b.orders = b.orders[1:]
		return j, true
	case b.stopping && (b.inst != nil || b.mail.len() > 0):
		return job{kind: jobStop}, true
	case b.inst == nil && b.mail.len() > 0:
		return job{kind: jobActivate}, true
	case b.inst == nil:
		return job{kind: jobLeave}, true
	case b.evicting != nil: // before all work, so that a refusal is quick
		return job{kind: jobEvict}, true
	case b.posts.len() > 0:
		return job{kind: jobPost, post: b.posts.pop()}, true
	case b.mail.len() > 0 && !b.held:
		return job{kind: jobLetter}, true
	case b.tick:
		b.tick = false
		return job{kind: jobIdle}, true
	}
	return job{}, false
}

// pickLocked takes the oldest letter for a jobLetter, passing by those that waited
// too long.
func (b *inbox) pickLocked(j *job) (expired []*letter) {
	if j.kind != jobLetter {
		return nil
	}
	expired = b.mail.takeExpired(j.at, b.limits.MailboxWait)
	if j.letter = b.mail.letters.head; j.letter != nil {
		b.mail.remove(j.letter)
	}
	return expired
}
