package apply

import (
	"context"

	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// Cut is a shard's changes of the catalog between two checkpoints.
type Cut = any

// Catalog is what the applier changes of the catalog.
type Catalog interface {
	// Seq is the number of the agent's last applied commit; 0 if it does not exist. Any
	// goroutine.
	Seq(id agent.ID) (seq uint64, err error)

	// Commit applies a record of kind Commit, once the agent's file holds it, or of
	// kind Quarantine. Called, like Delete and Cut, by the shard's worker, in order.
	Commit(shard int, index uint64, r *record.Record) error
	// Delete applies the deletion of an agent that may not exist.
	Delete(shard int, index uint64, id agent.ID) error

	// AppliedIndex is the index that the last checkpoint covers.
	AppliedIndex(shard int) uint64
	// Cut freezes the shard's changes up to index; later ones go to the next cut. A cut
	// that was not written is part of the next.
	Cut(shard int, index uint64) Cut
	// Write makes the cuts and their indices durable, all or nothing. An error of kind
	// StorageFull, Unavailable, Canceled or Deadline leaves the catalog sound; after any
	// other nothing can be trusted.
	Write(ctx context.Context, cuts []Cut) error
}
