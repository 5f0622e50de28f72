package replication

import (
	"fmt"
	"log/slog"
	"time"

	"agentd/internal/raftgroup"
	"agentd/pkg/agent"
)

// MaxRecordBytes bounds one record.
const MaxRecordBytes = 72 << 20

// maxShards bounds the groups of a node.
const maxShards = 4096

// Config says what the groups of a node are made of. It is not changed after Start.
type Config struct {
	// Shards is their number, fixed for the life of the data; at most 4 096. Required.
	Shards int

	// Node is this node's name, fixed for the life of its data. Required.
	Node string

	// Log is the node's log; see OnCommitLog. Required.
	Log Log

	// Engine applies what is committed. It must outlive the groups. Required.
	Engine Engine

	// Transport reaches the other replicas of a shard and Members are a new shard's
	// replicas, the same on all of them. nil for a node alone.
	Transport func(shard int) *raftgroup.Transport
	Members   func(shard int) []raftgroup.Peer

	// Timers of elections; zero values are raftgroup's defaults.
	Timers raftgroup.Timers

	// TrailingEntries stay in a shard's log after a checkpoint, for replicas that are
	// a little behind. A node alone needs none.
	TrailingEntries uint64

	// MaxPendingBytes and MaxPendingRecords bound the records of one shard that are
	// not settled; further ones are refused with kind Overloaded. Defaults 384 MiB
	// and 262 144.
	MaxPendingBytes   int64
	MaxPendingRecords int

	// MaxInFlight is how many entries of a shard may be under way at a time, 1 to
	// raftgroup.MaxInFlight; while they are, records gather for the next. Default 4,
	// which hides the way to other replicas; for a node alone 1, since raft writes one
	// batch at a time and would only find smaller entries.
	MaxInFlight int

	// MaxEntryBytes bounds an entry; a record larger than this is an entry of its own.
	// At most 16 MiB; default 4 MiB.
	MaxEntryBytes int

	// CheckpointEvery is the time between checkpoints while there is something to
	// write, CheckpointBytes the bytes of entries after which one is due earlier:
	// together they bound what a restart has to redo. Defaults 60 s and 512 MiB.
	CheckpointEvery time.Duration
	CheckpointBytes int64

	// Now tells the time, for Stats. Required.
	Now func() time.Time

	// Logger gets what an operator should know. nil for nothing.
	Logger *slog.Logger
}

// validate fills in defaults and refuses nonsense.
func (c Config) validate() (Config, error) {
	bad := func(format string, args ...any) (Config, error) {
		return c, &agent.Error{Op: "start replication", Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
	}
	number(&c.MaxPendingBytes, 384<<20)
	number(&c.MaxPendingRecords, 256<<10)
	if c.Transport == nil {
		number(&c.MaxInFlight, 1)
	}
	number(&c.MaxInFlight, 4)
	number(&c.MaxEntryBytes, 4<<20)
	number(&c.CheckpointEvery, time.Minute)
	number(&c.CheckpointBytes, 512<<20)
	switch {
	case c.Shards < 1 || c.Shards > maxShards:
		return bad("%d shards are set; 1 to %d are possible", c.Shards, maxShards)
	case c.Node == "":
		return bad("the node has no name")
	case c.Log == nil || c.Engine == nil || c.Now == nil:
		return bad("a log, an engine and a clock are needed")
	case (c.Transport == nil) != (c.Members == nil):
		return bad("a transport and members are set together or not at all")
	case c.MaxInFlight < 1 || c.MaxInFlight > raftgroup.MaxInFlight:
		return bad("%d entries in flight are set; 1 to %d are possible", c.MaxInFlight, raftgroup.MaxInFlight)
	case c.MaxEntryBytes < 1 || c.MaxEntryBytes > 16<<20:
		return bad("entries of %d bytes are set; up to 16 MiB are possible", c.MaxEntryBytes)
	case c.MaxPendingBytes < 1 || c.MaxPendingRecords < 1:
		return bad("the bounds of pending records are %d bytes and %d records; they must be positive", c.MaxPendingBytes, c.MaxPendingRecords)
	case c.CheckpointEvery < time.Millisecond || c.CheckpointBytes < 1:
		return bad("checkpoints are due every %s and %d bytes; both must be positive", c.CheckpointEvery, c.CheckpointBytes)
	}
	if c.Transport == nil {
		c.Transport = func(int) *raftgroup.Transport { return raftgroup.NewNetwork().Transport(c.Node) }
		c.Members = func(int) []raftgroup.Peer { return []raftgroup.Peer{{Node: c.Node}} }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// number sets a default.
func number[T int | int64 | time.Duration](n *T, value T) {
	if *n == 0 {
		*n = value
	}
}
