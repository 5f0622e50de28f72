// Package governor keeps one agent's code from starving the others: it watches
// every running turn, moves long ones to threads of low priority, and stops those
// that run past their time or that make the process run out of memory.
//
// It knows nothing of agents or JavaScript: a turn is a goroutine between Begin
// and End, and stopping it is a function that the owner gave.
package governor

import (
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"agentd/pkg/agent"
)

// Defaults of Config.
const (
	DefaultBudget    = 30 * time.Second
	DefaultLongAfter = 5 * time.Millisecond

	// maxExtraProcs bounds how far GOMAXPROCS grows for long turns. Past it long turns
	// share processors with short ones.
	maxExtraProcs = 64

	tick           = 2 * time.Millisecond   // while turns run; with none running nothing ticks
	idleAfter      = time.Second            // without a running turn, then the watcher sleeps
	betweenVictims = 250 * time.Millisecond // a stopped turn gets this long to give memory back
	pressureEvery  = time.Second
	giveAfter      = 250 * time.Millisecond
)

// Config is fixed at New. The zero value of a field means its default.
type Config struct {
	Budget      time.Duration // wall time of one turn; default 30 s
	LongAfter   time.Duration // a turn older than this loses its priority; default 5 ms
	MemoryLimit uint64        // bytes of Go memory; 0 = no limit
	OnPressure  func()        // called at most once a second above 80 % of MemoryLimit; must not block
	Log         *slog.Logger  // default: discard
}

// Governor watches turns. Turn, Begin and End may be called from any goroutine.
type Governor struct {
	cfg  Config
	wake chan struct{} // buffer of one: a turn began while the watcher slept
	stop chan struct{}
	done chan struct{}

	mu struct {
		sync.Mutex
		running map[*Turn]struct{}
		asleep  bool
		closed  bool
	}

	// owned by the watcher goroutine
	baseProcs    int
	lazy         bool // the collector runs less often; see setLazy
	gcPercent    int  // what it was before
	procs        int
	lastVictim   time.Time
	lastPressure time.Time
	owed         bool      // a turn was stopped; give its memory back to the system
	lastStopped  time.Time // when a stopped turn was last seen running
	lastTidied   time.Time
	tidied       uint64 // bytes of the heap after that
	heap         heapMeter
}

// Turn is the governor's record of a turn; an instance reuses one for all of its
// turns, one after another.
type Turn struct {
	g         *Governor
	interrupt func(error)

	// guarded by Governor.mu
	started time.Time
	thread  threadID
	long    bool
	stopped bool
	faults  uint64 // page faults of the thread when the turn became long
}

