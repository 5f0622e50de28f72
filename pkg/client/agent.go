package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"unicode/utf8"

	"agentd/internal/wire"
	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// Agent addresses one agent. It holds nothing of the agent itself, which need not
// exist to be addressed.
type Agent struct {
	client *Client
	id     agent.ID
}

// ID is who is addressed.
func (a *Agent) ID() agent.ID { return a.id }

// CallOption changes one call.
type CallOption func(*agent.Call)

// WithKey gives the call an idempotency key, at most 256 bytes: within 24 hours
// the same key runs the call at most once and repeats its result. A call with a
// key is tried up to five times while the server cannot be reached or the outcome
// is unknown.
func WithKey(key string) CallOption { return func(c *agent.Call) { c.Key = key } }

// Call runs a public method of the agent's class with JSON arguments, at most
// 16 MiB together. A nil result is undefined.
func (a *Agent) Call(ctx context.Context, method string, args []json.RawMessage, opts ...CallOption) (json.RawMessage, error) {
	call := agent.Call{Agent: a.id, Method: method, Args: args}
	for _, opt := range opts {
		opt(&call)
	}
	if err := call.Validate(); err != nil {
		return nil, err
	}
	if !utf8.ValidString(method) || !utf8.ValidString(call.Key) {
		return nil, &agent.Error{Op: "call", Agent: a.id, Kind: agent.Invalid, Msg: "method name or idempotency key is not UTF-8"}
	}
	req := &agentdv1.InvokeRequest{Agent: wire.Ref(a.id), Method: method, IdempotencyKey: call.Key, Args: make([][]byte, len(args))}
	for i, arg := range args {
		req.Args[i] = arg
	}
	r := request{op: "call " + method, id: a.id, effects: true}
	var resp *agentdv1.InvokeResponse
	try := func() (err error) {
		resp, err = send(ctx, a.client, r, a.client.agents.Invoke, req)
		return err
	}
	var err error
	if call.Key == "" {
		err = try()
	} else {
		err = a.client.retry(ctx, r, try)
	}
	return resp.GetResult(), err
}

// Invoke runs a method with Go values: args are marshalled to JSON, the result is
// unmarshalled into result, which may be nil to ignore it. Undefined leaves result
// as it is.
func (a *Agent) Invoke(ctx context.Context, method string, result any, args ...any) error {
	encoded := make([]json.RawMessage, len(args))
	for i, arg := range args {
		data, err := json.Marshal(arg)
		if err != nil {
			return &agent.Error{Op: "call " + method, Agent: a.id, Kind: agent.Unserializable,
				Msg: fmt.Sprintf("argument %d has no JSON form", i+1), Err: err}
		}
		encoded[i] = data
	}
	value, err := a.Call(ctx, method, encoded)
	if err != nil || result == nil || value == nil {
		return err
	}
	if err := json.Unmarshal(value, result); err != nil {
		return &agent.Error{Op: "call " + method, Agent: a.id, Kind: agent.Unserializable,
			Msg: fmt.Sprintf("the method ran, but its result does not fit into %T", result), Err: err}
	}
	return nil
}

// State returns the agent's state and whether it has one.
func (a *Agent) State(ctx context.Context) (json.RawMessage, bool, error) {
	r := request{op: "get state of", id: a.id}
	resp, err := ask(ctx, a.client, r, a.client.agents.GetState, &agentdv1.GetStateRequest{Agent: wire.Ref(a.id)})
	return resp.GetState(), resp.GetState() != nil, err
}

// SetState replaces the agent's state by one JSON value.
func (a *Agent) SetState(ctx context.Context, state json.RawMessage) error {
	r := request{op: "set state of", id: a.id, effects: true}
	_, err := ask(ctx, a.client, r, a.client.agents.SetState, &agentdv1.SetStateRequest{Agent: wire.Ref(a.id), State: state})
	return err
}

// WatchState yields the state as it is now (nil if there is none) and then each new
// one; a slow reader may miss states in between, never the newest. It ends when
// the loop is left, or by yielding one error: of kind Canceled or Deadline when ctx
// ends, Unavailable when the server stops. It does not connect again by itself.
func (a *Agent) WatchState(ctx context.Context) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		if err := a.id.Validate(); err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the stream when the loop is left
		r := request{op: "watch state of", id: a.id}
		stream, err := a.client.agents.WatchState(ctx, &agentdv1.WatchStateRequest{Agent: wire.Ref(a.id)})
		if err != nil {
			yield(nil, a.client.failure(ctx, r, err, false))
			return
		}
		received := false
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				err = &agent.Error{Op: r.op, Agent: a.id, Kind: agent.Unavailable, Msg: "the server ended the watch; watch again"}
			} else if err != nil {
				err = a.client.failure(ctx, r, err, received)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			received = true
			if !yield(resp.GetState(), nil) {
				return
			}
		}
	}
}

