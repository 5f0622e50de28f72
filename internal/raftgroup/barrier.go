package raftgroup

import "sync"

// barriers are the entries that somebody waits for on this node.
type barriers struct {
	mu      sync.Mutex // guards what follows
	last    uint64
	waiting map[seal]chan struct{}
}

func (b *barriers) expect(term uint64) (seal, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	s, ch := seal{term: term, marker: b.last}, make(chan struct{})
	if b.waiting == nil {
		b.waiting = make(map[seal]chan struct{})
	}
	b.waiting[s] = ch
	return s, ch
}

func (b *barriers) forget(s seal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, s)
}

// reached is called for every marker that commits in its term. Those of other nodes
// and of earlier lives of this one have other terms.
func (b *barriers) reached(s seal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ch, ok := b.waiting[s]; ok {
		close(ch)
		delete(b.waiting, s)
	}
}
