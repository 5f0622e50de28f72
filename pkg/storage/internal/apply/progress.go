package apply

import (
	"fmt"
	"sync"
	"sync/atomic"

	"agentd/pkg/agent"
)

// progress is how far one shard is.
type progress struct {
	number int
	start  uint64 // what the last checkpoint before New covers
	queue  *queue // of the shard's worker

	// rebuilt is set until the first checkpoint of a catalog that was rebuilt from files,
	// which are not at the place where the log begins. met are the agents of which a
	// record came since; it is the worker's.
	rebuilt atomic.Bool
	met     map[agent.ID]struct{}

	mu      sync.Mutex // guards what follows
	handed  uint64     // index of the last entry that Apply took
	applied uint64     // index of the last entry whose effects are complete
	damage  error
	changed chan struct{} // closed when one of the two changes; nil while nobody waits
}

// hand admits an entry; it is not fresh if the last checkpoint covers it.
func (p *progress) hand(index uint64) (fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.damage != nil:
		return false, p.damage
	case index <= p.start:
		return false, nil
	case index <= p.handed:
		return false, &agent.Error{Op: "apply entry", Kind: agent.Internal,
			Msg: fmt.Sprintf("entry %d of shard %d comes after entry %d", index, p.number, p.handed)}
	}
	p.handed = index
	return true, nil
}

// follows says whether a record may come after the number that its agent has reached.
// Worker only.
func (p *progress) follows(id agent.ID, reached, base uint64) bool {
	if !p.rebuilt.Load() {
		p.met = nil
		return base == reached
	}
	if _, met := p.met[id]; met {
		return base == reached
	}
	if p.met == nil {
		p.met = make(map[agent.ID]struct{})
	}
	p.met[id] = struct{}{}
	return true
}

// reached returns a nil channel when there is nothing to wait for.
func (p *progress) reached(index uint64) (changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.applied >= index || p.damage != nil {
		if p.applied < index {
			err = p.damage
		}
		return nil, err
	}
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed, nil
}

func (p *progress) advance(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.applied = index
	p.ringLocked()
}

// stop ends the shard at what is applied.
func (p *progress) stop(damage error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.damage = damage
	p.ringLocked()
}

func (p *progress) ringLocked() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

func (p *progress) damaged() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.damage
}

func (p *progress) appliedIndex() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied
}

func (p *progress) stats() ShardStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return ShardStats{Handed: p.handed, Applied: p.applied, Damage: p.damage}
}
