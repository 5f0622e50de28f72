package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
)

// checkpoints has the engine make applied entries durable and then lets the groups'
// logs forget them: by time, by the bytes that came in, and when asked.
type checkpoints struct {
	engine Engine
	shards []*shard
	log    *slog.Logger
	now    func() time.Time
	every  time.Duration
	bytes  int64

	grown atomic.Int64    // bytes given to the engine since the last round began
	short atomic.Bool     // the log is full
	due   chan struct{}   // of capacity 1: grown has passed bytes, or short
	asked chan chan error // of ask; each of capacity 1
	life  context.Context
	end   context.CancelFunc
	wg    sync.WaitGroup

	present atomic.Pointer[round] // the round under way

	mu       sync.Mutex // guards what follows, for Stats
	last     time.Time
	rounds   uint64
	relieved time.Time // when a full log last had a round begin
	failure  error     // of the last round
}

// roundPatience bounds one round: a shard that cannot take part (raft hangs while the
// log has no room for a vote) must not keep the others from freeing it.
const roundPatience = 5 * time.Minute

// Bounds of the wait before a failed checkpoint is tried again.
const (
	retryFirst = time.Second
	retryMost  = time.Minute
)

func newCheckpoints(c Config, shards []*shard) *checkpoints {
	k := &checkpoints{engine: c.Engine, shards: shards, log: c.Logger, now: c.Now, every: c.CheckpointEvery,
		bytes: c.CheckpointBytes, due: make(chan struct{}, 1), asked: make(chan chan error)}
	k.life, k.end = context.WithCancel(context.Background())
	return k
}

func (k *checkpoints) start() { k.wg.Go(k.run) }

func (k *checkpoints) stop() {
	k.end()
	k.wg.Wait()
}

// grew counts what was given to the engine. Any goroutine.
func (k *checkpoints) grew(bytes int) {
	if k.grown.Add(int64(bytes)) >= k.bytes {
		k.wake()
	}
}

// press has a round taken early because the log is full. Any goroutine.
func (k *checkpoints) press() {
	if k.short.CompareAndSwap(false, true) {
		k.wake()
	}
}

func (k *checkpoints) wake() {
	select {
	case k.due <- struct{}{}:
	default:
	}
}

// run takes one round at a time, so triggers that come meanwhile are served by the
// next one together.
func (k *checkpoints) run() {
	timer := time.NewTimer(k.every)
	defer timer.Stop()
	wait := retryFirst
	for {
		var err error
		select {
		case <-timer.C:
			if k.grown.Load() > 0 || k.failed() {
				err = k.round(k.life, nil)
			}
		case <-k.due:
			if k.grown.Load() >= k.bytes || k.relief() {
				err = k.round(k.life, nil)
			}
		case first := <-k.asked:
			err = k.round(k.life, first)
		case <-k.life.Done():
			return
		}
		next := k.every
		if err != nil && k.life.Err() == nil {
			next, wait = min(wait, k.every), min(2*wait, retryMost)
			k.log.Error("a checkpoint failed and will be tried again", "error", err, "in", next)
		} else {
			wait = retryFirst
		}
		timer.Reset(next)
	}
}

// relief says whether a full log asks for a round: at most once in a while, since a
// round does not help when something else fills the disk.
func (k *checkpoints) relief() bool {
	if !k.short.Swap(false) {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.now(); now.Sub(k.relieved) >= retryFirst {
		k.relieved = now
		return true
	}
	return false
}

// ask has a round taken that begins after the call.
func (k *checkpoints) ask(ctx context.Context) error {
	unasked := func() error { return agent.FromContext(ctx, "checkpoint", agent.ID{}) }
	done := make(chan error, 1)
	select {
	case k.asked <- done:
	case <-ctx.Done():
		return unasked()
	case <-k.life.Done():
		return &agent.Error{Op: "checkpoint", Kind: agent.Unavailable, Msg: "the node is stopping"}
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return unasked()
	}
}

// round takes a snapshot of every shard that has something new. Their checkpoints
// are one of the engine's.
func (k *checkpoints) round(ctx context.Context, first chan error) error {
	waiting := k.gather(first)
	k.grown.Store(0)
	ctx, cancel := context.WithTimeout(ctx, roundPatience)
	defer cancel()
	err := k.snapshots(ctx)
	k.mu.Lock()
	k.rounds++
	if k.failure = err; err == nil {
		k.last = k.now()
	}
	k.mu.Unlock()
	for _, done := range waiting {
		done <- err
	}
	return err
}

// gather takes everybody who is asking at this moment.
func (k *checkpoints) gather(first chan error) []chan error {
	if first == nil {
		return nil
	}
	list := []chan error{first}
	for {
		select {
		case next := <-k.asked:
			list = append(list, next)
		default:
			return list
		}
	}
}

func (k *checkpoints) snapshots(ctx context.Context) error {
	var serving []*shard
	for _, s := range k.shards {
		if s.broken() == nil {
			serving = append(serving, s)
		}
	}
	rd := &round{engine: k.engine, expected: len(serving), done: make(chan struct{})}
	k.present.Store(rd)
	errs := make([]error, len(serving))
	var wg sync.WaitGroup
	for i, s := range serving {
		wg.Go(func() {
			errs[i] = s.group.Snapshot(ctx)
			rd.leave(ctx)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// arrive is a shard's checkpoint: it waits for that of all.
func (k *checkpoints) arrive(ctx context.Context) error { return k.present.Load().arrive(ctx) }

func (k *checkpoints) failed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failure != nil
}

// round is one checkpoint of the engine for all shards that need one: it begins
// when each of them has either arrived or come out again without a need.
type round struct {
	engine   Engine
	expected int

	mu      sync.Mutex // guards what follows
	arrived int
	left    int
	begun   bool
	done    chan struct{} // closed when err is valid
	err     error
}

func (r *round) arrive(ctx context.Context) error {
	r.step(ctx, &r.arrived)
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leave is called once for every shard; for one that arrived it comes too late to
// matter.
func (r *round) leave(ctx context.Context) { r.step(ctx, &r.left) }

// step counts and takes the checkpoint if that completes the round.
func (r *round) step(ctx context.Context, count *int) {
	r.mu.Lock()
	*count++
	begin := !r.begun && r.arrived > 0 && r.arrived+r.left >= r.expected
	if begin {
		r.begun = true
	}
	r.mu.Unlock()
	if begin {
		r.err = r.engine.Checkpoint(ctx)
		close(r.done)
	}
}
