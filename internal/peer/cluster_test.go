package peer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"agentd/internal/peer"
	"agentd/internal/peer/raftmsg"
	"agentd/internal/raftgroup"
	"agentd/internal/raftgroup/raftgrouptest"
	"agentd/pkg/agent"
)

const group = 7

// machine remembers what it was given.
type machine struct {
	mu      sync.Mutex // guards entries
	entries []string
}

func (m *machine) Apply(entries []raftgroup.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		m.entries = append(m.entries, string(e.Data[:min(len(e.Data), 20)]))
	}
	return nil
}

func (m *machine) Checkpoint(context.Context, uint64) error { return nil }

func (m *machine) has() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.entries)
}

// member is a node that is a member of the group.
type member struct {
	node  string
	port  *peer.Port
	log   *raftgrouptest.Log
	m     *machine
	group *raftgroup.Group

	mu     sync.Mutex // guards what follows
	leads  bool
	losses int
}

var members = []raftgroup.Peer{{Node: "a"}, {Node: "b"}, {Node: "c"}}

func (w *world) join(t *testing.T, node string, incarnation uint64, log *raftgrouptest.Log) *member {
	t.Helper()
	m := &member{node: node, port: w.start(t, w.config(t, identity(node, incarnation))), log: log, m: new(machine)}
	var err error
	m.group, err = raftgroup.Start(raftgroup.Config{Name: "shard 7", Node: node, Log: log, Machine: m.m,
		Transport: raftgroup.OverPort(m.port, group), Bootstrap: members, TrailingEntries: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// watch follows a member's leadership until its group ends.
func (m *member) watch(stop <-chan struct{}) {
	for {
		select {
		case leads := <-m.group.Leadership():
			m.mu.Lock()
			if m.leads && !leads {
				m.losses++
			}
			m.leads = leads
			m.mu.Unlock()
		case <-stop:
			return
		}
	}
}

func (m *member) leading() (now bool, losses int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leads, m.losses
}

// three runs a test with three members.
func three(t *testing.T, test func(t *testing.T, w *world, c *cluster)) {
	inWorld(t, func(t *testing.T, w *world) {
		c := &cluster{w: w, stop: make(chan struct{})}
		for _, p := range members {
			c.join(t, p.Node, 1, raftgrouptest.NewLog())
		}
		test(t, w, c)
		close(c.stop)
		for _, m := range c.members {
			m.group.Stop()
		}
	})
}

type cluster struct {
	w       *world
	members []*member
	stop    chan struct{}
}

func (c *cluster) join(t *testing.T, node string, incarnation uint64, log *raftgrouptest.Log) *member {
	t.Helper()
	m := c.w.join(t, node, incarnation, log)
	c.members = append(c.members, m)
	go m.watch(c.stop)
	return m
}

// within polls in the bubble's time.
func within(t *testing.T, d time.Duration, what string, fn func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !fn(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

// leader waits for one among the members.
func leader(t *testing.T, list []*member) *member {
	t.Helper()
	var found *member
	within(t, 20*time.Second, "a leader", func() bool {
		for _, m := range list {
			if now, _ := m.leading(); now {
				found = m
			}
		}
		return found != nil
	})
	return found
}

func others(list []*member, one *member) []*member {
	return slices.DeleteFunc(slices.Clone(list), func(m *member) bool { return m == one })
}

// agree waits until all have the same entries, as many as are wanted.
func agree(t *testing.T, list []*member, want []string) {
	t.Helper()
	for _, m := range list {
		within(t, 60*time.Second, m.node+" has everything", func() bool { return len(m.m.has()) >= len(want) })
		if got := m.m.has(); !slices.Equal(got, want) {
			t.Errorf("%s has %q, not %q", m.node, got, want)
		}
	}
}

func (m *member) propose(from, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint("entry ", from+i))
		m.group.Propose(m.group.Term(), []byte(list[i]))
	}
	return list
}

func TestCluster_ReplicatesAndReplacesALostLeader(t *testing.T) {
	three(t, func(t *testing.T, w *world, c *cluster) {
		first := leader(t, c.members)
		want := first.propose(0, 300)
		agree(t, c.members, want)
		if err := first.group.Verify(t.Context()); err != nil {
			t.Error(err)
		}

		begin := time.Now()
		first.group.Stop()
		first.port.Close()
		log := first.log.Copy()
		c.members = others(c.members, first)
		second := leader(t, c.members)
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("the leader was replaced after %s", d)
		}
		want = append(want, second.propose(300, 100)...)
		agree(t, c.members, want)

		c.join(t, first.node, 2, log)
		agree(t, c.members, want)
		if err := second.group.Transfer(t.Context(), first.node); err != nil {
			t.Errorf("transfer: %v", err)
		}
		if again := leader(t, []*member{c.members[2]}); again.node != first.node {
			t.Error("the leadership was not transferred")
		}
	})
}

// Nobody hears the leader, which hears everybody.
func TestCluster_LeaderThatIsNotHeardIsReplaced(t *testing.T) {
	three(t, func(t *testing.T, w *world, c *cluster) {
		first := leader(t, c.members)
		want := first.propose(0, 10)
		agree(t, c.members, want)
		rest := others(c.members, first)
		begin := time.Now()
		for _, m := range rest {
			w.net.CutOneWay(first.node, m.node)
		}
		second := leader(t, rest)
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("the leader was replaced after %s", d)
		}
		within(t, 3*time.Second, "the former leader steps down", func() bool { now, _ := first.leading(); return !now })
		want = append(want, second.propose(10, 10)...)
		agree(t, rest, want)
		for _, m := range rest {
			w.net.HealOneWay(first.node, m.node)
		}
		agree(t, c.members, want)
	})
}

// Two members do not see each other, the third sees both: the group works, and
// leadership does not wander.
func TestCluster_BridgeKeepsALeader(t *testing.T) {
	three(t, func(t *testing.T, w *world, c *cluster) {
		first := leader(t, c.members)
		agree(t, c.members, first.propose(0, 10))
		w.net.Cut(first.node, others(c.members, first)[0].node)
		term := first.group.Term()
		time.Sleep(30 * time.Second) // of the bubble
		now := leader(t, c.members)
		if got := now.group.Term(); got > term+3 {
			t.Errorf("term %d became %d", term, got)
		}
		bridge := others(c.members, first)[1]
		before := len(bridge.m.has())
		now.propose(10, 10)
		within(t, 3*time.Second, "entries commit", func() bool { return len(bridge.m.has()) == before+10 })
		w.net.Heal(first.node, others(c.members, first)[0].node)
	})
}

// Entries that take the network seconds to carry do not cost the leader its
// leadership.
func TestCluster_HeartbeatsDoNotWaitBehindData(t *testing.T) {
	three(t, func(t *testing.T, w *world, c *cluster) {
		first := leader(t, c.members)
		for _, m := range others(c.members, first) {
			w.net.Bandwidth(first.node, m.node, 1<<20)
		}
		term := first.group.Term()
		begin := time.Now()
		for range 4 {
			first.group.Propose(term, make([]byte, 5<<20))
		}
		for _, m := range c.members {
			within(t, time.Minute, m.node+" has everything", func() bool { return len(m.m.has()) == 4 })
		}
		if d := time.Since(begin); d < 15*time.Second {
			t.Fatalf("the network is not slow: %s", d)
		}
		if _, losses := first.leading(); losses != 0 || first.group.Term() != term {
			t.Errorf("leadership was lost %d times", losses)
		}
	})
}

func TestCluster_BulkBesideHeartbeats(t *testing.T) {
	three(t, func(t *testing.T, w *world, c *cluster) {
		first := leader(t, c.members)
		to := others(c.members, first)[0]
		to.port.Handle(99, digest)
		w.net.Bandwidth(first.node, to.node, 2<<20)
		term := first.group.Term()
		if _, err := first.port.Send(t.Context(), to.node, peer.Message{Group: 99}, &zeros{left: 64 << 20}); err != nil {
			t.Fatal(err)
		}
		agree(t, c.members, first.propose(0, 10))
		if _, losses := first.leading(); losses != 0 || first.group.Term() != term {
			t.Errorf("leadership was lost %d times", losses)
		}
	})
}

// A follower's log that fails ends its group, not the connection that other groups use.
func TestCluster_FailedGroupLeavesThePortAlone(t *testing.T) {
	three(t, func(t *testing.T, w *world, c *cluster) {
		first := leader(t, c.members)
		agree(t, c.members, first.propose(0, 10))
		bad := others(c.members, first)[0]
		bad.port.Handle(99, echo)
		bad.log.Fail(errors.New("a broken disk"))
		first.propose(10, 1)
		<-bad.group.Failed()
		within(t, 3*time.Second, "entries commit", func() bool { return len(first.m.has()) == 11 })
		for _, class := range []peer.Class{peer.Control, peer.Data} {
			if _, err := first.port.Call(t.Context(), bad.node, peer.Message{Class: class, Group: 99}); err != nil {
				t.Error(err)
			}
		}
	})
}

// Raft puts up to 64 entries into one append, whatever their size.
func TestCluster_FollowerCatchesUpWithLargeEntries(t *testing.T) {
	three(t, func(t *testing.T, w *world, c *cluster) {
		first := leader(t, c.members)
		away := others(c.members, first)[0]
		for _, m := range others(c.members, away) {
			w.net.Cut(away.node, m.node)
		}
		const n = 24
		for i := range n {
			first.group.Propose(first.group.Term(), make([]byte, 4<<20))
			within(t, 10*time.Second, "an entry commits", func() bool { return len(first.m.has()) > i })
		}
		for _, m := range others(c.members, away) {
			w.net.Heal(away.node, m.node)
		}
		within(t, 30*time.Second, "the follower has everything", func() bool { return len(away.m.has()) == n })
	})
}

func TestCluster_RefusesForgedAndDamagedMessages(t *testing.T) {
	three(t, func(t *testing.T, w *world, c *cluster) {
		first := leader(t, c.members)
		z := w.node(t, "z")
		send := func(kind raftmsg.Kind, body []byte) error {
			_, err := z.Call(t.Context(), first.node, peer.Message{Class: peer.Control, Group: group, Kind: uint8(kind), Body: body})
			return err
		}
		forged := raftmsg.Vote{Header: raftmsg.Header{Protocol: 3, Node: []byte("b"), Address: []byte("b")}, Term: 1 << 40, Transfer: true}
		wantKind(t, send(raftmsg.KindVote, forged.Encode()), agent.Denied, "in the name of another")
		own := raftmsg.Header{Protocol: 3, Node: []byte("z"), Address: []byte("z")}
		for _, m := range []struct {
			kind raftmsg.Kind
			body []byte
		}{
			{raftmsg.KindAppend, []byte("nonsense")},
			{raftmsg.KindInstall, (&raftmsg.Install{Header: own, SnapshotVersion: 1}).Encode()},
			{raftmsg.KindAppend, (&raftmsg.Append{Header: own, Term: 1, Entries: []raftmsg.Entry{{Index: 5}}}).Encode()},
			{raftmsg.KindAppend, (&raftmsg.Append{Header: own, Term: 1, Entries: []raftmsg.Entry{{Index: 1, Type: 5, Data: []byte("\xc1")}}}).Encode()},
			{99, own.Encode()},
		} {
			wantKind(t, send(m.kind, m.body), agent.Invalid, "")
		}
		if _, losses := first.leading(); losses != 0 {
			t.Error("leadership was lost")
		}
	})
}

func TestCluster_ManyGroupsShareAPort(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const groups = 24
		var ports []*peer.Port
		for _, p := range members {
			ports = append(ports, w.node(t, p.Node))
		}
		machines := make([][]*machine, groups)
		var all []*raftgroup.Group
		for g := range groups {
			for i, p := range members {
				m := new(machine)
				started, err := raftgroup.Start(raftgroup.Config{Name: fmt.Sprint("shard ", g), Node: p.Node, Log: raftgrouptest.NewLog(), Machine: m,
					Transport: raftgroup.OverPort(ports[i], uint32(g)), Bootstrap: members, TrailingEntries: 1000})
				if err != nil {
					t.Fatal(err)
				}
				machines[g] = append(machines[g], m)
				all = append(all, started)
				go func() {
					for {
						select {
						case leads := <-started.Leadership():
							if leads {
								started.Propose(started.Term(), []byte(fmt.Sprint("of ", g)))
							}
						case <-t.Context().Done():
							return
						}
					}
				}()
			}
		}
		for g, list := range machines {
			for _, m := range list {
				within(t, 20*time.Second, "every group has its entry", func() bool { return slices.Contains(m.has(), fmt.Sprint("of ", g)) })
			}
		}
		sent := ports[0].Stats()[0].Sent
		time.Sleep(10 * time.Second) // of the bubble
		t.Logf("%d bytes per second of heartbeats for %d groups", (ports[0].Stats()[0].Sent-sent)/10, groups)
		for _, p := range ports {
			if n := len(p.Stats()); n > 4 {
				t.Errorf("%d connections to two nodes", n)
			}
		}
		for _, g := range all {
			g.Stop()
		}
	})
}
