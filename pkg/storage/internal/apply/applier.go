// Package apply brings committed records into agents' files and into the catalog. It
// is their only writer: what a file holds is what its shard's log said, in order.
//
// It decides nothing about when a record is committed, and makes nothing durable but
// at a checkpoint. See DESIGN.md.
package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"agentd/internal/disk"
	"agentd/pkg/agent"
)

// Defaults of Config.
const (
	DefaultWorkers    = 2
	DefaultQueueBytes = 64 << 20
)

// Config is not changed after New. Files, FS, Dir, Catalog and Shards are required.
// The functions are called on workers, must not block, and may be nil.
type Config struct {
	Files   *Files
	FS      disk.FS
	Dir     string // whose file system a checkpoint syncs
	Catalog Catalog
	Shards  int
	Log     *slog.Logger // nil for nothing

	// ShardOf is the shard of an agent. With it, a record in the log of another shard
	// counts as damage, and WaitAgent learns of damage.
	ShardOf func(agent.ID) int

	// Rebuilt says that the catalog has numbers that were read out of files. A shard
	// without a checkpoint then takes the first record of each agent as it comes, and
	// checks what follows. There must be no checkpoint before the log is applied again:
	// it would end that.
	Rebuilt bool

	// Workers is how many goroutines write files; 0 is DefaultWorkers. Each shard
	// belongs to one of them.
	Workers int

	// QueueBytes bounds the entries that were handed over and are not applied; 0 is
	// DefaultQueueBytes. An entry larger than a worker's share is taken alone.
	QueueBytes int64

	// Linger is how long an entry may wait for others, unless somebody waits for it or
	// much has gathered: commits of one agent that meet in the queue share the writes
	// of its pages. 0 for not at all.
	Linger time.Duration

	// After is a timer for attempts on a full disk; nil is time.After.
	After func(time.Duration) <-chan time.Time

	// Applied is told that the agent's file, whose descriptor is fd, holds the agent's
	// commit seq and all before it; once for all commits of a batch.
	Applied func(id agent.ID, seq uint64, fd int)

	// Done is told of each record that is no commit, when it is applied.
	Done func(id agent.ID)

	// Stuck is told that committed data cannot be written now, because the disk is full
	// or files cannot be opened. Attempts go on; Unstuck follows when they succeed.
	Stuck   func(err error)
	Unstuck func()

	// Failed is told once why nothing is applied any more: the disk refused a write or
	// a sync. The process should end; its log has everything.
	Failed func(err error)
}

// Applier applies the entries of all shards of a node. Methods may be called from any
// goroutine, unless they say otherwise.
type Applier struct {
	config  Config
	log     *slog.Logger
	shards  []*progress
	workers []*worker
	agents  arrivals
	hurry   atomic.Int64 // of callers that wait for something to be applied
	patience
	counters counters

	checkpoints checkpoints

	working sync.WaitGroup // the workers
	over    chan struct{}  // closed when nothing more will be applied; overErr is valid then
	overErr error
	ending  sync.Once
	closing chan struct{} // closed when Close begins: nobody waits for a full disk any more
	closed  atomic.Bool
}

// counters are for Stats.
type counters struct {
	entries, records, writes, bytes, checkpoints atomic.Uint64
}

// New starts the workers. Everything up to Catalog.AppliedIndex of a shard counts as
// applied.
func New(c Config) *Applier {
	c = c.withDefaults()
	a := &Applier{config: c, log: c.Log, over: make(chan struct{}), closing: make(chan struct{})}
	a.agents.waiting = make(map[agent.ID]*arrival)
	a.patience = patience{after: c.After, stuck: c.Stuck, unstuck: c.Unstuck, closing: a.closing}
	a.checkpoints.written = make([]uint64, c.Shards)
	for n := range c.Shards {
		index := c.Catalog.AppliedIndex(n)
		sh := &progress{number: n, start: index, handed: index, applied: index}
		sh.rebuilt.Store(c.Rebuilt && index == 0)
		a.shards, a.checkpoints.written[n] = append(a.shards, sh), index
	}
	for n := range c.Workers {
		w := newWorker(a, c.QueueBytes/int64(c.Workers))
		for i := n; i < c.Shards; i += c.Workers {
			a.shards[i].queue = w.queue
			w.shards = append(w.shards, a.shards[i])
		}
		a.workers = append(a.workers, w)
	}
	for _, w := range a.workers {
		a.working.Go(w.work)
	}
	return a
}

