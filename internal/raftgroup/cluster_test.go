package raftgroup_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"agentd/internal/raftgroup"
	"agentd/internal/raftgroup/raftgrouptest"
	"agentd/pkg/agent"
)

// cluster is what the members of a group share.
type cluster struct {
	network *raftgroup.Network
	members []raftgroup.Peer
}

type member struct {
	node  string
	log   *raftgrouptest.Log
	m     *machine
	group *raftgroup.Group
}

func (c cluster) start(t *testing.T, node string) *member {
	t.Helper()
	m := &member{node: node, log: raftgrouptest.NewLog(), m: newMachine()}
	var err error
	m.group, err = raftgroup.Start(raftgroup.Config{Name: "shard 0", Node: node, Log: m.log, Machine: m.m,
		Transport: c.network.Transport(node), Bootstrap: c.members, TrailingEntries: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// three runs a test with three members in fake time.
func three(t *testing.T, test func(t *testing.T, c cluster, members []*member)) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster{network: raftgroup.NewNetwork(), members: []raftgroup.Peer{{Node: "a"}, {Node: "b"}, {Node: "c"}}}
		var members []*member
		for _, p := range c.members {
			members = append(members, c.start(t, p.Node))
		}
		test(t, c, members)
		for _, m := range members {
			m.group.Stop()
		}
	})
}

// leader waits until one of the members hears that it leads.
func leader(t *testing.T, members []*member) *member {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		for _, m := range members {
			select {
			case leads := <-m.group.Leadership():
				if leads {
					return m
				}
			default:
			}
		}
		time.Sleep(time.Millisecond) // of the bubble
	}
	t.Fatal("nobody leads")
	return nil
}

func others(members []*member, one *member) []*member {
	return slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return m == one })
}

func TestCluster_NewLeaderHasEverythingThatWasCommitted(t *testing.T) {
	three(t, func(t *testing.T, c cluster, members []*member) {
		first := leader(t, members)
		term := first.group.Term()
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i))
			first.group.Propose(term, []byte(want[i]))
		}
		first.m.await(t, 50)
		c.network.Cut(first.node)
		first.group.Propose(term, []byte("never"))
		awaitLeadership(t, first.group, false)

		rest := others(members, first)
		second := leader(t, rest)
		barrier(t, second.group)
		if got := second.m.await(t, 50); !slices.Equal(got, want) {
			t.Errorf("the new leader applied %v", got)
		}
		second.group.Propose(second.group.Term(), []byte("after"))
		want = append(want, "after")
		c.network.Heal(first.node)
		for _, m := range members {
			if got := m.m.await(t, 51); !slices.Equal(got, want) {
				t.Errorf("%s applied %v", m.node, got)
			}
		}
	})
}

func TestCluster_VerifyFailsOnALeaderThatIsCutOff(t *testing.T) {
	three(t, func(t *testing.T, c cluster, members []*member) {
		m := leader(t, members)
		barrier(t, m.group)
		if err := m.group.Verify(t.Context()); err != nil {
			t.Errorf("Verify of the leader: %v", err)
		}
		for _, other := range others(members, m) {
			if err := other.group.Verify(t.Context()); agent.KindOf(err) != agent.Unavailable {
				t.Errorf("Verify of a follower: %v", err)
			}
		}
		c.network.Cut(m.node)
		synctest.Wait() // no answer to an earlier heartbeat is under way
		if err := m.group.Verify(t.Context()); agent.KindOf(err) != agent.Unavailable {
			t.Errorf("Verify of a leader that is cut off: %v", err)
		}
		c.network.Heal(m.node)
	})
}

func TestCluster_TransferMovesLeadership(t *testing.T) {
	three(t, func(t *testing.T, _ cluster, members []*member) {
		from := leader(t, members)
		barrier(t, from.group)
		to := others(members, from)[0]
		if err := from.group.Transfer(t.Context(), "nobody"); agent.KindOf(err) != agent.NotFound {
			t.Errorf("a transfer to a stranger returned %v", err)
		}
		if err := from.group.Transfer(t.Context(), to.node); err != nil {
			t.Fatal(err)
		}
		awaitLeadership(t, to.group, true)
		if err := from.group.Barrier(t.Context(), from.group.Term()); agent.KindOf(err) != agent.Unavailable {
			t.Errorf("a barrier of the former leader returned %v", err)
		}
	})
}

// Raft refuses proposals as long as it believes in a transfer, and it does for a
// while after it has told that the transfer failed.
func TestCluster_BarrierOutlastsAFailedTransfer(t *testing.T) {
	three(t, func(t *testing.T, _ cluster, members []*member) {
		from := leader(t, members)
		barrier(t, from.group)
		to := others(members, from)[0]
		// A machine that takes nothing makes its raft hang when the queue between them,
		// of 128, is full: one more is with the machine, and the next is written and
		// stops raft. Fewer would not make the member hang, more would leave it behind.
		held := to.m.hold()
		for i := range 130 {
			from.group.Propose(from.group.Term(), []byte("x"))
			from.m.await(t, i+1)
			time.Sleep(200 * time.Millisecond) // of the bubble; every member is level
		}
		err := from.group.Transfer(t.Context(), to.node)
		if agent.KindOf(err) != agent.Unavailable || !strings.Contains(err.Error(), "timeout") {
			t.Fatalf("a transfer to a node that hangs returned %v", err)
		}
		barrier(t, from.group)
		close(held)
	})
}

func TestCluster_FollowerBehindTheLogIsNotGivenHalfASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster{network: raftgroup.NewNetwork(), members: []raftgroup.Peer{{Node: "a"}, {Node: "b"}, {Node: "c"}}}
		var members []*member
		for _, p := range c.members {
			m := &member{node: p.Node, log: raftgrouptest.NewLog(), m: newMachine()}
			var err error
			if m.group, err = raftgroup.Start(raftgroup.Config{Name: "shard 0", Node: p.Node, Log: m.log, Machine: m.m,
				Transport: c.network.Transport(p.Node), Bootstrap: c.members}); err != nil {
				t.Fatal(err)
			}
			defer m.group.Stop()
			members = append(members, m)
		}
		first := leader(t, members)
		behind := others(members, first)[0]
		c.network.Cut(behind.node)
		for range 10 {
			first.group.Propose(first.group.Term(), []byte("x"))
		}
		first.m.await(t, 10)
		if err := first.group.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.network.Heal(behind.node)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		<-ctx.Done()
		if st := behind.group.Stats(); st.Snapshot != 0 || st.Applied > 2 {
			t.Errorf("the follower believes to have %+v", st)
		}
	})
}
