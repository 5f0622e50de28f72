package placement

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"agentd/pkg/agent"
)

// Limits of one table. A command that would pass one is refused; a stored table
// that does is not read.
const (
	MaxNodes      = 1000
	MaxShards     = 4096
	MaxNamespaces = 10_000
	MaxTableBytes = 64 << 20 // of the stored form

	maxRemoved = 1000 // disks that are remembered after their removal; the oldest are forgotten
	maxText    = 255  // bytes of a node's name and of each address
	maxID      = 64   // bytes of a cluster's ID and of a disk's
)

// DefaultReplication is how many nodes keep each shard, if there are as many.
const DefaultReplication = 3

// Table is one state of what the cluster agrees on. It is immutable: Apply gives
// the next one, so readers need no lock. The zero Table is a cluster that has not
// been formed: it has no shards and takes no command but Form.
type Table struct {
	cluster     string // ID of the cluster; empty in the table of a node that is alone and never met another
	revision    uint64 // number of changes so far
	replication int
	shards      []Shard
	nodes       map[string]Node // by name; those that were not removed
	removed     []Removed       // oldest first
	namespaces  map[string]NamespaceLimits
	classes     map[string]map[string][]ClassVersion // namespace → class → versions, oldest first
}

// NewTable is the table of a node that is alone: every shard belongs to it. Its
// disk and addresses are not known until Form or Join tells them.
func NewTable(shards int, node string) *Table {
	t := &Table{
		replication: DefaultReplication,
		shards:      make([]Shard, shards),
		nodes:       map[string]Node{node: {Name: node, State: Up, Generation: 1}},
		classes:     map[string]map[string][]ClassVersion{},
	}
	for i := range t.shards {
		t.shards[i] = Shard{Replicas: []string{node}, Preferred: node, Generation: 1}
	}
	return t
}

// Cluster is the ID that all nodes of the cluster share; empty before Form.
func (t *Table) Cluster() string { return t.cluster }

// Revision counts the changes that made this table.
func (t *Table) Revision() uint64 { return t.revision }

// Replication is how many nodes keep each shard, if there are as many: 1, 3 or 5.
func (t *Table) Replication() int { return t.replication }

// Shards is the number of shards, fixed when the cluster was created.
func (t *Table) Shards() int { return len(t.shards) }

// Shard is one shard's row; i is below Shards().
func (t *Table) Shard(i int) Shard {
	s := t.shards[i]
	s.Replicas, s.Was = slices.Clone(s.Replicas), slices.Clone(s.Was)
	return s
}

// Owner is the node that should own an agent: the preferred owner of its shard.
// While leadership moves, another replica may own it for a moment; see
// Shard.Replicas for who that can be. It is empty before Form.
func (t *Table) Owner(id agent.ID) string {
	if len(t.shards) == 0 {
		return ""
	}
	return t.shards[ShardOf(id, len(t.shards))].Preferred
}

// Node is the row of a node that was not removed.
func (t *Table) Node(name string) (Node, bool) {
	n, ok := t.nodes[name]
	return n, ok
}

// Nodes are the rows of all nodes that were not removed, by name.
func (t *Table) Nodes() []Node {
	all := make([]Node, 0, len(t.nodes))
	for _, name := range slices.Sorted(maps.Keys(t.nodes)) {
		all = append(all, t.nodes[name])
	}
	return all
}

// Removed are the disks that were removed and are still remembered, oldest first.
func (t *Table) Removed() []Removed { return slices.Clone(t.removed) }

// Oldest is the lowest format of records and of commands that any node reads: what
// may be written so that every node can read it.
func (t *Table) Oldest() (record, command uint32) {
	for i, n := range t.Nodes() {
		if i == 0 {
			record, command = n.Versions.Record, n.Versions.Command
		}
		record, command = min(record, n.Versions.Record), min(command, n.Versions.Command)
	}
	return record, command
}

// clone is a shallow copy: whoever changes one of its maps or slices copies that
// first.
func (t *Table) clone() *Table {
	next := *t
	return &next
}

// withNode is a copy in which n has taken the place of the row of its name.
func (t *Table) withNode(n Node) *Table {
	next := t.clone()
	next.nodes = maps.Clone(t.nodes)
	if next.nodes == nil {
		next.nodes = map[string]Node{}
	}
	next.nodes[n.Name] = n
	return next
}

// withShard is a copy in which s, with its generation raised, is row i.
func (t *Table) withShard(i int, s Shard) *Table {
	next := t.clone()
	s.Generation++
	next.shards = slices.Clone(t.shards)
	next.shards[i] = s
	return next
}

// refuse is the error of a command that the table does not take.
func refuse(op string, kind agent.Kind, format string, args ...any) error {
	return &agent.Error{Op: op, Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

// SetReplication says how many nodes keep each shard, if there are as many. The
// planner then adds or removes replicas one by one.
type SetReplication struct {
	Replicas int // 1, 3 or 5
}

func (r *SetReplication) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "set replication"
	if r.Replicas != 1 && r.Replicas != 3 && r.Replicas != 5 {
		return t, nil, refuse(op, agent.Invalid,
			"%d copies of each shard are asked for; choose 1, 3 or 5: an even number survives no more failures than the odd one below it", r.Replicas)
	}
	if t.replication == r.Replicas {
		return t, nil, nil
	}
	next := t.clone()
	next.replication = r.Replicas
	return next, nil, nil
}