func (c Config) withDefaults() Config {
	if c.Workers <= 0 {
		c.Workers = DefaultWorkers
	}
	if c.QueueBytes <= 0 {
		c.QueueBytes = DefaultQueueBytes
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.After == nil {
		c.After = time.After
	}
	if c.Applied == nil {
		c.Applied = func(agent.ID, uint64, int) {}
	}
	if c.Done == nil {
		c.Done = func(agent.ID) {}
	}
	if c.Stuck == nil {
		c.Stuck = func(error) {}
	}
	if c.Unstuck == nil {
		c.Unstuck = func() {}
	}
	if c.Failed == nil {
		c.Failed = func(error) {}
	}
	return c
}

// Apply takes the records of one committed entry, one encoded record after the other
// (none is fine: the index counts). The entry must not be changed afterwards. A
// shard's entries come from one goroutine, in order of index; those that the last
// checkpoint covers are passed over. It blocks while the queue is full.
//
// Errors: Corrupt (the shard was stopped by a gap or a bad record, see Damage),
// Internal (the disk failed; or the order is wrong), Unavailable (closed). After an
// error the shard applies nothing more.
func (a *Applier) Apply(shard int, index uint64, entry []byte) error {
	sh, err := a.shard("apply entry", shard)
	if err != nil {
		return err
	}
	fresh, err := sh.hand(index)
	if err != nil || !fresh {
		return err
	}
	if !sh.queue.push(item{shard: sh, index: index, entry: entry}) {
		return a.ended("apply entry")
	}
	return nil
}

// Hurry keeps entries from lingering until the returned function is called.
func (a *Applier) Hurry() (end func()) {
	a.hurry.Add(1)
	for _, w := range a.workers {
		w.queue.nudge()
	}
	return func() { a.hurry.Add(-1) }
}

// Wait returns when the shard has applied the entry of the index. Errors as those of
// Apply, and those of ctx.
func (a *Applier) Wait(ctx context.Context, shard int, index uint64) error {
	const op = "wait for entry"
	sh, err := a.shard(op, shard)
	if err != nil {
		return err
	}
	if changed, err := sh.reached(index); changed == nil {
		return err
	}
	defer a.Hurry()()
	for {
		changed, err := sh.reached(index)
		if changed == nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return agent.FromContext(ctx, op, agent.ID{})
		case <-a.over:
			if changed, err := sh.reached(index); changed == nil {
				return err
			}
			return a.ended(op)
		}
	}
}

// WaitAgent returns when the agent's file holds its commit seq. Errors as those of
// Wait. An agent that is deleted meanwhile never gets there: the wait ends with ctx.
func (a *Applier) WaitAgent(ctx context.Context, id agent.ID, seq uint64) error {
	const op = "wait for commit"
	if reached, err := a.holds(id, seq); reached || err != nil {
		return err
	}
	defer a.Hurry()()
	for {
		if reached, err := a.holds(id, seq); reached || err != nil {
			return err
		}
		arrived, leave := a.agents.expect(id)
		if reached, err := a.holds(id, seq); reached || err != nil { // between the two
			leave()
			return err
		}
		var err error
		select {
		case <-arrived:
		case <-ctx.Done():
			err = agent.FromContext(ctx, op, id)
		case <-a.over:
			err = a.ended(op)
		}
		leave()
		if err != nil {
			return err
		}
	}
}

