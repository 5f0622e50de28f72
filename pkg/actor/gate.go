package actor

import (
	"sync"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// gate holds what turns send until everything that they depend on is durable, and
// lets it out in order.
//
// One goroutine, the loop, pushes; tickets settle on goroutines of the engine.
// Outputs run outside the lock, one goroutine at a time.
type gate struct {
	id      agent.ID
	deliver func(*output, error) // runs one output; must not block
	broke   func(error)          // told once, when a commit is lost

	mu        sync.Mutex
	queue     []*batch // in the order of turns
	outputs   int      // in queue
	releasing bool     // a goroutine is running outputs taken from queue
	lost      bool     // broke was called
	failed    error    // of the first lost commit that left the queue: nothing after it may leave
	room      chan struct{}
}

// batch is what the turns send that depend on one commit.
type batch struct {
	ticket  *storage.Ticket
	outputs []output
	settled bool // guarded by gate.mu, as is err
	err     error
}

// push takes the outputs of a turn and the ticket that they depend on. They leave
// at once when nothing is open. kept says that the gate keeps the slice.
func (g *gate) push(ticket *storage.Ticket, outputs []output) (kept bool) {
	settled, err := ticket.Settled()
	g.mu.Lock()
	if settled && err == nil && g.failed == nil && len(g.queue) == 0 && !g.releasing {
		g.mu.Unlock() // only this goroutine pushes, so nothing can overtake these
		g.run(outputs, nil)
		return false
	}
	if n := len(g.queue); n > 0 && g.queue[n-1].ticket == ticket {
		tail := g.queue[n-1]
		tail.outputs = append(tail.outputs, outputs...)
		g.outputs += len(outputs)
		g.mu.Unlock()
		return false
	}
	b := &batch{ticket: ticket, outputs: outputs}
	g.queue = append(g.queue, b)
	g.outputs += len(outputs)
	g.mu.Unlock()
	ticket.Then(func(err error) { g.settle(b, err) })
	return true
}

// settle notes the fate of a commit and releases what waited for it.
func (g *gate) settle(b *batch, err error) {
	if err != nil {
		err = errLost(g.id, err)
	}
	g.mu.Lock()
	b.settled, b.err = true, err
	tell := err != nil && !g.lost
	g.lost = g.lost || err != nil
	g.releaseLocked()
	g.mu.Unlock()
	if tell {
		g.broke(err)
	}
}

// releaseLocked runs outputs from the front of the queue as far as they may leave.
// It gives the lock up while they run.
func (g *gate) releaseLocked() {
	if g.releasing {
		return
	}
	g.releasing = true
	for len(g.queue) > 0 {
		head := g.queue[0]
		if g.failed == nil {
			if !head.settled {
				break
			}
			g.failed = head.err
		}
		err := g.failed
		g.queue[0] = nil
		g.queue = g.queue[1:]
		g.outputs -= len(head.outputs)
		g.mu.Unlock()
		g.run(head.outputs, err)
		g.mu.Lock()
	}
	if len(g.queue) == 0 {
		g.queue = nil
	}
	g.releasing = false
	if g.room != nil {
		close(g.room)
		g.room = nil
	}
}

func (g *gate) run(outputs []output, err error) {
	for i := range outputs {
		g.deliver(&outputs[i], err)
	}
}

// waitBelow blocks the loop until fewer than limit commits and fewer than limit
// outputs are held.
func (g *gate) waitBelow(limit int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.queue) >= limit || g.outputs >= limit {
		g.waitLocked()
	}
}

// drain blocks the loop until nothing is held and no output runs. The last commit
// must be settled or about to be.
func (g *gate) drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.queue) > 0 || g.releasing {
		g.waitLocked()
	}
}

// waitLocked gives the lock up until something was released.
func (g *gate) waitLocked() {
	if g.room == nil {
		g.room = make(chan struct{})
	}
	room := g.room
	g.mu.Unlock()
	<-room
	g.mu.Lock()
}

// empty says whether nothing is held.
func (g *gate) empty() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.queue) == 0 && !g.releasing
}
