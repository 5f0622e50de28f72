package apply

import (
	"context"
	"fmt"
	"sync"

	"agentd/pkg/agent"
)

// shardCut is a shard's part in a checkpoint.
type shardCut struct {
	shard *progress
	index uint64
	cut   Cut
}

// checkpoints lets those who ask at the same time share one.
type checkpoints struct {
	running sync.WaitGroup // the goroutine that makes checkpoints, while there is one

	mu     sync.Mutex // guards what follows
	next   *round     // what those wait for who asked since the last one began
	active bool       // the goroutine runs
	closed bool

	written []uint64 // indices of the last checkpoint; the goroutine's
}

// round is one checkpoint.
type round struct {
	done chan struct{}
	err  error // valid once done is closed
}

// Checkpoint makes durable, in files and catalog, everything that Apply took before
// the call, but for what comes after the damage of a shard. Calls share: each returns
// when a checkpoint has ended that began after it. When ctx ends first, the
// checkpoint goes on.
//
// Errors: StorageFull (the catalog has no room: try again), Internal (a sync failed,
// see Config.Failed), Unavailable (closed).
func (a *Applier) Checkpoint(ctx context.Context) error {
	const op = "make checkpoint"
	r := a.joinCheckpoint()
	if r == nil {
		return a.ended(op)
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return agent.FromContext(ctx, op, agent.ID{})
	}
}

// joinCheckpoint is the next checkpoint to begin; nil after Close.
func (a *Applier) joinCheckpoint() *round {
	c := &a.checkpoints
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	if c.next == nil {
		c.next = &round{done: make(chan struct{})}
	}
	if !c.active {
		c.active = true
		c.running.Go(a.makeCheckpoints)
	}
	return c.next
}

func (a *Applier) makeCheckpoints() {
	c := &a.checkpoints
	for {
		c.mu.Lock()
		r := c.next
		c.next, c.active = nil, r != nil
		c.mu.Unlock()
		if r == nil {
			return
		}
		r.err = a.makeCheckpoint()
		close(r.done)
	}
}

func (c *checkpoints) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// makeCheckpoint is the whole order: what the catalog says of a shard is frozen at an
// index; then the files, which hold at least that, become durable; then the catalog
// says so.
func (a *Applier) makeCheckpoint() error {
	cuts, err := a.cut()
	if err != nil || len(cuts) == 0 {
		return err
	}
	if err := a.config.FS.SyncFS(a.config.Dir); err != nil {
		// What did not reach the disk may be gone from memory: trying again would lie.
		a.fail(fmt.Errorf("sync agents' files: %w", err))
		return a.ended("make checkpoint")
	}
	plain := make([]Cut, len(cuts))
	for i := range cuts {
		plain[i] = cuts[i].cut
	}
	if err := a.config.Catalog.Write(context.Background(), plain); err != nil {
		if !again(err) {
			a.fail(err)
		}
		return err
	}
	for _, c := range cuts {
		a.checkpoints.written[c.shard.number] = c.index
		c.shard.rebuilt.Store(false)
	}
	a.counters.checkpoints.Add(1)
	return nil
}

// again says whether the catalog can be written after this error.
func again(err error) bool {
	switch agent.KindOf(err) {
	case agent.StorageFull, agent.Unavailable, agent.Canceled, agent.Deadline:
		return true
	}
	return false
}

// cut has each worker cut its shards behind what is queued now.
func (a *Applier) cut() ([]shardCut, error) {
	results := make(chan []shardCut, len(a.workers))
	for _, w := range a.workers {
		if !w.queue.push(item{cut: results}) {
			return nil, a.ended("make checkpoint")
		}
	}
	var all []shardCut
	for range a.workers {
		select {
		case cuts := <-results:
			all = append(all, cuts...)
		case <-a.over:
			return nil, a.ended("make checkpoint")
		}
	}
	return all, nil
}

// cut freezes those of the worker's shards that have moved since the last checkpoint.
// It reads written while its goroutine waits for the answer.
func (w *worker) cut() []shardCut {
	var cuts []shardCut
	for _, sh := range w.shards {
		if index := sh.appliedIndex(); index > w.applier.checkpoints.written[sh.number] {
			cuts = append(cuts, shardCut{sh, index, w.applier.config.Catalog.Cut(sh.number, index)})
		}
	}
	return cuts
}