// Holds says whether the agent's file holds its commit seq. Errors: those of the
// catalog, and the damage of the agent's shard if it stands in the way.
func (a *Applier) Holds(id agent.ID, seq uint64) (bool, error) { return a.holds(id, seq) }

// holds asks the catalog, which learns of a commit when it is in the file.
func (a *Applier) holds(id agent.ID, seq uint64) (bool, error) {
	reached, err := a.config.Catalog.Seq(id)
	if err != nil || reached >= seq {
		return err == nil, err
	}
	if a.config.ShardOf == nil {
		return false, nil
	}
	return false, a.Damage(a.config.ShardOf(id))
}

// Damage is nil, or an error of kind Corrupt that says why the shard was stopped.
func (a *Applier) Damage(shard int) error {
	sh, err := a.shard("apply entry", shard)
	if err != nil {
		return err
	}
	return sh.damaged()
}

// ShardStats is how far a shard is.
type ShardStats struct {
	Handed, Applied uint64 // indices
	Damage          error
}

// Stats is what an operator may want to see. Numbers count since New.
type Stats struct {
	Entries, Records uint64
	Writes, Bytes    uint64 // system calls that wrote to agents' files, and their bytes
	Checkpoints      uint64
	QueueBytes       int64 // handed over and not applied
	HeldFiles        int   // files that a database or a worker holds open
	SpareFiles       int   // files that are open in case they are needed again
	Stuck            bool
	Shards           []ShardStats
}

// Stats may be called at any time.
func (a *Applier) Stats() Stats {
	s := Stats{Entries: a.counters.entries.Load(), Records: a.counters.records.Load(), Writes: a.counters.writes.Load(),
		Bytes: a.counters.bytes.Load(), Checkpoints: a.counters.checkpoints.Load(), Stuck: a.isStuck()}
	s.HeldFiles, s.SpareFiles = a.config.Files.Open()
	for _, w := range a.workers {
		s.QueueBytes += w.queue.size()
	}
	for _, sh := range a.shards {
		s.Shards = append(s.Shards, sh.stats())
	}
	return s
}

// Close takes nothing more, applies what was taken and ends the workers. On a full
// disk it does not wait: an error of kind StorageFull says that entries were left,
// which the log has. Nothing is made durable: for that, call Checkpoint before. After
// a failure it returns the failure. Closing twice is harmless.
func (a *Applier) Close() error {
	if !a.closed.Swap(true) {
		close(a.closing)
		for _, w := range a.workers {
			w.queue.close()
		}
	}
	a.checkpoints.close()
	a.working.Wait()
	a.end(nil)
	a.checkpoints.running.Wait()
	return a.overErr
}

// end closes over; the first reason stays, nil for an orderly end.
func (a *Applier) end(err error) {
	a.ending.Do(func() {
		a.overErr = err
		close(a.over)
		for _, w := range a.workers {
			w.queue.abort()
		}
	})
}

// fail ends everything: the disk, or the catalog, cannot be trusted any more.
func (a *Applier) fail(err error) {
	var e *agent.Error
	if !errors.As(err, &e) {
		err = &agent.Error{Op: "apply entry", Kind: agent.Internal, Err: err,
			Msg: "an agent's file could not be written: check the disk and restart agentd, which applies it again from the log"}
	}
	a.end(err)
	a.config.Failed(err)
}

// ended is the answer when nothing more will be applied, or is taken.
func (a *Applier) ended(op string) error {
	select {
	case <-a.over:
		if a.overErr != nil {
			return a.overErr
		}
	default:
	}
	return &agent.Error{Op: op, Kind: agent.Unavailable, Msg: "the store is closed"}
}

func (a *Applier) shard(op string, n int) (*progress, error) {
	if n < 0 || n >= len(a.shards) {
		return nil, &agent.Error{Op: op, Kind: agent.Invalid, Msg: fmt.Sprintf("there is no shard %d: there are %d", n, len(a.shards))}
	}
	return a.shards[n], nil
}
