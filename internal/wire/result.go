package wire

import (
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// InvokeResponse is what a method returned.
func InvokeResponse(result agent.Result) *agentdv1.InvokeResponse {
	if len(result.Value) == 0 { // also an empty slice is undefined, not a broken value
		return &agentdv1.InvokeResponse{}
	}
	return &agentdv1.InvokeResponse{Result: result.Value}
}

// State reads the result of state.get; nil if the agent has none.
func State(result agent.Result) (json.RawMessage, error) {
	var out struct {
		State json.RawMessage `json:"state"`
	}
	err := decodeResult(agent.MethodStateGet, result, &out)
	return out.State, err
}

// KVGetResponse reads the result of kv.get.
func KVGetResponse(result agent.Result) (*agentdv1.KVGetResponse, error) {
	var out struct {
		Entries map[string]json.RawMessage `json:"entries"`
	}
	if err := decodeResult(agent.MethodKVGet, result, &out); err != nil {
		return nil, err
	}
	entries := make(map[string][]byte, len(out.Entries))
	for key, value := range out.Entries {
		entries[key] = value
	}
	return &agentdv1.KVGetResponse{Entries: entries}, nil
}

// KVDeleteResponse reads the result of kv.delete.
func KVDeleteResponse(result agent.Result) (*agentdv1.KVDeleteResponse, error) {
	var out struct {
		Deleted uint32 `json:"deleted"`
	}
	err := decodeResult(agent.MethodKVDelete, result, &out)
	return &agentdv1.KVDeleteResponse{Deleted: out.Deleted}, err
}

// KVListResponse reads the result of kv.list.
func KVListResponse(result agent.Result) (*agentdv1.KVListResponse, error) {
	var out struct {
		Entries []struct {
			Key   string          `json:"key"`
			Value json.RawMessage `json:"value"`
		} `json:"entries"`
	}
	if err := decodeResult(agent.MethodKVList, result, &out); err != nil {
		return nil, err
	}
	entries := make([]*agentdv1.KVEntry, len(out.Entries))
	for i, e := range out.Entries {
		entries[i] = &agentdv1.KVEntry{Key: e.Key, Value: e.Value}
	}
	return &agentdv1.KVListResponse{Entries: entries}, nil
}

// fiberStatuses are the names that agents use.
var fiberStatuses = map[agentdv1.FiberStatus]string{
	agentdv1.FiberStatus_FIBER_STATUS_PENDING:     "pending",
	agentdv1.FiberStatus_FIBER_STATUS_RUNNING:     "running",
	agentdv1.FiberStatus_FIBER_STATUS_COMPLETED:   "completed",
	agentdv1.FiberStatus_FIBER_STATUS_ABORTED:     "aborted",
	agentdv1.FiberStatus_FIBER_STATUS_INTERRUPTED: "interrupted",
	agentdv1.FiberStatus_FIBER_STATUS_ERROR:       "error",
}

// FiberStatusName is the name of a status; empty if it is not known.
func FiberStatusName(s agentdv1.FiberStatus) string { return fiberStatuses[s] }

// ParseFiberStatus reads a name; kind Invalid if there is no such status.
func ParseFiberStatus(name string) (agentdv1.FiberStatus, error) {
	for s, n := range fiberStatuses {
		if n == name {
			return s, nil
		}
	}
	return 0, invalid("fiber status %.40q is not known; it is one of pending, running, completed, aborted, interrupted, error", name)
}

// fiberJSON is a fiber as agents describe it; times in ms since 1970.
type fiberJSON struct {
	FiberID        string          `json:"fiberId"`
	Name           string          `json:"name"`
	IdempotencyKey string          `json:"idempotencyKey"`
	Status         string          `json:"status"`
	Snapshot       json.RawMessage `json:"snapshot"`
	Error          string          `json:"error"`
	Metadata       json.RawMessage `json:"metadata"`
	CreatedAt      int64           `json:"createdAt"`
	StartedAt      int64           `json:"startedAt"`
	SettledAt      int64           `json:"settledAt"`
}

func (f fiberJSON) proto() (*agentdv1.Fiber, error) {
	status, err := ParseFiberStatus(f.Status)
	if err != nil {
		return nil, badResult("read fiber", err)
	}
	return &agentdv1.Fiber{
		FiberId: f.FiberID, Name: f.Name, IdempotencyKey: f.IdempotencyKey, Status: status,
		Snapshot: f.Snapshot, Error: f.Error, Metadata: f.Metadata,
		CreateTime: millis(f.CreatedAt), StartTime: millis(f.StartedAt), SettleTime: millis(f.SettledAt),
	}, nil
}

// FiberListResponse reads the result of fiber.list.
func FiberListResponse(result agent.Result) (*agentdv1.FiberServiceListResponse, error) {
	var out struct {
		Fibers []fiberJSON `json:"fibers"`
	}
	if err := decodeResult(agent.MethodFiberList, result, &out); err != nil {
		return nil, err
	}
	fibers := make([]*agentdv1.Fiber, len(out.Fibers))
	for i, f := range out.Fibers {
		fiber, err := f.proto()
		if err != nil {
			return nil, err
		}
		fibers[i] = fiber
	}
	return &agentdv1.FiberServiceListResponse{Fibers: fibers}, nil
}

// FiberGetResponse reads the result of fiber.get.
func FiberGetResponse(result agent.Result) (*agentdv1.FiberServiceGetResponse, error) {
	var out fiberJSON
	if err := decodeResult(agent.MethodFiberGet, result, &out); err != nil {
		return nil, err
	}
	fiber, err := out.proto()
	return &agentdv1.FiberServiceGetResponse{Fiber: fiber}, err
}

// FiberCancelResponse reads the result of fiber.cancel.
func FiberCancelResponse(result agent.Result) (*agentdv1.FiberServiceCancelResponse, error) {
	var out struct {
		Cancelled bool `json:"cancelled"`
	}
	err := decodeResult(agent.MethodFiberCancel, result, &out)
	return &agentdv1.FiberServiceCancelResponse{Cancelled: out.Cancelled}, err
}

func millis(ms int64) *timestamppb.Timestamp {
	if ms == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMilli(ms))
}

// Timestamp is a time on the wire; absent for the zero time.
func Timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Time reads a time from the wire; zero if it is absent or out of range.
func Time(t *timestamppb.Timestamp) time.Time {
	if t == nil || !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}
