package actor

import (
	"time"

	"agentd/pkg/agent"
)

// actor is an agent that has something in memory: letters, orders or an instance.
// Its goroutine, the loop, serves one instance after another and leaves when
// nothing is left.
type actor struct {
	host  *Host
	id    agent.ID
	inbox inbox

	// guarded by Host.mu: place in the order of use
	newer, older *actor

	// owned by the loop
	inst   *instance // nil between instances
	idle   *time.Timer
	active time.Time       // when the last turn began
	room   <-chan struct{} // wait for it before the first activation: a victim is leaving
}

func newActor(h *Host, id agent.ID) *actor {
	a := &actor{host: h, id: id}
	a.inbox.id, a.inbox.limits, a.inbox.now = id, &h.limits, h.now
	a.inbox.signal = make(chan struct{}, 1)
	return a
}

// run is the loop. It returns when the actor has left the host, or to go on in a
// new goroutine when the present one's thread is spoilt.
func (a *actor) run() {
	defer a.host.running.Done()
	for {
		if a.inst != nil && a.inst.turn.open {
			a.endTurn()
		}
		j := a.inbox.next(a.posture())
		retire := false
		switch j.kind {
		case jobLeave:
			if a.host.leave(a) {
				return
			}
		case jobActivate:
			retire = a.activate(j.at)
		case jobLetter:
			retire = a.runTurn(j.at, j.letter, nil)
		case jobPost:
			retire = a.runTurn(j.at, nil, j.post)
		case jobOrder:
			j.order.done <- j.order.act(a)
		case jobReset:
			a.reset(j.err)
		case jobStop:
			a.stop()
		case jobIdle:
			a.hibernateIfIdle(j.at)
		case jobEvict:
			a.makeRoom()
		}
		if retire {
			a.host.running.Add(1)
			go a.run()
			return
		}
	}
}

// posture tells the inbox what the instance can take.
func (a *actor) posture() posture {
	i := a.inst
	if i == nil {
		return posture{}
	}
	i.gate.waitBelow(a.host.limits.Unsettled)
	held := !i.started || i.blocks > 0 || i.underway.len >= MaxPosts
	return posture{held: held, quiet: !held && !i.busy && i.underway.len == 0}
}

// touchIdle arms the idle timer for what is left of the idle time.
func (a *actor) touchIdle(left time.Duration) {
	if a.idle == nil {
		a.idle = time.AfterFunc(left, a.inbox.idleTick)
	} else {
		a.idle.Reset(left)
	}
}

// hibernateIfIdle hibernates the instance if it had no event for Limits.Idle. The
// timer is not touched by events; it looks when it fires.
func (a *actor) hibernateIfIdle(now time.Time) {
	limit := a.host.limits.Idle
	if a.inst == nil {
		return
	}
	if left := limit - now.Sub(a.active); left > 0 {
		a.touchIdle(left)
		return
	}
	if !a.inst.started && !a.inst.busy {
		a.reset(errStuck(a.id))
		return
	}
	if !a.hibernate(EventHibernated) {
		a.touchIdle(limit)
	}
}

// makeRoom hibernates the instance on request of the host, if it is still idle.
func (a *actor) makeRoom() {
	if a.inst != nil {
		a.hibernate(EventEvicted)
	}
	a.inbox.evicted(&a.host.evicting)
}

// hibernate gives memory and database back. False when something is under way.
func (a *actor) hibernate(kind EventKind) bool {
	i := a.inst
	if !a.posture().quiet || !i.gate.empty() || !a.inbox.detachIdle() {
		return false
	}
	a.drop()
	a.host.tell(Event{Kind: kind, Agent: a.id})
	return true
}

// stop ends the actor because the host closes.
func (a *actor) stop() {
	err := errClosing(a.id)
	a.answerWaiting(err)
	if a.inst == nil {
		return
	}
	underway := a.inst.underway.takeAll()
	a.inbox.detach()
	a.drop()
	for _, l := range underway {
		l.answer(agent.Result{}, errReset(l, err))
	}
}

// answerWaiting answers everything in the mailbox with err.
func (a *actor) answerWaiting(err error) {
	for _, l := range a.inbox.takeAll() {
		l.answer(agent.Result{}, err)
	}
}

// drop closes the instance; its outputs have left afterwards. The inbox was
// detached before, so no post can reach it.
func (a *actor) drop() {
	i := a.inst
	a.inst = nil
	if a.idle != nil {
		a.idle.Stop()
	}
	i.close()
}
