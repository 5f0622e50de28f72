package placement

import (
	"cmp"
	"slices"
)

// confirm notes which groups have followed the table, and takes back a change that
// a group cannot make: since a node died meanwhile, it would lose its majority.
func (p *planner) confirm() {
	for i, s := range p.t.shards {
		v := p.shard(i)
		switch {
		case !s.Pending():
		case p.agrees(i):
			p.do(Command{Confirm: &Confirm{Shard: i, Generation: s.Generation}}, "shard %d: its members are %v now", i, s.Replicas)
		case v.Leader != "" && !v.Busy && p.alive(v.Leader) && p.impossible(s):
			p.do(Command{Revert: &Revert{Shard: i, Generation: s.Generation}},
				"shard %d: its members cannot become %v, a majority of which is dead", i, s.Replicas)
		}
	}
}

// impossible says whether a group could not follow a pending change and could go
// back: it first adds, then removes, and needs a majority at each step.
func (p *planner) impossible(s Shard) bool {
	both, dead := slices.Clone(s.Was), false
	for _, r := range s.Replicas {
		n := p.t.nodes[r]
		dead = dead || (!n.live() && p.stateFor(n) >= p.limits.StableFor)
		if !slices.Contains(both, r) {
			both = append(both, r)
		}
	}
	return dead && p.quorum(s.Was) && (!p.quorum(both) || !p.quorum(s.Replicas))
}

// finishMoves ends the moves under way: a learner that has caught up becomes a
// voter, one that cannot or need not is given up.
func (p *planner) finishMoves() {
	for i, s := range p.t.shards {
		if s.Learner == "" || p.shard(i).Busy {
			continue
		}
		n := p.t.nodes[s.Learner]
		if n.Drain || n.State == Out || (n.State == Down && p.stateFor(n) >= p.limits.StableFor) {
			p.drop(i, "it is "+string(n.State))
			continue
		}
		victim, wait, ok := p.victim(s)
		lag, reported := p.shard(i).Lag[s.Learner]
		switch {
		case !ok:
			p.drop(i, "the shard has enough replicas")
		case wait || !p.settled(i) || !p.alive(s.Learner) || !reported || lag > p.limits.ReadyLag:
		case victim == p.shard(i).Leader && p.otherLeader(s, victim):
			p.leaving[i] = victim // it hands over first; see replaceOwners
		default:
			p.do(Command{PromoteLearner: &PromoteLearner{Shard: i, Generation: s.Generation, Node: s.Learner, Replace: victim}},
				"shard %d: node %s has caught up and becomes a voter%s", i, s.Learner, inPlaceOf(victim))
		}
	}
}

func inPlaceOf(victim string) string {
	if victim == "" {
		return ""
	}
	return " in place of " + victim
}

func (p *planner) drop(i int, why string) {
	s := p.t.shards[i]
	p.do(Command{DropLearner: &DropLearner{Shard: i, Generation: s.Generation, Node: s.Learner}},
		"shard %d: node %s is no longer filled: %s", i, s.Learner, why)
}

// victim is the voter whose place a shard's learner takes: one that is out, else
// nobody if there are too few, else the one for which the learner was added. While
// another voter is dead, only a move that replaces a dead one goes on (wait).
func (p *planner) victim(s Shard) (victim string, wait, ok bool) {
	if out := p.outOf(s); out != "" {
		return out, !p.quorum(s.Replicas), true
	}
	wait = p.aliveOf(s.Replicas) < len(s.Replicas)
	if len(s.Replicas) < p.t.replication {
		return "", wait, true
	}
	return s.Replaces, wait, s.Replaces != ""
}

// outOf is a voter that is out, if there is one.
func (p *planner) outOf(s Shard) string {
	for _, r := range s.Replicas {
		if p.t.nodes[r].State == Out {
			return r
		}
	}
	return ""
}

// otherLeader says whether a voter other than this one could lead the shard.
func (p *planner) otherLeader(s Shard, not string) bool {
	return slices.ContainsFunc(s.Replicas, func(r string) bool { return r != not && p.t.nodes[r].State == Up && p.alive(r) })
}

