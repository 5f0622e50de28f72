package agent

import (
	"context"
	"errors"
	"strings"
)

// Kind classifies a failure by what the caller can do about it. Kinds cross the
// wire as their names (String), so names are never changed or reused.
type Kind uint8

const (
	Internal        Kind = iota // a defect of agentd or its machine
	Invalid                     // the request is malformed; repeating it cannot help
	TooLarge                    // over a size limit
	UnknownClass                // no class of this name is deployed
	UnknownMethod               // the class has no such method
	NotCallable                 // the method exists and is not for callers
	NotFound                    // the thing named does not exist
	Conflict                    // contradicts what is stored, for example a key reused for another call
	Exception                   // the agent's code threw
	SQL                         // a statement failed
	Unserializable              // a value has no JSON form
	CPULimit                    // a turn ran past its budget and was stopped
	MemoryLimit                 // a turn was stopped because memory ran out
	Overloaded                  // a queue is full; retry later
	Quarantined                 // stopped after repeated resets; an operator must lift it
	Reset                       // the instance was reset while the call was under way; outcome unknown
	OutcomeUnknown              // the commit could not be confirmed; retry with the same key
	Unavailable                 // the node is starting, draining or not the owner; retry
	Canceled                    // the caller gave up
	Deadline                    // the caller's deadline passed
	StorageFull                 // no space for new data; reads go on
	Corrupt                     // stored data is damaged
	Unauthenticated             // who the caller is was not proved
	Denied                      // the caller may not do this
	InUse                       // held by another process or instance
	Compile                     // source code does not compile or load
	kindCount
)

var kindNames = [kindCount]string{
	"internal", "invalid", "too_large", "unknown_class", "unknown_method", "not_callable", "not_found",
	"conflict", "exception", "sql", "unserializable", "cpu_limit", "memory_limit", "overloaded", "quarantined",
	"reset", "outcome_unknown", "unavailable", "canceled", "deadline", "storage_full", "corrupt",
	"unauthenticated", "denied", "in_use", "compile",
}

// String is the kind's name on the wire.
func (k Kind) String() string {
	if k < kindCount {
		return kindNames[k]
	}
	return "internal"
}

// ParseKind reads a name written by String. An unknown name, from a newer node,
// is Internal.
func ParseKind(name string) Kind {
	for k, n := range kindNames {
		if n == name {
			return Kind(k)
		}
	}
	return Internal
}

// Retryable says whether the same request may succeed later without a change.
// After Reset and OutcomeUnknown a retry is safe only with an idempotency key.
func (k Kind) Retryable() bool {
	switch k {
	case Overloaded, Reset, OutcomeUnknown, Unavailable, StorageFull:
		return true
	}
	return false
}

// Error is the one error type that crosses packages and processes. Msg tells the
// user what went wrong and, where something can be done, what to do.
type Error struct {
	Op    string // what was being done: "call add", "open database"
	Agent ID     // zero when no agent is concerned
	Kind  Kind
	Msg   string
	Name  string // Exception: the thrown error's name, "TypeError"
	Stack string // Exception: the author's stack, one frame a line
	Err   error  // cause; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op)
	}
	if !e.Agent.IsZero() {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.Agent.String())
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	switch {
	case e.Msg != "" && e.Err != nil:
		b.WriteString(e.Msg + ": " + e.Err.Error())
	case e.Msg != "":
		b.WriteString(e.Msg)
	case e.Err != nil:
		b.WriteString(e.Err.Error())
	default:
		b.WriteString(e.Kind.String())
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the outermost *Error in err's chain. Context errors have
// kinds of their own; anything else is Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return Deadline
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}

// FromContext turns the end of ctx into an *Error of kind Deadline or Canceled.
func FromContext(ctx context.Context, op string, id ID) error {
	err := context.Cause(ctx)
	kind := Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = Deadline
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Op: op, Agent: id, Kind: kind, Err: err}
}