// Query runs SQL on the agent's database in one transaction and returns at most
// 1 000 rows of the last statement. An argument is nil, bool, an integer, a float,
// string or []byte; at most 100.
func (a *Agent) Query(ctx context.Context, sql string, args ...any) (*Table, error) {
	req := &agentdv1.QueryRequest{Agent: wire.Ref(a.id), Sql: sql, Args: make([]*agentdv1.SqlValue, len(args))}
	if !utf8.ValidString(sql) {
		return nil, &agent.Error{Op: "query", Agent: a.id, Kind: agent.Invalid, Msg: "the SQL is not UTF-8"}
	}
	for i, arg := range args {
		value, err := parameter(arg)
		if err != nil {
			return nil, &agent.Error{Op: "query", Agent: a.id, Kind: agent.Invalid, Msg: fmt.Sprintf("SQL parameter %d %s", i+1, err)}
		}
		req.Args[i] = value
	}
	resp, err := ask(ctx, a.client, request{op: "query", id: a.id, effects: true}, a.client.agents.Query, req)
	if err != nil {
		return nil, err
	}
	table := &Table{Columns: resp.GetColumns(), Rows: make([][]any, len(resp.GetRows())), Truncated: resp.GetTruncated()}
	for i, row := range resp.GetRows() {
		cells := make([]any, len(row.GetCells()))
		for j, cell := range row.GetCells() {
			cells[j] = wire.Cell(cell)
		}
		table.Rows[i] = cells
	}
	return table, nil
}

func parameter(arg any) (*agentdv1.SqlValue, error) {
	switch v := arg.(type) {
	case nil:
		return &agentdv1.SqlValue{}, nil
	case bool:
		if v {
			return wire.SQLInteger(1), nil
		}
		return wire.SQLInteger(0), nil
	case int:
		return wire.SQLInteger(int64(v)), nil
	case int32:
		return wire.SQLInteger(int64(v)), nil
	case int64:
		return wire.SQLInteger(v), nil
	case uint32:
		return wire.SQLInteger(int64(v)), nil
	case uint64:
		if v > math.MaxInt64 {
			return nil, fmt.Errorf("is %d; integers have 63 bits and a sign", v)
		}
		return wire.SQLInteger(int64(v)), nil
	case float32:
		return wire.SQLReal(float64(v)), nil
	case float64:
		return wire.SQLReal(v), nil
	case string:
		if !utf8.ValidString(v) {
			return nil, errors.New("is a string that is not UTF-8; pass []byte for a blob")
		}
		return wire.SQLText(v), nil
	case []byte:
		return wire.SQLBlob(v), nil
	}
	return nil, fmt.Errorf("has type %T; pass nil, bool, an integer, a float, string or []byte", arg)
}

// KVGet returns the values of those keys that exist; 1 to 128 keys of at most
// 2 048 bytes.
func (a *Agent) KVGet(ctx context.Context, keys ...string) (map[string]json.RawMessage, error) {
	r := request{op: "kv get", id: a.id}
	if err := checkText(r, keys...); err != nil {
		return nil, err
	}
	resp, err := ask(ctx, a.client, r, a.client.agents.KVGet, &agentdv1.KVGetRequest{Agent: wire.Ref(a.id), Keys: keys})
	if err != nil {
		return nil, err
	}
	entries := make(map[string]json.RawMessage, len(resp.GetEntries()))
	for key, value := range resp.GetEntries() {
		entries[key] = value
	}
	return entries, nil
}

// KVPut writes 1 to 128 entries in one transaction; each value is one JSON value.
func (a *Agent) KVPut(ctx context.Context, entries map[string]json.RawMessage) error {
	r := request{op: "kv put", id: a.id, effects: true}
	req := &agentdv1.KVPutRequest{Agent: wire.Ref(a.id), Entries: make(map[string][]byte, len(entries))}
	for key, value := range entries {
		if err := checkText(r, key); err != nil {
			return err
		}
		req.Entries[key] = value
	}
	_, err := ask(ctx, a.client, r, a.client.agents.KVPut, req)
	return err
}

// KVDelete removes 1 to 128 keys in one transaction and returns how many existed.
func (a *Agent) KVDelete(ctx context.Context, keys ...string) (int, error) {
	r := request{op: "kv delete", id: a.id, effects: true}
	if err := checkText(r, keys...); err != nil {
		return 0, err
	}
	resp, err := ask(ctx, a.client, r, a.client.agents.KVDelete, &agentdv1.KVDeleteRequest{Agent: wire.Ref(a.id), Keys: keys})
	return int(resp.GetDeleted()), err
}

