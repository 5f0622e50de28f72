package engine

import (
	"sync"
	"sync/atomic"

	"agentd/pkg/agent"
)

// full says whether the store takes in new data. Reads never ask.
type full struct {
	ask     func() error          // of the log; must not block
	applier atomic.Pointer[error] // why committed data cannot be written to agents' files now
}

func (f *full) stuck(err error) { f.applier.Store(&err) }
func (f *full) unstuck()        { f.applier.Store(nil) }

// room returns an error of kind StorageFull that says what to do.
func (s *Store) room(id agent.ID) error {
	cause := s.full.applier.Load()
	var err error
	if cause != nil {
		err = *cause
	} else if err = s.full.ask(); err == nil {
		return nil
	}
	return &agent.Error{Op: "commit", Agent: id, Kind: agent.StorageFull, Err: err,
		Msg: "storage full: new data is refused until space is freed on the data folder's disk; reads go on"}
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
