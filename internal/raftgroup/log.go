package raftgroup

import "agentd/pkg/storage/commitlog"

// LogEntry is an entry of the node's log.
type LogEntry = commitlog.Entry

// Log is one group's part of the node's log; the commit log's Group is one. Append,
// TruncateBack and Set return when their effect is durable. After an error of any of
// them, or a Get that fails for another reason than a missing index, the group ends
// itself (see Group.Failed): raft would go on with a log that is not what it believes.
type Log interface {
	First() uint64 // 0 when empty
	Last() uint64  // 0 when empty
	Get(index uint64) (LogEntry, error)
	Append(entries []LogEntry) error
	TruncateFront(upto uint64) error
	TruncateBack(from uint64) error
	Set(key string, value []byte) error
	Lookup(key string) ([]byte, bool)
}

var _ Log = (*commitlog.Group)(nil)