// KVList returns a range of entries in byte order of their keys, at most 1 000.
func (a *Agent) KVList(ctx context.Context, in KVRange) ([]KVEntry, error) {
	r := request{op: "kv list", id: a.id}
	if err := checkText(r, in.Prefix, in.Start, in.End); err != nil {
		return nil, err
	}
	limit, err := pageLimit(r, in.Limit)
	if err != nil {
		return nil, err
	}
	resp, err := ask(ctx, a.client, r, a.client.agents.KVList, &agentdv1.KVListRequest{
		Agent: wire.Ref(a.id), Prefix: in.Prefix, Start: in.Start, End: in.End, Limit: limit, Reverse: in.Reverse})
	if err != nil {
		return nil, err
	}
	entries := make([]KVEntry, len(resp.GetEntries()))
	for i, e := range resp.GetEntries() {
		entries[i] = KVEntry{Key: e.GetKey(), Value: e.GetValue()}
	}
	return entries, nil
}

// Describe tells how the agent stands; for one that has stored nothing and is not
// live, Exists is false.
func (a *Agent) Describe(ctx context.Context) (*AgentInfo, error) {
	r := request{op: "describe", id: a.id}
	resp, err := ask(ctx, a.client, r, a.client.agents.Describe, &agentdv1.AgentServiceDescribeRequest{Agent: wire.Ref(a.id)})
	if err != nil {
		return nil, err
	}
	info := agentInfo(resp.GetAgent())
	return &info, nil
}

// Delete removes the agent and everything it stored. Deleting what does not exist
// is no error.
func (a *Agent) Delete(ctx context.Context) error {
	r := request{op: "delete", id: a.id, effects: true}
	_, err := ask(ctx, a.client, r, a.client.agents.Delete, &agentdv1.AgentServiceDeleteRequest{Agent: wire.Ref(a.id)})
	return err
}

// Unquarantine lets an agent run again that was stopped after repeated resets.
func (a *Agent) Unquarantine(ctx context.Context) error {
	r := request{op: "unquarantine", id: a.id, effects: true}
	_, err := ask(ctx, a.client, r, a.client.agents.Unquarantine, &agentdv1.UnquarantineRequest{Agent: wire.Ref(a.id)})
	return err
}

// Fibers lists work that the agent recorded.
func (a *Agent) Fibers(ctx context.Context, filter FiberFilter) ([]Fiber, error) {
	r := request{op: "list fibers of", id: a.id}
	limit, err := pageLimit(r, filter.Limit)
	if err != nil {
		return nil, err
	}
	if err := checkText(r, filter.Name); err != nil {
		return nil, err
	}
	req := &agentdv1.FiberServiceListRequest{Agent: wire.Ref(a.id), Name: filter.Name, Limit: limit}
	for _, name := range filter.Status {
		status, err := wire.ParseFiberStatus(name)
		if err != nil {
			return nil, err
		}
		req.Status = append(req.Status, status)
	}
	resp, err := ask(ctx, a.client, r, a.client.fibers.List, req)
	if err != nil {
		return nil, err
	}
	fibers := make([]Fiber, len(resp.GetFibers()))
	for i, f := range resp.GetFibers() {
		fibers[i] = fiberOf(f)
	}
	return fibers, nil
}

// Fiber returns one fiber; kind NotFound if there is none.
func (a *Agent) Fiber(ctx context.Context, id string) (*Fiber, error) {
	r := request{op: "get fiber of", id: a.id}
	if err := checkText(r, id); err != nil {
		return nil, err
	}
	resp, err := ask(ctx, a.client, r, a.client.fibers.Get, &agentdv1.FiberServiceGetRequest{Agent: wire.Ref(a.id), FiberId: id})
	if err != nil {
		return nil, err
	}
	fiber := fiberOf(resp.GetFiber())
	return &fiber, nil
}

// CancelFiber asks a fiber to stop; false if it is unknown or had already ended.
// The reason may be empty.
func (a *Agent) CancelFiber(ctx context.Context, id, reason string) (bool, error) {
	r := request{op: "cancel fiber of", id: a.id, effects: true}
	if err := checkText(r, id, reason); err != nil {
		return false, err
	}
	resp, err := ask(ctx, a.client, r, a.client.fibers.Cancel,
		&agentdv1.FiberServiceCancelRequest{Agent: wire.Ref(a.id), FiberId: id, Reason: reason})
	return resp.GetCancelled(), err
}
