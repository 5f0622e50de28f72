package placement

import (
	"encoding/json"
	"fmt"
	"slices"

	"agentd/pkg/agent"
)

// Formats of a stored table. The first is that of agentd before it knew clusters;
// it is still written for a node that is alone, so that going back stays possible.
const (
	aloneFormat   = 1
	clusterFormat = 2
)

type classMap = map[string]map[string][]ClassVersion

type wireAlone struct {
	Format  int      `json:"format"`
	Shards  []string `json:"shards"` // the owner of each: always the same node
	Classes classMap `json:"classes"`
}

type wireCluster struct {
	Format      int                        `json:"format"`
	Cluster     string                     `json:"cluster,omitempty"`
	Revision    uint64                     `json:"revision"`
	Replication int                        `json:"replication,omitempty"`
	Shards      []Shard                    `json:"shards,omitempty"`
	Nodes       map[string]Node            `json:"nodes,omitempty"`
	Removed     []Removed                  `json:"removed,omitempty"`
	Namespaces  map[string]NamespaceLimits `json:"namespaces,omitempty"`
	Classes     classMap                   `json:"classes,omitempty"`
}

// MarshalJSON writes the stored form.
func (t *Table) MarshalJSON() ([]byte, error) {
	if t.alone() {
		w := wireAlone{Format: aloneFormat, Shards: make([]string, len(t.shards)), Classes: t.classes}
		for i, s := range t.shards {
			w.Shards[i] = s.Preferred
		}
		return json.Marshal(w)
	}
	return t.marshalCluster()
}

func (t *Table) marshalCluster() ([]byte, error) {
	return json.Marshal(wireCluster{Format: clusterFormat, Cluster: t.cluster, Revision: t.revision, Replication: t.replication,
		Shards: t.shards, Nodes: t.nodes, Removed: t.removed, Namespaces: t.namespaces, Classes: t.classes})
}

// alone says whether the first format holds all that the table says: one node that
// was never part of a cluster, and nothing but classes.
func (t *Table) alone() bool {
	if t.cluster != "" || len(t.shards) == 0 || len(t.nodes) != 1 || len(t.removed)+len(t.namespaces) > 0 || t.replication != DefaultReplication {
		return false
	}
	n := t.Nodes()[0]
	return n == Node{Name: n.Name, State: Up, Generation: n.Generation}
}

// UnmarshalJSON reads the stored form, checks it whole and refuses a newer one.
func (t *Table) UnmarshalJSON(data []byte) error {
	if len(data) > MaxTableBytes {
		return fmt.Errorf("placement table has %d bytes; at most %d are possible", len(data), MaxTableBytes)
	}
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("decode placement table: %w", err)
	}
	var read *Table
	var err error
	switch head.Format {
	case aloneFormat:
		read, err = readAlone(data)
	case clusterFormat:
		read, err = readCluster(data)
	default:
		return fmt.Errorf("placement table has format %d; this agentd reads up to %d: use the version that wrote it", head.Format, clusterFormat)
	}
	if err != nil {
		return fmt.Errorf("decode placement table: %w", err)
	}
	if err := read.check(); err != nil {
		return fmt.Errorf("placement table: %w", err)
	}
	*t = *read
	return nil
}

func readAlone(data []byte) (*Table, error) {
	var w wireAlone
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	switch {
	case len(w.Shards) == 0:
		return nil, fmt.Errorf("it has no shards")
	case len(w.Shards) > MaxShards:
		return nil, fmt.Errorf("it has %d shards; at most %d are possible", len(w.Shards), MaxShards)
	case slices.ContainsFunc(w.Shards, func(owner string) bool { return owner != w.Shards[0] }):
		return nil, fmt.Errorf("its shards have several owners")
	}
	t := NewTable(len(w.Shards), w.Shards[0])
	if w.Classes != nil {
		t.classes = w.Classes
	}
	return t, nil
}

func readCluster(data []byte) (*Table, error) {
	var w wireCluster
	if err := decodeStrict(data, &w); err != nil {
		return nil, err
	}
	for name, n := range w.Nodes {
		n.Name = name
		w.Nodes[name] = n
	}
	return &Table{cluster: w.Cluster, revision: w.Revision, replication: w.Replication, shards: w.Shards,
		nodes: w.Nodes, removed: w.Removed, namespaces: w.Namespaces, classes: w.Classes}, nil
}

