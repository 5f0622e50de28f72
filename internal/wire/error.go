// Package wire converts between the protobuf messages of agentd.v1 and the types
// of pkg/agent, in both directions, for the server and the client. Protobuf stops
// here. What comes from the network is checked here; nothing in this package
// blocks, logs or keeps state.
package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// Limits of the parts of an error, in bytes; longer text is cut and ends in "…".
// Together they stay under the 16 KiB of trailers that the strictest gRPC
// implementations accept: the message travels twice, the rest in base64.
const (
	maxMessageBytes    = 2048
	maxStackBytes      = 3072
	maxOpBytes         = 256
	maxErrorNameBytes  = 256
	maxFileBytes       = 512
	maxSourceLineBytes = 512
	maxSourceTextBytes = 1024
)

// kindCodes is the status code of each kind, for clients that know gRPC and not
// agentd. DESIGN.md says why.
var kindCodes = map[agent.Kind]codes.Code{
	agent.Internal:        codes.Internal,
	agent.Invalid:         codes.InvalidArgument,
	agent.TooLarge:        codes.ResourceExhausted,
	agent.UnknownClass:    codes.NotFound,
	agent.UnknownMethod:   codes.Unimplemented,
	agent.NotCallable:     codes.PermissionDenied,
	agent.NotFound:        codes.NotFound,
	agent.Conflict:        codes.FailedPrecondition,
	agent.Exception:       codes.Unknown,
	agent.SQL:             codes.InvalidArgument,
	agent.Unserializable:  codes.Unknown,
	agent.CPULimit:        codes.ResourceExhausted,
	agent.MemoryLimit:     codes.ResourceExhausted,
	agent.Overloaded:      codes.ResourceExhausted,
	agent.Quarantined:     codes.FailedPrecondition,
	agent.Reset:           codes.Aborted,
	agent.OutcomeUnknown:  codes.Aborted,
	agent.Unavailable:     codes.Unavailable,
	agent.Canceled:        codes.Canceled,
	agent.Deadline:        codes.DeadlineExceeded,
	agent.StorageFull:     codes.ResourceExhausted,
	agent.Corrupt:         codes.DataLoss,
	agent.Unauthenticated: codes.Unauthenticated,
	agent.Denied:          codes.PermissionDenied,
	agent.InUse:           codes.FailedPrecondition,
	agent.Compile:         codes.InvalidArgument,
}

// codeKinds reads a status without an ErrorDetail: one that gRPC itself or a proxy
// made up.
var codeKinds = map[codes.Code]agent.Kind{
	codes.Canceled:           agent.Canceled,
	codes.InvalidArgument:    agent.Invalid,
	codes.DeadlineExceeded:   agent.Deadline,
	codes.NotFound:           agent.NotFound,
	codes.AlreadyExists:      agent.Conflict,
	codes.PermissionDenied:   agent.Denied,
	codes.ResourceExhausted:  agent.TooLarge, // gRPC's own answer to a message over its limit
	codes.FailedPrecondition: agent.Conflict,
	codes.Aborted:            agent.OutcomeUnknown,
	codes.OutOfRange:         agent.Invalid,
	codes.Unimplemented:      agent.Invalid,
	codes.Unavailable:        agent.Unavailable,
	codes.DataLoss:           agent.Corrupt,
	codes.Unauthenticated:    agent.Unauthenticated,
}

// CodeOf is the status code of a kind.
func CodeOf(kind agent.Kind) codes.Code {
	if code, ok := kindCodes[kind]; ok {
		return code
	}
	return codes.Internal
}

// SourceError is a place in the author's source where something is wrong.
type SourceError struct {
	File       string
	Line       int // from 1; 0 if unknown
	Column     int // from 1, in characters; 0 if unknown
	Text       string
	SourceLine string // text of the line; may be empty
}

func (e *SourceError) Error() string {
	at := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
	if e.SourceLine == "" {
		return at
	}
	return at + "\n    " + e.SourceLine
}

// Encoder turns errors into statuses.
type Encoder struct {
	// Dev tells callers the text of internal errors, which may name files of the
	// server.
	Dev bool
	// Locate finds the source position in an error of kind Compile; nil if there is
	// none. May be nil.
	Locate func(error) *SourceError
}

