package wire

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// Limits of requests.
const (
	MaxKVKeys         = 128 // per request
	MaxKVKeyBytes     = 2048
	MaxKVListEntries  = 1000
	MaxQueryRows      = 10_000
	DefaultQueryRows  = 1000
	MaxStatementBytes = 100 << 10
	MaxSQLArgs        = 100
	MaxFibers         = 1000
	MaxFiberIDBytes   = 256
	MaxFiberNameBytes = 1024
	MaxReasonBytes    = 1024
)

func invalid(format string, args ...any) error {
	return &agent.Error{Op: "validate request", Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
}

// InvokeCall reads a call to a method of the class and checks all of it.
func InvokeCall(req *agentdv1.InvokeRequest) (agent.Call, error) {
	id, err := ID(req.GetAgent())
	if err != nil {
		return agent.Call{}, err
	}
	call := agent.Call{Agent: id, Method: req.GetMethod(), Key: req.GetIdempotencyKey()}
	if args := req.GetArgs(); len(args) > 0 {
		call.Args = make([]json.RawMessage, len(args))
		for i, arg := range args {
			call.Args[i] = arg
		}
	}
	return call, call.Validate()
}

// InvokeStreamCall reads a call whose chunks are published on topic.
func InvokeStreamCall(req *agentdv1.InvokeStreamRequest, topic string) (agent.Call, error) {
	call, err := InvokeCall(&agentdv1.InvokeRequest{Agent: req.GetAgent(), Method: req.GetMethod(), Args: req.GetArgs()})
	call.Stream = topic
	return call, err
}

// GetStateCall asks for the state.
func GetStateCall(req *agentdv1.GetStateRequest) (agent.Call, error) {
	return platformCall(req.GetAgent(), agent.MethodStateGet, struct{}{})
}

// SetStateCall replaces the state.
func SetStateCall(req *agentdv1.SetStateRequest) (agent.Call, error) {
	state := json.RawMessage(req.GetState())
	if err := checkJSON("state", state); err != nil {
		return agent.Call{}, err
	}
	return platformCall(req.GetAgent(), agent.MethodStateSet, struct {
		State json.RawMessage `json:"state"`
	}{state})
}

// KVGetCall reads keys.
func KVGetCall(req *agentdv1.KVGetRequest) (agent.Call, error) {
	if err := checkKeys(req.GetKeys()); err != nil {
		return agent.Call{}, err
	}
	return platformCall(req.GetAgent(), agent.MethodKVGet, keysArg{req.GetKeys()})
}

// KVDeleteCall removes keys.
func KVDeleteCall(req *agentdv1.KVDeleteRequest) (agent.Call, error) {
	if err := checkKeys(req.GetKeys()); err != nil {
		return agent.Call{}, err
	}
	return platformCall(req.GetAgent(), agent.MethodKVDelete, keysArg{req.GetKeys()})
}

type keysArg struct {
	Keys []string `json:"keys"`
}

// KVPutCall writes entries.
func KVPutCall(req *agentdv1.KVPutRequest) (agent.Call, error) {
	entries := make(map[string]json.RawMessage, len(req.GetEntries()))
	keys := make([]string, 0, len(req.GetEntries()))
	for key, value := range req.GetEntries() {
		if err := checkJSON(fmt.Sprintf("value of key %.80q", key), value); err != nil {
			return agent.Call{}, err
		}
		entries[key] = value
		keys = append(keys, key)
	}
	if err := checkKeys(keys); err != nil {
		return agent.Call{}, err
	}
	return platformCall(req.GetAgent(), agent.MethodKVPut, struct {
		Entries map[string]json.RawMessage `json:"entries"`
	}{entries})
}

// KVListCall reads a range of keys.
func KVListCall(req *agentdv1.KVListRequest) (agent.Call, error) {
	for _, bound := range []struct{ name, key string }{{"prefix", req.GetPrefix()}, {"start", req.GetStart()}, {"end", req.GetEnd()}} {
		if len(bound.key) > MaxKVKeyBytes {
			return agent.Call{}, invalid("%s has %d bytes; at most %d are allowed", bound.name, len(bound.key), MaxKVKeyBytes)
		}
	}
	limit, err := Limit("limit", req.GetLimit(), MaxKVListEntries, MaxKVListEntries)
	if err != nil {
		return agent.Call{}, err
	}
	return platformCall(req.GetAgent(), agent.MethodKVList, struct {
		Prefix  string `json:"prefix,omitempty"`
		Start   string `json:"start,omitempty"`
		End     string `json:"end,omitempty"`
		Limit   int    `json:"limit"`
		Reverse bool   `json:"reverse,omitempty"`
	}{req.GetPrefix(), req.GetStart(), req.GetEnd(), limit, req.GetReverse()})
}

// FiberListCall selects fibers.
func FiberListCall(req *agentdv1.FiberServiceListRequest) (agent.Call, error) {
	arg := struct {
		Status []string `json:"status,omitempty"`
		Name   string   `json:"name,omitempty"`
		Limit  int      `json:"limit,omitempty"`
	}{Name: req.GetName()}
	if len(arg.Name) > MaxFiberNameBytes {
		return agent.Call{}, invalid("fiber name has %d bytes; at most %d are allowed", len(arg.Name), MaxFiberNameBytes)
	}
	if n := len(req.GetStatus()); n > len(fiberStatuses) {
		return agent.Call{}, invalid("%d fiber statuses; each of the %d may be named once", n, len(fiberStatuses))
	}
	for _, s := range req.GetStatus() {
		name, ok := fiberStatuses[s]
		if !ok {
			return agent.Call{}, invalid("fiber status %d is not known", int32(s))
		}
		arg.Status = append(arg.Status, name)
	}
	limit, err := Limit("limit", req.GetLimit(), 0, MaxFibers)
	if err != nil {
		return agent.Call{}, err
	}
	arg.Limit = limit
	return platformCall(req.GetAgent(), agent.MethodFiberList, arg)
}

// FiberGetCall asks for one fiber.
func FiberGetCall(req *agentdv1.FiberServiceGetRequest) (agent.Call, error) {
	if err := checkFiberID(req.GetFiberId()); err != nil {
		return agent.Call{}, err
	}
	return platformCall(req.GetAgent(), agent.MethodFiberGet, struct {
		ID string `json:"id"`
	}{req.GetFiberId()})
}

// FiberCancelCall cancels one fiber.
func FiberCancelCall(req *agentdv1.FiberServiceCancelRequest) (agent.Call, error) {
	if err := checkFiberID(req.GetFiberId()); err != nil {
		return agent.Call{}, err
	}
	if n := len(req.GetReason()); n > MaxReasonBytes {
		return agent.Call{}, invalid("reason has %d bytes; at most %d are allowed", n, MaxReasonBytes)
	}
	return platformCall(req.GetAgent(), agent.MethodFiberCancel, struct {
		ID     string `json:"id"`
		Reason string `json:"reason,omitempty"`
	}{req.GetFiberId(), req.GetReason()})
}

// Limit reads a page size: 0 is the default, more than the maximum is refused.
func Limit(field string, n uint32, byDefault, maximum int) (int, error) {
	switch {
	case n == 0:
		return byDefault, nil
	case uint64(n) > uint64(maximum):
		return 0, invalid("%s is %d; 1 to %d are allowed, or 0 for the default", field, n, maximum)
	}
	return int(n), nil
}

// platformCall is a call of the platform's own methods: one object as argument.
func platformCall(ref *agentdv1.AgentRef, method string, arg any) (agent.Call, error) {
	id, err := ID(ref)
	if err != nil {
		return agent.Call{}, err
	}
	data, err := json.Marshal(arg)
	if err != nil {
		return agent.Call{}, &agent.Error{Op: method, Agent: id, Kind: agent.Invalid, Msg: "the request has no JSON form", Err: err}
	}
	if len(data) > agent.MaxArgsBytes {
		return agent.Call{}, &agent.Error{Op: method, Agent: id, Kind: agent.TooLarge,
			Msg: fmt.Sprintf("the request has %d bytes as JSON; at most %d are allowed", len(data), agent.MaxArgsBytes)}
	}
	return agent.Call{Agent: id, Surface: agent.SurfacePlatform, Method: method, Args: []json.RawMessage{data}}, nil
}

func checkJSON(what string, value []byte) error {
	switch {
	case len(value) > agent.MaxArgsBytes:
		return &agent.Error{Op: "validate request", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("%s has %d bytes; at most %d are allowed", what, len(value), agent.MaxArgsBytes)}
	case len(value) == 0:
		return invalid("%s is empty; it must be one JSON value, for example null", what)
	case !json.Valid(value):
		return invalid("%s is not JSON: %.60q", what, value)
	}
	return nil
}

func checkKeys(keys []string) error {
	switch {
	case len(keys) == 0:
		return invalid("the request names no key")
	case len(keys) > MaxKVKeys:
		return invalid("%d keys; at most %d are allowed in one request", len(keys), MaxKVKeys)
	}
	for _, key := range keys {
		switch {
		case key == "":
			return invalid("a key is empty")
		case len(key) > MaxKVKeyBytes:
			return invalid("key %.40q… has %d bytes; at most %d are allowed", key, len(key), MaxKVKeyBytes)
		case !utf8.ValidString(key):
			return invalid("key %.40q is not UTF-8", key)
		}
	}
	return nil
}

func checkFiberID(id string) error {
	switch {
	case id == "":
		return invalid("the request names no fiber: set fiber_id")
	case len(id) > MaxFiberIDBytes:
		return invalid("fiber ID has %d bytes; at most %d are allowed", len(id), MaxFiberIDBytes)
	}
	return nil
}
