package jsagent

import (
	"math"
	"reflect"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/schedule"
)

const (
	scheduleIDLength = 9   // letters
	dueAtOnce        = 100 // schedules that one wake runs; the rest wakes again at once
)

// schedules are the agent's schedules.
type schedules struct {
	book *schedule.Book
}

var scheduleFuncs = map[string]hostFunc{
	"backoff":         (*instance).hostBackoff,
	"retryPolicy":     (*instance).hostRetryPolicy,
	"storedPolicy":    (*instance).hostStoredPolicy,
	"scheduleAdd":     (*instance).hostScheduleAdd,
	"scheduleGet":     (*instance).hostScheduleGet,
	"scheduleList":    (*instance).hostScheduleList,
	"scheduleCancel":  (*instance).hostScheduleCancel,
	"scheduleDue":     (*instance).hostScheduleDue,
	"schedulePending": (*instance).hostSchedulePending,
	"scheduleDone":    (*instance).hostScheduleDone,
}

// hostBackoff is the wait in milliseconds after a failed attempt.
func (in *instance) hostBackoff(call goja.FunctionCall) goja.Value {
	p := schedule.Policy{MaxAttempts: math.MaxInt32, BaseDelay: milliseconds(call.Argument(1)), MaxDelay: milliseconds(call.Argument(2))}
	d := schedule.Backoff(int(call.Argument(0).ToInteger()), p, call.Argument(3).ToFloat())
	return in.vm.ToValue(d.Milliseconds())
}

// milliseconds reads a duration; what is no positive number is zero.
func milliseconds(v goja.Value) time.Duration {
	ms := v.ToFloat()
	if !(ms > 0) {
		return 0
	}
	return time.Duration(min(ms, 1e12) * float64(time.Millisecond))
}

// hostRetryPolicy checks retry options against defaults and fills what they leave
// open.
func (in *instance) hostRetryPolicy(call goja.FunctionCall) goja.Value {
	r, defaults := in.readRetry(call.Argument(0)), in.defaultPolicy(call.Argument(1))
	if r != nil {
		if err := r.Validate(defaults); err != nil {
			in.throw(err)
		}
	}
	return in.policyValue(r.Resolve(defaults))
}

// hostStoredPolicy is hostRetryPolicy for options that a row holds. They were
// checked when they were stored; the class's defaults may have changed since, or
// the agent's own SQL the row, and a schedule is run all the same.
func (in *instance) hostStoredPolicy(call goja.FunctionCall) goja.Value {
	return in.policyValue(in.readRetry(call.Argument(0)).Resolve(in.defaultPolicy(call.Argument(1))))
}

func (in *instance) policyValue(p schedule.Policy) goja.Value {
	return in.plain(map[string]any{"maxAttempts": p.MaxAttempts,
		"baseDelayMs": float64(p.BaseDelay) / 1e6, "maxDelayMs": float64(p.MaxDelay) / 1e6})
}

// defaultPolicy is the class's options; bad ones are the SDK's.
func (in *instance) defaultPolicy(v goja.Value) schedule.Policy {
	return in.readRetry(v).Resolve(schedule.DefaultPolicy)
}

// readRetry reads {maxAttempts?, baseDelayMs?, maxDelayMs?}; nil for undefined.
func (in *instance) readRetry(v goja.Value) *schedule.Retry {
	if goja.IsUndefined(v) || goja.IsNull(v) {
		return nil
	}
	o, r := v.ToObject(in.vm), &schedule.Retry{}
	for key, into := range map[string]**float64{"maxAttempts": &r.MaxAttempts, "baseDelayMs": &r.BaseDelayMS, "maxDelayMs": &r.MaxDelayMS} {
		if v := o.Get(key); v != nil && !goja.IsUndefined(v) && !goja.IsNull(v) {
			f := math.NaN()
			if n := v.ExportType(); n != nil && (n.Kind() == reflect.Int64 || n.Kind() == reflect.Float64) {
				f = v.ToFloat()
			}
			*into = &f
		}
	}
	return r
}

