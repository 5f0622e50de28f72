// Package sandbox runs JavaScript under limits: one Isolate is one runtime with
// the web platform's globals, its timers and its asynchronous operations.
//
// It knows no agents, no storage and no server. Whoever owns an isolate gives it a
// Scheduler, on whose loop everything runs, and calls every entry through Do.
package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// Scheduler is the loop that owns an isolate. Post and the functions given to
// AfterFunc run on the loop, each as a turn.
type Scheduler interface {
	// Post may be called from any goroutine; false means that the loop is gone and fn
	// never runs.
	Post(fn func()) bool
	// AfterFunc is called on the loop; stop reports whether it prevented fn.
	AfterFunc(d time.Duration, fn func()) (stop func() bool)
	Now() time.Time
}

// Level is the severity of a console line.
type Level int

// Levels, least severe first.
const (
	LevelDebug Level = iota
	LevelLog
	LevelInfo
	LevelWarn
	LevelError
)

var levelNames = [...]string{"debug", "log", "info", "warn", "error"}

// String is the name of the console method that writes at this level.
func (l Level) String() string {
	if l >= 0 && int(l) < len(levelNames) {
		return levelNames[l]
	}
	return "log"
}

// Config is what an isolate may reach. Only Scheduler is required. All functions
// are called on the loop unless they say otherwise.
type Config struct {
	Scheduler Scheduler
	// Rand feeds crypto.* and Math.random; nil means crypto/rand.
	Rand io.Reader
	// Console receives finished lines of at most Limits.ConsoleLine bytes; nil drops them.
	Console func(level Level, message string)
	// Gate runs fn when everything written so far is durable, or with an error when
	// that can no longer happen; fn may be called on any goroutine. Outgoing requests
	// start there. Nil means at once.
	Gate func(fn func(error))
	// Fetch does one HTTP exchange without following redirects, on a goroutine of its
	// own. Nil means that fetch() rejects.
	Fetch func(*http.Request) (*http.Response, error)
	// Unhandled learns of errors that no code handled: a promise rejected and still
	// without a handler at the end of its turn, or a timer that threw.
	Unhandled func(err error)
	// Interrupted learns that a guard stopped the isolate for good; the owner must
	// reset it. cause is an *agent.Error.
	Interrupted func(cause error)
	Limits      Limits
}

// Isolate is one JavaScript runtime. Its methods belong to the loop's goroutine,
// except Interrupt and Wait.
type Isolate struct {
	vm     *goja.Runtime
	cfg    Config
	kernel kernel
	stack  vmStack

	// Owned by the loop.
	frame      *asyncFrame // async context of the code that runs now
	rejections []*goja.Promise
	timers     map[int64]*timer
	lastTimer  int64
	operations int
	entered    bool
	closed     bool
	guards     guardState
	parts      map[string]*goja.Object // scripts of ours that were loaded
	created    time.Time

	// stop is set once, by Interrupt, from any goroutine.
	stop    atomic.Pointer[stopCause]
	ctx     context.Context // lifetime of asynchronous operations; ends with Close
	cancel  context.CancelCauseFunc
	workers sync.WaitGroup
}

type stopCause struct{ err error }

var errClosed = errors.New("the isolate is closed")

