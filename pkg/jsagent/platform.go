package jsagent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/fiber"
	"agentd/pkg/storage"
)

// Limits of the platform methods.
const (
	defaultMaxRows = 1_000
	maxMaxRows     = 10_000
	maxKVKeys      = 1_000
)

// platformMethods run inside a turn as the agent and answer with a Go value that
// has a JSON form.
var platformMethods map[string]func(in *instance, args json.RawMessage) (any, error)

func init() {
	platformMethods = map[string]func(*instance, json.RawMessage) (any, error){
		methodStart:             func(*instance, json.RawMessage) (any, error) { return nil, nil },
		agent.MethodStateGet:    (*instance).platformStateGet,
		agent.MethodStateSet:    (*instance).platformStateSet,
		agent.MethodSQLQuery:    (*instance).platformQuery,
		agent.MethodKVGet:       (*instance).platformKVGet,
		agent.MethodKVPut:       (*instance).platformKVPut,
		agent.MethodKVDelete:    (*instance).platformKVDelete,
		agent.MethodKVList:      (*instance).platformKVList,
		agent.MethodFiberList:   (*instance).platformFiberList,
		agent.MethodFiberGet:    (*instance).platformFiberGet,
		agent.MethodFiberCancel: (*instance).platformFiberCancel,
	}
}

func (in *instance) callPlatform(call agent.Call, answer func(agent.Result, error)) {
	fn, ok := platformMethods[call.Method]
	if !ok {
		answer(agent.Result{}, &agent.Error{Op: "call " + call.Method, Agent: in.id(), Kind: agent.UnknownMethod,
			Msg: fmt.Sprintf("the platform has no method %q", call.Method)})
		return
	}
	args := json.RawMessage("{}")
	if len(call.Args) > 0 {
		args = call.Args[0]
	}
	var out any
	err := in.enter(func(*goja.Runtime) (err error) {
		out, err = fn(in, args)
		return err
	})
	var raw json.RawMessage
	if err == nil {
		raw, err = json.Marshal(out)
	}
	switch {
	case err != nil:
		answer(agent.Result{}, in.platformFault(call.Method, err))
	case len(raw) > agent.MaxResultBytes:
		answer(agent.Result{}, &agent.Error{Op: "call " + call.Method, Agent: in.id(), Kind: agent.TooLarge,
			Msg: fmt.Sprintf("the result has %d bytes; at most %d are allowed: ask for less", len(raw), agent.MaxResultBytes)})
	default:
		answer(agent.Result{Value: raw}, nil)
	}
}

// platformFault keeps the kind of errors that are not the code's own.
func (in *instance) platformFault(method string, err error) error {
	if e, ok := err.(*agent.Error); ok {
		out := *e
		out.Op, out.Agent = "call "+method, in.id()
		return &out
	}
	return in.fault("call "+method, err)
}

// read decodes the argument of a platform method.
func read(args json.RawMessage, into any) error {
	d := json.NewDecoder(bytes.NewReader(args))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return invalid("", "the argument is not as documented: %v", err)
	}
	return nil
}

func (in *instance) needAgent() error {
	if !in.self.isAgent {
		return invalid("", "class %s extends DurableObject: it has no state and no fibers of the platform", in.class)
	}
	return nil
}

func (in *instance) platformStateGet(json.RawMessage) (any, error) {
	type answer struct {
		State json.RawMessage `json:"state,omitempty"`
	}
	if !in.self.isAgent {
		return answer{}, nil
	}
	v, err := in.glueCall("agent", "readState", in.self.object)
	if err != nil {
		return nil, err
	}
	raw, err := in.jsonOf("the state", v)
	return answer{State: raw}, err
}

