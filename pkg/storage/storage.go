// Package storage keeps one SQLite database per agent and a catalog of all agents
// with the times at which the platform must wake them.
//
// It knows nothing of turns, JavaScript or the network. Two engines stand behind
// the interfaces of this file: the reference (one WAL database per agent, synced
// by a shared syncer) and, later, the fast one (deltas in one commit log).
package storage

import (
	"context"
	"time"

	"agentd/pkg/agent"
)

// Limits of one agent's database.
const (
	MaxDatabaseBytes  = 10 << 30
	MaxRowBytes       = 2 << 20
	MaxStatementBytes = 100 << 10
	MaxParameters     = 100
	MaxTurnBytes      = 64 << 20 // changed by one transaction
)

// Value is what a column holds: nil, int64, float64, string or []byte.
// Query also accepts bool (stored as 0 or 1) and int.
type Value = any

// Wake says when the platform must activate an agent by itself. It is part of
// every commit, so an alarm can neither be lost nor outlive its data.
type Wake struct {
	At     time.Time // zero for none; kept in whole milliseconds
	Resume bool      // unfinished work lives in the instance: activate at once should the instance be lost
}

// Equal compares at the resolution that is stored.
func (w Wake) Equal(o Wake) bool {
	return w.Resume == o.Resume && w.At.IsZero() == o.At.IsZero() && (w.At.IsZero() || w.At.UnixMilli() == o.At.UnixMilli())
}

// Store holds the databases of one node. All methods may be called from any
// goroutine.
type Store interface {
	// Open opens the agent's database and takes it: a second Open before Close is an
	// error of kind InUse. An agent that has never committed has no file; it is
	// created by the first Commit that changes something. A damaged file is an error
	// of kind Corrupt that names the file and says how to restore it.
	Open(ctx context.Context, id agent.ID) (DB, error)

	// Delete removes the agent's data and its catalog entry. The database must not
	// be open (kind InUse). Deleting what does not exist is not an error.
	Delete(ctx context.Context, id agent.ID) error

	// Catalog lists agents; see there.
	Catalog() Catalog

	// Failed is closed when the store can no longer promise durability (a sync
	// failed). The node must acknowledge nothing more and exit. Err says why.
	Failed() <-chan struct{}
	Err() error

	// Close waits for outstanding commits, closes every database and releases the
	// data folder.
	Close() error
}

// DB is one agent's open database. Its methods belong to one goroutine at a time,
// the agent's loop; only Interrupt may be called from elsewhere.
//
// Statements run in a transaction that begins by itself and ends with Commit or
// Rollback: one per turn.
type DB interface {
	// Query runs the platform's own SQL. query may hold several statements; args bind
	// to the last one, whose rows are returned. The rows must be closed or read to
	// the end before the next call of Commit.
	Query(query string, args ...Value) (*Rows, error)

	// UserQuery is Query for SQL that a user or an agent's code wrote: it refuses
	// (kind SQL) ATTACH, VACUUM, transaction control, pragmas that are not harmless,
	// load_extension, any access to tables named agentd_*, statements over
	// MaxStatementBytes and more than MaxParameters arguments.
	UserQuery(query string, args ...Value) (*Rows, error)

	// ReadQuery is UserQuery for statements that must not write: one that would is
	// refused (kind SQL) before it runs.
	ReadQuery(query string, args ...Value) (*Rows, error)

	// Savepoint runs fn and takes back what it wrote if it returns an error or
	// panics. Calls nest, at most 32 deep.
	Savepoint(fn func() error) error

	// Commit ends the transaction together with the agent's wake. It does not wait for
	// the disk, but for the first commit of a life (its note in the catalog) and while
	// an engine's limit of unsettled commits is reached; the ticket settles when the
	// commit is durable. When nothing changed since the
	// last commit the ticket is that of the last one. After an error everything since
	// the last commit is gone and the database must be closed: kind StorageFull,
	// TooLarge (over MaxTurnBytes), SQL (a deferred constraint) or Internal.
	Commit(wake Wake) (*Ticket, error)

	// Rollback drops everything since the last commit.
	Rollback() error

	// Wake is the wake of the last commit (of an earlier life, after Open).
	Wake() Wake

	// SizeBytes is the size of the database as SQLite sees it.
	SizeBytes() int64

	// Interrupt makes the statement under way fail with kind SQL. Any goroutine.
	Interrupt()

	// Close drops an open transaction, waits until the last commit is durable and
	// gives the database back. Closing twice is harmless.
	Close() error
}

// Entry is one agent in the catalog.
type Entry struct {
	ID         agent.ID
	Wake       Wake
	Seq        uint64 // number of the last commit known here
	SizeBytes  int64
	CreatedAt  time.Time
	Quarantine string // why the agent may not be activated; empty if it may
	Live       bool   // its database is open now
}

// Catalog is derived from the agents' databases and rebuilt if it is lost (only
// quarantines are then forgotten). All methods may be called from any goroutine.
type Catalog interface {
	// Get returns an error of kind NotFound for an agent that has never committed.
	Get(ctx context.Context, id agent.ID) (Entry, error)

	// List returns up to limit (at most 1 000) entries of a namespace in order of
	// (class, name), after the given ID; class "" is all classes, a zero after starts
	// at the beginning.
	List(ctx context.Context, namespace, class string, after agent.ID, limit int) ([]Entry, error)

	// Due returns up to limit agents to activate now, earliest first: Wake.At is not
	// after now, or Resume is set and the database is not open. Quarantined agents
	// are left out. next is the earliest Wake.At after now, zero if there is none.
	Due(ctx context.Context, now time.Time, limit int) (due []Entry, next time.Time, err error)

	// Changed is signalled (buffer of one) when the earliest wake may have become
	// earlier or an agent with Resume was closed.
	Changed() <-chan struct{}

	// SetQuarantine durably sets the reason; "" lifts it.
	SetQuarantine(ctx context.Context, id agent.ID, reason string) error

	// Count is the number of agents in the catalog.
	Count(ctx context.Context) (int, error)
}