// New builds an isolate with the platform's globals.
func New(cfg Config) (*Isolate, error) {
	if cfg.Scheduler == nil {
		return nil, &agent.Error{Op: "new isolate", Kind: agent.Invalid, Msg: "Config.Scheduler is missing"}
	}
	if err := cfg.Limits.setDefaults(); err != nil {
		return nil, err
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if err := installTemplates(); err != nil {
		return nil, fmt.Errorf("new isolate: %w", err)
	}
	i := &Isolate{vm: goja.New(), cfg: cfg, created: cfg.Scheduler.Now()}
	register(i)
	var err error
	if i.stack, err = stackOf(i.vm); err != nil {
		return nil, fmt.Errorf("new isolate: %w", err)
	}
	i.ctx, i.cancel = context.WithCancelCause(context.Background())
	i.vm.SetMaxCallStackSize(cfg.Limits.CallDepth)
	i.vm.SetTimeSource(cfg.Scheduler.Now)
	i.vm.SetRandSource(i.random)
	i.vm.SetPromiseRejectionTracker(i.trackRejection)
	i.vm.SetAsyncContextTracker(contextTracker{i})
	if err := i.install(); err != nil {
		return nil, fmt.Errorf("new isolate: %w", err)
	}
	return i, nil
}

// install runs the steps that give a bare runtime its globals.
func (i *Isolate) install() error {
	for _, step := range []func() error{i.loadKernel, i.installGuards} {
		var err error
		if ex := i.vm.Try(func() { err = step() }); ex != nil {
			return ex
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// VM is the runtime, for building values. Code runs through Do.
func (i *Isolate) VM() *goja.Runtime { return i.vm }

// random is Math.random: 53 bits of the injected source.
func (i *Isolate) random() float64 {
	var b [8]byte
	if _, err := io.ReadFull(i.cfg.Rand, b[:]); err != nil {
		panic(i.vm.NewGoError(fmt.Errorf("random source: %w", err)))
	}
	return float64(binary.LittleEndian.Uint64(b[:])>>11) / (1 << 53)
}

// Run executes a compiled program as a turn of its own, or inside the turn under
// way, and returns its completion value.
func (i *Isolate) Run(p *Program) (goja.Value, error) {
	var v goja.Value
	err := i.Do(func(vm *goja.Runtime) error {
		var err error
		if err := i.prepare(p); err != nil {
			return err
		}
		v, err = vm.RunProgram(p.code)
		return err
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// prepare guards what a program can reach without naming it. Before the first such
// program nothing of it exists in the isolate.
func (i *Isolate) prepare(p *Program) error {
	if p.regex {
		i.guardRegExp(nil)
	}
	if p.generators && !i.guards.generators {
		i.guards.generators = true
		return i.guardGenerators()
	}
	return nil
}

// Do is the one way in: it runs fn, drains the microtasks that it left, reports
// rejections that nobody handled, and turns exceptions, interrupts and panics into
// an error. fn's own error is returned as it is. Inside a turn Do runs fn as part
// of that turn. After Interrupt or Close nothing runs and Do returns the cause.
func (i *Isolate) Do(fn func(vm *goja.Runtime) error) (err error) {
	if err := i.stopped(); err != nil {
		return err
	}
	if i.entered {
		return i.protect(fn)
	}
	i.entered, i.frame, i.guards.nesting = true, nil, 0
	defer func() { i.entered, i.frame = false, nil }()
	defer i.recoverInto(&err)
	var failed error
	i.kernel.run = func() { failed = i.protect(fn) }
	_, err = i.kernel.enter(nil, i.kernel.entry)
	switch {
	case err == nil:
		err = failed
	case isOverflow(err):
		// Only a microtask gets here: protect kept an overflow of fn. The queue behind it
		// is gone, and with it promises that would never settle.
		i.abort(&agent.Error{Op: "run microtask", Kind: agent.Exception, Name: "RangeError", Msg: overflowMessage, Err: err})
	}
	if cause := i.stop.Load(); cause != nil {
		// goja forgets an interrupt when its stack is empty; ours is for good.
		i.vm.Interrupt(cause.err)
		i.rejections = nil
		return cause.err
	}
	i.reportRejections()
	return err
}

// protect runs fn inside the turn under way. An overflow ends here, where the stack
// is shallow again, so that the caller can answer it.
func (i *Isolate) protect(fn func(vm *goja.Runtime) error) (err error) {
	height := i.stack.height()
	defer func() {
		if x := recover(); x != nil {
			e, ok := x.(error)
			if !ok || !isOverflow(e) {
				panic(x)
			}
			err = e
		}
		if err != nil && i.stack.height() != height {
			i.stack.unwind(height)
		}
	}()
	if ex := i.vm.Try(func() { err = fn(i.vm) }); ex != nil {
		return ex
	}
	return err
}

// recoverInto ends a turn that panicked: the runtime's state is unknown from here
// on, so it is stopped.
func (i *Isolate) recoverInto(err *error) {
	x := recover()
	if x == nil {
		return
	}
	if cause := i.stop.Load(); cause != nil {
		i.vm.Interrupt(cause.err)
		*err = cause.err
		return
	}
	e, isErr := x.(error)
	fault := &agent.Error{Op: "run JavaScript", Kind: agent.Internal, Msg: fmt.Sprintf("panic: %v", x), Stack: string(debug.Stack())}
	if isErr {
		fault.Err = e
	}
	i.abort(fault)
	*err = fault
}

// abort stops the isolate from inside and tells the owner.
func (i *Isolate) abort(cause error) {
	i.Interrupt(cause)
	if i.cfg.Interrupted != nil {
		i.cfg.Interrupted(i.stopped())
	}
}

// stopped is why nothing may run any more, or nil.
func (i *Isolate) stopped() error {
	if cause := i.stop.Load(); cause != nil {
		return cause.err
	}
	if i.closed {
		return &agent.Error{Op: "run JavaScript", Kind: agent.Reset, Err: errClosed}
	}
	return nil
}

// Interrupt stops the code that runs now and everything that would run later. It
// may be called from any goroutine; the first cause stays.
func (i *Isolate) Interrupt(cause error) {
	if cause == nil {
		cause = &agent.Error{Op: "run JavaScript", Kind: agent.Canceled, Msg: "interrupted"}
	}
	i.stop.CompareAndSwap(nil, &stopCause{cause})
	i.vm.Interrupt(i.stop.Load().err)
}

// Close cancels timers and asynchronous operations; nothing that was posted runs
// afterwards. It does not wait for operations under way, see Wait.
func (i *Isolate) Close() {
	if i.closed {
		return
	}
	i.closed = true
	for id, t := range i.timers {
		t.stop()
		delete(i.timers, id)
	}
	i.cancel(errClosed)
}

// Wait blocks until the goroutines of Async have ended; call it off the loop, after
// Close. Any goroutine.
func (i *Isolate) Wait() { i.workers.Wait() }
