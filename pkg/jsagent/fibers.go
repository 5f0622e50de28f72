package jsagent

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/fiber"
	"agentd/pkg/schedule"
)

// fiberIDLength is letters of a random fiber ID.
const fiberIDLength = 21

// fibers are the agent's fibers: the ledger, what runs here, and the recovery scan
// under way.
type fibers struct {
	ledger *fiber.Ledger
	active map[string]running
	scan   []fiber.Recovery
}

// running is a fiber whose function runs in this instance.
type running struct {
	name    string
	started time.Time
	managed bool
}

var fiberFuncs = map[string]hostFunc{
	"fiberStart":        (*instance).hostFiberStart,
	"fiberAccept":       (*instance).hostFiberAccept,
	"inFiber":           (*instance).hostInFiber,
	"fiberEnd":          (*instance).hostFiberEnd,
	"stash":             (*instance).hostStash,
	"fiberInspect":      (*instance).hostFiberInspect,
	"fiberInspectByKey": (*instance).hostFiberInspectByKey,
	"fiberList":         (*instance).hostFiberList,
	"fiberCancel":       (*instance).hostFiberCancel,
	"fiberCancelByKey":  (*instance).hostFiberCancelByKey,
	"fiberResolve":      (*instance).hostFiberResolve,
	"fiberDelete":       (*instance).hostFiberDelete,
}

// openLedgers reads the fibers and schedules of an earlier life.
func (in *instance) openLedgers() error {
	ledger, err := fiber.Open(in.db())
	if err != nil {
		return err
	}
	book, err := schedule.Open(in.db())
	if err != nil {
		return err
	}
	in.fibers.ledger, in.sched.book = ledger, book
	return nil
}

func (in *instance) activate(id, name string, managed bool) {
	if in.fibers.active == nil {
		in.fibers.active = make(map[string]running)
	}
	in.fibers.active[id] = running{name: name, started: in.loop.Now(), managed: managed}
	in.event("fiber:run:started", "fiberId", id, "fiberName", name, "managed", managed)
}

// hostFiberStart writes the row of an unmanaged fiber and gives its ID.
func (in *instance) hostFiberStart(call goja.FunctionCall) goja.Value {
	name := call.Argument(0).String()
	id, err := in.nanoid(fiberIDLength)
	if err == nil {
		err = in.fibers.ledger.Start(id, name, in.loop.Now())
	}
	if err != nil {
		in.throw(err)
	}
	in.activate(id, name, false)
	return in.vm.ToValue(id)
}

// hostFiberAccept accepts a managed fiber or finds the one that has its ID or key.
func (in *instance) hostFiberAccept(call goja.FunctionCall) goja.Value {
	o, err := in.startOptions(call)
	if err != nil {
		in.throw(err)
	}
	now := in.loop.Now()
	seen, accepted, err := in.fibers.ledger.StartManaged(o, now)
	if err != nil {
		in.throw(err)
	}
	begun := false
	if accepted {
		if begun, err = in.beginManaged(seen.FiberID, o.Name, now); err != nil {
			in.throw(err)
		}
	}
	out := in.vm.NewObject()
	for _, f := range []struct {
		key   string
		value any
	}{{"fiberId", seen.FiberID}, {"accepted", accepted}, {"running", begun}, {"inspection", in.plain(seen)}} {
		if err := out.Set(f.key, f.value); err != nil {
			in.throw(err)
		}
	}
	return out
}

// beginManaged marks an accepted fiber as running. One whose run row cannot be
// written is settled as an error, which the caller sees by inspecting it.
func (in *instance) beginManaged(id, name string, now time.Time) (bool, error) {
	if err := in.fibers.ledger.Start(id, name, now); err != nil {
		_, refuseErr := in.fibers.ledger.Refuse(id, err.Error(), now)
		return false, refuseErr
	}
	begun, err := in.fibers.ledger.MarkRunning(id, now)
	if err != nil {
		return false, err
	}
	if !begun {
		return false, in.fibers.ledger.Finish(id)
	}
	in.activate(id, name, true)
	return true, nil
}

func (in *instance) startOptions(call goja.FunctionCall) (o fiber.StartOptions, err error) {
	o.Name = call.Argument(0).String()
	text := func(v goja.Value) *string {
		if goja.IsUndefined(v) || goja.IsNull(v) {
			return nil
		}
		s := v.String()
		return &s
	}
	o.ID, o.Key = text(call.Argument(1)), text(call.Argument(2))
	if o.Metadata, err = in.jsonOf("metadata", call.Argument(3)); err != nil {
		return o, err
	}
	o.NewID, err = in.nanoid(fiberIDLength)
	return o, err
}

