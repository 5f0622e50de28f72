package replication_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"agentd/internal/raftgroup"
	"agentd/pkg/agent"
	"agentd/pkg/replication"
)

// three runs a test with one shard on three nodes in fake time.
func three(t *testing.T, test func(t *testing.T, network *raftgroup.Network, nodes map[string]*node)) {
	bubble(t, func(t *testing.T) {
		network, nodes := raftgroup.NewNetwork(), make(map[string]*node)
		members := []raftgroup.Peer{{Node: "a"}, {Node: "b"}, {Node: "c"}}
		for _, p := range members {
			n := newNode(1)
			c := n.config()
			c.Node, c.TrailingEntries = p.Node, 1000
			c.Transport = func(int) *raftgroup.Transport { return network.Transport(p.Node) }
			c.Members = func(int) []raftgroup.Peer { return members }
			var err error
			if n.groups, err = replication.Start(c); err != nil {
				t.Fatal(err)
			}
			nodes[p.Node] = n
		}
		test(t, network, nodes)
		for _, n := range nodes {
			n.close(t)
		}
	})
}

// owner waits until one of the nodes leads the shard.
func owner(t *testing.T, nodes map[string]*node, except string) (string, *node) {
	t.Helper()
	for range 60_000 {
		for name, n := range nodes {
			if name != except && n.engine.told(0).proposer != nil {
				return name, n
			}
		}
		time.Sleep(time.Millisecond) // of the bubble
	}
	t.Fatal("nobody leads the shard")
	return "", nil
}

func TestCluster_LostLeadershipFailsWhatIsOpenAndTheNextOwnerHasTheRest(t *testing.T) {
	three(t, func(t *testing.T, network *raftgroup.Network, nodes map[string]*node) {
		name, old := owner(t, nodes, "")
		p, o := old.engine.proposer(0), newOutcomes()
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint("kept ", i))
			o.propose(t, p, want[i])
			o.await(i + 1)
		}
		network.Cut(name)
		for i := range 10 {
			o.propose(t, p, fmt.Sprint("open ", i))
		}
		list := o.await(30)
		for i, one := range list[20:] {
			kind := agent.OutcomeUnknown
			if i >= 4 {
				kind = agent.Unavailable
			}
			if one.record != fmt.Sprint("open ", i) || agent.KindOf(one.err) != kind {
				t.Errorf("outcome %v, not %s", one, kind)
			}
		}
		if err := p.Propose([]byte("late"), nil); agent.KindOf(err) != agent.Unavailable {
			t.Errorf("Propose after the loss: %v", err)
		}

		_, next := owner(t, nodes, name)
		got := next.engine.told(0)
		if !slices.Equal(got.entries, want) || !strings.HasPrefix(got.events[20], "lead") {
			t.Errorf("the next owner was told %v", got.events)
		}
		o.propose(t, got.proposer, "new")
		o.await(31)
		network.Heal(name)
		old.engine.until(func() bool { return len(old.engine.shards[0].entries) == 21 })
		told := old.engine.told(0)
		resigned := slices.IndexFunc(told.events, func(e string) bool { return strings.HasPrefix(e, "resign") })
		if foreign := slices.Index(told.events, "apply new"); resigned < 0 || foreign < resigned {
			t.Errorf("the old owner was told %v", told.events)
		}
		if slices.ContainsFunc(told.entries, func(e string) bool { return strings.HasPrefix(e, "open") }) {
			t.Errorf("the old owner applied %v", told.entries)
		}
	})
}

