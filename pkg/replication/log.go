package replication

import (
	"agentd/internal/raftgroup"
	"agentd/pkg/storage/commitlog"
)

// Log is the node's log as replication needs it.
type Log interface {
	// Group is a shard's part of the log. An error takes the shard out of service: of
	// kind Corrupt if the log lost some of its entries.
	Group(shard int) (raftgroup.Log, error)

	// Full says that no new data may be taken in. It is asked for every record and
	// must not wait for the disk.
	Full() bool
}

// OnCommitLog uses the node's commit log: shard n is its group n.
func OnCommitLog(l *commitlog.Log) Log { return commitLog{l} }

type commitLog struct{ *commitlog.Log }

func (l commitLog) Group(shard int) (raftgroup.Log, error) {
	g, err := l.Log.Group(uint32(shard))
	if err != nil {
		return nil, err
	}
	if err := g.Damage(); err != nil {
		return nil, err
	}
	return g, nil
}
