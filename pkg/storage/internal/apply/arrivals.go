package apply

import (
	"sync"
	"sync/atomic"

	"agentd/pkg/agent"
)

// arrivals wakes those who wait for an agent's commit.
type arrivals struct {
	number atomic.Int64 // of those who wait; a worker looks no further while it is 0

	mu      sync.Mutex // guards waiting and the numbers in it
	waiting map[agent.ID]*arrival
}

type arrival struct {
	come    chan struct{}
	waiters int
}

// expect gives a channel that is closed when something of the agent is applied; leave
// must follow. Whoever looks at the catalog after expect misses nothing, because a
// worker changes the catalog before it looks for those who wait.
func (a *arrivals) expect(id agent.ID) (come <-chan struct{}, leave func()) {
	a.number.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waiting[id]
	if w == nil {
		w = &arrival{come: make(chan struct{})}
		a.waiting[id] = w
	}
	w.waiters++
	return w.come, func() { a.leave(id, w) }
}

func (a *arrivals) leave(id agent.ID, w *arrival) {
	a.number.Add(-1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if w.waiters--; w.waiters == 0 && a.waiting[id] == w {
		delete(a.waiting, id)
	}
}

// come wakes those who wait for the agent.
func (a *arrivals) come(id agent.ID) {
	if a.number.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.waiting[id]; w != nil {
		close(w.come)
		delete(a.waiting, id)
	}
}

// all wakes everybody, to look again.
func (a *arrivals) all() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.waiting {
		close(w.come)
	}
	clear(a.waiting)
}
