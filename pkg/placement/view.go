package placement

import (
	"time"

	"agentd/pkg/agent"
)

// View is what the controller, which runs beside the leader of the placement
// group, has seen. Its times are of one clock that does not jump (Go's monotonic
// one): no other machine's clock is compared with it, but for the long waits of
// which Since in the table is a hint.
type View struct {
	Now    time.Time
	Since  time.Time        // when this controller began to listen; before that it knows nothing
	Self   string           // the controller's own node
	Voters []string         // of the placement group as it is; empty: as the function Voters has it
	Nodes  map[string]Heard // the newest sign of life of each node
	Shards []ShardView      // by shard; a shard that is missing is unknown
}

// Heard is a sign of life: a heartbeat to the controller, or another node's word
// that it had one. A node that the controller cannot reach but others can is alive.
type Heard struct {
	At   time.Time
	UUID string // of the disk; that of another disk than the table's says nothing about the node
}

// ShardView is what a shard's leader reported last.
type ShardView struct {
	Leader  string           // node that leads the shard's group; empty: none is known
	Settled uint64           // the Shard.Generation with which the group's members agree
	Busy    bool             // an action on it is being carried out
	Bytes   int64            // of one replica
	Lag     map[string]int64 // bytes by which each member is behind; missing: unknown
}

// Limits is the pace of Plan. A field of 0 means its default.
type Limits struct {
	DownAfter time.Duration // silence after which a node counts as down; default 2 s
	DownOut   time.Duration // time of being down after which its replicas are made elsewhere; default 10 min
	StableFor time.Duration // how long a node must be up before it is given anything, or down before what it was being given is withdrawn; default 5 s
	Moves     int           // replicas that are being copied at a time in the cluster; each node takes part in one; default 4
	Transfers int           // leaderships that move at a time; default 8
	ReadyLag  int64         // bytes behind at most to be promoted or to lead; default 1 MiB
}

// DefaultLimits are those that the zero Limits stands for.
func DefaultLimits() Limits {
	return Limits{DownAfter: 2 * time.Second, DownOut: 10 * time.Minute, StableFor: 5 * time.Second, Moves: 4, Transfers: 8, ReadyLag: 1 << 20}
}

// Validate refuses what cannot work, with kind Invalid.
func (l Limits) Validate() error {
	const op = "configure placement"
	l = l.withDefaults()
	switch {
	case l.DownAfter < 0 || l.StableFor < 0 || l.Moves < 0 || l.Transfers < 0 || l.ReadyLag < 0:
		return refuse(op, agent.Invalid, "a limit is negative")
	case l.DownOut < l.DownAfter:
		return refuse(op, agent.Invalid, "a node would be given up (after %v) before it counts as down (after %v)", l.DownOut, l.DownAfter)
	}
	return nil
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	setDefault(&l.DownAfter, d.DownAfter)
	setDefault(&l.DownOut, d.DownOut)
	setDefault(&l.StableFor, d.StableFor)
	setDefault(&l.Moves, d.Moves)
	setDefault(&l.Transfers, d.Transfers)
	setDefault(&l.ReadyLag, d.ReadyLag)
	return l
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Action is one thing to do. Exactly one of Command and Transfer is set.
type Action struct {
	Command  *Command  // to be proposed to the placement group
	Transfer *Transfer // to be asked of the shard's leader
	Why      string    // for the log and `agentd cluster status`
}

// Transfer moves the leadership of a shard to another of its voters.
type Transfer struct {
	Shard    int
	From, To string
}
