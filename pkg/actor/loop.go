package actor

import (
	"fmt"
	"log/slog"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

var _ Loop = (*instance)(nil)

// ID implements Loop.
func (i *instance) ID() agent.ID { return i.a.id }

// DB implements Loop.
func (i *instance) DB() storage.DB { return i.db }

// Now implements Loop.
func (i *instance) Now() time.Time { return i.a.host.now() }

// Log implements Loop.
func (i *instance) Log() *slog.Logger {
	if i.log == nil {
		i.log = i.a.host.log.With("agent", i.a.id.Key())
	}
	return i.log
}

// Post implements Loop.
func (i *instance) Post(fn func()) bool { return i.a.inbox.post(i, fn) }

// Output implements Loop.
func (i *instance) Output(fn func(error)) { i.send(output{fn: fn}) }

// Publish implements Loop.
func (i *instance) Publish(topic string, data []byte) {
	// Who subscribes later asks for the present state in a later turn.
	if !i.a.host.exchange.wanted(i.a.id, topic) {
		return
	}
	if i.turn.published += len(data); i.turn.published > maxTurnPublish {
		i.Abort(&agent.Error{Op: "publish from", Agent: i.a.id, Kind: agent.TooLarge,
			Msg: fmt.Sprintf("one turn published more than %d bytes; spread them over several turns", maxTurnPublish)})
		return
	}
	i.send(output{id: i.a.id, topic: topic, data: data})
}

// OnInterrupt implements Loop.
func (i *instance) OnInterrupt(fn func(cause error)) {
	i.victim.Store(&fn)
	if cause := i.cause.Load(); cause != nil {
		fn(*cause) // it came before there was anything to stop
	}
}

// Block implements Loop.
func (i *instance) Block() (release func()) {
	i.blocks++
	released := false
	return func() {
		if !released {
			released = true
			i.blocks--
		}
	}
}

// Abort implements Loop.
func (i *instance) Abort(err error) {
	if err == nil {
		err = &agent.Error{Op: "abort", Agent: i.a.id, Kind: agent.Reset, Msg: "the agent's code asked for a reset"}
	}
	if i.turn.aborted == nil {
		i.turn.aborted = err
	}
}

// Destroy implements Loop.
func (i *instance) Destroy() { i.turn.destroy = true }

// timer is one AfterFunc. The loop owns it, except for fire.
type timer struct {
	i     *instance
	clock *time.Timer
	fn    func()
	done  bool // ran, was stopped, or its instance is gone
}

// AfterFunc implements Loop.
func (i *instance) AfterFunc(d time.Duration, fn func()) (stop func() bool) {
	t := &timer{i: i, fn: fn}
	if i.timers == nil {
		i.timers = make(map[*timer]struct{})
	}
	i.timers[t] = struct{}{}
	t.clock = time.AfterFunc(min(max(d, 0), maxTimer), t.fire)
	return t.stop
}

// fire runs on a goroutine of its own and only carries the timer to the loop.
func (t *timer) fire() { t.i.Post(t.run) }

func (t *timer) run() {
	if t.done {
		return
	}
	t.done = true
	delete(t.i.timers, t)
	t.fn()
}

func (t *timer) stop() bool {
	if t.done {
		return false
	}
	t.done = true
	t.clock.Stop()
	delete(t.i.timers, t)
	return true
}
