package catalog

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/record"
)

// part is what memory knows of one shard's agents. Nothing slow happens under mu:
// no SQL, no other lock.
type part struct {
	bell *bell
	sum  *sums

	mu          sync.Mutex // guards what follows
	agents      map[agent.ID]*node
	order       [orders]order
	quarantined map[agent.ID]string // all of the shard, whether in memory or in rows; few by nature
	appliedAt   uint64              // the log's index that the rows stand for

	// Collected since the last cut.
	gen     uint64 // of what is collected
	touched []*node
	judged  map[agent.ID]string // quarantines set and lifted ("")
	net     int                 // agents created less agents deleted

	cut *cut // frozen, and not yet in the rows
}

// sums are the catalog's numbers over all parts.
type sums struct {
	applied atomic.Int64 // agents that exist as far as records are applied
	early   atomic.Int64 // agents whose first commit is not applied yet
	recent  atomic.Int64 // nodes with something to write
}

// cut is a shard's changes between two checkpoints. It is made by Cut and handed to
// Write; its slices do not change in between.
type cut struct {
	part    *part
	shard   int
	index   uint64
	gen     uint64
	nodes   []*node
	judged  map[agent.ID]string
	net     int
	writing bool  // guarded by part.mu
	err     error // why it is none
}

func newPart(b *bell, s *sums) *part {
	p := &part{bell: b, sum: s, agents: make(map[agent.ID]*node), quarantined: make(map[agent.ID]string), gen: 1}
	p.order[byTime] = order{which: byTime, less: func(a, b *node) bool {
		if a.place != b.place {
			return a.place < b.place
		}
		return compareIDs(a.id, b.id) < 0
	}}
	p.order[byName] = order{which: byName, less: func(a, b *node) bool { return compareIDs(a.id, b.id) < 0 }}
	return p
}

// nodeLocked is the agent's node; applied is used if it is new.
func (p *part) nodeLocked(id agent.ID, applied uint64) *node {
	n := p.agents[id]
	if n == nil {
		n = &node{id: ownID(id), key: noWake, place: noWake, applied: applied}
		p.agents[n.id] = n
	}
	return n
}

// commit applies a record of kind Commit.
func (p *part) commit(r *record.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodeLocked(r.Agent, 0)
	if r.Base == 0 && (n.nowGen == 0 || n.now.seq == 0) {
		p.net++
		p.sum.applied.Add(1)
		n.rowless = true
	}
	p.setLocked(n, stateOfRecord(r))
}

// remove applies a deletion. existed is the caller's word, from the row, for an
// agent without recent records.
func (p *part) remove(id agent.ID, existed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.nodeLocked(id, 0)
	if n.nowGen != 0 {
		existed = n.now.seq != 0
	}
	if existed {
		p.net--
		p.sum.applied.Add(-1)
	}
	if _, ok := p.quarantined[id]; ok {
		p.judgeLocked(n.id, "")
	}
	if n.life != nil && !n.life.open {
		n.life = nil
	}
	p.setLocked(n, state{wakeAt: noWake})
}

// setLocked makes s the newest applied state of the agent.
func (p *part) setLocked(n *node, s state) {
	if n.nowGen != p.gen {
		if n.nowGen != 0 {
			n.then, n.thenGen = n.now, n.nowGen
		} else {
			p.sum.recent.Add(1)
		}
		n.nowGen = p.gen
		p.touched = append(p.touched, n)
	}
	n.now, n.applied = s, s.seq
	if l := n.life; l != nil && !l.open && l.state.seq <= s.seq {
		n.life = nil // records have caught up with what the closed database said
	}
	p.refreshLocked(n)
}

// refreshLocked puts the node where its newest state belongs, and rings if that is
// earlier than whoever sleeps has been told.
func (p *part) refreshLocked(n *node) {
	if early := n.life != nil && n.life.state.seq > 0 && n.applied == 0; early != n.early {
		n.early = early
		if early {
			p.sum.early.Add(1)
		} else {
			p.sum.early.Add(-1)
		}
	}
	if o := &p.order[byName]; n.rowless != o.has(n) {
		if n.rowless {
			o.insert(n)
		} else {
			o.remove(n)
		}
	}
	key := int64(noWake)
	if s, live, ok := n.newest(); ok && s.seq > 0 {
		if len(p.quarantined) == 0 || p.quarantined[n.id] == "" {
			key = s.key(live)
		}
	}
	if key == n.key {
		return
	}
	if key < p.bell.horizon.Load() {
		p.bell.ring()
	}
	// A wake that moves back, as most do, stays where it is until Due comes by.
	if n.key = key; key < n.place {
		p.placeLocked(n)
	}
}

