package jsagent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	"agentd/pkg/agent"
	"agentd/pkg/sandbox"
)

// Caller reaches other agents, and the agent itself.
type Caller interface {
	// Call is used from goroutines of its own; it must return when ctx ends.
	Call(ctx context.Context, call agent.Call) (agent.Result, error)
}

// CallerFunc is a Caller that is a function.
type CallerFunc func(context.Context, agent.Call) (agent.Result, error)

// Call calls f.
func (f CallerFunc) Call(ctx context.Context, call agent.Call) (agent.Result, error) {
	return f(ctx, call)
}

// Config is what the instances of a class may reach. The zero value is an agent
// that can call nobody.
type Config struct {
	Calls    Caller                                      // nil: calls to other agents fail and say so
	Fetch    func(*http.Request) (*http.Response, error) // nil: fetch() rejects
	Rand     io.Reader                                   // IDs, crypto.*, Math.random; nil means crypto/rand
	Env      map[string]json.RawMessage                  // plain variables of env
	Bindings []string                                    // classes of the namespace: env.ChatRoom and env.CHAT_ROOM
	Limits   sandbox.Limits                              // zero fields take the sandbox's defaults
}

// LoadOptions bound and describe the trial run of a bundle.
type LoadOptions struct {
	File      string                     // the bundle's name in stacks without a source map; default "bundle.js"
	TimeLimit time.Duration              // of the module's top level, default 5 s
	Env       map[string]json.RawMessage // what the top level sees as env
	Bindings  []string                   // as in Config
	Limits    sandbox.Limits
}

func (o *LoadOptions) setDefaults() {
	if o.File == "" {
		o.File = "bundle.js"
	}
	if o.TimeLimit <= 0 {
		o.TimeLimit = 5 * time.Second
	}
}

// Class is a deployable class of a bundle.
type Class struct {
	Name    string
	Methods []string // public methods, sorted
}

// bindingNames maps what env calls a class to the class: its own name and the same
// in upper snake case.
func bindingNames(classes []string) map[string]string {
	names := make(map[string]string, 2*len(classes))
	for _, class := range classes {
		names[upperSnake(class)] = class
	}
	for _, class := range classes {
		names[class] = class
	}
	return names
}

// upperSnake is ChatRoom → CHAT_ROOM, HTTPServer → HTTP_SERVER.
func upperSnake(class string) string {
	var b strings.Builder
	runes := []rune(class)
	for i, r := range runes {
		if i > 0 && unicode.IsUpper(r) && runes[i-1] != '_' {
			afterLower := !unicode.IsUpper(runes[i-1])
			beforeLower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if afterLower || beforeLower {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

func invalid(op, format string, args ...any) *agent.Error {
	return &agent.Error{Op: op, Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
}
