package actor

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Config is fixed at NewHost. Store and Classes are required.
type Config struct {
	Store    storage.Store
	Classes  Classes
	Governor Governor         // nil: turns are not bounded
	Now      func() time.Time // default time.Now
	Log      *slog.Logger     // default: discard
	Events   func(Event)      // may be nil; called on loops, must not block
	Limits   Limits
}

// Host runs the agents of one node. Its methods may be called from any goroutine.
type Host struct {
	store    storage.Store
	classes  Classes
	governor Governor
	now      func() time.Time
	log      *slog.Logger
	events   func(Event)
	limits   Limits
	exchange *exchange
	dossiers *dossiers

	life     context.Context // of the host's own work in the store; ends in Close
	end      context.CancelCauseFunc
	running  sync.WaitGroup // loops; Add only under mu or from a running loop
	evicting atomic.Int64   // actors asked to leave that have not yet

	// mu guards what follows. An inbox's mu may be taken under it; nothing is sent,
	// called or waited for under it.
	mu      sync.Mutex
	roster  roster
	closing bool
}

// NewHost makes a host; the first call activates the first agent.
func NewHost(cfg Config) *Host {
	h := &Host{store: cfg.Store, classes: cfg.Classes, governor: cfg.Governor, now: cfg.Now, log: cfg.Log,
		events: cfg.Events, limits: cfg.Limits.withDefaults()}
	if h.now == nil {
		h.now = time.Now
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.life, h.end = context.WithCancelCause(context.Background())
	h.exchange = newExchange(h.limits.Subscriptions)
	h.dossiers = newDossiers(h.limits.ResetWindow)
	h.roster.actors = make(map[agent.ID]*actor)
	return h
}

// Call runs a method of an agent, which is activated if need be, and returns when
// everything that the answer depends on is durable. Errors are *agent.Error: what
// the method gave, or Overloaded (nothing ran), Quarantined, UnknownClass,
// Unavailable, Deadline or Canceled (at once, when ctx ends), Reset,
// OutcomeUnknown, CPULimit, MemoryLimit, and what opening the agent gave.
func (h *Host) Call(ctx context.Context, call agent.Call) (agent.Result, error) {
	if err := call.Validate(); err != nil {
		return agent.Result{}, err
	}
	return h.send(ctx, newCall(ctx, call))
}

// Wake activates an agent and lets it run what is due. It returns when the writes
// of that are durable, with the errors of Call.
func (h *Host) Wake(ctx context.Context, id agent.ID) error {
	if err := id.Validate(); err != nil {
		return err
	}
	_, err := h.send(ctx, newWake(ctx, id))
	return err
}

func (h *Host) send(ctx context.Context, l *letter) (agent.Result, error) {
	if ctx.Err() != nil {
		return agent.Result{}, agent.FromContext(ctx, l.label(), l.call.Agent)
	}
	a, err := h.reach(l.call.Agent, entry{letter: l})
	if err != nil {
		return agent.Result{}, err
	}
	select {
	case out := <-l.done:
		return out.result, out.err
	case <-ctx.Done():
		a.inbox.abandon(l)
		return agent.Result{}, agent.FromContext(ctx, l.label(), l.call.Agent)
	}
}

// entry is what reach hands to an actor: one of both.
type entry struct {
	letter *letter
	order  *order
}

func (e entry) into(b *inbox) (closed bool, err error) {
	if e.letter != nil {
		return b.push(e.letter)
	}
	return b.give(e.order)
}

// reach hands e to the agent's actor and makes one if there is none.
func (h *Host) reach(id agent.ID, e entry) (*actor, error) {
	for {
		h.mu.Lock()
		a := h.roster.use(id)
		if a == nil {
			a, err := h.enterLocked(id, e)
			h.mu.Unlock()
			return a, err
		}
		h.mu.Unlock()
		closed, err := e.into(&a.inbox)
		if !closed {
			return a, err
		}
		// It left after the lookup; the roster no longer has it.
	}
}

// enterLocked makes an actor that has e to do.
func (h *Host) enterLocked(id agent.ID, e entry) (*actor, error) {
	if h.closing {
		return nil, errClosing(id)
	}
	a := newActor(h, id)
	if e.letter != nil {
		if reason := h.dossiers.quarantine(id); reason != "" {
			return nil, errQuarantined(id, reason)
		}
		room, err := h.makeRoomLocked(id)
		if err != nil {
			return nil, err
		}
		a.room = room
	}
	if _, err := e.into(&a.inbox); err != nil {
		return nil, err
	}
	h.roster.add(a)
	h.running.Add(1)
	go a.run()
	return a, nil
}

// makeRoomLocked asks the least recently used idle instance to leave if there are
// MaxLive. room is closed when it has.
func (h *Host) makeRoomLocked(id agent.ID) (room <-chan struct{}, err error) {
	if h.roster.len()-int(h.evicting.Load()) < h.limits.MaxLive {
		return nil, nil
	}
	for a := h.roster.oldest; a != nil; a = a.newer {
		if room := a.inbox.evict(false); room != nil {
			h.evicting.Add(1)
			return room, nil
		}
	}
	return nil, &agent.Error{Op: "activate", Agent: id, Kind: agent.Overloaded,
		Msg: fmt.Sprintf("%d agents are live on this node and none is idle; retry later", h.roster.len())}
}

// EvictIdle asks up to n idle instances to hibernate, the least recently used
// first, and says how many it asked. It does not wait for them.
func (h *Host) EvictIdle(n int) int {
	return len(h.evictWhere(n, false, func(agent.ID) bool { return true }))
}

// EvictClass asks the instances of a class to hibernate when they are idle, so that
// they start with its newest code, says how many it asked, and waits until they have
// or found something to do: an event that comes after it meets none of them. The end
// of ctx ends the wait, and so does a turn that runs for longer than turnPatience.
func (h *Host) EvictClass(ctx context.Context, namespace, class string) int {
	ctx, cancel := context.WithTimeout(ctx, turnPatience)
	defer cancel()
	rooms := h.evictWhere(math.MaxInt, true, func(id agent.ID) bool { return id.Namespace == namespace && id.Class == class })
	for _, room := range rooms {
		select {
		case <-room:
		case <-ctx.Done():
			return len(rooms)
		}
	}
	return len(rooms)
}

// turnPatience is how long a deployment waits for turns under way.
const turnPatience = time.Second

func (h *Host) evictWhere(n int, awake bool, match func(agent.ID) bool) (rooms []<-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for a := h.roster.oldest; a != nil && len(rooms) < n; a = a.newer {
		if !match(a.id) {
			continue
		}
		if room := a.inbox.evict(awake); room != nil {
			h.evicting.Add(1)
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// Live is the number of agents in memory, those that start or leave included.
func (h *Host) Live() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.roster.len()
}

// leave takes an actor out of the host unless something came in.
func (h *Host) leave(a *actor) bool {
	h.mu.Lock()
	a.inbox.mu.Lock()
	left := a.inbox.leaveLocked()
	a.inbox.mu.Unlock()
	if left {
		h.roster.remove(a)
	}
	h.mu.Unlock()
	a.inbox.evicted(&h.evicting)
	return left
}

// Subscribe receives what an agent publishes on a topic from now on. buffer is how
// many messages may wait to be read, 1 to 65 536; one more ends the subscription
// with kind Overloaded. A subscription that cannot be had is returned ended.
func (h *Host) Subscribe(id agent.ID, topic string, buffer int) *Subscription {
	return h.exchange.subscribe(id, topic, buffer)
}

// Close refuses everything new (kind Unavailable), answers what has not started
// the same, lets the running turns end and commit, answers calls under way with
// kind Reset, and closes all databases. When ctx ends, turns that still run are
// interrupted; an error of kind Deadline says that some did not even then end
// within 5 s. Otherwise no goroutine of the host is left. Closing again waits too.
func (h *Host) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closing = true
	actors := h.roster.all()
	h.mu.Unlock()
	for _, a := range actors {
		a.inbox.stop()
	}
	defer h.exchange.close()
	ended := make(chan struct{})
	go func() {
		h.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		h.end(nil)
		return nil
	case <-ctx.Done():
	}
	h.end(errClosing(agent.ID{}))
	for _, a := range actors {
		a.inbox.interrupt(errClosing(a.id))
	}
	grace := time.NewTimer(closeGrace)
	defer grace.Stop()
	select {
	case <-ended:
		return nil
	case <-grace.C:
		return &agent.Error{Op: "close the host", Kind: agent.Deadline,
			Msg: fmt.Sprintf("%d agents did not end within %v after they were interrupted", h.Live(), closeGrace)}
	}
}

// deliver lets one output out, or says that it may not leave. It runs behind the
// gate and does not block.
func (h *Host) deliver(o *output, err error) {
	switch {
	case o.letter != nil && err != nil:
		o.letter.answer(agent.Result{}, err)
	case o.letter != nil:
		o.letter.answer(o.letter.outcome.result, o.letter.outcome.err)
	case o.fn != nil:
		defer func() {
			if p := recover(); p != nil {
				h.log.Error("an output of an agent panicked", "panic", fmt.Sprint(p))
			}
		}()
		o.fn(err)
	case err == nil:
		h.exchange.publish(o.id, o.topic, o.data)
	}
}

func (h *Host) tell(e Event) {
	if h.events != nil {
		h.events(e)
	}
}
