package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"agentd/internal/raftgroup"
	"agentd/pkg/agent"
)

// shard is this node's part in one shard's group: it is the group's machine and
// turns the group's leadership into the engine's Lead and Resign.
type shard struct {
	id          int
	engine      Engine
	limits      limits
	full        func() bool
	checkpoints *checkpoints
	group       *raftgroup.Group               // nil if it could not be started
	submit      func(term uint64, data []byte) // group.Propose

	handed atomic.Uint64 // index of the last entry given to the engine
	newest atomic.Uint64 // highest term among the entries given to the engine

	// office is held while the engine is told of Lead and Resign, so that they never
	// overlap: the run goroutine does both, the group's goroutine for committed
	// entries resigns when it meets another leader's entry.
	office sync.Mutex
	reign  atomic.Pointer[reign] // nil while the shard is not led here; changed under office

	opening *opening              // of the run goroutine
	leave   chan error            // tells the run goroutine to end, with the reason
	pressed chan struct{}         // of capacity 1: the log is full
	wants   chan transfer         // asks the run goroutine to give leadership away
	wg      sync.WaitGroup        // the run goroutine
	ready   chan struct{}         // closed when the shard is led for the first time or out of service
	settled sync.Once             // closes ready
	fault   atomic.Pointer[error] // why the shard is out of service
}

// opening is the time between winning an election and leading.
type opening struct {
	term   uint64
	cancel context.CancelFunc
	done   chan error // of capacity 1
}

type transfer struct {
	ctx  context.Context
	to   string
	done chan error // of capacity 1
}

func (s *shard) start(c Config) {
	s.leave, s.wants, s.pressed, s.ready = make(chan error, 1), make(chan transfer), make(chan struct{}, 1), make(chan struct{})
	log, err := c.Log.Group(s.id)
	if err == nil {
		s.group, err = raftgroup.Start(raftgroup.Config{Name: fmt.Sprintf("shard %d", s.id), Node: c.Node, Log: log, Machine: s,
			Transport: c.Transport(s.id), Bootstrap: c.Members(s.id), TrailingEntries: c.TrailingEntries, Logger: c.Logger, Timers: c.Timers})
	}
	if err != nil {
		s.group = nil
		s.breakDown(err)
		return
	}
	s.submit = s.group.Propose
	s.wg.Go(s.run)
}

// run follows the group's leadership until it is told to leave or the group fails.
func (s *shard) run() {
	for {
		var opened <-chan error
		if s.opening != nil {
			opened = s.opening.done
		}
		select {
		case leader := <-s.group.Leadership():
			s.depose(errors.New("another node may lead the shard"))
			if leader {
				s.open()
			}
		case err := <-opened:
			s.opened(err)
		case <-s.pressed:
			if r := s.reign.Load(); r != nil && r.starving() {
				s.resign(r, errFull)
				s.open()
			}
		case t := <-s.wants:
			t.done <- s.transfer(t)
		case <-s.group.Failed():
			s.depose(s.group.Err())
			s.breakDown(s.group.Err())
			return
		case reason := <-s.leave:
			s.depose(reason)
			return
		}
	}
}

// open begins to take office: a barrier in the new term, so that everything that was
// ever committed has reached the engine, and a wait until the engine has applied it.
func (s *shard) open() {
	ctx, cancel := context.WithCancel(context.Background())
	o := &opening{term: s.group.Term(), cancel: cancel, done: make(chan error, 1)}
	s.opening = o
	s.wg.Go(func() {
		if err := s.group.Barrier(ctx, o.term); err != nil {
			o.done <- errNotLed
			return
		}
		o.done <- s.applied(ctx)
	})
}

// errNotLed ends an opening: leadership is gone already, and the news is on its way.
var errNotLed = errors.New("the shard is not led here in this term")

// applied waits until the engine has applied what it was given.
func (s *shard) applied(ctx context.Context) error {
	index := s.handed.Load()
	if index == 0 {
		return nil
	}
	return s.engine.Wait(ctx, s.id, index)
}

// opened takes office, unless another leader's entries have come meanwhile: then
// the news of the loss is on its way.
func (s *shard) opened(err error) {
	o := s.opening
	s.opening = nil
	o.cancel()
	switch {
	case errors.Is(err, errNotLed):
		return
	case err != nil:
		s.breakDown(err)
		return
	}
	s.office.Lock()
	defer s.office.Unlock()
	r := newReign(s, o.term)
	s.reign.Store(r)
	if s.newest.Load() > o.term { // Apply stores newest before it looks for a reign
		s.reign.Store(nil)
		return
	}
	s.engine.Lead(s.id, o.term, r)
	s.checkpoints.log.Debug("shard is led here", "shard", s.id, "term", o.term)
	s.settled.Do(func() { close(s.ready) })
}