// shrink takes away what is over the number of copies, when that has been lowered.
func (p *planner) shrink() {
	for i, s := range p.t.shards {
		if len(s.Replicas) <= p.t.replication || s.Learner != "" || !p.settled(i) {
			continue
		}
		victim := p.dispensable(s, p.shard(i).Leader)
		after := without(s.Replicas, victim)
		switch {
		case !p.quorum(after):
		case victim == p.shard(i).Leader && p.otherLeader(s, victim):
			p.leaving[i] = victim
		case p.do(Command{RemoveReplica: &RemoveReplica{Shard: i, Generation: s.Generation, Node: victim}},
			"shard %d: node %s has a copy more than the %d that are wanted", i, victim, p.t.replication):
			p.load[victim]--
		}
	}
}

// dispensable is the voter that a shard misses least.
func (p *planner) dispensable(s Shard, leader string) string {
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return slices.MinFunc(s.Replicas, func(a, b string) int {
		return cmp.Or(
			cmp.Compare(flag(p.alive(a)), flag(p.alive(b))),
			cmp.Compare(flag(!p.t.nodes[a].Drain), flag(!p.t.nodes[b].Drain)),
			cmp.Compare(p.zones(without(s.Replicas, b)), p.zones(without(s.Replicas, a))),
			cmp.Compare(p.load[b], p.load[a]),
			cmp.Compare(flag(a == leader), flag(b == leader)),
			cmp.Compare(a, b))
	})
}

// startMoves begins to fill nodes, the most urgent first: in place of what is lost,
// where copies are missing, away from draining nodes; then, only when none of
// these is left to begin, for spread over zones and for balance.
func (p *planner) startMoves() {
	usable := p.usableNodes()
	if len(usable) == 0 {
		return
	}
	waiting := false
	for _, reason := range []func(s Shard) (victim, why string, ok bool){p.needsRepair, p.needsCopy, p.needsDrain} {
		for i, s := range p.t.shards {
			if s.Learner != "" || !p.settled(i) {
				continue
			}
			victim, why, ok := reason(s)
			if !ok {
				continue
			}
			node, exists := p.receiver(usable, s, victim)
			if node != "" && (victim == "" || !p.moving[victim] || !p.alive(victim)) {
				p.start(i, node, victim, why)
			} else if exists {
				waiting = true
			}
		}
	}
	if waiting {
		return
	}
	p.spread(usable)
	for p.balance(usable) {
	}
}

func (p *planner) needsRepair(s Shard) (victim, why string, ok bool) {
	out := p.outOf(s)
	return out, "its copy on a node that is out is lost", out != "" && p.quorum(s.Replicas)
}

func (p *planner) needsCopy(s Shard) (victim, why string, ok bool) {
	return "", "it has too few copies", len(s.Replicas) < p.t.replication && p.allAlive(s)
}

func (p *planner) needsDrain(s Shard) (victim, why string, ok bool) {
	for _, r := range s.Replicas {
		if p.t.nodes[r].State == Draining && p.allAlive(s) {
			return r, "its node is being drained", true
		}
	}
	return "", "", false
}

func (p *planner) allAlive(s Shard) bool { return p.aliveOf(s.Replicas) == len(s.Replicas) }

// start adds a learner.
func (p *planner) start(i int, node, victim, why string) bool {
	s := p.t.shards[i]
	if !p.do(Command{AddLearner: &AddLearner{Shard: i, Generation: s.Generation, Node: node, Replace: victim}},
		"shard %d: node %s is filled%s: %s", i, node, inPlaceOf(victim), why) {
		return false
	}
	p.moves++
	p.load[node]++
	p.moving[node] = true
	if victim != "" {
		p.load[victim]--
		p.moving[victim] = true
	}
	return true
}

// usableNodes are those that may be given something, by name.
func (p *planner) usableNodes() []Node {
	return slices.DeleteFunc(p.t.Nodes(), func(n Node) bool { return !p.usable(n) })
}

