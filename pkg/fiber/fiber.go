// Package fiber keeps the record of an agent's fibers: work that is written down
// before it starts, checkpointed with a stash and handed to a recovery hook when
// the process that ran it is lost.
//
// A Ledger is rows and rules in one agent's database. It runs nothing, reads no
// clock and makes no IDs: the caller runs the work, passes the time and the IDs,
// and its transaction decides what lasts. The tables cf_agents_runs and
// cf_agents_fibers are public: programs read them with SQL.
package fiber

import (
	"encoding/json"

	"agentd/pkg/storage"
)

// Limits of one agent's fibers. Sizes are in bytes. Together the columns of a row
// stay under storage.MaxRowBytes.
const (
	MaxSnapshotBytes = 2_000_000 // one stash, as JSON
	MaxMetadataBytes = 64 << 10
	MaxIDBytes       = 256 // also of an idempotency key
	MaxNameBytes     = 1024
	MaxErrorBytes    = 8 << 10  // longer messages are cut
	MaxUnfinished    = 10_000   // run rows; one more is an error of kind Overloaded
	MaxListBytes     = 16 << 20 // all fibers of one List together; more is an error of kind TooLarge

	DefaultListLimit   = 50
	MaxListLimit       = 100
	DefaultDeleteLimit = 100
	MaxDeleteLimit     = 500
)

// DB is what a Ledger needs of the agent's database; storage.DB satisfies it. The
// Ledger reads every answer to its end before it returns.
type DB interface {
	Query(query string, args ...storage.Value) (*storage.Rows, error)
}

// Status is where a managed fiber stands.
type Status string

// A fiber is settled in one of the last four; an interrupted one may still be
// resolved.
const (
	StatusPending     Status = "pending"
	StatusRunning     Status = "running"
	StatusCompleted   Status = "completed"
	StatusAborted     Status = "aborted"
	StatusInterrupted Status = "interrupted"
	StatusError       Status = "error"
)

// Terminal says whether waiters, cancel and delete see the fiber as settled.
func (s Status) Terminal() bool {
	switch s {
	case StatusCompleted, StatusAborted, StatusInterrupted, StatusError:
		return true
	}
	return false
}

// Valid says whether s is one of the six statuses.
func (s Status) Valid() bool {
	return s.Terminal() || s == StatusPending || s == StatusRunning
}

// Inspection is what can be seen of a managed fiber. Times are in milliseconds
// since 1970; what is not set is left out of the JSON.
type Inspection struct {
	FiberID        string          `json:"fiberId"`
	Name           string          `json:"name"`
	IdempotencyKey string          `json:"idempotencyKey,omitempty"`
	Status         Status          `json:"status"`
	Snapshot       json.RawMessage `json:"snapshot,omitempty"`
	Error          string          `json:"error,omitempty"` // message of an error, reason of an abort or interruption
	Metadata       json.RawMessage `json:"metadata,omitempty"`
	CreatedAt      int64           `json:"createdAt"`
	StartedAt      int64           `json:"startedAt,omitempty"`
	SettledAt      int64           `json:"settledAt,omitempty"`
}

// StartOptions describes a managed fiber to be started.
type StartOptions struct {
	ID       *string         // chosen by the caller; nil to take NewID
	Key      *string         // idempotency key, unique in the agent; nil for none
	Name     string          // informational, not unique
	Metadata json.RawMessage // a JSON object; nil for none
	NewID    string          // fresh random ID, used when ID is nil and no row is found by Key
}

// Outcome is how the run of a managed fiber ended.
type Outcome struct {
	Status  Status // StatusCompleted, StatusError or StatusAborted
	Message string // of the error, or why it was aborted; empty for none
}

// Result is what a recovery hook returns for a managed fiber, or what a caller
// resolves an interrupted one with. A nil Snapshot or Metadata keeps what is
// stored; the JSON value null replaces it.
type Result struct {
	Status   Status          `json:"status"` // completed, error, aborted or interrupted
	Snapshot json.RawMessage `json:"snapshot,omitempty"`
	Metadata json.RawMessage `json:"metadata,omitempty"` // used with completed only
	Error    string          `json:"error,omitempty"`    // used with error only
	Reason   string          `json:"reason,omitempty"`   // used with aborted and interrupted only
}

// ListOptions selects managed fibers.
type ListOptions struct {
	Statuses []Status // empty for all
	Name     string   // empty for all
	Limit    int      // 0 for DefaultListLimit; otherwise brought into 1..MaxListLimit
}

// DeleteOptions selects settled managed fibers to forget.
type DeleteOptions struct {
	Statuses      []Status // empty for completed, aborted and error; pending and running are never deleted
	SettledBefore int64    // strictly before, in ms since 1970; 0 for any time
	Limit         int      // 0 for DefaultDeleteLimit; otherwise brought into 1..MaxDeleteLimit
}

// RecoveryReason is the only reason that there is today.
const RecoveryReason = "interrupted"

// Recovery is one fiber whose run was lost. Its JSON form is the context that the
// recovery hook gets. Begin fills Status, IdempotencyKey, Metadata and Snapshot.
type Recovery struct {
	ID             string          `json:"id"`
	Name           string          `json:"name"`
	Status         Status          `json:"status,omitempty"` // managed only
	IdempotencyKey string          `json:"idempotencyKey,omitempty"`
	Metadata       json.RawMessage `json:"metadata,omitempty"`
	Snapshot       json.RawMessage `json:"snapshot"`  // nil is null
	CreatedAt      int64           `json:"createdAt"` // ms since 1970
	Reason         string          `json:"recoveryReason"`

	Managed bool `json:"-"`
	Corrupt bool `json:"-"` // the stored snapshot is not JSON; Snapshot is null
	Orphan  bool `json:"-"` // a managed fiber without a run row
}