// check is every rule that holds for a table at all times. What Apply makes passes
// it; what is read must.
func (t *Table) check() error {
	for namespace, classes := range t.classes {
		for class, versions := range classes {
			if len(versions) == 0 {
				return fmt.Errorf("class %s of namespace %s has no version", class, namespace)
			}
		}
	}
	if len(t.shards) == 0 {
		if t.cluster != "" || len(t.nodes)+len(t.removed)+len(t.namespaces)+len(t.classes) > 0 {
			return fmt.Errorf("it has no shards")
		}
		return nil // not formed
	}
	switch {
	case len(t.shards) > MaxShards:
		return fmt.Errorf("it has %d shards; at most %d are possible", len(t.shards), MaxShards)
	case len(t.nodes) == 0 || len(t.nodes) > MaxNodes:
		return fmt.Errorf("it has %d nodes; 1 to %d are possible", len(t.nodes), MaxNodes)
	case t.cluster == "" && len(t.nodes) != 1:
		return fmt.Errorf("it has %d nodes and no cluster", len(t.nodes))
	case len(t.removed) > maxRemoved:
		return fmt.Errorf("it remembers %d removed nodes; at most %d are possible", len(t.removed), maxRemoved)
	case len(t.namespaces) > MaxNamespaces:
		return fmt.Errorf("it has %d namespaces; at most %d are possible", len(t.namespaces), MaxNamespaces)
	case t.replication != 1 && t.replication != 3 && t.replication != 5:
		return fmt.Errorf("it asks for %d copies", t.replication)
	}
	for name, l := range t.namespaces {
		if err := agent.ValidateNamespace(name); err != nil {
			return err
		}
		if l.Agents < 0 || l.Bytes < 0 || l.DatabaseBytes < 0 || l.CallsPerSecond < 0 {
			return fmt.Errorf("a limit of namespace %s is negative", name)
		}
	}
	if err := t.checkNodes(); err != nil {
		return err
	}
	for i, s := range t.shards {
		if err := t.checkShard(s); err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
	}
	return nil
}

func (t *Table) checkNodes() error {
	const op = "read placement table"
	disks := make(map[string]bool, len(t.nodes)+len(t.removed))
	for _, r := range t.removed {
		disks[r.UUID] = true
	}
	for _, n := range t.nodes {
		j := Join{Cluster: t.cluster, Node: n.Name, UUID: n.UUID, Addresses: n.Addresses, Versions: n.Versions, Zone: n.Zone}
		switch {
		case !slices.Contains([]NodeState{Joining, Up, Draining, Down, Out}, n.State):
			return fmt.Errorf("node %.80q has the state %.80q", n.Name, string(n.State))
		case (n.State == Draining && !n.Drain) || (n.State == Up && n.Drain):
			return fmt.Errorf("node %s is %s, with drain = %v", n.Name, n.State, n.Drain)
		case n.Generation == 0 || n.Joined > t.revision:
			return fmt.Errorf("node %s has generation %d and joined at revision %d of %d", n.Name, n.Generation, n.Joined, t.revision)
		case t.cluster == "": // alone: nothing more is known of it
			continue
		case disks[n.UUID]:
			return fmt.Errorf("the disk of node %s (%.80q) is there twice", n.Name, n.UUID)
		}
		disks[n.UUID] = true
		if err := j.validate(op); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) checkShard(s Shard) error {
	if n := len(s.Replicas); n == 0 || n > maxReplicas {
		return fmt.Errorf("it has %d replicas; 1 to %d are possible", n, maxReplicas)
	}
	for i, r := range s.Replicas {
		if _, known := t.nodes[r]; !known {
			return fmt.Errorf("a replica is on node %.80q, which is not known", r)
		}
		if slices.Contains(s.Replicas[:i], r) {
			return fmt.Errorf("node %s has two replicas", r)
		}
	}
	if len(s.Was) > maxReplicas {
		return fmt.Errorf("it had %d replicas; at most %d are possible", len(s.Was), maxReplicas)
	}
	for i, r := range s.Was {
		if _, known := t.nodes[r]; !known || slices.Contains(s.Was[:i], r) {
			return fmt.Errorf("it cannot have had the replicas %v", s.Was)
		}
	}
	_, known := t.nodes[s.Learner]
	switch {
	case s.Learner != "" && (!known || slices.Contains(s.Replicas, s.Learner)):
		return fmt.Errorf("node %.80q cannot be its learner", s.Learner)
	case s.Replaces != "" && (s.Learner == "" || !slices.Contains(s.Replicas, s.Replaces)):
		return fmt.Errorf("node %.80q cannot leave it", s.Replaces)
	case !slices.Contains(s.Replicas, s.Preferred):
		return fmt.Errorf("node %.80q is preferred and has no replica", s.Preferred)
	case s.Generation == 0:
		return fmt.Errorf("it has generation 0")
	}
	return nil
}
