package jsagent

import (
	"fmt"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/sandbox"
	"agentd/pkg/storage"
)

// instance is one live agent. Everything in it belongs to the agent's loop; only
// Interrupt is called from elsewhere.
type instance struct {
	module *Module
	class  string
	cfg    Config
	loop   actor.Loop // nil while a bundle is loaded for trial
	iso    *sandbox.Isolate
	vm     *goja.Runtime
	glue   glue

	self   subject
	env    environment
	work   work
	alarm  alarm
	fibers fibers
	sched  schedules
	txn    *transaction // the async transaction under way
	tables map[string]bool
	ending bool // destroyed or aborted: nothing new is begun
}

var _ actor.Behavior = (*instance)(nil)

// subject is the object of the user's class.
type subject struct {
	object  *goja.Object
	base    *goja.Object // Agent or DurableObject
	isAgent bool
	methods map[string]goja.Callable // public methods that were called before

	streaming map[string]bool // whether a method that was called before streams
	public    []string        // all public methods, sorted
}

// work counts what keeps an instance in memory.
type work struct {
	calls     int      // not yet answered
	waits     int      // waitUntil
	keepAlive int      // references held
	handlers  int      // start-up and wakes under way
	blocks    int      // blockConcurrencyWhile under way
	unblocked []func() // start-up that waits for blocks of the constructor
}

// scope is the async context of code that runs for the agent. It is never changed,
// only replaced.
type scope struct {
	fiber string // the fiber whose function runs; empty for none
	txn   *transaction
}

// scheduler is the loop as the isolate sees it: every turn ends as ours do.
type scheduler struct{ in *instance }

func (s scheduler) Post(fn func()) bool {
	return s.in.loop.Post(func() {
		fn()
		s.in.endTurn()
	})
}

func (s scheduler) AfterFunc(d time.Duration, fn func()) (stop func() bool) {
	return s.in.loop.AfterFunc(d, func() {
		fn()
		s.in.endTurn()
	})
}

func (s scheduler) Now() time.Time { return s.in.loop.Now() }

// construct builds the isolate, runs the module and makes the object.
func (in *instance) construct() error {
	iso, err := sandbox.New(sandbox.Config{
		Scheduler: scheduler{in}, Rand: in.cfg.Rand, Fetch: in.cfg.Fetch, Limits: in.cfg.Limits,
		Console: in.console, Gate: in.loop.Output, Unhandled: in.unhandled,
		Interrupted: func(cause error) { in.loop.Abort(cause) },
	})
	if err != nil {
		return err
	}
	in.iso, in.vm = iso, iso.VM()
	in.loop.OnInterrupt(in.Interrupt) // the module's top level and the constructor are code of the user
	if err := in.openRows(); err != nil {
		return err
	}
	exports, err := in.evaluate()
	if err != nil {
		return in.fault("load module of", err)
	}
	class, err := in.choose(exports)
	if err != nil {
		return err
	}
	if in.self.isAgent {
		if err := in.openLedgers(); err != nil {
			return err
		}
	}
	return in.makeObject(class)
}

// choose takes the class from the exports, as the trial run found it.
func (in *instance) choose(exports *goja.Object) (class *goja.Object, err error) {
	e := in.module.exports[in.class]
	class, ok := exports.Get(e.key).(*goja.Object)
	if !ok {
		return nil, &agent.Error{Op: "start agent", Agent: in.id(), Kind: agent.UnknownClass,
			Msg: fmt.Sprintf("%s does not export class %s this time", in.module.file, in.class)}
	}
	in.self = subject{isAgent: e.isAgent, public: e.methods}
	part, name := "core", "DurableObject"
	if e.isAgent {
		part, name = "agent", "Agent"
	}
	base, err := in.part(part)
	if err != nil {
		return nil, err
	}
	in.self.base = base.Get(name).ToObject(in.vm)
	return class, nil
}

func (in *instance) makeObject(class *goja.Object) error {
	err := in.enter(func(vm *goja.Runtime) error {
		var err error
		in.self.object, err = vm.New(class, in.contextValue(), in.envValue())
		return err
	})
	if err != nil {
		return in.fault("construct", err)
	}
	return nil
}

func (in *instance) id() agent.ID {
	if in.loop == nil {
		return agent.ID{}
	}
	return in.loop.ID()
}

