// Package single opens a data folder as a node of its own: the storage engine over
// one-voter groups, in the same log and with the same records as a node of a
// cluster.
package single

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/placement"
	"agentd/pkg/replication"
	"agentd/pkg/storage"
	"agentd/pkg/storage/commitlog"
	"agentd/pkg/storage/engine"
)

// logName is the folder of the commit log in the data folder.
const logName = "log"

// Config says where the data is. It is not changed after Open.
type Config struct {
	Dir string           // the data folder; created with mode 0700. Required
	Now func() time.Time // Required
	Log *slog.Logger     // nil for nothing
	FS  disk.FS          // nil is the operating system's

	// Existing refuses a folder that is not there yet, with kind NotFound.
	Existing bool

	MaxOpen      int   // databases open at once; 0 is engine.DefaultMaxOpen
	SegmentBytes int64 // of the log; 0 is its default
	MaxLogBytes  int64 // of all segments; 0 is the log's default

	CheckpointEvery time.Duration // 0 is replication's default
	CheckpointBytes int64         // of log since the last checkpoint; 0 is replication's default
}

// Store is an open data folder. Its methods may be called from any goroutine.
type Store struct {
	*engine.Store
	log    *commitlog.Log
	groups *replication.Groups
	logger *slog.Logger
	closed atomic.Bool
	ended  chan struct{} // closed by Close
	wg     sync.WaitGroup
}

var _ storage.Store = (*Store)(nil)

// reserveBytes of the log are for raft's own entries: an election of all groups takes
// some 20 KiB, and what is in flight when the disk is full must fit.
const reserveBytes = 1 << 20

// closeTimeout bounds the last checkpoint of a store that is closed: without it the
// next start redoes the log, which is slower but loses nothing.
const closeTimeout = 30 * time.Second

// stuckTimeout is the same on a full disk: records under way are settled by the log.
const stuckTimeout = time.Second

// Open takes the folder, redoes what the log holds beyond the last checkpoint, and
// returns when every shard is served, but for those whose part of the log is
// damaged: their agents fail with kind Corrupt. Errors: those of engine.Open, and
// those of ctx.
func Open(ctx context.Context, c Config) (*Store, error) {
	return open(ctx, c, func(disk.FS, string) error { return nil })
}

// open calls before with the log's folder when the data folder is locked and nothing
// was changed in it yet.
func open(ctx context.Context, c Config, before func(fs disk.FS, logDir string) error) (_ *Store, err error) {
	if c.FS == nil {
		c.FS = disk.OS{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Existing {
		if _, err := c.FS.Stat(filepath.Join(c.Dir, engine.FormatName)); err != nil {
			return nil, &agent.Error{Op: "open data folder", Kind: agent.NotFound, Err: err, Msg: c.Dir + " is no data folder of agentd"}
		}
	}
	s := &Store{logger: c.Log, ended: make(chan struct{})}
	opening, stuck := context.WithCancelCause(ctx)
	defer stuck(nil)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	s.Store, err = engine.Open(engine.Config{Dir: c.Dir, FS: c.FS, Shards: placement.DefaultShards, MaxOpen: c.MaxOpen,
		ShardOf: func(id agent.ID) int { return placement.ShardOf(id, placement.DefaultShards) },
		Now:     c.Now, Log: c.Log, Room: s.room, Stuck: stuck})
	if err != nil {
		return nil, err
	}
	logDir := filepath.Join(c.Dir, logName)
	if err := before(c.FS, logDir); err != nil {
		return nil, err
	}
	s.log, err = commitlog.Open(commitlog.Config{Dir: logDir, FS: c.FS, Log: c.Log, Now: c.Now,
		SegmentBytes: c.SegmentBytes, ReserveBytes: reserveBytes, MaxBytes: c.MaxLogBytes})
	if err != nil {
		return nil, err
	}
	s.groups, err = replication.Start(replication.Config{Shards: placement.DefaultShards, Node: s.ID(), Log: replication.OnCommitLog(s.log), Engine: served{s.Store},
		Logger: c.Log, Now: c.Now, CheckpointEvery: c.CheckpointEvery, CheckpointBytes: c.CheckpointBytes})
	if err != nil {
		return nil, err
	}
	s.wg.Go(s.watch)
	return s, s.ready(opening)
}

// ready waits until every shard is served or known to be damaged. While files cannot
// be written it does not wait for the log to be applied to them.
func (s *Store) ready(opening context.Context) error {
	err := s.groups.Ready(opening)
	cause := context.Cause(opening)
	if cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	if err == nil || opening.Err() != nil {
		return err
	}
	for shard := range s.Shards() {
		if damage := s.Damage(shard); damage != nil {
			s.logger.Error("a shard is damaged; its agents are not served, all others are", "shard", shard, "error", damage)
		}
	}
	var all interface{ Unwrap() []error }
	if errors.As(err, &all) {
		for _, one := range all.Unwrap() {
			if agent.KindOf(one) != agent.Corrupt {
				return err
			}
		}
		return nil
	}
	return err
}

// served is the engine as its groups see it.
type served struct{ *engine.Store }

func (s served) Lead(shard int, term uint64, p replication.Proposer) { s.Store.Lead(shard, term, p) }

// room is asked by the engine before it takes in new data.
func (s *Store) room() error {
	if s.log.Full() {
		return errLogFull
	}
	return nil
}

var errLogFull = errors.New("the log cannot grow")

// watch ends the engine's promises with those of the log.
func (s *Store) watch() {
	select {
	case <-s.log.Failed():
		s.Fail(s.log.Err())
	case <-s.ended:
	}
}

// Close closes databases, makes a checkpoint so that the next start has nothing to
// redo, and releases the folder. Closing twice is harmless.
func (s *Store) Close() error {
	if s.Store == nil || !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	close(s.ended)
	s.wg.Wait()
	errs := []error{s.CloseDatabases()}
	if s.groups != nil {
		patience := closeTimeout
		if s.Store.Stats().Stuck {
			patience = stuckTimeout // no checkpoint can be made
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		errs = append(errs, s.groups.Close(ctx))
		cancel()
	}
	errs = append(errs, s.Store.Close())
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	return errors.Join(errs...)
}
