package placement

import (
	"slices"
	"strings"
	"time"

	"agentd/pkg/agent"
)

// Form makes a cluster. It is the first command of a cluster's log, and is either
// of two: nodes without data form one together (Shards and Nodes; every node ends
// up knowing the same rows), or a node that was alone becomes a cluster of one,
// which others then join (Table and one entry in Nodes; nothing of its data is
// rewritten).
type Form struct {
	Cluster     string // new, unique
	Shards      int    // 0: DefaultShards; without Table only
	Replication int    // 1, 3 or 5; 0: DefaultReplication
	Nodes       []Join // of this Cluster; they count as up
	Table       *Table `json:",omitempty"` // of the node that was alone
}

func (f *Form) apply(t *Table, at time.Time) (*Table, []ClassVersion, error) {
	const op = "form cluster"
	if t.cluster != "" {
		if t.cluster == f.Cluster {
			return t, nil, nil
		}
		return t, nil, refuse(op, agent.Conflict, "this is cluster %s; its nodes cannot form %s", t.cluster, f.Cluster)
	}
	if err := f.validate(op); err != nil {
		return t, nil, err
	}
	next := t.clone()
	if len(t.shards) == 0 && f.Table != nil {
		next = f.Table.clone()
		next.revision = t.revision
	}
	next.cluster = f.Cluster
	if f.Replication != 0 {
		next.replication = f.Replication
	}
	if len(next.shards) == 0 {
		f.spread(next, at)
		return next, nil, nil
	}
	if len(f.Nodes) != 1 || len(next.nodes) != 1 || next.nodes[f.Nodes[0].Node].Name != f.Nodes[0].Node {
		return t, nil, refuse(op, agent.Conflict, "the data belongs to the one node %v; the cluster must begin with exactly that node, and others join it", next.Nodes()[0].Name)
	}
	n := f.Nodes[0].row(t.revision+1, at)
	n.State = Up
	n.Generation = max(n.Generation, next.nodes[n.Name].Generation+1)
	next.nodes = map[string]Node{n.Name: n}
	return next, nil, nil
}

func (f *Form) validate(op string) error {
	if f.Replication != 0 && f.Replication != 1 && f.Replication != 3 && f.Replication != 5 {
		return refuse(op, agent.Invalid, "%d copies of each shard are asked for; choose 1, 3 or 5", f.Replication)
	}
	if f.Shards < 0 || f.Shards > MaxShards || (f.Table != nil && f.Shards != 0) {
		return refuse(op, agent.Invalid, "%d shards are asked for; a new cluster may have 1 to %d, and one that grows from a node has that node's", f.Shards, MaxShards)
	}
	if f.Table != nil && (f.Table.cluster != "" || len(f.Table.shards) == 0) {
		return refuse(op, agent.Invalid, "the table to begin with is not that of a node alone")
	}
	if n := len(f.Nodes); n == 0 || n > MaxNodes {
		return refuse(op, agent.Invalid, "a cluster of %d nodes is asked for; 1 to %d are allowed", n, MaxNodes)
	}
	names, disks := map[string]bool{}, map[string]bool{}
	for i := range f.Nodes {
		j := &f.Nodes[i]
		if err := j.validate(op); err != nil {
			return err
		}
		switch {
		case j.Cluster != f.Cluster:
			return refuse(op, agent.Denied, "node %s belongs to cluster %s, not %s", j.Node, j.Cluster, f.Cluster)
		case names[j.Node]:
			return refuse(op, agent.Conflict, "two nodes with one name: %s", j.Node)
		case disks[j.UUID]:
			return refuse(op, agent.Conflict, "two nodes with one disk (%s): was a data folder copied?", j.UUID)
		}
		names[j.Node], disks[j.UUID] = true, true
	}
	return nil
}

// spread fills a table that has nothing: each shard goes to nodes that follow each
// other in a ring, in which neighbours are of different zones as far as may be.
func (f *Form) spread(t *Table, at time.Time) {
	if t.replication == 0 {
		t.replication = DefaultReplication
	}
	shards := f.Shards
	if shards == 0 {
		shards = DefaultShards
	}
	ring := f.ring()
	t.nodes = make(map[string]Node, len(ring))
	for _, j := range ring {
		n := j.row(t.revision+1, at)
		n.State = Up
		t.nodes[n.Name] = n
	}
	t.shards = make([]Shard, shards)
	for i := range t.shards {
		s := Shard{Generation: 1, Preferred: ring[i%len(ring)].Node}
		for r := range min(t.replication, len(ring)) {
			s.Replicas = append(s.Replicas, ring[(i+r)%len(ring)].Node)
		}
		t.shards[i] = s
	}
}

// ring is the nodes by name, one of each zone in turn.
func (f *Form) ring() []Join {
	byZone := map[string][]Join{}
	nodes := slices.Clone(f.Nodes)
	slices.SortFunc(nodes, func(a, b Join) int { return strings.Compare(a.Node, b.Node) })
	var zones []string
	for _, j := range nodes {
		if byZone[j.Zone] == nil {
			zones = append(zones, j.Zone)
		}
		byZone[j.Zone] = append(byZone[j.Zone], j)
	}
	ring := make([]Join, 0, len(nodes))
	for len(ring) < len(nodes) {
		for _, z := range zones {
			if rest := byZone[z]; len(rest) > 0 {
				ring, byZone[z] = append(ring, rest[0]), rest[1:]
			}
		}
	}
	return ring
}
