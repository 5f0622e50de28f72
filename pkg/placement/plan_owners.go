package placement

import (
	"cmp"
	"slices"
)

// canLead says whether a node may own a shard now.
func (p *planner) canLead(i int, name string) bool {
	return p.t.nodes[name].State == Up && p.alive(name) && p.leaving[i] != name && slices.Contains(p.t.shards[i].Replicas, name)
}

func (p *planner) countOwners() {
	for _, s := range p.t.shards {
		p.leads[s.Preferred]++
	}
}

// replaceOwners finds another owner for each shard whose preferred one is down,
// draining or about to leave: whoever leads it already, if that one may.
func (p *planner) replaceOwners() {
	for i, s := range p.t.shards {
		if p.canLead(i, s.Preferred) {
			continue
		}
		// Without a leader the group is electing one; it is waited for.
		leader := p.shard(i).Leader
		if leader == "" || !p.alive(leader) || p.shard(i).Busy {
			continue
		}
		next := leader
		if !p.canLead(i, leader) {
			next = p.bestOwner(i)
		}
		if next != "" {
			p.prefer(i, next, "node "+s.Preferred+" cannot lead it")
		}
	}
}

// bestOwner is the voter that may lead a shard and leads the fewest, one that has
// been up for a while if there is one.
func (p *planner) bestOwner(i int) string {
	best, steady := "", false
	for _, r := range p.t.shards[i].Replicas {
		if !p.canLead(i, r) {
			continue
		}
		u := p.usable(p.t.nodes[r])
		if best == "" || (u && !steady) || (u == steady && p.leads[r] < p.leads[best]) {
			best, steady = r, u
		}
	}
	return best
}

func (p *planner) prefer(i int, node, why string) bool {
	s := p.t.shards[i]
	if !p.do(Command{SetPreferred: &SetPreferred{Shard: i, Generation: s.Generation, Node: node}},
		"shard %d: node %s should own it: %s", i, node, why) {
		return false
	}
	p.leads[s.Preferred]--
	p.leads[node]++
	return true
}

// balanceOwners evens out how many shards nodes own, while fewer leaderships than
// allowed are moving.
func (p *planner) balanceOwners() {
	budget := p.limits.Transfers
	for i, s := range p.t.shards {
		if v := p.shard(i); v.Busy || (v.Leader != "" && v.Leader != s.Preferred) {
			budget--
		}
	}
	for budget > 0 {
		path := p.improvement()
		if len(path) == 0 {
			return
		}
		for _, h := range path {
			if !p.prefer(h.shard, h.to, "nodes own unequal numbers of shards") {
				return
			}
			budget--
		}
	}
}

// handover is one step of an improvement: a shard goes to another of its voters.
type handover struct {
	shard int
	to    string
}

// improvement is a shortest chain of handovers from a node to one that owns at
// least two shards fewer; nodes in between end up with as many as before. Without
// such a chain no choice of owners among the present replicas is more even.
func (p *planner) improvement() []handover {
	steps := p.handovers()
	from := p.usableNodes()
	slices.SortStableFunc(from, func(a, b Node) int { return cmp.Compare(p.leads[b.Name], p.leads[a.Name]) })
	for _, start := range from {
		if p.leads[start.Name]-p.leads[from[len(from)-1].Name] < 2 {
			return nil
		}
		if path := p.chain(steps, start.Name); path != nil {
			return path
		}
	}
	return nil
}

// handovers lists, by owner, the shards that could be handed over at once: settled,
// led by whom they should be, and not in the middle of a move.
func (p *planner) handovers() map[string][]handover {
	steps := map[string][]handover{}
	for i, s := range p.t.shards {
		if !p.settled(i) || s.Learner != "" || p.shard(i).Leader != s.Preferred {
			continue
		}
		for _, r := range s.Replicas {
			lag, reported := p.shard(i).Lag[r]
			if r != s.Preferred && p.canLead(i, r) && p.usable(p.t.nodes[r]) && reported && lag <= p.limits.ReadyLag {
				steps[s.Preferred] = append(steps[s.Preferred], handover{i, r})
			}
		}
	}
	return steps
}

// chain searches breadth first.
func (p *planner) chain(steps map[string][]handover, start string) []handover {
	type reached struct {
		from string
		by   handover
	}
	seen := map[string]reached{start: {}}
	queue := []string{start}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for _, h := range steps[at] {
			if _, again := seen[h.to]; again {
				continue
			}
			seen[h.to] = reached{at, h}
			queue = append(queue, h.to)
			if p.leads[start]-p.leads[h.to] < 2 {
				continue
			}
			var path []handover
			for n := h.to; n != start; n = seen[n].from {
				path = append(path, seen[n].by)
			}
			slices.Reverse(path)
			return path
		}
	}
	return nil
}

// transfer asks leaders to hand over to the preferred owners, those of draining
// nodes first.
func (p *planner) transfer() {
	budget := p.limits.Transfers
	var due []Transfer
	for i, s := range p.t.shards {
		v := p.shard(i)
		if v.Busy {
			budget--
		}
		lag, reported := v.Lag[s.Preferred]
		if p.settled(i) && v.Leader != s.Preferred && p.canLead(i, s.Preferred) && reported && lag <= p.limits.ReadyLag {
			due = append(due, Transfer{Shard: i, From: v.Leader, To: s.Preferred})
		}
	}
	slices.SortStableFunc(due, func(a, b Transfer) int {
		drain := func(x Transfer) bool { return p.t.nodes[x.From].Drain }
		switch {
		case drain(a) == drain(b):
			return 0
		case drain(a):
			return -1
		}
		return 1
	})
	for _, x := range due[:max(0, min(budget, len(due), maxActions-len(p.actions)))] {
		p.actions = append(p.actions, Action{Transfer: &x, Why: "the shard should be owned by " + x.To})
	}
}
