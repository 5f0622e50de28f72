package raftgroup_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"agentd/internal/raftgroup"
	"agentd/internal/raftgroup/raftgrouptest"
	"agentd/pkg/agent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine remembers what it was given.
type machine struct {
	mu         sync.Mutex // guards what follows
	entries    []string
	indices    []uint64
	checked    []uint64
	failure    error // of Apply
	checkpoint error // of Checkpoint
	moved      chan struct{}
	held       chan struct{} // Apply waits for it
}

func newMachine() *machine {
	free := make(chan struct{})
	close(free)
	return &machine{moved: make(chan struct{}), held: free}
}

// hold makes Apply wait until the channel is closed.
func (m *machine) hold() chan struct{} {
	held := make(chan struct{})
	m.set(func() { m.held = held })
	return held
}

func (m *machine) Apply(entries []raftgroup.Entry) error {
	m.mu.Lock()
	held := m.held
	m.mu.Unlock()
	<-held
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure != nil {
		return m.failure
	}
	for _, e := range entries {
		m.entries, m.indices = append(m.entries, string(e.Data)), append(m.indices, e.Index)
	}
	close(m.moved)
	m.moved = make(chan struct{})
	return nil
}

func (m *machine) Checkpoint(_ context.Context, index uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.checked = append(m.checked, index)
	return m.checkpoint
}

func (m *machine) set(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn()
}

// await returns the entries when there are n.
func (m *machine) await(t *testing.T, n int) []string {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		m.mu.Lock()
		list, moved := slices.Clone(m.entries), m.moved
		m.mu.Unlock()
		if len(list) >= n {
			return list
		}
		select {
		case <-moved:
		case <-deadline:
			t.Fatalf("%d entries were applied, %d are expected", len(list), n)
		}
	}
}

func alone(l raftgroup.Log, m raftgroup.Machine) raftgroup.Config {
	return raftgroup.Config{Name: "shard 0", Node: "a", Log: l, Machine: m,
		Transport: raftgroup.NewNetwork().Transport("a"), Bootstrap: []raftgroup.Peer{{Node: "a"}}}
}

// lead starts a group and waits until it leads.
func lead(t *testing.T, c raftgroup.Config) (*raftgroup.Group, uint64) {
	t.Helper()
	g, err := raftgroup.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	awaitLeadership(t, g, true)
	return g, g.Term()
}

func awaitLeadership(t *testing.T, g *raftgroup.Group, want bool) {
	t.Helper()
	select {
	case leader := <-g.Leadership():
		if leader != want {
			t.Fatalf("leadership is %v", leader)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was heard of leadership")
	}
}

func awaitFailure(t *testing.T, g *raftgroup.Group, want error) {
	t.Helper()
	select {
	case <-g.Failed():
	case <-time.After(30 * time.Second):
		t.Fatal("the group goes on")
	}
	if !errors.Is(g.Err(), want) {
		t.Fatalf("the group failed with %v", g.Err())
	}
}

func barrier(t *testing.T, g *raftgroup.Group) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := g.Barrier(ctx, g.Term()); err != nil {
		t.Fatal(err)
	}
}

func TestGroup_AloneLeadsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := raftgrouptest.NewLog()
		for range 3 { // new, and after restarts
			begin := time.Now()
			g, term := lead(t, alone(log, newMachine()))
			if err := g.Barrier(t.Context(), term); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(begin); d > 100*time.Millisecond {
				t.Errorf("the group led after %s", d)
			}
			g.Stop()
		}
	})
}

func TestGroup_AppliesInOrderAndAgainAfterRestart(t *testing.T) {
	log, m := raftgrouptest.NewLog(), newMachine()
	g, term := lead(t, alone(log, m))
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprint(i))
		g.Propose(term, []byte(want[i]))
	}
	if got := m.await(t, 300); !slices.Equal(got, want) {
		t.Fatalf("applied %v", got)
	}
	crashed := log.Copy() // as a killed process leaves it
	g.Stop()

	again := newMachine()
	g, _ = lead(t, alone(crashed, again))
	defer g.Stop()
	barrier(t, g)
	if got := again.await(t, 300); !slices.Equal(got, want) {
		t.Fatalf("applied after the restart: %v", got)
	}
	if !slices.IsSorted(again.indices) {
		t.Fatalf("indices do not ascend: %v", again.indices)
	}
}