func (in *instance) db() storage.DB { return in.loop.DB() }

// enter is the one way from the loop into JavaScript: fn and the microtasks that it
// leaves run as the agent.
func (in *instance) enter(fn func(vm *goja.Runtime) error) error {
	return in.enterAs(&scope{}, fn)
}

func (in *instance) enterAs(s *scope, fn func(vm *goja.Runtime) error) error {
	err := in.iso.Do(func(vm *goja.Runtime) error {
		return in.iso.WithAsyncContext(s, func() error { return fn(vm) })
	})
	in.endTurn()
	return err
}

// endTurn runs when the microtasks of a turn are drained, before its commit.
func (in *instance) endTurn() { in.expireTransaction() }

// scope is the context of the code that runs now; never nil.
func (in *instance) scope() *scope {
	if s, ok := in.iso.AsyncContext().(*scope); ok {
		return s
	}
	return &scope{}
}

// once makes a callback that is called at most once out of several ways to end.
func once[T any](fn func(T)) func(T) {
	called := false
	return func(v T) {
		if !called {
			called = true
			fn(v)
		}
	}
}

// Start waits for what the constructor blocked, then recovers fibers and runs
// onStart.
func (in *instance) Start(done func(error)) {
	if in.work.blocks > 0 {
		in.work.unblocked = append(in.work.unblocked, func() { in.begin(done) })
		return
	}
	in.begin(done)
}

func (in *instance) begin(done func(error)) {
	if !in.self.isAgent {
		done(nil)
		return
	}
	in.handle("start", done, func() (goja.Value, error) {
		return in.glueCall("agent", "start", in.self.object)
	})
}

// handle runs a piece of work of the platform that ends with done.
func (in *instance) handle(op string, done func(error), fn func() (goja.Value, error)) {
	in.work.handlers++
	finish := once(func(err error) {
		in.work.handlers--
		done(err)
	})
	err := in.enter(func(*goja.Runtime) error {
		v, err := fn()
		if err != nil {
			return err
		}
		in.iso.Await(v,
			func(goja.Value) { finish(nil) },
			func(reason goja.Value) { finish(in.reasonFault(op, reason)) })
		return nil
	})
	if err != nil {
		finish(in.fault(op, err))
	}
}

// Wake runs the due alarm, then what is due of schedules and fiber recovery. One
// does not keep the others from running; the first error is reported.
func (in *instance) Wake(done func(error)) {
	in.runAlarm(func(alarmErr error) {
		if !in.self.isAgent || in.ending {
			done(alarmErr)
			return
		}
		in.handle("wake", func(err error) {
			if alarmErr != nil {
				err = alarmErr
			}
			done(err)
		}, func() (goja.Value, error) { return in.glueCall("schedules", "wake", in.self.object) })
	})
}

// NextWake is the earliest of alarm, schedules and fiber recovery.
func (in *instance) NextWake() storage.Wake {
	wake := storage.Wake{At: in.alarm.next()}
	if in.self.isAgent {
		wake.At = earlier(wake.At, in.sched.book.NextAt())
		wake.At = earlier(wake.At, in.fibers.ledger.NextScan())
		wake.Resume = len(in.fibers.active) > 0
	}
	wake.Resume = wake.Resume || in.work.keepAlive > 0 || in.work.handlers > 0
	return wake
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// Busy says whether something would be lost by unloading the instance now.
func (in *instance) Busy() bool {
	w := &in.work
	return w.calls+w.waits+w.keepAlive+w.handlers+w.blocks+len(in.fibers.active) > 0 || in.iso.Pending() > 0
}

// Interrupt stops the code that runs. Any goroutine.
func (in *instance) Interrupt(cause error) { in.iso.Interrupt(cause) }

// Close drops the isolate.
func (in *instance) Close() {
	in.ending = true
	if in.iso != nil {
		in.iso.Close()
	}
}

// reload reads again what is cached of the database, after something other than the
// caches changed it.
func (in *instance) reload() error {
	if err := in.openRows(); err != nil {
		return err
	}
	if !in.self.isAgent {
		return nil
	}
	if err := in.fibers.ledger.Reload(); err != nil {
		return err
	}
	if err := in.sched.book.Reload(); err != nil {
		return err
	}
	_, err := in.glueCall("agent", "dropState")
	return err
}
