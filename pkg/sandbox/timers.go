package sandbox

import (
	"math"
	"time"

	"github.com/dop251/goja"
)

const pendingMessage = "too many pending operations: await some before starting more"

// timer is one setTimeout, setInterval or setImmediate. Owned by the loop.
type timer struct {
	stop  func() bool
	fn    goja.Callable
	args  []goja.Value
	frame *asyncFrame
	every time.Duration // zero for once
}

// Pending is timers plus asynchronous operations under way.
func (i *Isolate) Pending() int { return len(i.timers) + i.operations }

// setTimer is setTimeout and setInterval: their delay is whole milliseconds from 0
// (an interval: 1) to about 24 days; anything else means the least.
func (i *Isolate) setTimer(repeat bool) func(goja.FunctionCall) goja.Value {
	return func(call goja.FunctionCall) goja.Value {
		delay := call.Argument(1).ToFloat()
		if !(delay >= 0 && delay <= math.MaxInt32) {
			delay = 0
		}
		t := i.newTimer(call, 2)
		d := time.Duration(delay) * time.Millisecond
		if repeat {
			d = max(d, time.Millisecond)
			t.every = d
		}
		return i.startTimer(t, d)
	}
}

func (i *Isolate) setImmediate(call goja.FunctionCall) goja.Value {
	return i.startTimer(i.newTimer(call, 1), 0)
}

func (i *Isolate) newTimer(call goja.FunctionCall, from int) *timer {
	fn, ok := goja.AssertFunction(call.Argument(0))
	if !ok {
		i.throw("TypeError", "The timer's first argument must be a function")
	}
	if i.Pending() >= i.cfg.Limits.Pending {
		i.throw("RangeError", pendingMessage)
	}
	t := &timer{fn: fn, frame: i.frame}
	if len(call.Arguments) > from {
		t.args = append(t.args, call.Arguments[from:]...)
	}
	return t
}

func (i *Isolate) startTimer(t *timer, d time.Duration) goja.Value {
	i.lastTimer++
	id := i.lastTimer
	if i.timers == nil {
		i.timers = make(map[int64]*timer)
	}
	i.timers[id] = t
	i.arm(id, t, d)
	return i.vm.ToValue(id)
}

func (i *Isolate) arm(id int64, t *timer, d time.Duration) {
	t.stop = i.cfg.Scheduler.AfterFunc(d, func() { i.fire(id, t) })
}

// fire runs a due timer as a turn. An interval is armed again after its function,
// so that a slow one cannot pile up.
func (i *Isolate) fire(id int64, t *timer) {
	if i.timers[id] != t {
		return
	}
	if t.every == 0 {
		delete(i.timers, id)
	}
	i.turn(func(*goja.Runtime) error {
		i.frame = t.frame
		_, err := t.fn(goja.Undefined(), t.args...)
		return err
	})
	if t.every == 0 || i.timers[id] != t {
		return
	}
	if i.stopped() != nil {
		delete(i.timers, id)
		return
	}
	i.arm(id, t, t.every)
}

// clearTimer is clearTimeout, clearInterval and clearImmediate.
func (i *Isolate) clearTimer(call goja.FunctionCall) goja.Value {
	id := call.Argument(0).ToInteger()
	if t, ok := i.timers[id]; ok {
		t.stop()
		delete(i.timers, id)
	}
	return goja.Undefined()
}
