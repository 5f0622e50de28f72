package actor

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
)

// inbox is where everything that an agent must do arrives. It outlives instances:
// a letter that came while one ended is there for the next.
type inbox struct {
	id     agent.ID
	limits *Limits
	now    func() time.Time
	signal chan struct{} // buffer of one: wakes the parked loop

	// asleep is a hint for the search for a victim: the loop parked with nothing to
	// keep the instance in memory.
	asleep atomic.Bool

	mu       sync.Mutex
	mail     mailbox
	posts    postQueue
	orders   []*order
	inst     *instance     // whose posts are accepted; nil between instances
	broken   error         // why inst must be reset
	tick     bool          // the idle timer fired
	evicting chan struct{} // closed when the eviction that was asked for is done or refused
	stopping bool          // the host closes: nothing new is accepted
	closed   bool          // the actor has left the host; look for another
	parked   bool          // the loop waits for signal
	held     bool          // the loop takes no letters now
}

// order is an administrative act on the agent, done between turns.
type order struct {
	act  func(*actor) error // runs on the loop; Store calls allowed
	done chan error         // buffer of one
}

// wakeLocked lets a parked loop look again.
func (b *inbox) wakeLocked() {
	if !b.parked {
		return
	}
	b.parked = false
	b.asleep.Store(false)
	b.signal <- struct{}{} // has room: parked was set after the last receive
}

// push puts a letter into the mailbox. closed asks the caller to look for the
// agent's next actor.
func (b *inbox) push(l *letter) (closed bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return true, nil
	}
	if b.stopping {
		return false, errClosing(b.id)
	}
	l.since = b.now()
	if err := b.mail.push(l, b.limits); err != nil {
		return false, err
	}
	if b.held || !b.parked {
		b.mail.arm(b.expire, b.limits.MailboxWait)
	}
	if !b.held {
		b.wakeLocked()
	}
	return false, nil
}

// give puts an order in, ahead of everything else.
func (b *inbox) give(o *order) (closed bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return true, nil
	case b.stopping:
		return false, errClosing(b.id)
	case len(b.orders) >= maxOrders:
		return false, &agent.Error{Op: "administer", Agent: b.id, Kind: agent.Overloaded,
			Msg: fmt.Sprintf("%d administrative requests are waiting; retry later", len(b.orders))}
	}
	b.orders = append(b.orders, o)
	b.wakeLocked()
	return false, nil
}

// post queues fn as a turn of inst. False when inst is gone.
func (b *inbox) post(inst *instance, fn func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inst != inst || b.broken != nil {
		return false
	}
	if b.posts.len() >= MaxPosts {
		// A lost completion would leave the instance waiting for ever.
		b.broken = &agent.Error{Op: "post to", Agent: b.id, Kind: agent.Overloaded,
			Msg: fmt.Sprintf("%d completions are waiting, more than an agent may have under way", MaxPosts)}
	} else {
		b.posts.push(fn)
	}
	b.wakeLocked()
	return b.broken == nil
}

// fail asks for a reset of inst.
func (b *inbox) fail(inst *instance, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inst != inst || b.broken != nil {
		return
	}
	b.broken = err
	b.wakeLocked()
}

// idleTick tells the loop to see whether the instance may hibernate.
func (b *inbox) idleTick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tick = true
	b.wakeLocked()
}

// evict asks a sleeping instance to hibernate now; nil when it is not asleep. With
// awake it also asks one that is in a turn with nothing waiting behind it: a caller
// may have the turn's reply before the loop has come to its end.
func (b *inbox) evict(awake bool) <-chan struct{} {
	if !awake && !b.asleep.Load() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.evicting != nil || b.mail.len() > 0 {
		return nil
	}
	if b.parked && !b.asleep.Load() || !b.parked && (!awake || b.inst == nil || b.posts.len() > 0) {
		return nil
	}
	b.evicting = make(chan struct{})
	b.wakeLocked()
	return b.evicting
}

// evicted tells whoever asked that the eviction is done or refused.
func (b *inbox) evicted(pending *atomic.Int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.evicting != nil {
		close(b.evicting)
		b.evicting = nil
		pending.Add(-1)
	}
}

// stop refuses everything new and asks the loop to end.
func (b *inbox) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopping = true
	b.wakeLocked()
}

// attach begins to accept posts of inst.
func (b *inbox) attach(inst *instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inst, b.broken, b.tick = inst, nil, false
}

// detach ends the present instance for everybody outside; its posts are dropped.
func (b *inbox) detach() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inst, b.broken = nil, nil
	b.posts = postQueue{}
}

// detachIdle is detach for hibernation: it refuses when something came in.
func (b *inbox) detachIdle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil || b.posts.len() > 0 || b.mail.len() > 0 || len(b.orders) > 0 {
		return false
	}
	b.inst = nil
	return true
}

// leaveLocked closes the inbox if nothing is left to do. The caller holds Host.mu
// too and takes the actor out of the host in the same step.
func (b *inbox) leaveLocked() bool {
	if b.mail.len() > 0 || len(b.orders) > 0 {
		return false
	}
	b.closed = true
	b.mail.disarm()
	return true
}

// abandon takes back a letter whose caller gave up: it does not run if it has not
// started, and otherwise learns of it once no other caller shares it.
func (b *inbox) abandon(l *letter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.waiting {
		b.mail.remove(l)
		return
	}
	if l.keyed == nil {
		return // its cancelled is the context itself
	}
	shared := l.keyed
	if shared.leader != nil {
		shared = shared.leader.keyed
	}
	if shared.callers--; shared.callers == 0 {
		close(shared.abandoned)
	}
}

// join makes l share the outcome of leader.
func (b *inbox) join(l, leader *letter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.keyed.leader = leader; l.keyed.callers > 0 { // else its caller gave up since it was taken
		leader.keyed.callers++
	}
}

// expire is the mailbox timer: it answers the letters that waited too long.
func (b *inbox) expire() {
	b.mu.Lock()
	expired := b.mail.takeExpired(b.now(), b.limits.MailboxWait)
	b.mail.rearm(b.now(), b.limits.MailboxWait)
	b.mu.Unlock()
	for _, l := range expired {
		l.answer(agent.Result{}, errWaited(l, b.limits.MailboxWait))
	}
}

// takeAll empties the mailbox.
func (b *inbox) takeAll() []*letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mail.takeAll()
}

func errClosing(id agent.ID) error {
	return &agent.Error{Op: "reach", Agent: id, Kind: agent.Unavailable,
		Msg: "the node is shutting down; retry on another node or when it is back"}
}

func errWaited(l *letter, limit time.Duration) error {
	return &agent.Error{Op: l.label(), Agent: l.call.Agent, Kind: agent.Overloaded,
		Msg: fmt.Sprintf("waited %v in the mailbox without being started; the agent is too busy, retry later", limit)}
}
