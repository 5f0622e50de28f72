package placement

import (
	"slices"
	"time"

	"agentd/pkg/agent"
)

// NodeState says what the cluster makes of a node.
type NodeState string

// States of a node. Only nodes that are up are given leaderships and replicas.
const (
	Joining  NodeState = "joining"  // known, but never heard from by a controller
	Up       NodeState = "up"       // heard from
	Draining NodeState = "draining" // heard from; what it holds is moved away
	Down     NodeState = "down"     // silent; its replicas are kept for it
	Out      NodeState = "out"      // down for so long that its replicas are made elsewhere
	Gone     NodeState = "removed"  // only Removed has it; a disk that is removed never comes back
)

// Node is one machine with one disk. A node that returns with an empty disk has
// another UUID and is another node, whatever its name.
type Node struct {
	Name        string    `json:"-"`              // unique among the nodes that were not removed
	UUID        string    `json:"uuid,omitempty"` // of its disk; empty only in a table that was never part of a cluster
	Incarnation uint64    `json:"incarnation,omitempty"`
	Addresses   Addresses `json:"addresses,omitzero"`
	Versions    Versions  `json:"versions,omitzero"`
	Zone        string    `json:"zone,omitempty"` // replicas of a shard are spread over zones; empty: a zone of its own
	State       NodeState `json:"state"`
	Drain       bool      `json:"drain,omitempty"`  // the operator wants it empty; outlives a time of being down
	Since       time.Time `json:"since,omitzero"`   // of State
	Joined      uint64    `json:"joined,omitempty"` // Table.Revision of its joining: the order of nodes
	Generation  uint64    `json:"generation"`       // grows with every change of this row; never used again by a later node of the name
}

// Addresses of a node as other nodes and clients reach it: HOST:PORT, at most 255
// bytes each.
type Addresses struct {
	Peer string `json:"peer,omitempty"`
	GRPC string `json:"grpc,omitempty"`
	HTTP string `json:"http,omitempty"`
}

// Versions is what a node runs and the newest formats that it reads and writes.
type Versions struct {
	Binary  string `json:"binary,omitempty"`
	Record  uint32 `json:"record,omitempty"`
	Command uint32 `json:"command,omitempty"` // CommandFormat
}

// Removed is a disk that was removed from the cluster. What is on it is stale.
type Removed struct {
	Name string    `json:"name"`
	UUID string    `json:"uuid"`
	At   time.Time `json:"at"`
}

// live says whether the table holds the node for alive.
func (n Node) live() bool { return n.State == Up || n.State == Draining }

func (t *Table) live(name string) bool { return t.nodes[name].live() }

func (t *Table) count(state NodeState) int {
	n := 0
	for _, node := range t.nodes {
		if node.State == state {
			n++
		}
	}
	return n
}

// Join makes a node known, or tells the cluster of a new start of it. The node
// asks for it before it takes part in anything.
type Join struct {
	Cluster     string // the ID that the node has on its disk, or was told by the node it asked
	Node        string
	UUID        string
	Incarnation uint64 // grows with every start on the same disk
	Addresses   Addresses
	Versions    Versions
	Zone        string
	// Replace removes the node that had this name, under the rules of Remove, if it
	// is down: for a machine that comes back with an empty disk.
	Replace bool
}

func (j *Join) apply(t *Table, at time.Time) (*Table, []ClassVersion, error) {
	const op = "join cluster"
	if err := j.validate(op); err != nil {
		return t, nil, err
	}
	if t.cluster == "" {
		return t, nil, refuse(op, agent.Unavailable, "the node that was asked is alone: start it with --peer and --bootstrap-expect 1 so that others can join it")
	}
	if j.Cluster != t.cluster {
		return t, nil, refuse(op, agent.Denied, "node %s belongs to cluster %s and this is cluster %s: check --join, or start with an empty data folder",
			j.Node, j.Cluster, t.cluster)
	}
	if i := slices.IndexFunc(t.removed, func(r Removed) bool { return r.UUID == j.UUID }); i >= 0 {
		return t, nil, refuse(op, agent.Denied, "this disk was removed from the cluster (as node %s, at %s) and what it holds is stale: start with an empty data folder",
			t.removed[i].Name, t.removed[i].At.Format(time.RFC3339))
	}
	for _, n := range t.nodes {
		if n.UUID == j.UUID && n.Name != j.Node {
			return t, nil, refuse(op, agent.Conflict, "the disk of node %s is known as node %s: start it with --node %s; if the folder was copied, begin with an empty one",
				j.Node, n.Name, n.Name)
		}
	}
	old, known := t.nodes[j.Node]
	switch {
	case known && old.UUID == j.UUID:
		return j.again(t, old)
	case known && !j.Replace:
		return t, nil, refuse(op, agent.Conflict,
			"two nodes with one name: node %s is known with another disk (%s, %s). Choose another --node; if its disk is lost, run `agentd cluster remove %s` first",
			j.Node, old.UUID, old.State, j.Node)
	case known && old.State != Down && old.State != Out:
		return t, nil, refuse(op, agent.Conflict,
			"two nodes with one name: node %s is %s with another disk (%s) and cannot be replaced while it is heard from: choose another --node, or stop it",
			j.Node, old.State, old.UUID)
	case known:
		next, err := t.remove(old, at)
		if err != nil {
			return t, nil, err
		}
		t = next
	}
	if len(t.nodes) >= MaxNodes {
		return t, nil, refuse(op, agent.TooLarge, "the cluster has %d nodes, and no more are allowed", len(t.nodes))
	}
	return t.withNode(j.row(t.revision+1, at)), nil, nil
}

