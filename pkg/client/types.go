package client

import (
	"encoding/json"
	"time"

	"agentd/pkg/agent"
)

// AgentInfo describes one agent for operators.
type AgentInfo struct {
	Namespace string    `json:"namespace"`
	Class     string    `json:"class"`
	Name      string    `json:"name"`
	Exists    bool      `json:"exists"`              // it has committed at least once or is live
	Live      bool      `json:"live"`                // its database is open now
	Phase     string    `json:"phase,omitempty"`     // actor.Phase; only from Describe
	Reason    string    `json:"reason,omitempty"`    // of a quarantine or of the last failed activation
	Wake      time.Time `json:"wake,omitzero"`       // when the platform activates it by itself; zero for never
	Resume    bool      `json:"resume,omitempty"`    // unfinished work is resumed should the instance be lost
	Seq       uint64    `json:"seq"`                 // number of the last commit
	SizeBytes int64     `json:"sizeBytes"`           // of the database
	CreatedAt time.Time `json:"createdAt,omitzero"`  // of the first commit
	Mailbox   int       `json:"mailbox,omitempty"`   // events waiting; only from Describe
	Resets    int       `json:"resets,omitempty"`    // in the current quarantine window; only from Describe
	LastReset string    `json:"lastReset,omitempty"` // why; only from Describe
	StartedAt time.Time `json:"startedAt,omitzero"`  // of the live instance; only from Describe
	Turns     uint64    `json:"turns,omitempty"`     // of the live instance; only from Describe
}

// ID is the agent's identity.
func (i AgentInfo) ID() agent.ID {
	return agent.ID{Namespace: i.Namespace, Class: i.Class, Name: i.Name}
}

// ClassInfo is one deployed version of a class.
type ClassInfo struct {
	Namespace  string    `json:"namespace"`
	Class      string    `json:"class"`
	Version    uint64    `json:"version"` // 1, 2, … per class; a rollback is a new version
	Bundle     string    `json:"bundle"`  // content hash of code and source map, 64 hex digits
	Methods    []string  `json:"methods"` // public methods, sorted
	DeployedAt time.Time `json:"deployedAt"`
}

// Deployment is a bundle to deploy: one script and its source map (may be empty),
// at most 32 MiB together.
type Deployment struct {
	Code      []byte
	SourceMap []byte
}

// Table is the answer of a query. A cell is nil, int64, float64, string, or []byte
// for a blob.
type Table struct {
	Columns   []string
	Rows      [][]any
	Truncated bool // there were more rows than the server returns
}

// KVEntry is one key with its value.
type KVEntry struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// KVRange selects keys in byte order. The zero value selects everything the
// server gives in one answer.
type KVRange struct {
	Prefix  string
	Start   string // first key, inclusive
	End     string // end, exclusive
	Limit   int    // 0 for the server's default
	Reverse bool
}

// FiberFilter selects fibers; the zero value selects all.
type FiberFilter struct {
	Status []string // pending, running, completed, aborted, interrupted, error
	Name   string
	Limit  int // 0 for the server's default
}

// Fiber is one piece of work that an agent recorded before it began.
type Fiber struct {
	ID             string          `json:"fiberId"`
	Name           string          `json:"name"`
	IdempotencyKey string          `json:"idempotencyKey,omitempty"`
	Status         string          `json:"status"`
	Snapshot       json.RawMessage `json:"snapshot,omitempty"` // last stash
	Error          string          `json:"error,omitempty"`
	Metadata       json.RawMessage `json:"metadata,omitempty"`
	CreatedAt      time.Time       `json:"createdAt"`
	StartedAt      time.Time       `json:"startedAt,omitzero"`
	SettledAt      time.Time       `json:"settledAt,omitzero"`
}

// ListOptions selects one page of agents.
type ListOptions struct {
	Class string   // empty for all classes
	After agent.ID // the last agent of the page before; zero for the first page
	Limit int      // 1 to 1 000; 0 for the server's default of 100
}