// placeLocked puts a node where its key belongs.
func (p *part) placeLocked(n *node) {
	o := &p.order[byTime]
	if n.place != noWake {
		o.remove(n)
	}
	if n.place = n.key; n.place != noWake {
		o.insert(n)
	}
}

// settleLocked puts nodes where they belong, up to the first behind now.
func (p *part) settleLocked(now int64) {
	var stale []*node
	p.order[byTime].from(func(*node) bool { return false }, func(n *node) bool {
		if n.place != n.key {
			stale = append(stale, n)
			return true
		}
		return n.place <= now
	})
	for _, n := range stale {
		p.placeLocked(n)
	}
}

// forgetLocked drops a node that says nothing any more; its row is right.
func (p *part) forgetLocked(n *node) {
	if n.life != nil || n.nowGen != 0 {
		return
	}
	n.rowless = false
	p.refreshLocked(n)
	p.placeLocked(n)
	delete(p.agents, n.id)
}

// judge applies a record of kind Quarantine.
func (p *part) judge(id agent.ID, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judgeLocked(ownID(id), strings.Clone(reason))
	if n := p.agents[id]; n != nil {
		p.refreshLocked(n)
	}
	if reason == "" { // the agent may be due, and its row is not read here
		p.bell.ring()
	}
}

func (p *part) judgeLocked(id agent.ID, reason string) {
	if p.judged == nil {
		p.judged = make(map[agent.ID]string)
	}
	p.judged[id] = reason
	if reason == "" {
		delete(p.quarantined, id)
	} else {
		p.quarantined[id] = reason
	}
}

// freeze ends a generation.
func (p *part) freeze(shard int, index uint64) *cut {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index < p.appliedAt {
		return &cut{err: defect("cut catalog", fmt.Sprintf("shard %d is cut at %d, and its rows stand for %d", shard, index, p.appliedAt))}
	}
	if p.cut != nil && p.cut.writing {
		return &cut{err: defect("cut catalog", fmt.Sprintf("shard %d is cut while its last cut is being written", shard))}
	}
	c := &cut{part: p, shard: shard, index: index, gen: p.gen, nodes: p.touched, judged: p.judged, net: p.net}
	if p.cut != nil {
		p.takeOverLocked(c, p.cut)
	}
	p.cut, p.touched, p.judged, p.net = c, nil, nil, 0
	p.gen++
	return c
}

// takeOverLocked adds to a cut what an older one, which was never written, holds.
func (p *part) takeOverLocked(c, old *cut) {
	for _, n := range old.nodes {
		switch old.gen {
		case n.nowGen: // not touched since
			n.nowGen = c.gen
			c.nodes = append(c.nodes, n)
		case n.thenGen:
			n.thenGen = 0
		}
	}
	judged := old.judged
	for id, reason := range c.judged {
		if judged == nil {
			judged = make(map[agent.ID]string)
		}
		judged[id] = reason
	}
	c.judged, c.net = judged, c.net+old.net
}

// written takes from memory what the rows now say. The caller holds Catalog.fileMu.
func (p *part) written(gen uint64, n *node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch gen {
	case n.nowGen:
		n.rowless = n.rowless && n.now.seq == 0
		n.nowGen = 0
		p.sum.recent.Add(-1)
	case n.thenGen:
		n.rowless = n.rowless && n.then.seq == 0
		n.thenGen = 0
	}
	p.refreshLocked(n)
	p.forgetLocked(n)
}

// look is what memory says about an agent. ok is false if its row knows.
func (p *part) look(id agent.ID) (e storage.Entry, at int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.agents[id]; n != nil {
		if s, live, ok := n.newest(); ok {
			return s.entry(n.id, live, p.quarantined[id]), s.at, true
		}
	}
	return storage.Entry{}, 0, false
}

// overrides says whether memory knows better than the agent's row, and whether it
// will until the row is written.
func (p *part) overrides(id agent.ID) (now, lasting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.agents[id]
	return n != nil, n != nil && n.nowGen != 0
}

func (p *part) quarantine(id agent.ID) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.quarantined[id]
}

// appliedSeq is the number of the last applied commit, if memory knows it.
func (p *part) appliedSeq(id agent.ID) (seq uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.agents[id]; n != nil && n.nowGen != 0 {
		return n.now.seq, true
	}
	return 0, false
}
