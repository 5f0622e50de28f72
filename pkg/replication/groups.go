package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"agentd/internal/raftgroup"
	"agentd/pkg/agent"
)

// Groups are a node's parts in all shards. Its methods may be called from any
// goroutine.
type Groups struct {
	shards      []*shard
	checkpoints *checkpoints

	closing sync.Once
	closed  error
}

// startAtOnce bounds how many groups read their logs at a time.
const startAtOnce = 4

// Start joins the groups of all shards. The engine is called from then on, also
// before Start returns. A shard whose group cannot start is out of service, which
// Ready and Stats report; the error is about the configuration only (kind Invalid).
func Start(c Config) (*Groups, error) {
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	g := &Groups{shards: make([]*shard, c.Shards)}
	g.checkpoints = newCheckpoints(c, g.shards)
	for i := range g.shards {
		g.shards[i] = &shard{id: i, engine: c.Engine, full: c.Log.Full, checkpoints: g.checkpoints,
			limits: limits{bytes: c.MaxPendingBytes, records: c.MaxPendingRecords, inFlight: c.MaxInFlight, entry: c.MaxEntryBytes}}
	}
	var starts errgroup.Group
	starts.SetLimit(startAtOnce)
	for _, s := range g.shards {
		starts.Go(func() error {
			s.start(c)
			return nil
		})
	}
	_ = starts.Wait() // none returns an error: a shard keeps its own
	g.checkpoints.start()
	return g, nil
}

// Ready returns nil when every shard is led by this node and everything that its
// log held is applied. It is for a node alone: in a cluster others lead shards too. An
// error names the shards that are out of service, once all others are ready.
func (g *Groups) Ready(ctx context.Context) error {
	var errs []error
	for _, s := range g.shards {
		select {
		case <-s.ready:
			errs = append(errs, s.broken())
		case <-ctx.Done():
			return agent.FromContext(ctx, fmt.Sprintf("wait for shard %d", s.id), agent.ID{})
		}
	}
	return errors.Join(errs...)
}

// Snapshot has the engine checkpoint everything that was applied before the call,
// and the log forget it. Callers at the same time share.
func (g *Groups) Snapshot(ctx context.Context) error { return g.checkpoints.ask(ctx) }

// Transfer gives a shard to another of its replicas, after the records taken so far
// are settled; meanwhile the shard takes none (kind Unavailable). An error means that
// the shard stays where it is, or nobody leads it yet.
func (g *Groups) Transfer(ctx context.Context, shard int, to string) error {
	const op = "transfer shard"
	if shard < 0 || shard >= len(g.shards) {
		return &agent.Error{Op: op, Kind: agent.NotFound, Msg: fmt.Sprintf("there is no shard %d", shard)}
	}
	s := g.shards[shard]
	if err := s.broken(); err != nil {
		return err
	}
	t := transfer{ctx: ctx, to: to, done: make(chan error, 1)}
	select {
	case s.wants <- t:
		return <-t.done
	case <-ctx.Done():
		return agent.FromContext(ctx, op, agent.ID{})
	case <-g.checkpoints.life.Done():
		return &agent.Error{Op: op, Kind: agent.Unavailable, Msg: "the node is stopping"}
	}
}

// Close settles what was taken while ctx lasts (the rest fails), resigns from every
// shard, takes a last checkpoint so that the next start has nothing to redo, and
// leaves the groups. When it returns the engine is not called any more. The error is
// the checkpoint's: nothing is lost then, the next start redoes it. Later calls
// return the same.
func (g *Groups) Close(ctx context.Context) error {
	g.closing.Do(func() { g.closed = g.close(ctx) })
	return g.closed
}

func (g *Groups) close(ctx context.Context) error {
	g.checkpoints.stop()
	g.each(func(s *shard) {
		s.standDown(ctx, &agent.Error{Op: "replicate", Kind: agent.Unavailable, Msg: "the node is stopping"})
	})
	err := g.checkpoints.round(ctx, nil)
	g.each((*shard).stop)
	return err
}

func (g *Groups) each(fn func(*shard)) {
	var wg sync.WaitGroup
	for _, s := range g.shards {
		wg.Go(func() { fn(s) })
	}
	wg.Wait()
}

// Stats is a picture of all shards.
type Stats struct {
	Shards         []ShardStats
	Checkpoints    uint64    // taken or tried
	LastCheckpoint time.Time // that succeeded; zero for none
	Uncovered      int64     // bytes of entries since the last checkpoint began
}

// ShardStats is a picture of one shard.
type ShardStats struct {
	raftgroup.Stats
	Led      bool  // by this node, and open for records
	Pending  int   // records that are not settled
	Bytes    int64 // of those
	InFlight int   // entries under way
	Err      error // why the shard is out of service; nil if it is not
}

// Stats may be called as often as wanted.
func (g *Groups) Stats() Stats {
	k := g.checkpoints
	k.mu.Lock()
	st := Stats{Checkpoints: k.rounds, LastCheckpoint: k.last, Uncovered: k.grown.Load()}
	k.mu.Unlock()
	for _, s := range g.shards {
		one := ShardStats{Err: s.broken()}
		if s.group != nil {
			one.Stats = s.group.Stats()
		}
		if r := s.reign.Load(); r != nil {
			one.Led = true
			one.Pending, one.Bytes, one.InFlight = r.load()
		}
		st.Shards = append(st.Shards, one)
	}
	return st
}