// hostScheduleAdd takes (isDate, ms or seconds, callback, payload, retry, idempotent,
// default retry).
func (in *instance) hostScheduleAdd(call goja.FunctionCall) goja.Value {
	spec := schedule.Spec{Type: schedule.TypeDelayed, Callback: call.Argument(2).String(), Retry: in.readRetry(call.Argument(4))}
	if when := call.Argument(1).ToFloat(); call.Argument(0).ToBoolean() {
		spec.Type, spec.At = schedule.TypeScheduled, time.UnixMilli(int64(when))
	} else {
		spec.Delay = when
	}
	if v := call.Argument(5); !goja.IsUndefined(v) {
		idempotent := v.ToBoolean()
		spec.Idempotent = &idempotent
	}
	var err error
	if spec.Payload, err = in.jsonOf("the payload", call.Argument(3)); err != nil {
		in.throw(err)
	}
	id, err := in.nanoid(scheduleIDLength)
	if err != nil {
		in.throw(err)
	}
	added, created, err := in.sched.book.Add(spec, id, in.loop.Now(), in.defaultPolicy(call.Argument(6)))
	if err != nil {
		in.throw(err)
	}
	if created {
		in.event("schedule:create", "scheduleId", added.ID, "callback", added.Callback)
	}
	return in.plain(added)
}

func (in *instance) hostScheduleGet(call goja.FunctionCall) goja.Value {
	s, found, err := in.sched.book.Get(call.Argument(0).String())
	if err != nil {
		in.throw(err)
	}
	if !found {
		return goja.Undefined()
	}
	return in.plain(s)
}

// hostScheduleList reads {id?, type?, timeRange?: {start?, end?}}.
func (in *instance) hostScheduleList(call goja.FunctionCall) goja.Value {
	var c schedule.Criteria
	if v := call.Argument(0); !goja.IsUndefined(v) && !goja.IsNull(v) {
		o := v.ToObject(in.vm)
		text := func(key string) string {
			if v := o.Get(key); v != nil && !goja.IsUndefined(v) {
				return v.String()
			}
			return ""
		}
		c.ID, c.Type = text("id"), schedule.Type(text("type"))
		if v := o.Get("timeRange"); v != nil && !goja.IsUndefined(v) && !goja.IsNull(v) {
			c.Start, c.End = in.dateOf(v, "start"), in.dateOf(v, "end")
		}
	}
	list, err := in.sched.book.List(c)
	if err != nil {
		in.throw(err)
	}
	if list == nil {
		list = []schedule.Schedule{}
	}
	return in.plain(list)
}

// dateOf is a Date property, zero if it is not given.
func (in *instance) dateOf(o goja.Value, key string) time.Time {
	v := o.ToObject(in.vm).Get(key)
	if v == nil || goja.IsUndefined(v) || goja.IsNull(v) {
		return time.Time{}
	}
	return time.UnixMilli(v.ToNumber().ToInteger())
}

func (in *instance) hostScheduleCancel(call goja.FunctionCall) goja.Value {
	id := call.Argument(0).String()
	ok, err := in.sched.book.Cancel(id)
	if ok {
		in.event("schedule:cancel", "scheduleId", id)
	}
	return in.must(in.vm.ToValue(ok), err)
}

// dueSchedule is what the glue needs of a due schedule.
type dueSchedule struct {
	schedule.Schedule
	Row     schedule.Row `json:"row"`
	Corrupt bool         `json:"corrupt"`
}

func (in *instance) hostScheduleDue(goja.FunctionCall) goja.Value {
	due, err := in.sched.book.Due(in.loop.Now(), dueAtOnce)
	if err != nil {
		in.throw(err)
	}
	out := make([]dueSchedule, len(due))
	for i, d := range due {
		out[i] = dueSchedule{Schedule: d.Schedule, Row: d.Row, Corrupt: d.Corrupt}
		if d.Corrupt {
			out[i].Payload = nil
		}
	}
	return in.plain(out)
}

// hostSchedulePending says whether a due schedule was not cancelled meanwhile.
func (in *instance) hostSchedulePending(call goja.FunctionCall) goja.Value {
	_, found, err := in.sched.book.Get(call.Argument(0).String())
	return in.must(in.vm.ToValue(found), err)
}

func (in *instance) hostScheduleDone(call goja.FunctionCall) goja.Value {
	return in.must(goja.Undefined(), in.sched.book.Done(call.Argument(0).String()))
}
