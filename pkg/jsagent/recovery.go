package jsagent

import (
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/fiber"
)

var recoveryFuncs = map[string]hostFunc{
	"recoveryDue":     (*instance).hostRecoveryDue,
	"recoveryList":    (*instance).hostRecoveryList,
	"recoveryID":      (*instance).hostRecoveryID,
	"recoverySkipped": (*instance).hostRecoverySkipped,
	"recoveryBegin":   (*instance).hostRecoveryBegin,
	"recoveryDone":    (*instance).hostRecoveryDone,
	"recoveryFailed":  (*instance).hostRecoveryFailed,
	"recoveryEnd":     (*instance).hostRecoveryEnd,
}

// hostRecoveryDue says whether to scan: at start-up when anything is left of an
// earlier life, later when the platform was to wake the agent for it.
func (in *instance) hostRecoveryDue(call goja.FunctionCall) goja.Value {
	ledger := in.fibers.ledger
	if call.Argument(0).ToBoolean() {
		return in.vm.ToValue(ledger.Unfinished())
	}
	next := ledger.NextScan()
	return in.vm.ToValue(!next.IsZero() && !next.After(in.loop.Now()))
}

// hostRecoveryList begins a scan and gives the number of fibers to recover.
func (in *instance) hostRecoveryList(goja.FunctionCall) goja.Value {
	found, err := in.fibers.ledger.Interrupted(func(id string) bool {
		_, ok := in.fibers.active[id]
		return ok
	})
	in.fibers.scan = found
	return in.must(in.vm.ToValue(len(found)), err)
}

// scanned is the fiber at the index that the glue names.
func (in *instance) scanned(call goja.FunctionCall) *fiber.Recovery {
	i := call.Argument(0).ToInteger()
	if i < 0 || i >= int64(len(in.fibers.scan)) {
		in.throw(invalid("", "no fiber %d in this scan", i))
	}
	return &in.fibers.scan[i]
}

func (in *instance) hostRecoveryID(call goja.FunctionCall) goja.Value {
	return in.vm.ToValue(in.scanned(call).ID)
}

func (in *instance) hostRecoverySkipped(call goja.FunctionCall) goja.Value {
	r := in.scanned(call)
	in.event("fiber:recovery:skipped", "fiberId", r.ID, "fiberName", r.Name, "reason", call.Argument(1).String())
	return goja.Undefined()
}

// hostRecoveryBegin gives the hook's argument, null when there is nothing to do.
func (in *instance) hostRecoveryBegin(call goja.FunctionCall) goja.Value {
	r := in.scanned(call)
	in.event("fiber:recovery:detected", "fiberId", r.ID, "fiberName", r.Name, "recoveryReason", fiber.RecoveryReason)
	filled, skip, err := in.fibers.ledger.Begin(*r, in.loop.Now())
	if err != nil {
		in.throw(err)
	}
	if skip {
		return goja.Null()
	}
	*r = filled
	if r.Corrupt {
		in.loop.Log().Warn("the snapshot of a fiber is not JSON; its hook gets null", "fiberId", r.ID, "fiberName", r.Name)
	}
	in.event("fiber:run:interrupted", "fiberId", r.ID, "fiberName", r.Name, "managed", r.Managed)
	in.event("fiber:recovery:attempt", "fiberId", r.ID, "fiberName", r.Name, "managed", r.Managed)
	return in.plain(filled)
}

func (in *instance) hostRecoveryDone(call goja.FunctionCall) goja.Value {
	r := in.scanned(call)
	var result *fiber.Result
	var err error
	if r.Managed { // for other fibers a result has no meaning
		result, err = in.recoveryResult(call.Argument(1))
	}
	if err == nil {
		err = in.fibers.ledger.Recovered(*r, result, in.loop.Now())
	}
	if err != nil {
		in.throw(err)
	}
	by := call.Argument(2).String()
	if r.Managed && by == "user" {
		by = "managed"
	}
	in.event("fiber:recovery:handled", "fiberId", r.ID, "fiberName", r.Name, "managed", r.Managed, "status", by)
	return goja.Undefined()
}

// hostRecoveryFailed says whether the fiber is done with although its hook threw.
func (in *instance) hostRecoveryFailed(call goja.FunctionCall) goja.Value {
	r := in.scanned(call)
	message := in.iso.ReasonError(call.Argument(1)).Message
	maxAge := time.Duration(max(0, call.Argument(2).ToFloat()) * float64(time.Millisecond))
	dropped, err := in.fibers.ledger.Failed(*r, message, in.loop.Now(), maxAge)
	if err != nil {
		in.throw(err)
	}
	in.event("fiber:recovery:failed", "fiberId", r.ID, "fiberName", r.Name, "managed", r.Managed, "reason", "handler_error", "error", message)
	if dropped && !r.Managed {
		in.event("fiber:recovery:skipped", "fiberId", r.ID, "fiberName", r.Name, "reason", "max_age_exceeded")
	}
	return in.vm.ToValue(dropped)
}

func (in *instance) hostRecoveryEnd(call goja.FunctionCall) goja.Value {
	in.fibers.scan = nil
	interval := time.Duration(call.Argument(2).ToFloat() * float64(time.Millisecond))
	_, err := in.fibers.ledger.ScanDone(call.Argument(0).ToBoolean(), int(call.Argument(1).ToInteger()), in.loop.Now(), interval)
	return in.must(goja.Undefined(), err)
}
