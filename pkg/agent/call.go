package agent

import (
	"encoding/json"
	"fmt"
)

// Limits of one call, in bytes.
const (
	MaxArgsBytes   = 16 << 20 // all arguments together
	MaxResultBytes = 16 << 20
	MaxKeyBytes    = 256
	MaxMethodBytes = 256
)

// Surface says whose method a Call names.
type Surface uint8

const (
	// SurfaceClass is a public method of the agent's deployed class.
	SurfaceClass Surface = iota
	// SurfacePlatform is a method that the platform provides for every agent, such
	// as "state.get" or "sql.query" (the Method… constants).
	SurfacePlatform
)

// Platform methods: the argument is one JSON object, the result one JSON value.
const (
	MethodStateGet    = "state.get"    // {} → {"state": any} or {} when there is none
	MethodStateSet    = "state.set"    // {"state": any} → null
	MethodSQLQuery    = "sql.query"    // {"query": string, "args": []any, "maxRows": int} → {"columns": []string, "rows": [][]any, "truncated": bool}
	MethodKVGet       = "kv.get"       // {"keys": []string} → {"entries": {key: any}}
	MethodKVPut       = "kv.put"       // {"entries": {key: any}} → null
	MethodKVDelete    = "kv.delete"    // {"keys": []string} → {"deleted": int}
	MethodKVList      = "kv.list"      // {"prefix","start","end": string, "limit": int, "reverse": bool} → {"entries": [{"key","value"}]}
	MethodFiberList   = "fiber.list"   // {"status": []string, "name": string, "limit": int} → {"fibers": [...]}
	MethodFiberGet    = "fiber.get"    // {"id": string} → fiber or an error of kind NotFound
	MethodFiberCancel = "fiber.cancel" // {"id": string, "reason": string} → {"cancelled": bool}
)

// Call asks one agent to do one thing. It is a value: it crosses processes.
type Call struct {
	Agent   ID
	Surface Surface
	Method  string
	Args    []json.RawMessage // each one JSON value
	Key     string            // idempotency key; empty for none. Kept 24 h with the result
	Stream  string            // topic on which a streaming method publishes its chunks; empty: the caller wants one result
}

// Validate checks everything that can be checked without the agent.
func (c Call) Validate() error {
	if err := c.Agent.Validate(); err != nil {
		return err
	}
	bad := func(kind Kind, format string, args ...any) error {
		return &Error{Op: "validate call", Agent: c.Agent, Kind: kind, Msg: fmt.Sprintf(format, args...)}
	}
	switch {
	case c.Method == "":
		return bad(Invalid, "method name is empty")
	case len(c.Method) > MaxMethodBytes:
		return bad(Invalid, "method name has %d bytes; at most %d are allowed", len(c.Method), MaxMethodBytes)
	case len(c.Key) > MaxKeyBytes:
		return bad(Invalid, "idempotency key has %d bytes; at most %d are allowed", len(c.Key), MaxKeyBytes)
	case c.Key != "" && c.Stream != "":
		return bad(Invalid, "a streaming call cannot have an idempotency key: its chunks are not kept")
	}
	if n := c.ArgsBytes(); n > MaxArgsBytes {
		return bad(TooLarge, "arguments have %d bytes; at most %d are allowed", n, MaxArgsBytes)
	}
	for i, arg := range c.Args {
		if !json.Valid(arg) {
			return bad(Invalid, "argument %d is not JSON: %.60q", i+1, arg)
		}
	}
	return nil
}

// ArgsBytes is the size of all arguments together.
func (c Call) ArgsBytes() int {
	n := 0
	for _, arg := range c.Args {
		n += len(arg)
	}
	return n
}

// Result is what a call gave. A nil Value means undefined.
type Result struct {
	Value json.RawMessage
}
