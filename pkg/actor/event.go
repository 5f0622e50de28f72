package actor

import (
	"time"

	"agentd/pkg/agent"
)

// EventKind says what happened to an agent.
type EventKind string

const (
	EventActivated   EventKind = "activated"   // Took is set
	EventHibernated  EventKind = "hibernated"  // after Limits.Idle without an event
	EventEvicted     EventKind = "evicted"     // hibernated early to make room
	EventReset       EventKind = "reset"       // Err says why
	EventQuarantined EventKind = "quarantined" // Err says why
	EventLifted      EventKind = "lifted"
)

// Event is a fact about one agent, for metrics and logs.
type Event struct {
	Kind  EventKind
	Agent agent.ID
	Err   error
	Took  time.Duration // EventActivated: from the first event to the end of start-up
}
