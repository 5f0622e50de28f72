package sandbox

import (
	"context"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

var promiseType = reflect.TypeFor[*goja.Promise]()

// asyncFrame is an immutable async context: the host's value and the stores of
// AsyncLocalStorage objects.
type asyncFrame struct {
	host   any
	stores *asyncStore
}

// asyncStore is a list, newest first; a newer entry hides an older one of the same
// owner.
type asyncStore struct {
	owner *goja.Object
	value goja.Value // nil after exit
	next  *asyncStore
}

// contextTracker carries the frame through promise reactions. goja never nests
// them.
type contextTracker struct{ i *Isolate }

func (t contextTracker) Grab() any { return t.i.frame }

func (t contextTracker) Resumed(v any) { t.i.frame, _ = v.(*asyncFrame) }

func (t contextTracker) Exited() { t.i.frame = nil }

// AsyncContext is the value that WithAsyncContext set for the code that runs now,
// carried through promises, await, timers and Async; nil if there is none.
func (i *Isolate) AsyncContext() any {
	if i.frame == nil {
		return nil
	}
	return i.frame.host
}

// WithAsyncContext runs fn with v as its async context.
func (i *Isolate) WithAsyncContext(v any, fn func() error) error {
	old := i.frame
	defer func() { i.frame = old }()
	next := &asyncFrame{host: v}
	if old != nil {
		next.stores = old.stores
	}
	i.frame = next
	return fn()
}

// Promise makes a promise and the functions that settle it, once, on the loop. A
// Go error given to reject becomes an Error object.
func (i *Isolate) Promise() (p goja.Value, resolve, reject func(any)) {
	promise, res, rej := i.vm.NewPromise()
	settle := func(fn func(any) error, convert func(any) goja.Value) func(any) {
		return func(v any) {
			i.turn(func(*goja.Runtime) error { return fn(convert(v)) })
		}
	}
	return i.vm.ToValue(promise), settle(res, i.value), settle(rej, i.reason)
}

// value converts what Go settles a promise with.
func (i *Isolate) value(v any) goja.Value {
	if v, ok := v.(goja.Value); ok && v != nil {
		return v
	}
	if v == nil {
		return goja.Undefined()
	}
	return i.vm.ToValue(v)
}

// turn is Do for entries of our own, whose errors have nobody to go to but
// Unhandled.
func (i *Isolate) turn(fn func(*goja.Runtime) error) {
	if i.stopped() != nil {
		return // the owner knows
	}
	inside := i.entered
	err := i.Do(fn)
	if err == nil || inside && i.stopped() != nil {
		return // the turn around us ends with the same cause
	}
	i.unhandled(i.Error(err))
}

func (i *Isolate) unhandled(err *ScriptError) {
	if i.cfg.Unhandled != nil {
		i.cfg.Unhandled(err)
	}
}

// Async starts work on a goroutine of its own and returns a promise. work must end
// when ctx does; the function that it returns runs on the loop as a turn and gives
// what the promise settles with. It counts as pending until then; over
// Limits.Pending the promise is rejected and work does not run.
func (i *Isolate) Async(work func(ctx context.Context) func(vm *goja.Runtime) (any, error)) goja.Value {
	p, resolve, reject := i.Promise()
	if err := i.stopped(); err != nil {
		return p // nothing runs any more, so nothing can wait for it
	}
	if i.Pending() >= i.cfg.Limits.Pending {
		reject(i.newError("RangeError", pendingMessage))
		return p
	}
	i.operations++
	frame := i.frame
	i.workers.Go(func() {
		finish := i.perform(work)
		// A refused post means that the loop is gone, and with it everyone who waits.
		i.cfg.Scheduler.Post(func() {
			i.operations--
			i.turn(func(vm *goja.Runtime) error {
				i.frame = frame
				v, err := finish(vm)
				if err != nil {
					reject(err)
				} else {
					resolve(v)
				}
				return nil
			})
		})
	})
	return p
}

// perform runs work; a panic of it becomes the operation's error.
func (i *Isolate) perform(work func(context.Context) func(*goja.Runtime) (any, error)) (finish func(*goja.Runtime) (any, error)) {
	defer func() {
		x := recover()
		if x == nil && finish != nil {
			return
		}
		err := &agent.Error{Op: "asynchronous operation", Kind: agent.Internal, Msg: "gave no result"}
		if x != nil {
			err.Msg, err.Stack = fmt.Sprintf("panic: %v", x), string(debug.Stack())
		}
		finish = func(*goja.Runtime) (any, error) { return nil, err }
	}()
	return work(i.ctx)
}

// Await calls then or catch when v settles: at once for a plain value, as a
// microtask for a promise or thenable. An error that a callback throws is an
// unhandled rejection.
func (i *Isolate) Await(v goja.Value, then func(goja.Value), catch func(reason goja.Value)) {
	if v == nil {
		v = goja.Undefined()
	}
	awaitable, reason := i.thenable(v)
	switch {
	case reason != nil:
		catch(reason)
		return
	case !awaitable:
		then(v)
		return
	}
	wrap := func(fn func(goja.Value)) goja.Value {
		return i.vm.ToValue(func(call goja.FunctionCall) goja.Value {
			fn(call.Argument(0))
			return goja.Undefined()
		})
	}
	i.turn(func(*goja.Runtime) error {
		_, err := i.kernel.await(nil, v, wrap(then), wrap(catch))
		return err
	})
}

// thenable says whether v is a promise or has a then method; reason is what
// looking for it threw.
func (i *Isolate) thenable(v goja.Value) (awaitable bool, reason goja.Value) {
	o, ok := v.(*goja.Object)
	if !ok {
		return false, nil
	}
	if _, ok := asPromise(o); ok {
		return true, nil
	}
	err := i.Do(func(*goja.Runtime) error {
		_, awaitable = goja.AssertFunction(o.Get("then"))
		return nil
	})
	if err != nil {
		return false, i.reason(err)
	}
	return awaitable, nil
}

func asPromise(o *goja.Object) (*goja.Promise, bool) {
	if o.ExportType() != promiseType {
		return nil, false
	}
	p, ok := o.Export().(*goja.Promise)
	return p, ok
}

// trackRejection keeps, in order, the promises that were rejected in this turn and
// have no handler yet.
func (i *Isolate) trackRejection(p *goja.Promise, op goja.PromiseRejectionOperation) {
	if op == goja.PromiseRejectionReject {
		i.rejections = append(i.rejections, p)
		return
	}
	for k := len(i.rejections) - 1; k >= 0; k-- { // most are handled soon after
		if i.rejections[k] == p {
			i.rejections = slices.Delete(i.rejections, k, k+1)
			return
		}
	}
}

// reportRejections ends a turn.
func (i *Isolate) reportRejections() {
	rejected := i.rejections
	i.rejections = nil
	for _, p := range rejected {
		i.unhandled(i.ReasonError(p.Result()))
	}
}
