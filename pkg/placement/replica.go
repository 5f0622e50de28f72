package placement

import (
	"slices"
	"strings"
	"time"

	"agentd/pkg/agent"
)

// Shard says which nodes keep a shard. It is the wish of the cluster: the leader
// of the shard's raft group changes its members one by one until they agree.
type Shard struct {
	Replicas   []string `json:"replicas"`           // voters: 1 to 5 nodes, each once
	Was        []string `json:"was,omitempty"`      // Replicas before the last change, until the group has confirmed it
	Learner    string   `json:"learner,omitempty"`  // a node that is being filled and does not vote
	Replaces   string   `json:"replaces,omitempty"` // the voter whose place the learner is meant to take; empty: it is added
	Preferred  string   `json:"preferred"`          // the voter that should lead, and so own the shard's agents
	Generation uint64   `json:"generation"`         // grows with every change of this row but Confirm
}

// Pending says whether the shard's group has yet to follow the last change of its
// voters. Until it has, there is no other.
func (s Shard) Pending() bool { return len(s.Was) > 0 }

const maxReplicas = 5

func (s Shard) equal(o Shard) bool {
	return slices.Equal(s.Replicas, o.Replicas) && slices.Equal(s.Was, o.Was) && s.Learner == o.Learner && s.Replaces == o.Replaces &&
		s.Preferred == o.Preferred && s.Generation == o.Generation
}

// on says whether any of a shard's members, past or to come, is on a node.
func (s Shard) on(node string) bool {
	return s.Learner == node || slices.Contains(s.Replicas, node) || slices.Contains(s.Was, node)
}

// The commands below change one member of one shard at most. Each carries the
// generation of the row that its sender has seen and is refused with Conflict if
// the row has changed since, so that two controllers cannot interleave. A command
// whose effect is there already succeeds and changes nothing.

// AddLearner begins to fill a node with a shard.
type AddLearner struct {
	Shard      int
	Generation uint64
	Node       string
	Replace    string // the voter whose place it will take; empty: it is added
}

func (a *AddLearner) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "add learner"
	s, err := t.row(op, a.Shard)
	if err != nil {
		return t, nil, err
	}
	if s.Learner == a.Node && s.Replaces == a.Replace && a.Node != "" {
		return t, nil, nil
	}
	if err := s.unchanged(op, a.Shard, a.Generation); err != nil {
		return t, nil, err
	}
	if err := s.confirmed(op, a.Shard); err != nil {
		return t, nil, err
	}
	switch {
	case s.Learner != "":
		return t, nil, refuse(op, agent.Conflict, "shard %d is being copied to node %s; one at a time", a.Shard, s.Learner)
	case slices.Contains(s.Replicas, a.Node):
		return t, nil, refuse(op, agent.Conflict, "node %s has a replica of shard %d", a.Node, a.Shard)
	case a.Replace != "" && !slices.Contains(s.Replicas, a.Replace):
		return t, nil, refuse(op, agent.Conflict, "node %s has no replica of shard %d that another could take over", a.Replace, a.Shard)
	case a.Replace == "" && len(s.Replicas) >= t.replication:
		return t, nil, refuse(op, agent.Conflict, "shard %d has %d replicas already: say whose place node %s takes", a.Shard, len(s.Replicas), a.Node)
	}
	if err := t.mustBeUp(op, a.Node); err != nil {
		return t, nil, err
	}
	if err := t.keepsMajority(op, a.Shard, s.Replicas, s.Replicas); err != nil {
		return t, nil, err
	}
	s.Learner, s.Replaces = a.Node, a.Replace
	return t.withShard(a.Shard, s), nil, nil
}

// PromoteLearner makes the learner a voter, in the place of another or beside the
// present ones.
type PromoteLearner struct {
	Shard      int
	Generation uint64
	Node       string // the learner
	Replace    string // the voter that leaves; empty: nobody
}

