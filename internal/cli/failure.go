package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"agentd/pkg/agent"
)

// failure is an error as --json prints it; the field names are part of the
// interface.
type failure struct {
	Kind    string `json:"kind"` // a kind of pkg/agent, "usage" or "interrupted"
	Message string `json:"message"`
	Agent   string `json:"agent,omitempty"` // Class/name
	Name    string `json:"name,omitempty"`  // of the thrown error
	Stack   string `json:"stack,omitempty"` // the author's, one frame a line
}

// fail prints err on stderr and returns the exit code.
func (s *session) fail(ctx context.Context, err error) int {
	code := exitCode(ctx, err)
	f := describeFailure(err, code)
	if s.json {
		line, encodeErr := json.Marshal(map[string]failure{"error": f})
		if encodeErr == nil {
			fmt.Fprintf(s.Stderr, "%s\n", line)
			return code
		}
	}
	fmt.Fprintf(s.Stderr, "agentd: %s\n", f.Message)
	for line := range strings.Lines(f.Stack) {
		fmt.Fprintf(s.Stderr, "    %s\n", strings.TrimSpace(line))
	}
	return code
}

func describeFailure(err error, code int) failure {
	switch code {
	case exitUsage:
		return failure{Kind: "usage", Message: err.Error()}
	case exitInterrupted:
		return failure{Kind: "interrupted", Message: errInterrupted.Error()}
	}
	f := failure{Kind: agent.KindOf(err).String(), Message: err.Error()}
	var e *agent.Error
	if errors.As(err, &e) {
		if !e.Agent.IsZero() {
			f.Agent = e.Agent.String()
		}
		f.Name, f.Stack = e.Name, authorStack(e)
		if e.Name != "" && !strings.HasPrefix(e.Msg, e.Name+":") {
			named := *e
			named.Msg = e.Name + ": " + e.Msg
			f.Message = strings.Replace(f.Message, e.Error(), named.Error(), 1)
		}
	}
	return f
}

// authorStack is the stack without the first line that JavaScript puts there, which
// repeats the message.
func authorStack(e *agent.Error) string {
	first, rest, _ := strings.Cut(e.Stack, "\n")
	if e.Msg != "" && strings.HasSuffix(strings.TrimSpace(first), e.Msg) {
		return rest
	}
	return e.Stack
}

// explainParse turns kong's error into one that says what to type.
func explainParse(err error) error {
	var usage *usageError
	if errors.As(err, &usage) {
		return usage
	}
	msg := err.Error()
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		help := "agentd"
		if node := parse.Context.Selected(); node != nil {
			help = node.FullPath()
		}
		msg += fmt.Sprintf(" (see `%s --help`)", help)
	}
	return &usageError{msg: msg}
}
