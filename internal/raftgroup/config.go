package raftgroup

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"agentd/pkg/agent"
)

// Machine is the replicated state of one group.
type Machine interface {
	// Apply takes committed entries, in the order of the log, each once in the life
	// of a Group; after a restart those after the last snapshot come again. It is called
	// by one goroutine and may block, which slows the group down. The slice is reused
	// afterwards, the entries' data is the machine's to read but not to change. An
	// error ends the group: nothing more is applied.
	Apply(entries []Entry) error

	// Checkpoint returns when everything up to index survives a power loss without
	// the log, which then forgets it. Apply is called meanwhile, with later entries.
	// One call at a time; ctx is that of Group.Snapshot.
	Checkpoint(ctx context.Context, index uint64) error
}

// Restorer is a Machine that can take over the state of another replica's.
type Restorer interface {
	Machine
	Restore(content io.Reader) error
}

// Config is what a group is made of. It is not changed after Start.
type Config struct {
	// Name is for logs: "shard 3". Required.
	Name string

	// Node is this node's name in the group's membership, the same for ever. Required.
	Node string

	// Log holds the group's entries and stable values; nobody else writes it. Required.
	Log Log

	// Machine takes what is committed. Required.
	Machine Machine

	// Transport reaches the other members. Required.
	Transport *Transport

	// Bootstrap is the membership of a group that has never run anywhere: the same on
	// all its members. A log with entries or a snapshot ignores it. Empty for a
	// node that is added to a running group.
	Bootstrap []Peer

	// TrailingEntries stay in the log after a snapshot, for followers that are a
	// little behind. A group with one member needs none.
	TrailingEntries uint64

	// Logger gets what an operator should know. nil for nothing.
	Logger *slog.Logger

	// Timers; zero values are the defaults.
	Timers Timers
}

// Timers decide how soon a lost leader is replaced. A group without other members
// does not wait for any of them.
type Timers struct {
	Heartbeat time.Duration // a follower waits one to two of these without word from its leader; default 1 s
	Election  time.Duration // of one attempt; at least Heartbeat; default 1 s
	Lease     time.Duration // a leader without word from a majority steps down; at most Heartbeat; default 500 ms
	Commit    time.Duration // followers learn of the last commit; default 50 ms
}

// queuedProposals is how many proposals raft's queue holds; Propose does not block
// as long as fewer wait. It is also the number of entries in one message or batch.
const queuedProposals = 64

// MaxInFlight is how many proposals of one term may be under way at a time: well
// below what raft queues, so that remains of an earlier term have room beside them.
const MaxInFlight = 16

func (c *Config) validate() error {
	bad := func(format string, args ...any) error {
		return &agent.Error{Op: "start group", Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
	}
	switch {
	case c.Name == "" || c.Node == "":
		return bad("the group %q needs a name and a node, which is %q", c.Name, c.Node)
	case c.Log == nil || c.Machine == nil || c.Transport == nil:
		return bad("%s needs a log, a machine and a transport", c.Name)
	}
	if len(c.Bootstrap) > 0 {
		if err := validatePeers(c.Bootstrap); err != nil {
			return bad("%s: %s", c.Name, err)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("group", c.Name)
	return nil
}

// raft is the configuration in raft's words.
func (c *Config) raft(leadership chan<- bool) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.Node)
	rc.Logger = logger{c.Logger}
	rc.NotifyCh = leadership
	rc.BatchApplyCh = true // so that Propose does not wait for the disk
	rc.MaxAppendEntries = queuedProposals
	rc.TrailingLogs = c.TrailingEntries
	rc.NoSnapshotRestoreOnStart = true // the machine keeps its own state
	rc.NoLegacyTelemetry = true
	rc.ShutdownOnRemove = false

	// Snapshots are taken when Snapshot is called: one checkpoint serves all groups.
	rc.SnapshotInterval = 365 * 24 * time.Hour
	rc.SnapshotThreshold = 1 << 62
	for _, t := range []struct {
		to    *time.Duration
		value time.Duration
	}{{&rc.HeartbeatTimeout, c.Timers.Heartbeat}, {&rc.ElectionTimeout, c.Timers.Election},
		{&rc.LeaderLeaseTimeout, c.Timers.Lease}, {&rc.CommitTimeout, c.Timers.Commit}} {
		if t.value != 0 {
			*t.to = t.value
		}
	}
	return rc
}
