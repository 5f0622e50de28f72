package catalog

import (
	"time"

	"agentd/pkg/storage"
)

// Life is an open database, which the catalog believes before anything else: its
// loop reports commits before they are durable. All methods may be called from any
// goroutine; after Closed or Broken, and after another Open of the same agent, they
// do nothing.
type Life struct {
	part  *part
	node  *node
	state state // guarded by part.mu, as is open
	open  bool
}

// Open begins a life. entry must be what Entry said (its Seq is 0 for an agent that
// has never committed) after the engine made sure that nobody else can open the
// agent.
func (c *Catalog) Open(entry storage.Entry) *Life {
	p := c.partOf(entry.ID)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodeLocked(entry.ID, entry.Seq)
	l := &Life{part: p, node: n, state: stateOf(entry, entry.CreatedAt), open: true}
	if s, _, ok := n.newest(); ok {
		l.state.at = s.at
	}
	n.life = l
	p.refreshLocked(n)
	return l
}

// Committed reports commit number seq, made at the time at.
func (l *Life) Committed(seq uint64, wake storage.Wake, size int64, createdAt, at time.Time) {
	l.part.mu.Lock()
	defer l.part.mu.Unlock()
	if l.node.life != l {
		return
	}
	if l.state.seq == 0 {
		l.node.rowless = true
	}
	l.state = state{seq: seq, wakeAt: wakeMillis(wake), size: size, createdAt: createdAt.UnixMilli(), at: at.UnixMilli(), resume: wake.Resume}
	l.part.refreshLocked(l.node)
}

// Closed ends a life whose last commit is durable. It stays visible until that
// commit is applied too.
func (l *Life) Closed() {
	p, n := l.part, l.node
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.life != l {
		return
	}
	l.open = false
	p.refreshLocked(n) // unfinished work is due now
	if l.state.seq <= n.applied {
		l.endLocked()
		// Due may have passed over the row because of this life, and not seen the life.
		if p.bell.asking.Load() {
			p.bell.ring()
		}
	}
}

// Broken ends a life whose instance was discarded with commits that were not
// acknowledged: what is applied counts, now and when more is applied.
func (l *Life) Broken() {
	l.part.mu.Lock()
	defer l.part.mu.Unlock()
	if l.node.life != l {
		return
	}
	l.endLocked()
	l.part.bell.ring() // the row, which is not read here, may say at once
}

func (l *Life) endLocked() {
	l.node.life = nil
	l.part.refreshLocked(l.node)
	l.part.forgetLocked(l.node)
}
