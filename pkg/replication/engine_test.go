package replication_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"agentd/internal/raftgroup"
	"agentd/internal/raftgroup/raftgrouptest"
	"agentd/pkg/agent"
	"agentd/pkg/replication"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine applies entries at once and remembers everything that it is told.
type engine struct {
	mu          sync.Mutex // guards what follows
	moved       *sync.Cond
	shards      []told
	checkpoints int
	cut         []int                                      // entries applied when the last checkpoint began, by shard
	checkpoint  error                                      // of Checkpoint
	gap         map[int]error                              // of Apply, by shard
	held        bool                                       // Apply waits
	wait        func(ctx context.Context, shard int) error // of Wait; nil returns at once
}

// told is what the engine knows of a shard.
type told struct {
	entries  []string
	indices  []uint64
	events   []string // "lead 2", "resign 2", "apply x"
	proposer replication.Proposer
	term     uint64
	reason   error // of the last Resign
}

func newEngine(shards int) *engine {
	e := &engine{shards: make([]told, shards), gap: make(map[int]error)}
	e.moved = sync.NewCond(&e.mu)
	return e
}

func (e *engine) Apply(shard int, index uint64, entry []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.held {
		e.moved.Wait()
	}
	if err := e.gap[shard]; err != nil {
		return err
	}
	s := &e.shards[shard]
	s.entries, s.indices = append(s.entries, string(entry)), append(s.indices, index)
	s.events = append(s.events, "apply "+string(entry))
	e.moved.Broadcast()
	return nil
}

func (e *engine) Wait(ctx context.Context, shard int, _ uint64) error {
	e.mu.Lock()
	wait := e.wait
	e.mu.Unlock()
	if wait != nil {
		return wait(ctx, shard)
	}
	return nil
}

func (e *engine) Checkpoint(context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.checkpoints++
	e.cut = nil
	for _, s := range e.shards {
		e.cut = append(e.cut, len(s.entries))
	}
	e.moved.Broadcast()
	return e.checkpoint
}

func (e *engine) Lead(shard int, term uint64, p replication.Proposer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &e.shards[shard]
	if s.proposer != nil {
		panic("led twice")
	}
	s.proposer, s.term = p, term
	s.events = append(s.events, fmt.Sprint("lead ", term))
	e.moved.Broadcast()
}

func (e *engine) Resign(shard int, term uint64, reason error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := &e.shards[shard]
	if s.proposer == nil && term != 0 {
		panic("resigned without a lead")
	}
	s.proposer, s.reason = nil, reason
	s.events = append(s.events, fmt.Sprint("resign ", term))
	e.moved.Broadcast()
}

// taken counts checkpoints.
func (e *engine) taken() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.checkpoints
}

// set changes what the engine does.
func (e *engine) set(fn func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn()
	e.moved.Broadcast()
}

// until waits for a condition.
func (e *engine) until(ok func() bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for !ok() {
		e.moved.Wait()
	}
}

// proposer waits until the shard is led.
func (e *engine) proposer(shard int) replication.Proposer {
	var p replication.Proposer
	e.until(func() bool { p = e.shards[shard].proposer; return p != nil })
	return p
}

// told returns what the engine was told of a shard.
func (e *engine) told(shard int) told {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.shards[shard]
	s.entries, s.indices, s.events = slices.Clone(s.entries), slices.Clone(s.indices), slices.Clone(s.events)
	return s
}

// node is a node's logs and engine.
type node struct {
	logs   []*raftgrouptest.Log
	engine *engine
	groups *replication.Groups
	full   atomic.Bool // the log has no room
}

func (n *node) Full() bool                             { return n.full.Load() }
func (n *node) Group(shard int) (raftgroup.Log, error) { return n.logs[shard], nil }

func newNode(shards int) *node {
	n := &node{engine: newEngine(shards)}
	for range shards {
		n.logs = append(n.logs, raftgrouptest.NewLog())
	}
	return n
}

func (n *node) config() replication.Config {
	return replication.Config{Shards: len(n.logs), Node: "a", Log: n, Engine: n.engine, Now: time.Now}
}

// start starts the node's groups and waits until they are led; change may be nil.
func (n *node) start(t *testing.T, change func(*replication.Config)) {
	t.Helper()
	c := n.config()
	if change != nil {
		change(&c)
	}
	var err error
	if n.groups, err = replication.Start(c); err != nil {
		t.Fatal(err)
	}
	if err := n.groups.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// crashed is the node as a kill would leave its disk, with an engine that has
// forgotten everything.
func (n *node) crashed() *node {
	c := &node{engine: newEngine(len(n.logs))}
	for _, l := range n.logs {
		c.logs = append(c.logs, l.Copy())
	}
	return c
}

func (n *node) close(t *testing.T) {
	t.Helper()
	if err := n.groups.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// outcome is a record's fate.
type outcome struct {
	record string
	err    error
}

// outcomes collects fates in the order in which they are told.
type outcomes struct {
	mu   sync.Mutex // guards list
	more *sync.Cond
	list []outcome
}

func newOutcomes() *outcomes {
	o := &outcomes{}
	o.more = sync.NewCond(&o.mu)
	return o
}

func (o *outcomes) propose(t *testing.T, p replication.Proposer, record string) {
	t.Helper()
	if err := p.Propose([]byte(record), o.of(record)); err != nil {
		t.Fatal(err)
	}
}

func (o *outcomes) of(record string) func(error) {
	return func(err error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.list = append(o.list, outcome{record, err})
		o.more.Broadcast()
	}
}

// await returns the fates when n are known.
func (o *outcomes) await(n int) []outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.list) < n {
		o.more.Wait()
	}
	return slices.Clone(o.list)
}

func (o *outcomes) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.list)
}

// bubble runs a test in fake time.
func bubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

var errDisk = errors.New("input/output error")

func kinds(list []outcome) []agent.Kind {
	var all []agent.Kind
	for _, o := range list {
		if o.err == nil {
			all = append(all, 255) // committed
		} else {
			all = append(all, agent.KindOf(o.err))
		}
	}
	return all
}