// New does nothing but remember; Start begins watching.
func New(cfg Config) *Governor {
	if cfg.Budget <= 0 {
		cfg.Budget = DefaultBudget
	}
	if cfg.LongAfter <= 0 {
		cfg.LongAfter = DefaultLongAfter
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	g := &Governor{cfg: cfg, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	g.mu.running = make(map[*Turn]struct{})
	return g
}

// Start begins watching and, with a memory limit, tells the garbage collector of
// it. One governor per process: GOMAXPROCS and the limit are global.
func (g *Governor) Start() {
	g.baseProcs = runtime.GOMAXPROCS(0)
	g.procs = g.baseProcs
	if g.cfg.MemoryLimit > 0 {
		// The collector works hard before the watcher has to stop anything.
		debug.SetMemoryLimit(int64(g.cfg.MemoryLimit / 100 * collectPercent))
	}
	go g.watch()
}

// Close stops watching and waits for the watcher. Turns that still run are no
// longer bounded.
func (g *Governor) Close() {
	g.mu.Lock()
	closed := g.mu.closed
	g.mu.closed = true
	g.mu.Unlock()
	if !closed {
		close(g.stop)
	}
	<-g.done
}

// Turn makes a record for turns that follow one another. interrupt is called at
// most once a turn, from the watcher, with an *agent.Error of kind CPULimit or
// MemoryLimit; it must not block and must make the turn end.
func (g *Governor) Turn(interrupt func(error)) *Turn { return &Turn{g: g, interrupt: interrupt} }

// Begin starts a turn on the calling goroutine, which stays on its thread until
// End.
func (t *Turn) Begin() {
	runtime.LockOSThread()
	g := t.g
	g.mu.Lock()
	t.started, t.thread, t.long, t.stopped = time.Now(), currentThread(), false, false
	g.mu.running[t] = struct{}{}
	wake := g.mu.asleep
	g.mu.asleep = false
	g.mu.Unlock()
	if wake {
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
}

// End ends the turn on the goroutine that began it. When retire is true the thread
// lost its priority for good (an unprivileged process cannot raise it again): the
// caller must go on in a new goroutine and return from this one, which ends the
// thread.
func (t *Turn) End() (retire bool) {
	g := t.g
	g.mu.Lock()
	delete(g.mu.running, t)
	retire = t.long
	g.mu.Unlock()
	if !retire {
		runtime.UnlockOSThread()
	}
	return retire
}

func (g *Governor) watch() {
	defer close(g.done)
	defer g.setLazy(false)
	defer g.setProcs(0)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	idleSince := time.Now()
	for {
		select {
		case <-g.stop:
			return
		case <-ticker.C:
		}
		now := time.Now()
		if n := g.scan(now); n > 0 {
			idleSince = now
		}
		if g.owed || now.Sub(idleSince) < idleAfter || !g.trySleep() {
			continue
		}
		g.tidy(now)
		ticker.Stop()
		select {
		case <-g.stop:
			return
		case <-g.wake:
			idleSince = time.Now()
			ticker.Reset(tick)
		}
	}
}

// trySleep reports whether no turn runs, so that the next Begin must wake us.
func (g *Governor) trySleep() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.asleep = len(g.mu.running) == 0
	return g.mu.asleep
}

// scan looks at every running turn once and reports how many there are.
func (g *Governor) scan(now time.Time) int {
	var overdue []func()
	long := 0
	g.mu.Lock()
	running := len(g.mu.running)
	for t := range g.mu.running {
		age := now.Sub(t.started)
		if age >= g.cfg.LongAfter {
			long++
			g.demoteLocked(t)
		}
		if age >= g.cfg.Budget && !t.stopped {
			overdue = append(overdue, g.stopLocked(t, agent.CPULimit,
				fmt.Sprintf("a turn ran for %v, its whole budget, and was stopped; do long work in steps with await between them, or raise --turn-budget", g.cfg.Budget)))
		}
	}
	g.mu.Unlock()
	for _, interrupt := range overdue {
		interrupt()
	}
	g.setProcs(long)
	g.setLazy(long > 0)
	g.checkMemory(now)
	g.giveBack(now)
	return running
}

// demoteLocked lowers the priority of the turn's thread. The turn holds its thread
// while it is in running, so the thread cannot have gone on to other work.
func (g *Governor) demoteLocked(t *Turn) {
	if t.long {
		return
	}
	t.long = true
	t.faults = t.thread.pageFaults()
	if err := t.thread.lowerPriority(); err != nil {
		g.cfg.Log.Warn("cannot lower the priority of a long turn", "error", err)
	}
}

// stopLocked marks the turn and returns what to do once the lock is released. Only
// the watcher stops turns.
func (g *Governor) stopLocked(t *Turn, kind agent.Kind, msg string) func() {
	t.stopped, g.owed, g.lastStopped = true, true, time.Now()
	if t.long {
		t.thread.restorePriority()
	}
	interrupt := t.interrupt
	return func() { interrupt(&agent.Error{Op: "run turn", Kind: kind, Msg: msg}) }
}

// setProcs gives every long turn a processor of its own beside the usual ones, so
// that the system's scheduler, which knows priorities, decides who runs, and not
// Go's, which does not. The usual ones are there twice then: while Go moves a long
// turn from one processor to another it takes one more. n = 0 restores the start.
func (g *Governor) setProcs(n int) {
	want := g.baseProcs
	if n > 0 {
		want += g.baseProcs + min(n, maxExtraProcs)
	}
	// Shrinking is lazy by half, because each change stops the world for some 30 µs.
	if want == g.procs || (n > 0 && want < g.procs && want > g.baseProcs+(g.procs-g.baseProcs)/2) {
		return
	}
	g.procs = want
	runtime.GOMAXPROCS(want)
}