func TestCluster_TransferSettlesFirst(t *testing.T) {
	three(t, func(t *testing.T, _ *raftgroup.Network, nodes map[string]*node) {
		name, from := owner(t, nodes, "")
		to := map[string]string{"a": "b", "b": "c", "c": "a"}[name]
		p, o := from.engine.proposer(0), newOutcomes()
		for i := range 50 {
			o.propose(t, p, fmt.Sprint(i))
		}
		if err := from.groups.Transfer(t.Context(), 0, to); err != nil {
			t.Fatal(err)
		}
		for i, one := range o.await(50) {
			if one.err != nil || one.record != fmt.Sprint(i) {
				t.Errorf("outcome %d is %v", i, one)
			}
		}
		if err := p.Propose([]byte("x"), nil); agent.KindOf(err) != agent.Unavailable {
			t.Errorf("Propose after the transfer: %v", err)
		}
		got, _ := owner(t, nodes, "")
		if got != to {
			t.Errorf("%s leads the shard, not %s", got, to)
		}
		if err := from.groups.Transfer(t.Context(), 0, name); agent.KindOf(err) != agent.Unavailable {
			t.Errorf("Transfer by another node: %v", err)
		}
	})
}

func TestCluster_FailedTransferLeavesTheShardWhereItIs(t *testing.T) {
	three(t, func(t *testing.T, network *raftgroup.Network, nodes map[string]*node) {
		name, from := owner(t, nodes, "")
		to := map[string]string{"a": "b", "b": "c", "c": "a"}[name]
		network.Cut(to)
		if err := from.groups.Transfer(t.Context(), 0, to); err == nil {
			t.Fatal("a transfer to a node that is cut off succeeded")
		}
		o := newOutcomes()
		o.propose(t, from.engine.proposer(0), "still here")
		if got := o.await(1); got[0].err != nil {
			t.Error(got[0].err)
		}
		network.Heal(to)
	})
}

// Leadership comes and goes at random while records are proposed: what one owner
// acknowledged is there, in the same order everywhere, and no record of an ended
// term is.
func TestCluster_AcknowledgedRecordsSurviveChangesOfLeadership(t *testing.T) {
	for seed := range 8 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			three(t, func(t *testing.T, network *raftgroup.Network, nodes map[string]*node) {
				var acknowledged, refused []string
				for round := range 6 {
					name, n := owner(t, nodes, "")
					o, cut := newOutcomes(), (round+seed)%2 == 0
					p := n.engine.told(0).proposer
					if p == nil {
						continue
					}
					proposed := 0
					for i := range 30 {
						record := fmt.Sprintf("%d.%d;", round, i)
						if err := p.Propose([]byte(record), o.of(record)); err == nil {
							proposed++
						}
						if i == 10+seed && cut {
							network.Cut(name)
						}
						if i == 20 && seed%3 == 0 {
							synctest.Wait()
						}
					}
					for _, one := range o.await(proposed) {
						switch agent.KindOf(one.err) {
						case agent.Unavailable:
							refused = append(refused, one.record)
						case agent.OutcomeUnknown:
						default:
							acknowledged = append(acknowledged, one.record)
						}
					}
					if cut {
						owner(t, nodes, name)
						network.Heal(name)
					}
				}
				check(t, nodes, acknowledged, refused)
			})
		})
	}
}

func check(t *testing.T, nodes map[string]*node, acknowledged, refused []string) {
	t.Helper()
	_, n := owner(t, nodes, "")
	o := newOutcomes()
	o.propose(t, n.engine.proposer(0), "end;")
	if got := o.await(1); got[0].err != nil {
		t.Fatal(got[0].err)
	}
	var all string
	for name, n := range nodes {
		n.engine.until(func() bool { return slices.Contains(n.engine.shards[0].entries, "end;") })
		entries := strings.Join(n.engine.told(0).entries, "")
		if all == "" {
			all = entries
		}
		if entries != all {
			t.Errorf("%s applied %s, another node %s", name, entries, all)
		}
	}
	at := 0
	for _, record := range acknowledged {
		next := strings.Index(all[at:], record)
		if next < 0 {
			t.Fatalf("%s was acknowledged and is missing, or out of order, in %s", record, all)
		}
		at += next
	}
	for _, record := range refused {
		if strings.Contains(";"+all, ";"+record) {
			t.Errorf("%s was certainly not committed, and is in %s", record, all)
		}
	}
	if len(acknowledged) == 0 {
		t.Error(errors.New("nothing was acknowledged"))
	}
}
