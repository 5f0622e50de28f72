package engine

import (
	"context"
	"log/slog"
	"sync"

	"agentd/pkg/agent"
)

// full says whether the store takes in new data. Reads never ask.
type full struct {
	ask   func() error    // of the log; must not block
	tell  func(err error) // Config.Stuck
	log   *slog.Logger
	mu    sync.Mutex    // guards what follows
	cause error         // why committed data cannot be written to agents' files now
	stop  chan struct{} // closed while it is set
}

func (f *full) stuck(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause != nil {
		return
	}
	f.cause = err
	close(f.stop)
	f.log.Warn("agents' files cannot be written; new data is refused until they can, reads go on", "error", err)
	f.tell(err)
}

func (f *full) unstuck() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil {
		return
	}
	f.cause, f.stop = nil, make(chan struct{})
	f.log.Info("agents' files can be written again")
}

// now is a channel that is closed when files cannot be written, and why they cannot.
func (f *full) now() (stop <-chan struct{}, cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stop, f.cause
}

// room returns an error of kind StorageFull that says what to do.
func (s *Store) room(id agent.ID) error {
	_, err := s.full.now()
	if err == nil {
		if err = s.full.ask(); err == nil {
			return nil
		}
	}
	return &agent.Error{Op: "commit", Agent: id, Kind: agent.StorageFull, Err: err,
		Msg: "storage full: new data is refused until space is freed on the data folder's disk; reads go on"}
}

// awaitFile returns when the agent's file holds its commit seq. While files cannot be
// written it does not wait: kind StorageFull.
func (s *Store) awaitFile(ctx context.Context, op string, id agent.ID, seq uint64) error {
	if held, err := s.applier.Holds(id, seq); held || err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop, _ := s.full.now()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := s.applier.WaitAgent(ctx, id, seq)
	if _, cause := s.full.now(); err != nil && cause != nil {
		return &agent.Error{Op: op, Agent: id, Kind: agent.StorageFull, Err: cause,
			Msg: "storage full: the agent's last commits are safe in the log, but its file cannot be written until space is freed on the data folder's disk"}
	}
	return err
}

// failure is the end of all promises.
type failure struct {
	once sync.Once
	ch   chan struct{} // closed by Fail; err is valid then
	err  error
}

// Fail ends all promises; the first reason stays. Any goroutine.
func (s *Store) Fail(err error) {
	s.failure.once.Do(func() {
		s.failure.err = &agent.Error{Op: "write", Kind: agent.Internal, Err: err,
			Msg: "the disk did not confirm a write, so nothing more is acknowledged: check the disk and restart agentd"}
		close(s.failure.ch)
		s.log.Error("the store failed", "error", s.failure.err)
	})
}

// Failed is closed when durability can no longer be promised.
func (s *Store) Failed() <-chan struct{} { return s.failure.ch }

// Err says why; nil while all is well.
func (s *Store) Err() error {
	select {
	case <-s.failure.ch:
		return s.failure.err
	default:
		return nil
	}
}
