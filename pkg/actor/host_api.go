package actor

import (
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Phase is where an instance stands.
type Phase string

const (
	PhaseHibernated  Phase = "hibernated"
	PhaseStarting    Phase = "starting"
	PhaseLive        Phase = "live"
	PhaseBroken      Phase = "broken" // cannot be opened; Reason says why
	PhaseQuarantined Phase = "quarantined"
)

// Status describes one agent for operators.
type Status struct {
	ID        agent.ID
	Phase     Phase
	Reason    string // of a quarantine or of the last failed activation
	Entry     storage.Entry
	Mailbox   int // events waiting
	Resets    int // in the current quarantine window
	LastReset string
	StartedAt time.Time // of the live instance
	Turns     uint64    // of the live instance
	Exists    bool      // it has committed at least once or is live
}