// row is the node as it begins, at a revision.
func (j *Join) row(revision uint64, at time.Time) Node {
	return Node{Name: j.Node, UUID: j.UUID, Incarnation: j.Incarnation, Addresses: j.Addresses, Versions: j.Versions, Zone: j.Zone,
		State: Joining, Since: at, Joined: revision, Generation: revision}
}

// again is a later start of a known node, or a repetition of the same.
func (j *Join) again(t *Table, old Node) (*Table, []ClassVersion, error) {
	if j.Incarnation < old.Incarnation {
		return t, nil, refuse("join cluster", agent.Conflict,
			"node %s has been started again since (start %d, this is %d): a second process runs from a copy of its folder; stop one of them",
			j.Node, old.Incarnation, j.Incarnation)
	}
	n := old
	n.Incarnation, n.Addresses, n.Versions, n.Zone = j.Incarnation, j.Addresses, j.Versions, j.Zone
	if n == old {
		return t, nil, nil
	}
	n.Generation++
	return t.withNode(n), nil, nil
}

func (j *Join) validate(op string) error {
	if err := validName(op, "node", j.Node, maxText); err != nil {
		return err
	}
	if err := validName(op, "disk", j.UUID, maxID); err != nil {
		return err
	}
	if err := validName(op, "cluster", j.Cluster, maxID); err != nil {
		return err
	}
	if j.Zone != "" {
		if err := validName(op, "zone", j.Zone, maxText); err != nil {
			return err
		}
	}
	if j.Addresses.Peer == "" {
		return refuse(op, agent.Invalid, "node %s gives no peer address: other nodes must be able to reach it", j.Node)
	}
	for _, text := range []string{j.Addresses.Peer, j.Addresses.GRPC, j.Addresses.HTTP, j.Versions.Binary} {
		if !printable(text) || len(text) > maxText {
			return refuse(op, agent.Invalid, "%.80q is no address or version: at most %d printable ASCII characters without blanks are allowed", text, maxText)
		}
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// validName checks a name that stands in messages, files and certificates.
func validName(op, what, name string, limit int) error {
	ok := name != "" && len(name) <= limit
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c == '-' || c == '_' || c == '.' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
	}
	if !ok {
		return refuse(op, agent.Invalid, "%.80q is no %s name: use 1 to %d of the characters a-z, A-Z, 0-9, dot, dash and underscore", name, what, limit)
	}
	return nil
}

// Remark is what Mark says of a node.
type Remark string

// Remarks. The controller makes the first three from what it hears, an operator
// the others.
const (
	MarkUp      Remark = "up"
	MarkDown    Remark = "down"
	MarkOut     Remark = "out" // follows down only
	MarkDrain   Remark = "drain"
	MarkUndrain Remark = "undrain"
)

// Mark changes the state of a node.
type Mark struct {
	Node string
	As   Remark
	// Generation is the Node.Generation that the remark is about; if the row has
	// changed since, the command is refused. 0 applies whatever the row is, which is
	// for operators only.
	Generation uint64
}

func (m *Mark) apply(t *Table, at time.Time) (*Table, []ClassVersion, error) {
	op := "mark node " + string(m.As)
	old, known := t.nodes[m.Node]
	if !known {
		return t, nil, unknownNode(t, op, m.Node)
	}
	n := old
	switch m.As {
	case MarkUp:
		n.State = Up
	case MarkDown:
		if old.State != Out {
			n.State = Down
		}
	case MarkOut:
		if old.State != Down && old.State != Out {
			return t, nil, refuse(op, agent.Conflict, "node %s is %s; only a node that is down goes out", m.Node, old.State)
		}
		n.State = Out
	case MarkDrain:
		n.Drain = true
	case MarkUndrain:
		n.Drain = false
	default:
		return t, nil, refuse("mark node", agent.Invalid, "%.80q is no remark", string(m.As))
	}
	if n.live() {
		n.State = Up
		if n.Drain {
			n.State = Draining
		}
	}
	if n == old {
		return t, nil, nil // it is so already: the command was repeated
	}
	if m.Generation != 0 && m.Generation != old.Generation {
		return t, nil, refuse(op, agent.Conflict, "node %s has changed since (generation %d, not %d): look again", m.Node, old.Generation, m.Generation)
	}
	if m.As == MarkDrain && (!t.othersStay(m.Node) || (old.State == Up && t.count(Up) == 1)) {
		return t, nil, refuse(op, agent.Conflict, "no other node is up that could take over from %s: add one or undrain one first, or just stop it", m.Node)
	}
	if n.State != old.State {
		n.Since = at
	}
	n.Generation++
	return t.withNode(n), nil, nil
}

// Remove takes a node out of the cluster for good, with every replica that it
// still has. A node that is up must be drained first; one that is down may be
// removed if every shard keeps a majority of its replicas without it. The node must
// not be stopped before no shard is pending: until then groups may count on it.
type Remove struct {
	Node string
	UUID string // of the disk that is meant; empty: whichever has the name. Give it where the command may be repeated
}

func (r *Remove) apply(t *Table, at time.Time) (*Table, []ClassVersion, error) {
	const op = "remove node"
	wasRemoved := func(x Removed) bool { return x.Name == r.Node && (r.UUID == "" || x.UUID == r.UUID) }
	n, known := t.nodes[r.Node]
	switch {
	case !known || (r.UUID != "" && r.UUID != n.UUID):
		if slices.ContainsFunc(t.removed, wasRemoved) {
			return t, nil, nil
		}
		return t, nil, unknownNode(t, op, r.Node)
	case len(t.nodes) == 1:
		return t, nil, refuse(op, agent.Conflict, "%s is the only node; to give up the cluster, stop it and delete its data folder", r.Node)
	case n.State == Up:
		return t, nil, refuse(op, agent.Conflict, "node %s is up: run `agentd cluster drain %s` first; if it is broken, stop it", r.Node, r.Node)
	case n.State == Draining:
		if left := t.movable(r.Node); left > 0 {
			return t, nil, refuse(op, agent.Conflict, "node %s is still being drained: %d shards are to be moved; wait, or see `agentd cluster status`", r.Node, left)
		}
	}
	next, err := t.remove(n, at)
	if err != nil {
		return t, nil, err
	}
	return next, nil, nil
}

// othersStay says whether there is a node besides this one that is meant to hold
// data: known and not being drained.
func (t *Table) othersStay(name string) bool {
	for _, n := range t.nodes {
		if n.Name != name && !n.Drain && n.State != Joining {
			return true
		}
	}
	return false
}

// movable is the number of shards that a drain of the node will yet change: those
// that it should lead although another could, those of which another node that is
// up could have its replica, and those whose group has not let it go yet.
func (t *Table) movable(name string) int {
	left := 0
	for _, s := range t.shards {
		if s.Pending() && s.on(name) {
			left++
			continue
		}
		if !slices.Contains(s.Replicas, name) {
			continue
		}
		spare, other := false, false
		for _, n := range t.nodes {
			has := slices.Contains(s.Replicas, n.Name)
			spare = spare || (n.State == Up && !has)
			other = other || (n.State == Up && has)
		}
		if spare || (other && s.Preferred == name) {
			left++
		}
	}
	return left
}

// remove is the table without a node. Of each shard it takes away at most this one
// member; it is refused where a shard would have no majority then.
func (t *Table) remove(n Node, at time.Time) (*Table, error) {
	if !t.othersStay(n.Name) {
		return nil, refuse("remove node", agent.Conflict, "every other node is new or being drained: run `agentd cluster undrain` for one of them, or add one")
	}
	next := t.clone()
	next.shards = slices.Clone(t.shards)
	for i, s := range t.shards {
		if s.Learner == n.Name {
			s.Learner, s.Replaces = "", ""
		}
		if s.Pending() && s.on(n.Name) {
			return nil, s.confirmed("remove node", i)
		}
		if slices.Contains(s.Replicas, n.Name) {
			after := without(s.Replicas, n.Name)
			if err := t.keepsMajority("remove node", i, s.Replicas, after); err != nil {
				return nil, err
			}
			s = t.shrunk(s, n.Name)
			s.Was = s.Replicas // pending, with no way back: the node's name may be given to another
		}
		if !s.equal(t.shards[i]) {
			s.Generation++
			next.shards[i] = s
		}
	}
	next.nodes = make(map[string]Node, len(t.nodes))
	for name, other := range t.nodes {
		if name != n.Name {
			next.nodes[name] = other
		}
	}
	if n.UUID != "" {
		next.removed = append(slices.Clone(t.removed), Removed{Name: n.Name, UUID: n.UUID, At: at})
		if extra := len(next.removed) - maxRemoved; extra > 0 {
			next.removed = next.removed[extra:]
		}
	}
	return next, nil
}

func unknownNode(t *Table, op, name string) error {
	names := make([]string, 0, 10)
	for _, n := range t.Nodes() {
		if len(names) == cap(names) {
			names = append(names, "…")
			break
		}
		names = append(names, n.Name)
	}
	return refuse(op, agent.NotFound, "no node %.80q is in the cluster; there are %v", name, names)
}