func (in *instance) platformStateSet(args json.RawMessage) (any, error) {
	var a struct {
		State json.RawMessage `json:"state"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if a.State == nil {
		return nil, invalid("", `the argument needs {"state": …}`)
	}
	if err := in.needAgent(); err != nil {
		return nil, err
	}
	v, err := in.iso.FromJSON(a.State)
	if err == nil {
		_, err = in.glueCall("agent", "writeState", in.self.object, v)
	}
	return nil, err
}

// tableAnswer is a statement's rows; see column.
type tableAnswer struct {
	Columns   []string `json:"columns"`
	Rows      [][]any  `json:"rows"`
	Truncated bool     `json:"truncated"`
}

func (in *instance) platformQuery(args json.RawMessage) (any, error) {
	var a struct {
		Query   string `json:"query"`
		Args    []any  `json:"args"`
		MaxRows int    `json:"maxRows"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if a.MaxRows < 0 || a.MaxRows > maxMaxRows {
		return nil, invalid("", "maxRows is %d; it must lie between 1 and %d", a.MaxRows, maxMaxRows)
	}
	if a.MaxRows == 0 {
		a.MaxRows = defaultMaxRows
	}
	bound := make([]storage.Value, len(a.Args))
	for i, v := range a.Args {
		var err error
		if bound[i], err = parameter(v); err != nil {
			return nil, invalid("", "parameter %d %v", i+1, err)
		}
	}
	rows, err := in.db().UserQuery(a.Query, bound...)
	if err != nil {
		return nil, err
	}
	out, err := readTable(rows, a.MaxRows)
	if err == nil && touchesOurs(a.Query) {
		err = in.reload()
	}
	return out, err
}

func readTable(rows *storage.Rows, maxRows int) (tableAnswer, error) {
	out := tableAnswer{Columns: rows.Columns, Rows: [][]any{}}
	if out.Columns == nil {
		out.Columns = []string{}
	}
	row := make([]storage.Value, len(rows.Columns))
	size := 0
	for {
		err := rows.Next(row)
		if err == io.EOF {
			break
		}
		if err != nil {
			rows.Close()
			return out, err
		}
		if len(out.Rows) == maxRows || size > agent.MaxResultBytes {
			out.Truncated = true
			break
		}
		line := make([]any, len(row))
		for k, v := range row {
			size += sizeOf(v)
			line[k] = column(v)
		}
		out.Rows = append(out.Rows, line)
	}
	return out, rows.Close()
}

// column is a column's JSON form, from which its type can be told: an INTEGER is a
// number with all its digits, a REAL has a point or an exponent, a blob is
// {"$base64": "…"}. Only the infinite REALs, which JSON lacks, become text.
func column(v storage.Value) any {
	switch v := v.(type) {
	case []byte:
		return map[string]string{"$base64": base64.StdEncoding.EncodeToString(v)}
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(text, ".e") {
			text += ".0"
		}
		return json.RawMessage(text)
	}
	return v
}

// parameter is the inverse of column.
func parameter(v any) (storage.Value, error) {
	switch v := v.(type) {
	case nil, string, bool:
		return v, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, fmt.Errorf("is not a number that SQLite has: %s", v)
		}
		return f, nil
	case map[string]any:
		text, ok := v["$base64"].(string)
		if b, err := base64.StdEncoding.DecodeString(text); ok && err == nil && len(v) == 1 {
			return b, nil
		}
	}
	return nil, fmt.Errorf(`must be null, a boolean, a number, a string or {"$base64": "…"}`)
}

func checkKeys(n int) error {
	if n > maxKVKeys {
		return invalid("", "%d keys; at most %d are allowed in one call", n, maxKVKeys)
	}
	return nil
}