func TestGroup_SnapshotFreesTheLogAndShortensRedo(t *testing.T) {
	log, m := raftgrouptest.NewLog(), newMachine()
	g, term := lead(t, alone(log, m))
	for i := range 100 {
		g.Propose(term, fmt.Append(nil, "old ", i))
	}
	m.await(t, 100)
	if err := g.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(log.Entries()); n != 0 {
		t.Errorf("%d entries are left in the log", n)
	}
	if want := []uint64{m.indices[99]}; !slices.Equal(m.checked, want) {
		t.Errorf("checkpoints of %v were taken, not of %v", m.checked, want)
	}
	if err := g.Snapshot(t.Context()); err != nil || len(m.checked) != 1 {
		t.Errorf("a second snapshot without news: %v, checkpoints %v", err, m.checked)
	}
	for i := range 5 {
		g.Propose(term, fmt.Append(nil, "new ", i))
	}
	m.await(t, 105)
	crashed := log.Copy()
	g.Stop()

	for range 2 { // also when nothing came since
		again := newMachine()
		g, _ = lead(t, alone(crashed, again))
		barrier(t, g)
		if got, want := again.await(t, 5), []string{"new 0", "new 1", "new 2", "new 3", "new 4"}; !slices.Equal(got, want) {
			t.Errorf("applied after the restart: %v", got)
		}
		g.Stop()
	}
}

func TestGroup_LogStaysWhenTheCheckpointFails(t *testing.T) {
	log, m := raftgrouptest.NewLog(), newMachine()
	g, term := lead(t, alone(log, m))
	defer g.Stop()
	g.Propose(term, []byte("x"))
	m.await(t, 1)
	full := errors.New("disk full")
	m.set(func() { m.checkpoint = full })
	before := len(log.Entries())
	if err := g.Snapshot(t.Context()); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("the snapshot returned %v", err)
	}
	if after := len(log.Entries()); after != before || g.Stats().Snapshot != 0 {
		t.Errorf("%d of %d entries are left, snapshot of %d", after, before, g.Stats().Snapshot)
	}
	m.set(func() { m.checkpoint = nil })
	if err := g.Snapshot(t.Context()); err != nil || len(log.Entries()) != 0 {
		t.Errorf("the next snapshot: %v, %d entries left", err, len(log.Entries()))
	}
}

func TestGroup_ProposalOfAnotherTermIsVoid(t *testing.T) {
	log, m := raftgrouptest.NewLog(), newMachine()
	g, term := lead(t, alone(log, m))
	defer g.Stop()
	g.Propose(term-1, []byte("late"))
	g.Propose(term+1, []byte("early"))
	g.Propose(term, []byte("now"))
	if got := m.await(t, 1); !slices.Equal(got, []string{"now"}) {
		t.Errorf("applied %v", got)
	}
	if err := g.Barrier(t.Context(), term-1); agent.KindOf(err) != agent.Unavailable {
		t.Errorf("a barrier of an ended term returned %v", err)
	}
	barrier(t, g)
	if got := m.await(t, 1); !slices.Equal(got, []string{"now"}) {
		t.Errorf("applied %v", got)
	}
}

func TestGroup_EndsWhenItsLogFails(t *testing.T) {
	broken := errors.New("input/output error")
	t.Run("append", func(t *testing.T) {
		log, m := raftgrouptest.NewLog(), newMachine()
		g, term := lead(t, alone(log, m))
		g.Propose(term, []byte("kept"))
		m.await(t, 1)
		log.Fail(broken)
		g.Propose(term, []byte("lost"))
		awaitLeadership(t, g, false)
		awaitFailure(t, g, broken)
		g.Propose(term, []byte("later"))
		if err := g.Snapshot(t.Context()); !errors.Is(err, broken) {
			t.Errorf("a snapshot returned %v", err)
		}
		g.Stop()
		if got := m.await(t, 1); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("applied %v", got)
		}
	})
	t.Run("stable value", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			both := cluster{network: raftgroup.NewNetwork(), members: []raftgroup.Peer{{Node: "a"}, {Node: "b"}}}
			a, b := both.start(t, "a"), both.start(t, "b")
			a.log.Fail(broken) // an election is due: a's term or vote cannot be kept
			awaitFailure(t, a.group, broken)
			a.group.Stop()
			b.group.Stop()
		})
	})
	t.Run("manifest", func(t *testing.T) {
		log, m := raftgrouptest.NewLog(), newMachine()
		g, _ := lead(t, alone(log, m))
		barrier(t, g)
		log.Fail(broken)
		if err := g.Snapshot(t.Context()); !errors.Is(err, broken) {
			t.Errorf("the snapshot returned %v", err)
		}
		awaitFailure(t, g, broken)
		g.Stop()
	})
	t.Run("start", func(t *testing.T) {
		log := raftgrouptest.NewLog()
		log.Fail(broken)
		if _, err := raftgroup.Start(alone(log, newMachine())); !errors.Is(err, broken) {
			t.Errorf("Start returned %v", err)
		}
	})
	t.Run("read", func(t *testing.T) {
		log, m := raftgrouptest.NewLog(), newMachine()
		g, term := lead(t, alone(log, m))
		g.Propose(term, []byte("x"))
		m.await(t, 1)
		g.Stop()
		log.Fail(broken)
		if _, err := raftgroup.Start(alone(log, newMachine())); !errors.Is(err, broken) {
			t.Errorf("Start returned %v", err)
		}
	})
}