// receiver is the node that should have a shard in a victim's place: of those that
// spread it best over zones, a lightly loaded one that is free to begin now. If
// there are such nodes, but none is free, exists is true.
func (p *planner) receiver(usable []Node, s Shard, victim string) (node string, exists bool) {
	rest := s.Replicas
	if victim != "" {
		rest = without(rest, victim)
	}
	best, least := 0, 0
	for _, n := range usable {
		if slices.Contains(s.Replicas, n.Name) {
			continue
		}
		z := p.zonesWith(rest, n.Name)
		if !exists || z > best || (z == best && p.load[n.Name] < least) {
			best, least, exists = z, p.load[n.Name], true
		}
	}
	if p.moves >= p.limits.Moves {
		return "", exists
	}
	for _, n := range usable {
		l := p.load[n.Name]
		if slices.Contains(s.Replicas, n.Name) || p.moving[n.Name] || l > least+1 || p.zonesWith(rest, n.Name) < best {
			continue
		}
		if node == "" || l < p.load[node] {
			node = n.Name
		}
	}
	return node, exists
}

// zones counts the different zones of a set of nodes; a node without one is a zone
// of its own.
func (p *planner) zones(set []string) int {
	n := 0
	for i, a := range set {
		zone := p.t.nodes[a].Zone
		if zone == "" || !slices.ContainsFunc(set[:i], func(b string) bool { return p.t.nodes[b].Zone == zone }) {
			n++
		}
	}
	return n
}

func (p *planner) zonesWith(set []string, node string) int {
	return p.zones(append(slices.Clip(set), node))
}

// calm says whether a shard may be moved although nothing is wrong with it.
func (p *planner) calm(i int) bool {
	s := p.t.shards[i]
	return s.Learner == "" && len(s.Replicas) <= p.t.replication && p.settled(i) && p.allAlive(s)
}

// spread moves replicas that share a zone with another of their shard to a zone
// where it has none.
func (p *planner) spread(usable []Node) {
	names := make([]string, 0, len(usable))
	for _, n := range usable {
		names = append(names, n.Name)
	}
	possible := p.zones(names)
	for i, s := range p.t.shards {
		now := p.zones(s.Replicas)
		if now >= min(len(s.Replicas), possible) || !p.calm(i) {
			continue
		}
		var victim, node string
		for _, r := range s.Replicas {
			to, _ := p.receiver(usable, s, r)
			if to == "" || p.moving[r] || p.zonesWith(without(s.Replicas, r), to) <= now {
				continue
			}
			if victim == "" || p.load[r] > p.load[victim] {
				victim, node = r, to
			}
		}
		if victim != "" {
			p.start(i, node, victim, "two of its copies are in one zone")
		}
	}
}

// balance begins the move that evens out the number of replicas most, and says
// whether there was one. It never takes from a node that has only one more than
// the other, so it comes to an end and stays there.
func (p *planner) balance(usable []Node) bool {
	if p.moves >= p.limits.Moves {
		return false
	}
	least := p.load[slices.MinFunc(usable, func(a, b Node) int { return cmp.Compare(p.load[a.Name], p.load[b.Name]) }).Name]
	type move struct {
		shard, gain  int
		node, victim string
		owner        int // 1 if the victim should lead the shard: it would have to hand over
	}
	var best move
	for i, s := range p.t.shards {
		for _, r := range s.Replicas {
			if p.moving[r] || p.load[r]-least < 2 || !p.calm(i) {
				continue
			}
			for _, n := range usable {
				m := move{shard: i, gain: p.load[r] - p.load[n.Name], node: n.Name, victim: r}
				if r == s.Preferred {
					m.owner = 1
				}
				if m.gain < 2 || p.moving[n.Name] || slices.Contains(s.Replicas, n.Name) ||
					p.zonesWith(without(s.Replicas, r), n.Name) < p.zones(s.Replicas) {
					continue
				}
				if best.node == "" || cmp.Or(cmp.Compare(m.gain, best.gain), cmp.Compare(best.owner, m.owner),
					cmp.Compare(p.shard(best.shard).Bytes, p.shard(i).Bytes)) > 0 {
					best = m
				}
			}
		}
	}
	return best.node != "" && p.start(best.shard, best.node, best.victim, "nodes have unequal numbers of replicas")
}