func (in *instance) platformKVGet(args json.RawMessage) (any, error) {
	var a struct {
		Keys []string `json:"keys"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if err := checkKeys(len(a.Keys)); err != nil {
		return nil, err
	}
	entries := make(map[string]json.RawMessage, len(a.Keys))
	for _, key := range a.Keys {
		v, err := in.kvGet(in.vm.ToValue(key))
		if err != nil {
			return nil, err
		}
		raw, err := in.jsonOf(fmt.Sprintf("the value of key %.100q", key), v)
		if err != nil {
			return nil, err
		}
		if raw != nil {
			entries[key] = raw
		}
	}
	return map[string]any{"entries": entries}, nil
}

// platformKVPut writes all entries or none.
func (in *instance) platformKVPut(args json.RawMessage) (any, error) {
	var a struct {
		Entries map[string]json.RawMessage `json:"entries"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if err := checkKeys(len(a.Entries)); err != nil {
		return nil, err
	}
	had := in.tables["agentd_kv"]
	err := in.db().Savepoint(func() error {
		for key, raw := range a.Entries {
			v, err := in.iso.FromJSON(raw)
			if err != nil {
				return err
			}
			if err := in.kvPut(in.vm.ToValue(key), v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		in.tables["agentd_kv"] = had
	}
	return nil, err
}

func (in *instance) platformKVDelete(args json.RawMessage) (any, error) {
	var a struct {
		Keys []string `json:"keys"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if err := checkKeys(len(a.Keys)); err != nil {
		return nil, err
	}
	n := 0
	for _, key := range a.Keys {
		deleted, err := in.kvDelete(in.vm.ToValue(key))
		if err != nil {
			return nil, err
		}
		if deleted {
			n++
		}
	}
	return map[string]int{"deleted": n}, nil
}

func (in *instance) platformKVList(args json.RawMessage) (any, error) {
	var a struct {
		Prefix  string `json:"prefix"`
		Start   string `json:"start"`
		End     string `json:"end"`
		Limit   int    `json:"limit"`
		Reverse bool   `json:"reverse"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if a.Limit <= 0 || a.Limit > maxKVKeys {
		a.Limit = maxKVKeys
	}
	type entry struct {
		Key   string          `json:"key"`
		Value json.RawMessage `json:"value"`
	}
	entries := []entry{}
	o := listOptions{prefix: a.Prefix, start: a.Start, end: a.End, reverse: a.Reverse, limit: a.Limit}
	err := in.kvList(o, func(key string, v goja.Value) error {
		raw, err := in.jsonOf(fmt.Sprintf("the value of key %.100q", key), v)
		entries = append(entries, entry{key, raw})
		return err
	})
	return map[string]any{"entries": entries}, err
}

// platformFiberList lists managed fibers and, as running or interrupted, the run
// rows of others.
func (in *instance) platformFiberList(args json.RawMessage) (any, error) {
	var a struct {
		Status []string `json:"status"`
		Name   string   `json:"name"`
		Limit  int      `json:"limit"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if err := in.needAgent(); err != nil {
		return nil, err
	}
	o := fiber.ListOptions{Name: a.Name, Limit: a.Limit}
	for _, s := range a.Status {
		if !fiber.Status(s).Valid() {
			return nil, invalid("", "%q is no fiber status: use pending, running, completed, aborted, interrupted or error", s)
		}
		o.Statuses = append(o.Statuses, fiber.Status(s))
	}
	found, err := in.fibers.ledger.List(o)
	if err != nil {
		return nil, err
	}
	others, err := in.unmanaged(o)
	if err != nil {
		return nil, err
	}
	found = append(others, found...)
	if found == nil {
		found = []fiber.Inspection{}
	}
	return map[string]any{"fibers": found}, nil
}

// unmanaged describes the fibers of runFiber: those that run here and those that
// wait for recovery.
func (in *instance) unmanaged(o fiber.ListOptions) ([]fiber.Inspection, error) {
	limit := o.Limit
	if limit <= 0 {
		limit = fiber.DefaultListLimit
	}
	limit = min(limit, fiber.MaxListLimit)
	var out []fiber.Inspection
	add := func(id, name string, status fiber.Status, created int64) {
		if len(out) < limit && (o.Name == "" || o.Name == name) && (len(o.Statuses) == 0 || slices.Contains(o.Statuses, status)) {
			out = append(out, fiber.Inspection{FiberID: id, Name: name, Status: status, CreatedAt: created})
		}
	}
	for id, run := range in.fibers.active {
		if !run.managed {
			add(id, run.name, fiber.StatusRunning, run.started.UnixMilli())
		}
	}
	slices.SortFunc(out, func(a, b fiber.Inspection) int { return int(b.CreatedAt - a.CreatedAt) })
	if in.fibers.ledger.Runs() == len(in.fibers.active) {
		return out, nil
	}
	lost, err := in.fibers.ledger.Interrupted(func(id string) bool {
		_, ok := in.fibers.active[id]
		return ok
	})
	for _, r := range lost {
		if !r.Managed {
			add(r.ID, r.Name, fiber.StatusInterrupted, r.CreatedAt)
		}
	}
	return out, err
}

func (in *instance) platformFiberGet(args json.RawMessage) (any, error) {
	var a struct {
		ID string `json:"id"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if err := in.needAgent(); err != nil {
		return nil, err
	}
	seen, found, err := in.fibers.ledger.Inspect(a.ID)
	if err != nil || found {
		return seen, err
	}
	if run, ok := in.fibers.active[a.ID]; ok {
		return fiber.Inspection{FiberID: a.ID, Name: run.name, Status: fiber.StatusRunning, CreatedAt: run.started.UnixMilli()}, nil
	}
	return nil, &agent.Error{Kind: agent.NotFound, Msg: fmt.Sprintf("the agent has no fiber %.100q", a.ID)}
}

func (in *instance) platformFiberCancel(args json.RawMessage) (any, error) {
	var a struct {
		ID     string `json:"id"`
		Reason string `json:"reason"`
	}
	if err := read(args, &a); err != nil {
		return nil, err
	}
	if err := in.needAgent(); err != nil {
		return nil, err
	}
	v, err := in.glueCall("fibers", "cancelFiber", in.vm.ToValue(a.ID), in.vm.ToValue(a.Reason))
	if err != nil {
		return nil, err
	}
	return map[string]bool{"cancelled": v.ToBoolean()}, nil
}
