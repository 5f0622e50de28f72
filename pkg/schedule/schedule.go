// Package schedule keeps an agent's schedules: which method to call, with what, and
// when.
//
// A Book is rows and rules in one agent's database. It runs nothing, reads no clock
// and makes no IDs: the caller runs what is due, passes the time and the IDs, and
// its transaction decides what lasts. The table cf_agents_schedules is public:
// programs read it with SQL. Times are kept in whole seconds.
package schedule

import (
	"encoding/json"
	"time"

	"agentd/pkg/storage"
)

// Limits of one agent's schedules. Sizes are in bytes. Together the columns of a row
// stay under storage.MaxRowBytes.
const (
	MaxPayloadBytes  = 2_000_000 // as JSON
	MaxIDBytes       = 256
	MaxCallbackBytes = 1024
	MaxSchedules     = 100_000  // rows; one more is an error of kind Overloaded
	MaxListed        = 10_000   // schedules of one List; more is an error of kind TooLarge
	MaxListBytes     = 16 << 20 // payloads of one List or Due together
	MaxDue           = 1_000    // schedules of one Due
)

// DB is what a Book needs of the agent's database; storage.DB satisfies it. The Book
// reads every answer to its end before it returns.
type DB interface {
	Query(query string, args ...storage.Value) (*storage.Rows, error)
}

// Type is the kind of a schedule.
type Type string

// Cron and interval are part of the table's form; Add does not take them yet.
const (
	TypeScheduled Type = "scheduled" // once, at a date
	TypeDelayed   Type = "delayed"   // once, after a number of seconds
	TypeCron      Type = "cron"
	TypeInterval  Type = "interval"
)

// Schedule is one schedule as programs see it; its JSON form is the public one.
type Schedule struct {
	ID             string          `json:"id"`
	Callback       string          `json:"callback"` // method of the agent's class
	Payload        json.RawMessage `json:"payload"`  // nil is null
	Retry          *Retry          `json:"retry,omitempty"`
	Type           Type            `json:"type"`
	Time           int64           `json:"time"`                     // seconds since 1970
	DelayInSeconds *float64        `json:"delayInSeconds,omitempty"` // delayed only

	// Corrupt says that the stored payload is not JSON (only an agent's own SQL can
	// cause that): Payload is null, and the callback must not be run.
	Corrupt bool `json:"-"`
}

// Due is a schedule whose time has come.
type Due struct {
	Schedule
	Row Row // second argument of the callback
}

// Row has the table's columns under their public names, as they are stored: the
// payload is JSON text. A nil column is null.
type Row struct {
	ID                 string   `json:"id"`
	Callback           string   `json:"callback"`
	Payload            *string  `json:"payload"`
	Type               Type     `json:"type"`
	Time               int64    `json:"time"`
	DelayInSeconds     *float64 `json:"delayInSeconds"`
	Cron               *string  `json:"cron"`
	IntervalSeconds    *float64 `json:"intervalSeconds"`
	Running            int64    `json:"running"`
	CreatedAt          int64    `json:"created_at"` // seconds since 1970
	ExecutionStartedAt *int64   `json:"execution_started_at"`
	RetryOptions       *string  `json:"retry_options"`
	OwnerPath          *string  `json:"owner_path"`
	OwnerPathKey       *string  `json:"owner_path_key"`
}

// Spec describes a schedule to add.
type Spec struct {
	Type       Type
	Callback   string
	Payload    json.RawMessage // nil: the callback gets null
	Delay      float64         // seconds; delayed only; may be negative
	At         time.Time       // scheduled only; may lie in the past
	Idempotent *bool           // nil for the type's default, which is false for delayed and scheduled
	Retry      *Retry          // nil for the class's options at the time of the run
}

// Criteria selects schedules; the zero value selects all. Bounds are inclusive, in
// whole seconds; a zero time is no bound.
type Criteria struct {
	ID    string
	Type  Type
	Start time.Time
	End   time.Time
}
