// Package actor runs agents: one goroutine per live agent over one database.
//
// Every event (call, timer, fetch reply, alarm) is a turn; all writes of a turn
// are one transaction; everything that a turn sends waits behind the output gate
// until that transaction is durable. What an agent does is a Behavior; this
// package knows nothing of JavaScript and nothing of the network.
package actor

import (
	"log/slog"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Behavior is what a class does in one live instance. Apart from Interrupt, its
// methods are called on the agent's loop, inside a turn, and must not block: slow
// work is done elsewhere and comes back through Loop.Post.
type Behavior interface {
	// Start begins start-up (fiber recovery, onStart). No call or wake is delivered
	// until done was called; done(err) with an error drops the instance, fails the
	// waiting calls with err, and the next event tries again. done is called exactly
	// once, on the loop, now or in a later turn.
	Start(done func(error))

	// Call runs a method. reply is called at most once, on the loop, now or in a
	// later turn; the answer leaves when that turn's writes are durable. If the
	// instance goes away first, the actor answers with kind Reset. cancelled is
	// closed when the caller gives up; the method may ignore it.
	Call(call agent.Call, cancelled <-chan struct{}, reply func(agent.Result, error))

	// Wake handles a due alarm: the behavior runs what is due by Loop.Now and calls
	// done exactly once, on the loop. An error makes the platform try again with
	// growing gaps.
	Wake(done func(error))

	// NextWake is asked at the end of every turn and goes into its commit. It must be
	// cheap: no queries.
	NextWake() storage.Wake

	// Busy says whether work is under way in memory (an unsettled call, a fiber, a
	// pending fetch): a busy instance is not hibernated.
	Busy() bool

	// Interrupt stops the code that runs now, from another goroutine, and keeps it
	// stopped: the turn ends with an error that carries cause. The instance is reset
	// afterwards. Interrupt may be called between turns and after Close.
	Interrupt(cause error)

	// Close drops everything. No method but Interrupt is called afterwards, and no
	// posted function runs.
	Close()
}

// Factory builds the behavior of one instance, on its loop, inside the first turn.
// One that runs code of a user says with Loop.OnInterrupt how to stop it.
type Factory func(Loop) (Behavior, error)

// Classes finds the code of a class. It fails with kind UnknownClass before any
// file is touched.
type Classes interface {
	Factory(id agent.ID) (Factory, error)
}

// Loop is what a Behavior sees of its agent. Unless said otherwise its methods
// are called on the loop, inside a turn.
type Loop interface {
	ID() agent.ID
	DB() storage.DB
	Now() time.Time
	Log() *slog.Logger

	// Post runs fn as a turn of its own, in order, ahead of waiting calls; it may be
	// called from any goroutine. Posts are delivered also during start-up and while
	// the loop is blocked. False means that the instance is gone and fn will never
	// run. The behavior bounds how many operations it has under way (MaxPosts).
	Post(fn func()) bool

	// AfterFunc runs fn as a turn after d (at the earliest in the next turn). stop
	// reports whether it prevented that.
	AfterFunc(d time.Duration, fn func()) (stop func() bool)

	// Output runs fn once everything written up to the end of this turn is durable,
	// off the loop; fn must not block. Outputs leave in order. fn gets an error when
	// that can no longer happen; then nothing may leave.
	Output(fn func(error))

	// Publish sends data to the subscribers of a topic of this agent, behind the
	// gate.
	Publish(topic string, data []byte)

	// OnInterrupt says how to stop code that the factory runs while there is no
	// Behavior yet; afterwards Behavior.Interrupt is used. fn is called from another
	// goroutine, under the rules of Behavior.Interrupt.
	OnInterrupt(fn func(cause error))

	// Block holds back calls and wakes until release was called (on the loop).
	// Blocks nest.
	Block() (release func())

	// Abort resets the instance at the end of this turn: the turn's writes are
	// dropped, waiting replies fail with err.
	Abort(err error)

	// Destroy ends the instance at the end of this turn, answers what is waiting, and
	// deletes the agent's data.
	Destroy()
}

// MaxPosts bounds the operations that one behavior may have under way: timers,
// fetches, calls to other agents.
const MaxPosts = 10_000
