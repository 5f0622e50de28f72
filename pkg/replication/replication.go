// Package replication makes records of agents' commits durable: it gathers the
// records of a shard into entries of the shard's group, tells each record's fate to
// whoever proposed it, hands committed entries to the storage engine in order, and
// lets the log forget what the engine has made durable.
//
// It knows nothing of what a record says, of agents or of files. A node alone runs
// the same code as a cluster, with groups of one member.
package replication

import "context"

// Engine is what the groups need of the storage engine. Calls for different shards
// come from different goroutines.
type Engine interface {
	// Apply takes a committed entry: the concatenated records of one batch. Calls for
	// a shard are in the order of the log; index ascends, with holes where raft keeps
	// entries of its own. After a restart entries come again from the last snapshot on;
	// those that the engine has kept are its to skip. It may block to slow the shard
	// down. The entry may be kept but not changed. An error takes the shard out of
	// service.
	Apply(shard int, index uint64, entry []byte) error

	// Wait returns when everything given to Apply up to index is applied.
	Wait(ctx context.Context, shard int, index uint64) error

	// Checkpoint begins after the call; when it returns nil, everything applied before
	// the call survives a power loss without the log.
	Checkpoint(ctx context.Context) error

	// Lead says that this node owns the shard: everything committed before is applied,
	// and p takes the records of this term. Resign says that it no longer does, before
	// anything of another owner is applied; it also reports a shard that can never be
	// led (term 0). The two never overlap for a shard and alternate; a term may be led
	// again after it was resigned. They must not wait for the shard's Apply.
	Lead(shard int, term uint64, p Proposer)
	Resign(shard int, term uint64, reason error)
}

// Proposer takes the records of one shard for one term of this node's ownership. Any
// goroutine may call it.
type Proposer interface {
	// Propose hands over one encoded record, which belongs to the proposer from then
	// on. It does not wait for the disk.
	//
	// settle is called exactly once for every record taken, one at a time and in the
	// order of Propose, from a goroutine of the proposer: nil when the record is durable
	// on a majority of the shard's replicas. Otherwise an *agent.Error, and then
	// every later record fails too: of kind OutcomeUnknown where the record may yet
	// become part of the shard, Unavailable where it certainly will not. settle must
	// not block; it may call Propose.
	//
	// An error of Propose means that nothing was taken: Overloaded (the shard's bound
	// of records that are not settled is reached), StorageFull (the log has no room),
	// Unavailable (the term is over), TooLarge (over MaxRecordBytes).
	Propose(record []byte, settle func(error)) error
}