func (p *PromoteLearner) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "promote learner"
	s, err := t.row(op, p.Shard)
	if err != nil {
		return t, nil, err
	}
	if slices.Contains(s.Replicas, p.Node) && !slices.Contains(s.Replicas, p.Replace) {
		return t, nil, nil
	}
	if err := s.unchanged(op, p.Shard, p.Generation); err != nil {
		return t, nil, err
	}
	if err := s.confirmed(op, p.Shard); err != nil {
		return t, nil, err
	}
	after := append(slices.Clone(s.Replicas), p.Node)
	switch {
	case p.Node == "" || s.Learner != p.Node:
		return t, nil, refuse(op, agent.Conflict, "node %s is no learner of shard %d", p.Node, p.Shard)
	case p.Replace == "" && len(s.Replicas) >= t.replication:
		return t, nil, refuse(op, agent.Conflict, "shard %d has %d replicas already: say whose place node %s takes", p.Shard, len(s.Replicas), p.Node)
	case p.Replace != "":
		i := slices.Index(s.Replicas, p.Replace)
		if i < 0 {
			return t, nil, refuse(op, agent.Conflict, "node %s has no replica of shard %d that another could take over", p.Replace, p.Shard)
		}
		after = slices.Clone(s.Replicas)
		after[i] = p.Node
	}
	if err := t.mustBeUp(op, p.Node); err != nil {
		return t, nil, err
	}
	if err := t.keepsMajority(op, p.Shard, s.Replicas, after); err != nil {
		return t, nil, err
	}
	s.Was, s.Replicas, s.Learner, s.Replaces = s.Replicas, after, "", ""
	if s.Preferred == p.Replace {
		s.Preferred = p.Node
	}
	return t.withShard(p.Shard, s), nil, nil
}

// DropLearner gives up filling a node with a shard.
type DropLearner struct {
	Shard      int
	Generation uint64
	Node       string
}

func (d *DropLearner) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "drop learner"
	s, err := t.row(op, d.Shard)
	if err != nil {
		return t, nil, err
	}
	if d.Node == "" || s.Learner != d.Node {
		return t, nil, nil
	}
	if err := s.unchanged(op, d.Shard, d.Generation); err != nil {
		return t, nil, err
	}
	s.Learner, s.Replaces = "", ""
	return t.withShard(d.Shard, s), nil, nil
}

// RemoveReplica takes a voter away without another in its place. It is refused
// where the shard would then have fewer replicas than the cluster wants and has
// nodes for.
type RemoveReplica struct {
	Shard      int
	Generation uint64
	Node       string
}

func (r *RemoveReplica) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "remove replica"
	s, err := t.row(op, r.Shard)
	if err != nil {
		return t, nil, err
	}
	if !slices.Contains(s.Replicas, r.Node) {
		return t, nil, nil
	}
	if err := s.unchanged(op, r.Shard, r.Generation); err != nil {
		return t, nil, err
	}
	if err := s.confirmed(op, r.Shard); err != nil {
		return t, nil, err
	}
	after := without(s.Replicas, r.Node)
	want := min(t.replication, t.count(Up))
	switch {
	case len(after) == 0:
		return t, nil, refuse(op, agent.Conflict, "node %s has the only replica of shard %d", r.Node, r.Shard)
	case len(after) < want:
		return t, nil, refuse(op, agent.Conflict,
			"shard %d would have %d replicas, and %d nodes are up to keep %d: drain node %s instead, or lower the number of copies with `agentd cluster replication`",
			r.Shard, len(after), t.count(Up), want, r.Node)
	case s.Learner != "":
		return t, nil, refuse(op, agent.Conflict, "shard %d is being copied to node %s; one change at a time", r.Shard, s.Learner)
	}
	if err := t.keepsMajority(op, r.Shard, s.Replicas, after); err != nil {
		return t, nil, err
	}
	was := s.Replicas
	s = t.shrunk(s, r.Node)
	s.Was = was
	return t.withShard(r.Shard, s), nil, nil
}

// Confirm says that the shard's group has the members that the table wants. The
// controller sends it when the group's leader has reported so for this generation.
type Confirm struct {
	Shard      int
	Generation uint64
}

func (c *Confirm) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "confirm members"
	s, err := t.row(op, c.Shard)
	if err != nil {
		return t, nil, err
	}
	if !s.Pending() {
		return t, nil, nil
	}
	if err := s.unchanged(op, c.Shard, c.Generation); err != nil {
		return t, nil, err
	}
	s.Was = nil
	s.Generation-- // withShard raises it; the report that led to this stays valid
	return t.withShard(c.Shard, s), nil, nil
}

// Revert takes back a change of voters that the group cannot make, since the voter
// that it should add died meanwhile. It is a change of its own, to be confirmed too.
type Revert struct {
	Shard      int
	Generation uint64
}

