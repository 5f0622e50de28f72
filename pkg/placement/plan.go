package placement

import (
	"fmt"
	"slices"
	"time"
)

// maxActions bounds one plan; the rest is for the next.
const maxActions = 256

// Plan is what a controller should do now, in this order; nothing, when all is
// well. It is a function of its arguments. The commands apply to t one after
// another. The controller carries them out (a few at a time is fine: Busy says
// which shards are not done), and plans again on the next table and view. An action
// that fails, or is lost with the controller, is simply planned again.
func Plan(t *Table, v View, limits Limits) []Action {
	if t.cluster == "" || len(t.shards) == 0 {
		return nil
	}
	p := newPlanner(t, v, limits)
	p.markNodes()
	p.count()
	p.confirm()
	p.finishMoves()
	p.shrink()
	p.startMoves()
	p.countOwners()
	p.replaceOwners()
	p.balanceOwners()
	p.transfer()
	return p.actions
}

// planner is a plan that is being made. t is the table as it will be after the
// actions so far, so that no two of them contradict each other.
type planner struct {
	t       *Table
	v       View
	limits  Limits
	actions []Action

	load    map[string]int  // replicas of each node once the moves under way are done
	moving  map[string]bool // nodes that take part in a move
	moves   int             // moves under way
	leaving map[int]string  // by shard: the voter that goes as soon as it does not lead
	leads   map[string]int  // shards that prefer each node
}

func newPlanner(t *Table, v View, limits Limits) *planner {
	return &planner{t: t, v: v, limits: limits.withDefaults(), load: map[string]int{}, moving: map[string]bool{},
		leaving: map[int]string{}, leads: map[string]int{}}
}

// do adds a command to the plan unless the table would refuse it: then something
// has to happen first, and the next plan sees it.
func (p *planner) do(cmd Command, why string, args ...any) bool {
	if len(p.actions) >= maxActions {
		return false
	}
	cmd.At = p.v.Now
	next, _, err := p.t.Apply(cmd)
	if err != nil || next == p.t {
		return false
	}
	p.t = next
	p.actions = append(p.actions, Action{Command: &cmd, Why: fmt.Sprintf(why, args...)})
	return true
}

func (p *planner) shard(i int) ShardView {
	if i < len(p.v.Shards) {
		return p.v.Shards[i]
	}
	return ShardView{}
}

// unheard is how long ago the last sign of life of a node was; ever is false if
// there was none.
func (p *planner) unheard(n Node) (d time.Duration, ever bool) {
	if n.Name == p.v.Self {
		return 0, true
	}
	h, ok := p.v.Nodes[n.Name]
	return p.v.Now.Sub(h.At), ok && h.UUID == n.UUID
}

// silence is how long this controller has listened to a node in vain. It is what
// speaks against a node.
func (p *planner) silence(n Node) time.Duration {
	listening := p.v.Now.Sub(p.v.Since)
	if d, ever := p.unheard(n); ever {
		return min(d, listening)
	}
	return listening
}

// stateFor is how long a node has been in its state. The table's time is of the
// clock of whichever controller wrote it, so one in the future counts as unknown;
// then it is as long as this controller knows.
func (p *planner) stateFor(n Node) time.Duration {
	if d := p.v.Now.Sub(n.Since); d >= 0 {
		return d
	}
	return p.v.Now.Sub(p.v.Since)
}

// alive says whether a node takes part in agreement now: by the table, and by what
// was heard. A controller that has just begun and heard nobody relies on nobody.
func (p *planner) alive(name string) bool {
	n := p.t.nodes[name]
	d, ever := p.unheard(n)
	return n.live() && ever && d < p.limits.DownAfter
}

// back says whether a node that is not up is heard from. It asks for more than
// alive does: between the two a node stays what it is.
func (p *planner) back(n Node) bool {
	d, ever := p.unheard(n)
	return ever && d <= p.limits.DownAfter/2
}

// usable says whether a node may be given replicas and leaderships.
func (p *planner) usable(n Node) bool {
	return n.State == Up && p.alive(n.Name) && p.stateFor(n) >= p.limits.StableFor
}

func (p *planner) markNodes() {
	silent := p.silentNodes()
	for _, n := range p.t.Nodes() {
		mark := func(as Remark, why string, args ...any) {
			p.do(Command{Mark: &Mark{Node: n.Name, As: as, Generation: n.Generation}}, why, args...)
		}
		switch n.State {
		case Up, Draining:
			if slices.Contains(silent, n.Name) {
				mark(MarkDown, "node %s has been silent for %v", n.Name, p.silence(n).Round(time.Millisecond))
			}
		case Joining, Down, Out:
			long := max(p.silence(n), p.stateFor(n))
			switch {
			case p.back(n):
				mark(MarkUp, "node %s is heard from", n.Name)
			case n.State == Down && long >= p.limits.DownOut && p.silence(n) >= p.limits.DownAfter:
				mark(MarkOut, "node %s has been down for %v; its replicas are made elsewhere", n.Name, long.Round(time.Second))
			}
		}
	}
}

// silentNodes are the nodes that should be marked down. If without them the
// placement group had no majority, this controller could not be its leader: then
// the view is wrong (a clock jumped, this process was stopped), and nobody is.
func (p *planner) silentNodes() []string {
	var silent []string
	for _, n := range p.t.Nodes() {
		if n.live() && p.silence(n) >= p.limits.DownAfter {
			silent = append(silent, n.Name)
		}
	}
	voters := p.v.Voters
	if len(voters) == 0 {
		voters = Voters(p.t)
	}
	left := 0
	for _, name := range voters {
		if p.t.live(name) && !slices.Contains(silent, name) {
			left++
		}
	}
	if left < majority(len(voters)) {
		return nil
	}
	return silent
}

// count fills load, moving and moves. A move that cannot go on, since its shard has
// no majority, holds up nobody else.
func (p *planner) count() {
	for _, s := range p.t.shards {
		for _, r := range s.Replicas {
			if r != s.Replaces {
				p.load[r]++
			}
		}
		if s.Learner == "" {
			continue
		}
		p.load[s.Learner]++
		if p.t.liveOf(s.Replicas) >= majority(len(s.Replicas)) {
			p.moves++
			p.moving[s.Learner] = true
			p.moving[s.Replaces] = s.Replaces != ""
		}
	}
}

// aliveOf counts those of a set that take part in agreement now.
func (p *planner) aliveOf(set []string) int {
	n := 0
	for _, name := range set {
		if p.alive(name) {
			n++
		}
	}
	return n
}

// quorum says whether a set can agree on anything now.
func (p *planner) quorum(set []string) bool { return p.aliveOf(set) >= majority(len(set)) }

// agrees says whether a shard's group has a leader that reports the members that
// the table wants, and is not busy.
func (p *planner) agrees(i int) bool {
	v := p.shard(i)
	return v.Leader != "" && !v.Busy && v.Settled == p.t.shards[i].Generation && p.alive(v.Leader)
}

// settled says whether a shard may be changed.
func (p *planner) settled(i int) bool { return p.agrees(i) && !p.t.shards[i].Pending() }
