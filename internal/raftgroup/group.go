// Package raftgroup is one hashicorp/raft group behind a small interface: proposals
// in, committed entries out, leadership, and snapshots that are a promise of the
// machine instead of a copy of it. It is the only package that knows raft.
//
// It decides nothing about batches, acknowledgements or shards: package replication
// does. The log beneath it is the node's commit log.
package raftgroup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"agentd/pkg/agent"
)

// Group is a running member of a group. Its methods may be called from any
// goroutine until Stop.
type Group struct {
	life
	name       string
	machine    Machine
	raft       atomic.Pointer[raft.Raft] // nil until Start has made it; its goroutines may run before that
	transport  raft.Transport
	fsm        *fsm
	window     *window
	snapshots  *snapshots
	leadership chan bool
	barriers   barriers

	leaving sync.Once
	left    raft.Future // of raft's shutdown; set by leaving

	calls sync.RWMutex // held for reading by calls that only a running raft answers; see Stop
	over  bool         // guarded by calls
	wg    sync.WaitGroup
}

// Start joins the group, with what the log holds of it. Entries after the last
// snapshot are applied when a leader confirms them: a member without others leads at
// once. Errors: Invalid (the configuration; or the log belongs to another node),
// Corrupt (entries are missing), or that of the log.
func Start(c Config) (*Group, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	g := &Group{life: newLife(), name: c.Name, machine: c.Machine, transport: c.Transport.raft, leadership: make(chan bool, 8)}
	g.window = &window{limit: windowBytes, ended: g.ended}
	g.fsm = &fsm{group: g}
	var err error
	done := make(chan struct{})
	go func() { // a failing store ends the goroutine that calls it; this one can be spared
		defer close(done)
		err = g.start(&c)
	}()
	<-done
	if err == nil {
		err = g.Err()
	}
	if err != nil {
		g.Stop()
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	g.stand(c)
	return g, nil
}

func (g *Group) start(c *Config) error {
	s := &store{log: c.Log, logger: c.Logger, fail: g.fail, window: g.window, ended: g.ended, committed: g.committed}
	var err error
	if g.snapshots, err = openSnapshots(s, c.TrailingEntries); err != nil {
		return g.corrupt(err)
	}
	if err := g.checkLog(c.Log); err != nil {
		return err
	}
	if err := bootstrap(s, g.snapshots, c.Bootstrap); err != nil {
		return err
	}
	r, err := raft.NewRaft(c.raft(g.leadership), g.fsm, s, s, g.snapshots, g.transport)
	if err != nil {
		return err
	}
	g.raft.Store(r)
	s.patient.Store(true)
	members := peersOf(r.GetConfiguration().Configuration())
	for _, p := range members {
		if p.Node == c.Node {
			return nil
		}
	}
	if len(c.Bootstrap) > 0 && len(members) > 0 {
		return &agent.Error{Op: "start group", Kind: agent.Invalid,
			Msg: fmt.Sprintf("the log of %s belongs to node %q, this node is %q: start it with the name that it had", g.name, members[0].Node, c.Node)}
	}
	return nil
}

// committed is raft's commit index, 0 while raft is being made.
func (g *Group) committed() uint64 {
	if r := g.raft.Load(); r != nil {
		return r.CommitIndex()
	}
	return 0
}

// checkLog refuses a log from which entries are missing that no snapshot covers.
func (g *Group) checkLog(l Log) error {
	covered, first, last := g.snapshots.index(), l.First(), l.Last()
	switch {
	case first > covered+1:
		return g.corrupt(fmt.Errorf("its snapshot covers entries up to %d, its log begins with %d", covered, first))
	case last != 0 && last < covered:
		return g.corrupt(fmt.Errorf("its snapshot covers entries up to %d, its log ends with %d", covered, last))
	}
	return nil
}

func (g *Group) corrupt(err error) error {
	return &agent.Error{Op: "start group", Kind: agent.Corrupt, Err: err,
		Msg: fmt.Sprintf("the log of %s is not complete: restore the data folder from a backup, or take the node out of the cluster and add it again empty", g.name)}
}

// bootstrap writes the first membership into an empty log. The term follows the
// entry: a crash between the two leaves what is completed here the next time.
func bootstrap(s *store, list *snapshots, peers []Peer) error {
	term, err := s.GetUint64([]byte("CurrentTerm"))
	if err != nil {
		return err
	}
	if len(peers) == 0 || s.log.Last() != 0 || list.index() != 0 || term > 1 {
		return nil
	}
	if err := s.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(configurationOf(peers))}); err != nil {
		return err
	}
	return s.SetUint64([]byte("CurrentTerm"), 1)
}

// stand makes a group's only voter stand for election now instead of after a
// heartbeat timeout: nobody else could lead, so there is no heartbeat to wait for.
func (g *Group) stand(c Config) {
	voters, self := 0, raft.Server{}
	for _, s := range g.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			voters++
			self = s
		}
	}
	if voters != 1 || string(self.ID) != c.Node {
		return
	}
	err := g.transport.TimeoutNow(self.ID, self.Address, &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, &raft.TimeoutNowResponse{})
	if err != nil {
		c.Logger.Warn("the group's only member could not stand for election at once and waits for a heartbeat timeout", "error", err)
	}
}

// Leadership tells of every change: true when this node becomes leader, false when it
// is no longer. There is one receiver, and it must keep up: raft waits for it.
func (g *Group) Leadership() <-chan bool { return g.leadership }

// Term is the newest term that this node knows.
func (g *Group) Term() uint64 { return g.raft.Load().CurrentTerm() }