func (r *Revert) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "revert members"
	s, err := t.row(op, r.Shard)
	if err != nil {
		return t, nil, err
	}
	if err := s.unchanged(op, r.Shard, r.Generation); err != nil {
		return t, nil, err
	}
	switch {
	case !s.Pending() || slices.Equal(s.Was, s.Replicas):
		return t, nil, refuse(op, agent.Conflict, "no change of the members of shard %d is under way that could be taken back", r.Shard)
	case t.liveOf(s.Was) < majority(len(s.Was)):
		return t, nil, refuse(op, agent.Conflict, "shard %d had no majority with %v either", r.Shard, s.Was)
	}
	s.Was, s.Replicas = s.Replicas, s.Was
	if !slices.Contains(s.Replicas, s.Preferred) {
		s.Preferred = t.firstUp(s.Replicas)
	}
	return t.withShard(r.Shard, s), nil, nil
}

// SetPreferred says which voter should lead a shard.
type SetPreferred struct {
	Shard      int
	Generation uint64
	Node       string
}

func (p *SetPreferred) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "set preferred owner"
	s, err := t.row(op, p.Shard)
	if err != nil {
		return t, nil, err
	}
	if s.Preferred == p.Node {
		return t, nil, nil
	}
	if err := s.unchanged(op, p.Shard, p.Generation); err != nil {
		return t, nil, err
	}
	if !slices.Contains(s.Replicas, p.Node) {
		return t, nil, refuse(op, agent.Conflict, "node %.80q has no replica of shard %d; those of %v could own it", p.Node, p.Shard, s.Replicas)
	}
	if err := t.mustBeUp(op, p.Node); err != nil {
		return t, nil, err
	}
	s.Preferred = p.Node
	return t.withShard(p.Shard, s), nil, nil
}

func (t *Table) row(op string, shard int) (Shard, error) {
	if shard < 0 || shard >= len(t.shards) {
		return Shard{}, refuse(op, agent.NotFound, "there is no shard %d; the cluster has %d, from 0", shard, len(t.shards))
	}
	return t.shards[shard], nil
}

// confirmed refuses a change of members on top of one that the group has not made.
func (s Shard) confirmed(op string, shard int) error {
	if s.Pending() {
		return refuse(op, agent.Conflict, "the members of shard %d are still being changed from %v to %v: try again in a moment", shard, s.Was, s.Replicas)
	}
	return nil
}

func (s Shard) unchanged(op string, shard int, generation uint64) error {
	if s.Generation != generation {
		return refuse(op, agent.Conflict, "shard %d has changed since (generation %d, not %d): look again", shard, s.Generation, generation)
	}
	return nil
}

func (t *Table) mustBeUp(op, name string) error {
	n, known := t.nodes[name]
	switch {
	case !known:
		return unknownNode(t, op, name)
	case n.State != Up:
		return refuse(op, agent.Conflict, "node %s is %s, not up", name, n.State)
	}
	return nil
}

// shrunk is the shard without a voter. Who should lead it in that voter's place is
// decided here, since it must be decided; the planner balances later.
func (t *Table) shrunk(s Shard, gone string) Shard {
	s.Replicas = without(s.Replicas, gone)
	if s.Replaces == gone {
		s.Replaces = ""
	}
	if s.Preferred != gone {
		return s
	}
	s.Preferred = t.firstUp(s.Replicas)
	return s
}

func (t *Table) firstUp(set []string) string {
	for _, r := range set {
		if t.nodes[r].State == Up {
			return r
		}
	}
	return set[0]
}

// keepsMajority checks a change of a shard's voters against what the table knows
// of its nodes: the present set must be able to agree on it, and the new one must be
// able to go on. Then the set in between has a majority too: it is the present one
// and a node that is up.
func (t *Table) keepsMajority(op string, shard int, before, after []string) error {
	for _, set := range [][]string{before, after} {
		if t.liveOf(set) >= majority(len(set)) {
			continue
		}
		dead := slices.DeleteFunc(slices.Clone(before), t.live)
		return refuse(op, agent.Conflict,
			"shard %d would not have a majority of its replicas: of %s only %d of %d are alive. Start %s again first; while they are away their replicas cannot be moved",
			shard, strings.Join(set, ", "), t.liveOf(set), len(set), strings.Join(dead, ", "))
	}
	return nil
}

func (t *Table) liveOf(set []string) int {
	n := 0
	for _, name := range set {
		if t.live(name) {
			n++
		}
	}
	return n
}

func majority(n int) int { return n/2 + 1 }

func without(set []string, name string) []string {
	rest := make([]string, 0, len(set))
	for _, n := range set {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}