// Status is err as the caller may see it. The text of an error that is no
// *agent.Error, or is one of kind Internal, stays on the server: whoever calls
// Status logs it.
func (c Encoder) Status(err error) *status.Status {
	var e *agent.Error
	if !errors.As(err, &e) {
		e = &agent.Error{Kind: agent.KindOf(err), Err: err}
	}
	message := c.message(e)
	detail := &agentdv1.ErrorDetail{
		Kind:      e.Kind.String(),
		Retryable: e.Kind.Retryable(),
		Op:        cut(e.Op, maxOpBytes),
		Name:      cut(e.Name, maxErrorNameBytes),
		Stack:     cut(e.Stack, maxStackBytes),
	}
	if !e.Agent.IsZero() {
		detail.Agent = refOf(e.Agent)
	}
	if e.Kind == agent.Compile && c.Locate != nil {
		if at := c.Locate(e); at != nil {
			detail.Position = encodePosition(at)
		}
	}
	st := status.New(CodeOf(e.Kind), message)
	if with, err := st.WithDetails(detail); err == nil {
		return with
	}
	return st // unreachable: the detail is valid UTF-8 and the code is not OK
}

// message is the text for people. The operation and the agent are in the detail.
func (c Encoder) message(e *agent.Error) string {
	text := e.Msg
	switch {
	case e.Kind == agent.Internal && !c.Dev:
		if text == "" {
			text = "internal error; the server's log has the details"
		}
	case e.Err != nil && isContextError(e.Err):
		// "context deadline exceeded" would say the kind again, in other words.
	case e.Err != nil && text != "":
		text += ": " + e.Err.Error()
	case e.Err != nil:
		text = e.Err.Error()
	}
	switch {
	case text != "":
	case e.Kind == agent.Deadline:
		text = "the caller's deadline passed before there was a result; what was begun may still complete"
	case e.Kind == agent.Canceled:
		text = "the caller gave up; what was begun may still complete"
	default:
		text = strings.ReplaceAll(e.Kind.String(), "_", " ")
	}
	return cut(text, maxMessageBytes)
}

func isContextError(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func encodePosition(at *SourceError) *agentdv1.SourcePosition {
	return &agentdv1.SourcePosition{
		File:       cut(at.File, maxFileBytes),
		Line:       uint32(max(at.Line, 0)),
		Column:     uint32(max(at.Column, 0)),
		SourceLine: cut(at.SourceLine, maxSourceLineBytes),
		Text:       cut(at.Text, maxSourceTextBytes),
	}
}

// FromStatus is the other direction: the error as the server had it. explained
// says whether agentd wrote the status; if not, gRPC or a proxy did, and the kind
// is a guess from the code. Any status is accepted, also one with a broken detail.
func FromStatus(st *status.Status) (e *agent.Error, explained bool) {
	e = &agent.Error{Msg: st.Message()}
	for _, any := range st.Details() {
		if detail, ok := any.(*agentdv1.ErrorDetail); ok {
			fill(e, detail)
			return e, true
		}
	}
	e.Kind = codeKinds[st.Code()] // Internal if there is none
	if e.Msg == "" {
		e.Msg = "the server answered " + st.Code().String()
	}
	return e, false
}

func fill(e *agent.Error, detail *agentdv1.ErrorDetail) {
	e.Kind = agent.ParseKind(detail.GetKind())
	e.Op = detail.GetOp()
	e.Name = detail.GetName()
	e.Stack = detail.GetStack()
	if ref := detail.GetAgent(); ref != nil {
		e.Agent = agent.ID{Namespace: ref.GetNamespace(), Class: ref.GetClass(), Name: ref.GetName()}
	}
	if at := detail.GetPosition(); at != nil {
		source := &SourceError{File: at.GetFile(), Line: int(at.GetLine()), Column: int(at.GetColumn()),
			Text: at.GetText(), SourceLine: at.GetSourceLine()}
		e.Err = source
		// The status message ends in the cause; Error adds the cause again.
		if rest, ok := strings.CutSuffix(e.Msg, source.Error()); ok {
			e.Msg = strings.TrimSuffix(rest, ": ")
		}
	}
}

// Text makes s fit for a string field: valid UTF-8 and no longer than a message.
func Text(s string) string { return cut(s, maxMessageBytes) }

// cut makes s valid UTF-8 of at most limit bytes.
func cut(s string, limit int) string {
	const ellipsis = "…"
	if len(s) > limit {
		end := limit - len(ellipsis)
		for end > 0 && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end] + ellipsis
	}
	if utf8.ValidString(s) {
		return s
	}
	s = strings.ToValidUTF8(s, "?")
	if len(s) > limit { // cannot grow: each run of invalid bytes became one
		s = s[:limit]
	}
	return s
}