// Propose hands data over to the leader that this node is in term; data belongs to
// the group from then on. It does not wait for the disk as long as at most MaxInFlight
// proposals are under way. When it is committed the machine sees it; proposals of one
// term commit in the order of Propose, without holes. Whether one that the machine has
// not seen at the end of this leadership will ever be is unknown; in another term it
// will not be begun.
func (g *Group) Propose(term uint64, data []byte) {
	g.raft.Load().ApplyLog(raft.Log{Data: data, Extensions: seal{term: term}.encode()}, 0)
}

// Barrier returns nil when everything that was committed before this call, in this
// term or an earlier one, was given to the machine, and this node led in term after
// the call. An error means that it does not lead in term, or ctx ended.
func (g *Group) Barrier(ctx context.Context, term uint64) error {
	s, reached := g.barriers.expect(term)
	defer g.barriers.forget(s)
	for {
		err := g.ask(ctx, "confirm leadership", func() raft.Future {
			return g.raft.Load().ApplyLog(raft.Log{Extensions: s.encode()}, 0)
		})
		if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			return g.reached(reached, err)
		}
		// A transfer has failed and raft has not forgotten it yet.
		if err := pause(ctx, transferPause); err != nil {
			return err
		}
	}
}

// reached tells a marker that raft has answered for from one that was void.
func (g *Group) reached(marker <-chan struct{}, err error) error {
	if err != nil {
		return err
	}
	select {
	case <-marker:
		return nil
	default:
		return &agent.Error{Op: "confirm leadership", Kind: agent.Unavailable, Msg: g.name + " has a newer term; retry"}
	}
}

// transferPause is how long to leave raft alone that still believes in a transfer.
const transferPause = 20 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Verify returns nil if this node was leader at some moment after the call: a
// majority has answered since.
func (g *Group) Verify(ctx context.Context) error {
	return g.ask(ctx, "verify leadership", func() raft.Future { return g.raft.Load().VerifyLeader() })
}

// Transfer gives leadership to another member. The caller proposes nothing meanwhile.
// An error means that this node may still lead.
func (g *Group) Transfer(ctx context.Context, to string) error {
	for _, p := range peersOf(g.raft.Load().GetConfiguration().Configuration()) {
		if p.Node == to {
			return g.ask(ctx, "transfer leadership", func() raft.Future {
				return g.raft.Load().LeadershipTransferToServer(raft.ServerID(p.Node), raft.ServerAddress(p.Address))
			})
		}
	}
	return &agent.Error{Op: "transfer leadership", Kind: agent.NotFound, Msg: fmt.Sprintf("node %q is no member of %s", to, g.name)}
}

// ask waits for an answer that raft gives as long as it runs, until ctx ends.
func (g *Group) ask(ctx context.Context, op string, question func() raft.Future) error {
	answer := make(chan error, 1)
	g.calls.RLock()
	if g.over {
		g.calls.RUnlock()
		return g.gone()
	}
	go func() {
		defer g.calls.RUnlock()
		answer <- question().Error()
	}()
	select {
	case err := <-answer:
		if err != nil {
			return &agent.Error{Op: op, Kind: agent.Unavailable, Msg: g.name + " is not led by this node, or its leader cannot reach a majority; retry", Err: err}
		}
		return nil
	case <-g.failed:
		return g.gone()
	case <-ctx.Done():
		return agent.FromContext(ctx, op, agent.ID{})
	}
}

// fail ends the group for good. It is called on raft's goroutines and does not wait.
func (g *Group) fail(err error) {
	g.life.fail(fmt.Errorf("%s: %w", g.name, err))
	g.leave()
}

// leave tells raft to end and does not wait.
func (g *Group) leave() {
	if r := g.raft.Load(); r != nil {
		g.leaving.Do(func() { g.left = r.Shutdown() })
	}
}

func (g *Group) gone() error {
	return &agent.Error{Op: "use group", Kind: agent.Unavailable, Msg: g.name + " is stopped", Err: g.Err()}
}

// Stop leaves the group and waits for all of its goroutines; a call of the machine
// that is under way is waited for. Calling it again is harmless.
func (g *Group) Stop() {
	// Raft leaves questions in its queue unanswered when it ends, so those that were
	// asked get their answers first. One that has failed may never answer: then the
	// goroutines that ask stay behind.
	answered := make(chan struct{})
	go func() {
		g.calls.Lock()
		defer g.calls.Unlock()
		g.over = true
		close(answered)
	}()
	select {
	case <-answered:
	case <-g.failed:
	}
	g.end()
	g.leave()
	if g.left != nil {
		g.left.Error() //nolint:errcheck // waits, and is always nil
	}
	g.wg.Wait()
}

// Stats is a picture of a group.
type Stats struct {
	State    string // "Leader", "Follower", "Candidate" or "Shutdown"
	Leader   string // the node that leads, as far as this one knows; "" for none
	Term     uint64
	Last     uint64 // index of the last entry in the log
	Commit   uint64 // index of the last committed entry
	Applied  uint64 // index of the last entry that the machine has taken
	Snapshot uint64 // index of the last snapshot
}

// Stats may be called as often as wanted.
func (g *Group) Stats() Stats {
	_, leader := g.raft.Load().LeaderWithID()
	return Stats{State: g.raft.Load().State().String(), Leader: string(leader), Term: g.raft.Load().CurrentTerm(), Last: g.raft.Load().LastIndex(),
		Commit: g.raft.Load().CommitIndex(), Applied: g.fsm.seen.Load(), Snapshot: g.snapshots.index()}
}