// jsonOf is a value as JSON, nil for undefined.
func (in *instance) jsonOf(what string, v goja.Value) (json.RawMessage, error) {
	raw, err := in.iso.ToJSON(v)
	if err != nil {
		return nil, in.jsonError(what, err)
	}
	return raw, nil
}

// plain is a Go value with a JSON form as a plain object.
func (in *instance) plain(v any) goja.Value {
	raw, err := json.Marshal(v)
	if err != nil {
		in.throw(err)
	}
	return in.must(in.iso.FromJSON(raw))
}

// hostInFiber runs a fiber's function in its async context.
func (in *instance) hostInFiber(call goja.FunctionCall) goja.Value {
	fn, ok := goja.AssertFunction(call.Argument(1))
	if !ok {
		in.throw(&agent.Error{Kind: agent.Invalid, Name: "TypeError", Msg: "a fiber needs a function"})
	}
	s := *in.scope()
	s.fiber = call.Argument(0).String()
	var v goja.Value
	err := in.iso.WithAsyncContext(&s, func() (err error) {
		v, err = fn(goja.Undefined(), call.Argument(2))
		return err
	})
	if err != nil {
		in.rethrow(err)
	}
	return v
}

// rethrow passes on what a function of the code threw.
func (in *instance) rethrow(err error) {
	var exception *goja.Exception
	if errors.As(err, &exception) {
		panic(exception.Value())
	}
	panic(err)
}

// hostFiberEnd records the end of a fiber's run and deletes its row.
func (in *instance) hostFiberEnd(call goja.FunctionCall) goja.Value {
	id, managed, status := call.Argument(0).String(), call.Argument(1).ToBoolean(), fiber.Status(call.Argument(2).String())
	now := in.loop.Now()
	var message string
	failed := len(call.Arguments) > 3
	if failed {
		message = in.iso.ReasonError(call.Argument(3)).Message
	}
	run := in.fibers.active[id]
	delete(in.fibers.active, id)
	var err error
	if managed {
		_, err = in.fibers.ledger.Settle(id, fiber.Outcome{Status: status, Message: message}, now)
	}
	if err = errors.Join(err, in.fibers.ledger.Finish(id)); err != nil {
		in.throw(err)
	}
	attrs := []any{"fiberId", id, "fiberName", run.name, "managed", managed, "elapsedMs", now.Sub(run.started).Milliseconds()}
	if failed {
		in.event("fiber:run:failed", append(attrs, "error", message)...)
	} else {
		in.event("fiber:run:completed", attrs...)
	}
	return goja.Undefined()
}

// hostStash checkpoints the fiber of the given ID, or the one whose code runs.
func (in *instance) hostStash(call goja.FunctionCall) goja.Value {
	var id string
	if v := call.Argument(0); !goja.IsUndefined(v) {
		id = v.String()
	} else if id = in.scope().fiber; id == "" {
		in.throw(invalid("", "stash() called outside a fiber"))
	}
	raw, err := in.jsonOf("the snapshot", call.Argument(1))
	if err == nil {
		err = in.fibers.ledger.Stash(id, raw)
	}
	return in.must(goja.Undefined(), err)
}

func (in *instance) inspection(seen fiber.Inspection, found bool, err error) goja.Value {
	if err != nil {
		in.throw(err)
	}
	if !found {
		return goja.Null()
	}
	return in.plain(seen)
}

func (in *instance) hostFiberInspect(call goja.FunctionCall) goja.Value {
	return in.inspection(in.fibers.ledger.Inspect(call.Argument(0).String()))
}

func (in *instance) hostFiberInspectByKey(call goja.FunctionCall) goja.Value {
	return in.inspection(in.fibers.ledger.InspectByKey(call.Argument(0).String()))
}

// fiberQuery is listFibers' and deleteFibers' options.
type fiberQuery struct {
	statuses []fiber.Status
	name     string
	before   int64
	limit    int
}