func TestGroup_LogWithoutRoomCostsLeadershipOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, m := raftgrouptest.NewLog(), newMachine()
		g, term := lead(t, alone(log, m))
		defer g.Stop()
		g.Propose(term, []byte("before"))
		m.await(t, 1)
		log.Fill(true)
		if err := g.Snapshot(t.Context()); err == nil || g.Err() != nil || g.Stats().Snapshot != 0 {
			t.Errorf("a snapshot without room: %v, the group: %v", err, g.Err())
		}
		g.Propose(term, []byte("during"))
		awaitLeadership(t, g, false)
		time.Sleep(time.Minute) // an election cannot keep its term meanwhile
		if err := g.Err(); err != nil || len(g.Leadership()) != 0 {
			t.Errorf("without room the group failed with %v, or leads", err)
		}
		log.Fill(false)
		awaitLeadership(t, g, true)
		g.Propose(g.Term(), []byte("after"))
		if got := m.await(t, 2); !slices.Equal(got, []string{"before", "after"}) {
			t.Errorf("applied %v", got)
		}
	})
}

func TestStart_OnALogWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, m := raftgrouptest.NewLog(), newMachine()
		g, term := lead(t, alone(log, m))
		g.Propose(term, []byte("x"))
		m.await(t, 1)
		g.Stop()
		log.Fill(true)
		again := newMachine()
		g, err := raftgroup.Start(alone(log, again))
		if err != nil {
			t.Fatal(err)
		}
		defer g.Stop()
		time.Sleep(time.Minute)
		log.Fill(false)
		awaitLeadership(t, g, true)
		again.await(t, 1)
	})
}

func TestGroup_StopDoesNotWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := raftgrouptest.NewLog()
		g, term := lead(t, alone(log, newMachine()))
		log.Fill(true)
		g.Propose(term, []byte("x"))
		awaitLeadership(t, g, false)
		time.Sleep(time.Minute)
		begin := time.Now()
		g.Stop()
		if d := time.Since(begin); d != 0 || g.Err() != nil {
			t.Errorf("Stop took %s, the group failed with %v", d, g.Err())
		}
	})
}

// The manifest was written and the log could not be truncated: the next Snapshot
// does it although nothing is new.
func TestGroup_TruncationIsMadeUpFor(t *testing.T) {
	log, m := raftgrouptest.NewLog(), newMachine()
	g, term := lead(t, alone(log, m))
	g.Propose(term, []byte("x"))
	m.await(t, 1)
	before := log.Copy()
	if err := g.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := log.Append(before.Entries()); err != nil { // as if they had never gone
		t.Fatal(err)
	}
	if err := g.Snapshot(t.Context()); err != nil || len(log.Entries()) != 0 {
		t.Errorf("%v, %d entries are left", err, len(log.Entries()))
	}
	g.Stop()
}

func TestGroup_SnapshotGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		g, term := lead(t, alone(raftgrouptest.NewLog(), m))
		held := m.hold()
		g.Propose(term, []byte("x"))
		barred := make(chan error, 1)
		go func() { barred <- g.Barrier(t.Context(), term) }()
		synctest.Wait()
		close(held)
		if err := <-barred; err != nil {
			t.Fatal(err)
		}
		held = m.hold()
		g.Propose(term, []byte("y"))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for range 2 {
			if err := g.Snapshot(ctx); err == nil {
				t.Error("a snapshot was taken while the machine hangs")
			}
		}
		close(held)
		synctest.Wait()
		if err := g.Snapshot(t.Context()); err != nil || g.Stats().Snapshot != g.Stats().Applied {
			t.Errorf("the next snapshot: %v, %+v", err, g.Stats())
		}
		g.Stop()
	})
}

func TestGroup_EndsWhenItsMachineFails(t *testing.T) {
	log, m := raftgrouptest.NewLog(), newMachine()
	g, term := lead(t, alone(log, m))
	gap := errors.New("gap")
	m.set(func() { m.failure = gap })
	g.Propose(term, []byte("x"))
	awaitFailure(t, g, gap)
	m.set(func() { m.failure = nil })
	g.Propose(term, []byte("y"))
	if err := g.Snapshot(t.Context()); !errors.Is(err, gap) {
		t.Errorf("a snapshot returned %v", err)
	}
	g.Stop()
	if len(m.entries) != 0 {
		t.Errorf("applied after the failure: %v", m.entries)
	}
}