// depose ends what there is of an ownership.
func (s *shard) depose(reason error) {
	if o := s.opening; o != nil {
		o.cancel()
		<-o.done
		s.opening = nil
	}
	s.resign(s.reign.Load(), reason)
}

// resign ends a reign unless that has been done. When it returns the engine knows.
func (s *shard) resign(r *reign, reason error) {
	s.office.Lock()
	defer s.office.Unlock()
	if r == nil || s.reign.Load() != r {
		return
	}
	r.end(reason)
	s.reign.Store(nil)
	s.engine.Resign(s.id, r.term, reason)
	s.checkpoints.log.Debug("shard is no longer led here", "shard", s.id, "term", r.term, "reason", reason)
}

// breakDown takes the shard out of service; the others go on.
func (s *shard) breakDown(err error) {
	var known *agent.Error
	if !errors.As(err, &known) {
		known = &agent.Error{Kind: agent.Internal}
	}
	err = &agent.Error{Op: "replicate", Kind: known.Kind, Err: err, Msg: fmt.Sprintf("shard %d is out of service", s.id)}
	if !s.fault.CompareAndSwap(nil, &err) {
		return
	}
	s.checkpoints.log.Error("a shard is out of service; the others go on", "shard", s.id, "error", err)
	s.office.Lock()
	defer s.office.Unlock()
	s.engine.Resign(s.id, 0, err)
	s.settled.Do(func() { close(s.ready) })
}

// broken is why the shard is out of service; nil if it is not.
func (s *shard) broken() error {
	if err := s.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// press is called when the log is found full: a checkpoint may free some of it, and a
// reign that cannot send what it has taken must end.
func (s *shard) press() {
	s.checkpoints.press()
	select {
	case s.pressed <- struct{}{}:
	default:
	}
}

// transfer gives leadership away: the records taken are settled first, since raft
// refuses proposals meanwhile and those behind a refused one must not commit. If the
// shard stays here it is opened again.
func (s *shard) transfer(t transfer) error {
	reason := fmt.Errorf("the shard moves to node %s", t.to)
	r := s.reign.Load()
	if r == nil {
		return &agent.Error{Op: "transfer shard", Kind: agent.Unavailable, Msg: fmt.Sprintf("this node does not lead shard %d", s.id)}
	}
	err := r.drain(t.ctx, reason)
	s.resign(r, reason)
	if err == nil {
		err = s.group.Transfer(t.ctx, t.to)
	}
	if err != nil {
		s.open()
	}
	return err
}

// Apply implements raftgroup.Machine: acknowledge what is this node's own, then hand
// everything to the engine.
func (s *shard) Apply(entries []raftgroup.Entry) error {
	for _, e := range entries {
		if err := s.witness(e); err != nil {
			return err
		}
	}
	bytes := 0
	for _, e := range entries {
		if err := s.engine.Apply(s.id, e.Index, e.Data); err != nil {
			return err
		}
		s.handed.Store(e.Index)
		bytes += len(e.Data)
	}
	s.checkpoints.grew(bytes)
	return nil
}

// witness settles an entry of this node's present term; one of a later term means
// that another node owns the shard.
func (s *shard) witness(e raftgroup.Entry) error {
	if e.Term > s.newest.Load() {
		s.newest.Store(e.Term) // before the reign is looked for: see opened
	}
	r := s.reign.Load()
	switch {
	case r == nil:
		return nil
	case e.Term == r.term:
		return r.committed(e)
	case e.Term > r.term:
		s.resign(r, errors.New("another node leads the shard"))
	}
	return nil
}

// Checkpoint implements raftgroup.Machine. It is called only while the checkpoints
// goroutine takes a round of snapshots.
func (s *shard) Checkpoint(ctx context.Context, _ uint64) error {
	if err := s.applied(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil { // of a round that is over
		return context.Cause(ctx)
	}
	return s.checkpoints.arrive(ctx)
}

// stop leaves the group after stand has been called.
func (s *shard) stop() {
	if s.group != nil {
		s.group.Stop()
	}
}

// standDown gives up ownership for good: what was taken is settled while ctx lasts.
func (s *shard) standDown(ctx context.Context, reason error) {
	if r := s.reign.Load(); r != nil {
		_ = r.drain(ctx, reason) // what is left is settled as failed
	}
	select {
	case s.leave <- reason:
	default: // told already
	}
	s.wg.Wait()
}
