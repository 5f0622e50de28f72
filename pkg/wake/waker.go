// Package wake activates agents that have something to do by themselves: a due
// alarm, or work that was under way when its instance was lost. Nothing else in a
// node does that, so it never gives up: what fails is tried again with growing
// gaps, for as long as the catalog says that it is due.
//
// It decides when, not what: the host delivers the wake and the agent runs what is
// due.
package wake

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Host delivers a wake and returns when what the agent wrote is durable.
type Host interface {
	Wake(ctx context.Context, id agent.ID) error
}

// Catalog knows what is due; storage.Catalog specifies both methods.
type Catalog interface {
	Due(ctx context.Context, now time.Time, limit int) (due []storage.Entry, next time.Time, err error)
	Changed() <-chan struct{}
}

const (
	firstGap = 2 * time.Second
	maxGap   = 1024 * time.Second
	jitter   = 0.25 // of the gap, added at random so that failures do not stay in step

	// maxSleep bounds the trust in one reading of the wall clock, which may be set.
	maxSleep = time.Minute

	// catalogGap is the pause after the catalog failed.
	catalogGap = time.Second

	// sameAgain is how soon after a successful wake the same entry counts as a
	// failure when it is due again: the wake did not move it.
	sameAgain = 10 * time.Second
)

// Config is fixed at New. Host and Catalog are required.
type Config struct {
	Host    Host
	Catalog Catalog
	Now     func() time.Time // default time.Now
	Rand    func() float64   // in [0, 1); default math/rand/v2
	Log     *slog.Logger     // default: discard

	// Concurrency is how many wakes may be in their first Patience at once; default
	// 64. It bounds activations, not work: a wake that runs longer gives its place
	// to others.
	Concurrency int
	Patience    time.Duration // default 2 s

	// MaxInFlight bounds all wakes under way; default 4 096.
	MaxInFlight int

	// Timeout is how long one wake may take before it counts as failed; default
	// 15 min.
	Timeout time.Duration
}

// Waker wakes agents from Start to Close.
type Waker struct {
	cfg    Config
	cancel context.CancelFunc
	wakes  sync.WaitGroup
	done   chan struct{} // closed when run has returned; nil before Start

	// events carry what wakes under way tell the scheduler. One place per wake and
	// event, so that no sender waits after Close.
	events chan event

	inFlight atomic.Int64 // as plan.flying, for InFlight
}

// event is what a wake tells the scheduler: that it ended, or that it is slow.
type event struct {
	id    agent.ID
	ended bool
	err   error
}

// New makes a waker that does nothing yet.
func New(cfg Config) *Waker {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.Concurrency, 64)
	setDefault(&cfg.MaxInFlight, 4096)
	setDefault(&cfg.Patience, 2*time.Second)
	setDefault(&cfg.Timeout, 15*time.Minute)
	return &Waker{cfg: cfg, events: make(chan event, 2*cfg.MaxInFlight)}
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Start begins to wake agents, those with unfinished work first of all. It must be
// called at most once, after the host can take calls.
func (w *Waker) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.done = cancel, make(chan struct{})
	go func() {
		defer close(w.done)
		w.run(ctx)
	}()
}

// Close starts no further wake, cancels those under way and waits for them.
// Closing twice, or without Start, is harmless.
func (w *Waker) Close() {
	if w.done == nil {
		return
	}
	w.cancel()
	<-w.done
	w.wakes.Wait()
}

// InFlight is the number of wakes under way. Any goroutine.
func (w *Waker) InFlight() int { return int(w.inFlight.Load()) }

// run is the scheduler; it owns the plan.
func (w *Waker) run(ctx context.Context) {
	p := newPlan(w.cfg)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if p.mustScan() {
			w.scan(ctx, p)
		}
		for e, ok := p.pop(); ok; e, ok = p.pop() {
			w.launch(ctx, e.ID)
		}
		w.inFlight.Store(int64(len(p.flying)))
		if p.mustScan() {
			continue // what was queued is under way; see what else is due
		}
		timer.Reset(p.sleep(w.cfg.Now()))
		select {
		case <-ctx.Done():
		case <-timer.C:
			p.stale = true
		case <-w.cfg.Catalog.Changed():
			p.stale = true
		case e := <-w.events:
			w.note(p, e)
			w.noteAll(p)
		}
	}
}

// scan asks the catalog what is due.
func (w *Waker) scan(ctx context.Context, p *plan) {
	now := w.cfg.Now()
	limit := p.limit()
	due, next, err := w.cfg.Catalog.Due(ctx, now, limit)
	if err != nil {
		if ctx.Err() == nil {
			w.cfg.Log.Error("asking which agents are due failed", "error", err, "retry_in", catalogGap)
		}
		p.failed(now)
		return
	}
	for _, e := range p.take(now, due, next, len(due) >= limit) {
		w.cfg.Log.Warn("an agent was woken and is still due; it is tried again later",
			"agent", e.ID.Key(), "wake_at", e.Wake.At, "resume", e.Wake.Resume)
	}
}

// noteAll takes the events that are there already, so that one scan serves many.
func (w *Waker) noteAll(p *plan) {
	for {
		select {
		case e := <-w.events:
			w.note(p, e)
		default:
			return
		}
	}
}

func (w *Waker) note(p *plan, e event) {
	if !e.ended {
		p.slow(e.id)
		return
	}
	gap := p.ended(w.cfg.Now(), e)
	if e.err != nil {
		w.cfg.Log.Warn("waking an agent failed", "agent", e.id.Key(), "kind", agent.KindOf(e.err).String(),
			"error", e.err, "retry_in", gap)
	}
}

// launch wakes one agent in a goroutine that Close waits for.
func (w *Waker) launch(ctx context.Context, id agent.ID) {
	w.wakes.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
		defer cancel()
		told := make(chan struct{})
		patience := time.AfterFunc(w.cfg.Patience, func() {
			w.events <- event{id: id}
			close(told)
		})
		err := w.cfg.Host.Wake(ctx, id)
		if !patience.Stop() {
			<-told // so that nothing of this wake is left behind it
		}
		w.events <- event{id: id, ended: true, err: err}
	})
}