func TestStart_RefusesWhatDoesNotFit(t *testing.T) {
	filled := raftgrouptest.NewLog()
	m := newMachine()
	g, term := lead(t, alone(filled, m))
	for range 10 {
		g.Propose(term, []byte("x"))
	}
	m.await(t, 10)
	g.Stop()
	gap := filled.Copy()
	if err := gap.TruncateFront(5); err != nil {
		t.Fatal(err)
	}
	damaged := filled.Copy()
	if err := damaged.Set("Snapshot", []byte(`{"version":1}`)); err != nil {
		t.Fatal(err)
	}
	newer := filled.Copy()
	if err := newer.Set("Snapshot", []byte(`{"version":2}`)); err != nil {
		t.Fatal(err)
	}
	other := alone(filled.Copy(), newMachine())
	other.Node, other.Transport, other.Bootstrap = "b", raftgroup.NewNetwork().Transport("b"), []raftgroup.Peer{{Node: "b"}}
	twice := alone(raftgrouptest.NewLog(), newMachine())
	twice.Bootstrap = []raftgroup.Peer{{Node: "a"}, {Node: "a"}}
	nobody := alone(raftgrouptest.NewLog(), newMachine())
	nobody.Bootstrap = []raftgroup.Peer{{Node: "a", Observer: true}}
	for name, test := range map[string]struct {
		config raftgroup.Config
		kind   agent.Kind
		says   string
	}{
		"entries missing":  {alone(gap, newMachine()), agent.Corrupt, "begins with 6"},
		"damaged manifest": {alone(damaged, newMachine()), agent.Corrupt, "manifest is damaged"},
		"newer manifest":   {alone(newer, newMachine()), agent.Corrupt, "version 2"},
		"other node":       {other, agent.Invalid, `belongs to node "a"`},
		"member twice":     {twice, agent.Invalid, "twice"},
		"no voter":         {nobody, agent.Invalid, "no member of the group has a vote"},
		"nothing set":      {raftgroup.Config{}, agent.Invalid, "needs a name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := raftgroup.Start(test.config)
			if agent.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.says) {
				t.Errorf("Start returned %v", err)
			}
		})
	}
}

func TestStart_CompletesAnInterruptedBootstrap(t *testing.T) {
	whole := raftgrouptest.NewLog()
	g, _ := lead(t, alone(whole, newMachine()))
	g.Stop()
	filled, m := raftgrouptest.NewLog(), newMachine()
	g, term := lead(t, alone(filled, m))
	g.Propose(term, []byte("x"))
	m.await(t, 1)
	g.Stop()
	for name, upset := range map[string]func(l *raftgrouptest.Log) error{
		"entry without term":   func(l *raftgrouptest.Log) error { return l.Append(whole.Entries()[:1]) },
		"entries without term": func(l *raftgrouptest.Log) error { return l.Append(filled.Entries()) },
		"term without entry":   func(l *raftgrouptest.Log) error { return l.Set("CurrentTerm", []byte{7: 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			log := raftgrouptest.NewLog()
			if err := upset(log); err != nil {
				t.Fatal(err)
			}
			m := newMachine()
			g, term := lead(t, alone(log, m))
			defer g.Stop()
			g.Propose(term, []byte("x"))
			want := []string{"x"}
			if name == "entries without term" {
				want = []string{"x", "x"}
			}
			if got := m.await(t, len(want)); !slices.Equal(got, want) {
				t.Errorf("applied %v", got)
			}
		})
	}
}

func TestPropose_DoesNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, m := raftgrouptest.NewLog(), newMachine()
		g, term := lead(t, alone(log, m))
		defer g.Stop()
		barrier(t, g)
		log.Hold()
		for range raftgroup.MaxInFlight {
			g.Propose(term, []byte("x"))
		}
		synctest.Wait()
		if len(m.entries) != 0 {
			t.Error("applied before the log had them")
		}
		log.Release()
		m.await(t, raftgroup.MaxInFlight)
	})
}

func TestGroup_StopWaitsForTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		entered, release := make(chan struct{}), make(chan struct{})
		m := &blocking{entered: entered, release: release}
		g, term := lead(t, alone(raftgrouptest.NewLog(), m))
		g.Propose(term, []byte("x"))
		<-entered
		stopped := make(chan struct{})
		go func() {
			g.Stop()
			close(stopped)
		}()
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("Stop returned while the machine was called")
		default:
		}
		close(release)
		<-stopped
		g.Stop() // harmless
	})
}

type blocking struct {
	machine
	entered, release chan struct{}
}

func (b *blocking) Apply([]raftgroup.Entry) error {
	close(b.entered)
	<-b.release
	return nil
}