// readFiberQuery reads {status?: S | S[], name?, settledBefore?: Date, limit?}.
func (in *instance) readFiberQuery(v goja.Value) (q fiberQuery, err error) {
	if goja.IsUndefined(v) || goja.IsNull(v) {
		return q, nil
	}
	o := v.ToObject(in.vm)
	given := func(key string) goja.Value {
		if v := o.Get(key); v != nil && !goja.IsUndefined(v) && !goja.IsNull(v) {
			return v
		}
		return nil
	}
	if v := given("status"); v != nil {
		values := []goja.Value{v}
		if !goja.IsString(v) {
			if err := in.vm.ExportTo(v, &values); err != nil {
				return q, invalid("", "status must be a string or an array of strings")
			}
		}
		for _, v := range values {
			s := fiber.Status(v.String())
			if !s.Valid() {
				return q, invalid("", "%q is no fiber status: use pending, running, completed, aborted, interrupted or error", s)
			}
			q.statuses = append(q.statuses, s)
		}
	}
	if v := given("name"); v != nil {
		q.name = v.String()
	}
	if v := given("settledBefore"); v != nil {
		q.before = v.ToNumber().ToInteger()
	}
	if v := given("limit"); v != nil {
		q.limit = int(max(1, min(v.ToInteger(), fiber.MaxDeleteLimit)))
	}
	return q, nil
}

func (in *instance) hostFiberList(call goja.FunctionCall) goja.Value {
	q, err := in.readFiberQuery(call.Argument(0))
	if err != nil {
		in.throw(err)
	}
	found, err := in.fibers.ledger.List(fiber.ListOptions{Statuses: q.statuses, Name: q.name, Limit: q.limit})
	if err != nil {
		in.throw(err)
	}
	if found == nil {
		found = []fiber.Inspection{}
	}
	return in.plain(found)
}

func (in *instance) hostFiberDelete(call goja.FunctionCall) goja.Value {
	q, err := in.readFiberQuery(call.Argument(0))
	if err != nil {
		in.throw(err)
	}
	n, err := in.fibers.ledger.Delete(fiber.DeleteOptions{Statuses: q.statuses, SettledBefore: q.before, Limit: q.limit})
	return in.must(in.vm.ToValue(n), err)
}

// hostFiberCancel gives the ID of the cancelled fiber, null if there was nothing to
// cancel.
func (in *instance) hostFiberCancel(call goja.FunctionCall) goja.Value {
	id := call.Argument(0)
	ok, err := in.fibers.ledger.Cancel(id.String(), reasonOf(call.Argument(1)), in.loop.Now())
	if !ok {
		id = goja.Null()
	}
	return in.must(id, err)
}

func (in *instance) hostFiberCancelByKey(call goja.FunctionCall) goja.Value {
	id, ok, err := in.fibers.ledger.CancelByKey(call.Argument(0).String(), reasonOf(call.Argument(1)), in.loop.Now())
	if !ok {
		return in.must(goja.Null(), err)
	}
	return in.must(in.vm.ToValue(id), err)
}

func reasonOf(v goja.Value) string {
	if goja.IsUndefined(v) || goja.IsNull(v) {
		return ""
	}
	return v.String()
}

func (in *instance) hostFiberResolve(call goja.FunctionCall) goja.Value {
	result, err := in.recoveryResult(call.Argument(1))
	if err == nil && result == nil {
		err = invalid("", "resolveFiber() needs a result: { status: \"completed\" | \"error\" | \"aborted\" | \"interrupted\" }")
	}
	if err != nil {
		in.throw(err)
	}
	ok, err := in.fibers.ledger.Resolve(call.Argument(0).String(), *result, in.loop.Now())
	return in.must(in.vm.ToValue(ok), err)
}

// recoveryResult reads what a recovery hook returned; nil for nothing.
func (in *instance) recoveryResult(v goja.Value) (*fiber.Result, error) {
	o, ok := v.(*goja.Object)
	if !ok {
		return nil, nil
	}
	raw, err := in.jsonOf("the recovery result", o)
	if err != nil {
		return nil, err
	}
	var shape struct {
		fiber.Result
		Error  any `json:"error"`
		Reason any `json:"reason"`
	}
	if err := json.Unmarshal(raw, &shape); err != nil {
		return nil, invalid("", "the recovery result is not { status, snapshot?, metadata?, error?, reason? }")
	}
	text := func(v any, key string) string {
		if s, ok := v.(string); ok || v == nil {
			return s
		}
		if e := o.Get(key); e != nil {
			return in.iso.ReasonError(e).Message
		}
		return ""
	}
	shape.Result.Error, shape.Result.Reason = text(shape.Error, "error"), text(shape.Reason, "reason")
	return &shape.Result, nil
}
