package cli

import (
	"context"
	"errors"

	"agentd/pkg/agent"
)

// Exit codes: part of the interface, never reused for something else.
const (
	exitOK          = 0
	exitFailed      = 1   // the agent's code failed, or the server or this machine refused
	exitUsage       = 2   // the command line or the configuration is wrong
	exitNotFound    = 3   // no such class, method, agent or fiber
	exitUnavailable = 4   // not reachable, draining or overloaded: the same command may succeed later
	exitTimeout     = 5   // no answer within --timeout
	exitInterrupted = 130 // ended by a signal
)

// usageError is a wrong command line or configuration.
type usageError struct {
	msg   string
	cause error // may be nil
}

func (e *usageError) Error() string { return e.msg }
func (e *usageError) Unwrap() error { return e.cause }

// exitCode is the exit code of err, nil excluded. A signal that ended ctx explains
// whatever failed because of it.
func exitCode(ctx context.Context, err error) int {
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	kind := agent.KindOf(err)
	if errors.Is(context.Cause(ctx), errInterrupted) && (kind == agent.Canceled || errors.Is(err, errInterrupted)) {
		return exitInterrupted
	}
	var own *serverError
	switch {
	case errors.As(err, &own):
		return exitFailed
	case kind == agent.UnknownClass, kind == agent.UnknownMethod, kind == agent.NotFound:
		return exitNotFound
	case kind == agent.Deadline:
		return exitTimeout
	case kind.Retryable():
		return exitUnavailable
	}
	return exitFailed
}
