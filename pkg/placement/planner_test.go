package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// scene is a table with a view in which all is well, to be spoilt by a test.
type scene struct {
	t *Table
	v View
	l Limits
}

// sceneOf is an hour after the table was made, so that every node is steady.
func sceneOf(table *Table) *scene {
	now := at.Add(time.Hour)
	s := &scene{t: table, v: View{Now: now, Since: at, Self: "a", Nodes: map[string]Heard{}}}
	for _, n := range table.Nodes() {
		if n.live() {
			s.hear(n.Name, 0)
		}
	}
	s.v.Shards = make([]ShardView, table.Shards())
	for i := range s.v.Shards {
		s.lead(i, table.Shard(i).Preferred)
	}
	return s
}

// hear makes a node's last sign of life so old.
func (s *scene) hear(name string, ago time.Duration) {
	s.v.Nodes[name] = Heard{At: s.v.Now.Add(-ago), UUID: s.t.nodes[name].UUID}
}

// lead makes a node lead a shard, all members of which have caught up.
func (s *scene) lead(i int, leader string) {
	row := s.t.Shard(i)
	v := ShardView{Leader: leader, Settled: row.Generation, Lag: map[string]int64{row.Learner: 0}}
	for _, r := range row.Replicas {
		v.Lag[r] = 0
	}
	s.v.Shards[i] = v
}

// plan is what is planned, as text; commands must apply.
func (s *scene) plan(t *testing.T) []string {
	t.Helper()
	var said []string
	table := s.t
	for _, a := range Plan(s.t, s.v, s.l) {
		if x := a.Transfer; x != nil {
			said = append(said, fmt.Sprintf("transfer %d %s>%s", x.Shard, x.From, x.To))
			continue
		}
		next, _, err := table.Apply(*a.Command)
		if err != nil {
			t.Fatalf("%s: %v", a.Why, err)
		}
		table = next
		switch c := a.Command; {
		case c.Mark != nil:
			said = append(said, fmt.Sprintf("%s %s", c.Mark.As, c.Mark.Node))
		case c.AddLearner != nil:
			said = append(said, fmt.Sprintf("add %d %s-%s", c.AddLearner.Shard, c.AddLearner.Node, c.AddLearner.Replace))
		case c.PromoteLearner != nil:
			said = append(said, fmt.Sprintf("promote %d %s-%s", c.PromoteLearner.Shard, c.PromoteLearner.Node, c.PromoteLearner.Replace))
		case c.DropLearner != nil:
			said = append(said, fmt.Sprintf("drop %d %s", c.DropLearner.Shard, c.DropLearner.Node))
		case c.RemoveReplica != nil:
			said = append(said, fmt.Sprintf("remove %d %s", c.RemoveReplica.Shard, c.RemoveReplica.Node))
		case c.SetPreferred != nil:
			said = append(said, fmt.Sprintf("prefer %d %s", c.SetPreferred.Shard, c.SetPreferred.Node))
		case c.Confirm != nil:
			said = append(said, fmt.Sprintf("confirm %d", c.Confirm.Shard))
		case c.Revert != nil:
			said = append(said, fmt.Sprintf("revert %d", c.Revert.Shard))
		}
	}
	return said
}

func (s *scene) wants(t *testing.T, want ...string) {
	t.Helper()
	if got := s.plan(t); !slices.Equal(got, want) {
		t.Errorf("planned %v, want %v", got, want)
	}
}

func TestPlan_NothingWhenAllIsWell(t *testing.T) {
	sceneOf(clusterOf(t, 6, "a", "b", "c")).wants(t)
	if got := Plan(NewTable(4, "a"), View{Now: at, Since: at}, Limits{}); got != nil {
		t.Errorf("for a node alone: %v", got)
	}
}

func TestPlan_SilenceMarksANodeDown(t *testing.T) {
	s := sceneOf(clusterOf(t, 6, "a", "b", "c"))
	s.hear("c", 1999*time.Millisecond)
	s.wants(t)
	s.hear("c", 2*time.Second)
	s.wants(t, "down c")
	s.v.Nodes["c"] = Heard{At: s.v.Now, UUID: "disk-of-another"} // someone else with its name
	s.wants(t, "down c")
	s.v.Since = s.v.Now.Add(-time.Second) // a new controller has not listened for long enough
	s.wants(t)

	s = sceneOf(with(t, s.t, mark("c", MarkDown)))
	for i := range s.v.Shards {
		s.lead(i, []string{"a", "b"}[i%2])
	}
	s.hear("c", 1500*time.Millisecond) // neither silent nor well
	if got := s.plan(t); slices.Contains(got, "up c") {
		t.Errorf("planned %v", got)
	}
	s.hear("c", 500*time.Millisecond)
	if got := s.plan(t); got[0] != "up c" {
		t.Errorf("planned %v", got)
	}
}

// A controller whose placement group has no majority is none: what it sees is wrong.
func TestPlan_BelievesNoViewWithoutAMajority(t *testing.T) {
	s := sceneOf(clusterOf(t, 6, "a", "b", "c"))
	s.hear("b", time.Hour)
	s.hear("c", time.Hour)
	s.wants(t)
	s.v.Voters = []string{"a"} // unless the group is as small as that
	if got := s.plan(t); !slices.Equal(got[:2], []string{"down b", "down c"}) {
		t.Errorf("planned %v", got)
	}
}

// down is a scene in which c has been down for so long, of a, b, c and more.
func down(t *testing.T, d time.Duration, more ...string) *scene {
	t.Helper()
	table := clusterOf(t, 2, "a", "b", "c")
	for _, n := range more {
		table = with(t, table, join(n), mark(n, MarkUp))
	}
	m := mark("c", MarkDown)
	m.At = at.Add(time.Hour - d)
	s := sceneOf(with(t, table, m))
	s.hear("c", d)
	return s
}

func TestPlan_MakesReplicasElsewhereAfterDownOut(t *testing.T) {
	s := down(t, 10*time.Minute-time.Second, "d")
	s.wants(t) // no balancing either while the replica is dead, although d is empty
	down(t, 10*time.Minute, "d").wants(t, "out c", "add 0 d-c")
	down(t, 10*time.Minute).wants(t, "out c") // nowhere to go: two copies stay
	s = down(t, time.Hour-time.Second, "d")
	s.v.Since = s.v.Now.Add(-time.Second) // a new controller first listens for the node
	s.wants(t)
}

func TestPlan_MovesAreBounded(t *testing.T) {
	table := clusterOf(t, 12, "a", "b", "c")
	for _, n := range []string{"d", "e", "f", "g", "h", "i"} {
		table = with(t, table, join(n), mark(n, MarkUp))
	}
	s := sceneOf(table)
	count := func() (n int, nodes map[string]int) {
		nodes = map[string]int{}
		for _, a := range s.plan(t) {
			if f := strings.Fields(a); f[0] == "add" {
				n++
				for _, node := range strings.Split(f[2], "-") {
					nodes[node]++
				}
			}
		}
		return n, nodes
	}
	n, nodes := count()
	if n != 3 { // a, b and c can each give one
		t.Errorf("%d moves begin", n)
	}
	for node, k := range nodes {
		if k > 1 {
			t.Errorf("node %s takes part in %d", node, k)
		}
	}
	s.l.Moves = 2
	if n, _ := count(); n != 2 {
		t.Errorf("%d moves begin, 2 are allowed", n)
	}
	for i := range s.v.Shards {
		s.v.Shards[i].Busy = true
	}
	s.wants(t)
}

// moving is a cluster in which d is to take the place of a in shard 0, which a leads.
func moving(t *testing.T) *scene {
	t.Helper()
	table := with(t, clusterOf(t, 3, "a", "b", "c"), join("d"), mark("d", MarkUp),
		Command{At: at, AddLearner: &AddLearner{Generation: 1, Node: "d", Replace: "a"}})
	s := sceneOf(table)
	s.l.Moves = 1
	return s
}

func TestPlan_PromotesOnlyWhatHasCaughtUp(t *testing.T) {
	for name, spoil := range map[string]func(s *scene){
		"behind":    func(s *scene) { s.v.Shards[0].Lag["d"] = 1<<20 + 1 },
		"unknown":   func(s *scene) { delete(s.v.Shards[0].Lag, "d") },
		"unsettled": func(s *scene) { s.v.Shards[0].Settled-- },
		"busy":      func(s *scene) { s.v.Shards[0].Busy = true },
		"no leader": func(s *scene) { s.v.Shards[0].Leader = "" },
		"silent":    func(s *scene) { s.hear("d", 1999*time.Millisecond); delete(s.v.Nodes, "d"); s.v.Since = s.v.Now },
	} {
		t.Run(name, func(t *testing.T) {
			s := moving(t)
			s.lead(0, "b")
			spoil(s)
			for _, a := range s.plan(t) {
				if strings.HasPrefix(a, "promote") {
					t.Errorf("planned %s", a)
				}
			}
		})
	}
	s := moving(t)
	s.lead(0, "b")
	if got := s.plan(t); got[0] != "promote 0 d-a" {
		t.Errorf("planned %v", got)
	}
}

func TestPlan_LeaderHandsOverBeforeItsReplicaGoes(t *testing.T) {
	s := moving(t)
	got := s.plan(t)
	if got[0] != "prefer 0 b" || slices.Contains(got, "promote 0 d-a") {
		t.Fatalf("planned %v", got)
	}
	s.t = with(t, s.t, Command{At: at, SetPreferred: &SetPreferred{Generation: 2, Node: "b"}})
	s.lead(0, "a")
	if got := s.plan(t); !slices.Contains(got, "transfer 0 a>b") || slices.Contains(got, "promote 0 d-a") {
		t.Errorf("planned %v", got)
	}
	s.lead(0, "b")
	if got := s.plan(t); got[0] != "promote 0 d-a" {
		t.Errorf("planned %v", got)
	}
}

func TestPlan_WaitsWithADeadVoter(t *testing.T) {
	s := moving(t)
	s.lead(0, "b")
	s.hear("c", time.Second*3)
	for _, a := range s.plan(t) {
		if strings.HasPrefix(a, "promote") || strings.HasPrefix(a, "add") {
			t.Errorf("planned %s while c is dead", a)
		}
	}
	// Once c is given up, the learner takes its place instead.
	m := mark("c", MarkDown)
	s = &scene{t: with(t, s.t, m, mark("c", MarkOut)), v: s.v, l: s.l}
	delete(s.v.Nodes, "c")
	s.lead(0, "b")
	if got := s.plan(t); !slices.Contains(got, "promote 0 d-c") {
		t.Errorf("planned %v", got)
	}
}

func TestPlan_DropsLearnersThatCannotBe(t *testing.T) {
	s := moving(t)
	s.t = with(t, s.t, mark("d", MarkDrain))
	if got := s.plan(t); got[0] != "drop 0 d" {
		t.Errorf("draining: planned %v", got)
	}
	s = moving(t)
	s.t = with(t, s.t, mark("d", MarkDown))
	delete(s.v.Nodes, "d")
	if got := s.plan(t); !slices.Contains(got, "drop 0 d") {
		t.Errorf("down for an hour: planned %v", got)
	}
	m := mark("d", MarkDown)
	m.At = s.v.Now.Add(-4 * time.Second)
	s.t = with(t, moving(t).t, m)
	s.v.Nodes["d"] = Heard{At: m.At, UUID: "disk-d"}
	if got := s.plan(t); slices.Contains(got, "drop 0 d") {
		t.Errorf("down for 4 s: planned %v", got)
	}
}

func TestPlan_TakesBackWhatAGroupCannotDo(t *testing.T) {
	table := with(t, clusterOf(t, 1, "a", "b", "c"), join("d"), mark("d", MarkUp),
		Command{At: at, AddLearner: &AddLearner{Generation: 1, Node: "d", Replace: "a"}},
		Command{At: at, PromoteLearner: &PromoteLearner{Generation: 2, Node: "d", Replace: "a"}})
	s := sceneOf(table)
	s.wants(t, "confirm 0")
	for dead, want := range map[string]bool{"d": false, "c": false, "cd": true} {
		s := sceneOf(table)
		for _, n := range strings.Split(dead, "") {
			m := mark(n, MarkDown)
			m.At = s.v.Now.Add(-6 * time.Second)
			s.t = with(t, s.t, m)
			s.hear(n, 6*time.Second)
		}
		s.v.Voters = []string{"a"}
		s.v.Shards[0] = ShardView{Leader: "b"}
		if got := s.plan(t); slices.Contains(got, "revert 0") != want {
			t.Errorf("with %s dead: planned %v", dead, got)
		}
	}
}

func TestPlan_OwnerFollowsTheElection(t *testing.T) {
	s := sceneOf(with(t, clusterOf(t, 3, "a", "b", "c"), mark("c", MarkDown)))
	delete(s.v.Nodes, "c")
	s.v.Shards[2] = ShardView{} // it is electing
	if got := s.plan(t); slices.ContainsFunc(got, func(a string) bool { return strings.HasPrefix(a, "prefer") }) {
		t.Errorf("planned %v", got)
	}
	s.lead(2, "b")
	if got := s.plan(t); !slices.Contains(got, "prefer 2 b") || slices.ContainsFunc(got, func(a string) bool { return strings.HasPrefix(a, "transfer") }) {
		t.Errorf("planned %v", got)
	}
}

func TestPlan_DrainTakesLeadershipsFirst(t *testing.T) {
	table := with(t, clusterOf(t, 6, "a", "b", "c"), mark("c", MarkDrain))
	s := sceneOf(table)
	s.wants(t, "prefer 2 a", "prefer 5 b")
	for i := range table.Shards() { // the others are the wrong way round too
		to := map[string]string{"a": "b", "b": "a", "c": "a"}[table.Shard(i).Preferred]
		s.t = with(t, s.t, Command{At: at, SetPreferred: &SetPreferred{Shard: i, Generation: 1, Node: to}})
	}
	for i := range table.Shards() {
		s.lead(i, table.Shard(i).Preferred)
	}
	s.l.Transfers = 3
	s.wants(t, "transfer 2 c>a", "transfer 5 c>a", "transfer 0 a>b")
	s.v.Shards[0].Busy, s.v.Shards[1].Busy = true, true
	s.wants(t, "transfer 2 c>a")
	s.v.Shards[2].Lag["a"] = 2 << 20
	s.wants(t, "transfer 5 c>a")
}

func TestPlan_AFlappingNodeIsGivenNothing(t *testing.T) {
	table := with(t, clusterOf(t, 6, "a", "b"), join("c"))
	m := mark("c", MarkUp)
	m.At = at.Add(time.Hour - 4*time.Second)
	s := sceneOf(with(t, table, m))
	s.wants(t)
	s.v.Now = s.v.Now.Add(time.Second)
	if got := s.plan(t); len(got) != 1 || !strings.HasPrefix(got[0], "add 0 c-") {
		t.Errorf("planned %v", got)
	}
	m.At = at.Add(10 * time.Hour) // a clock that ran ahead wrote this; it must not block for ever
	s = sceneOf(with(t, table, m))
	if got := s.plan(t); len(got) != 1 {
		t.Errorf("planned %v", got)
	}
}

// No single handover evens these out: a owns two, b one, c none, and no shard has
// both a and c.
func TestPlan_BalancesOwnersThroughOthers(t *testing.T) {
	table := clusterOf(t, 3, "a", "b", "c")
	for i, s := range [][]string{{"a", "b"}, {"a", "b"}, {"b", "c"}} {
		table.shards[i] = Shard{Replicas: s, Preferred: s[0], Generation: 1}
	}
	s := sceneOf(valid(t, table))
	p := newPlanner(s.t, s.v, s.l)
	p.countOwners()
	p.balanceOwners()
	if len(p.actions) != 2 || p.leads["a"] != 1 || p.leads["b"] != 1 || p.leads["c"] != 1 {
		t.Errorf("%d actions, owners %v", len(p.actions), p.leads)
	}
}

func TestPlan_SpreadsOverZones(t *testing.T) {
	for name, zones := range map[string][]string{
		"three of two": {"x", "x", "y", "y", "z", "z"},
		"lopsided":     {"x", "x", "x", "y", "z"},
		"two zones":    {"x", "x", "y", "y"},
		"some unknown": {"x", "x", "", "", "y"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(8, t.Fatalf)
			n := w.t.nodes["a"]
			n.Zone = zones[0]
			w.t = w.t.withNode(n)
			seen := map[string]bool{zones[0]: true}
			possible := 1
			for i, z := range zones[1:] {
				w.add(string(rune('b'+i)), z)
				if z == "" || !seen[z] {
					possible++
				}
				seen[z] = true
			}
			w.settle(2000)
			p := planner{t: w.t}
			for i := range w.t.Shards() {
				s := w.t.Shard(i)
				if len(s.Replicas) != 3 || p.zones(s.Replicas) != min(3, possible) {
					t.Errorf("shard %d is on %v", i, s.Replicas)
				}
			}
		})
	}
}

// Numbers are even already; only the zones speak for a move.
func TestPlan_LeavesAZoneThatIsTakenTwice(t *testing.T) {
	table := with(t, clusterOf(t, 1, "a", "b", "c"), join("d"), mark("d", MarkUp))
	for name, zone := range map[string]string{"a": "x", "b": "x", "c": "y", "d": "z"} {
		n := table.nodes[name]
		n.Zone = zone
		table = table.withNode(n)
	}
	sceneOf(table).wants(t, "add 0 d-a")
}

func TestPlan_ShrinksFromTheDeadAndTheDraining(t *testing.T) {
	table := with(t, clusterOf(t, 1, "a", "b", "c"), Command{At: at, SetReplication: &SetReplication{Replicas: 1}})
	s := sceneOf(with(t, table, mark("c", MarkDrain)))
	s.wants(t, "remove 0 c")
	s = sceneOf(with(t, table, mark("c", MarkDrain), mark("b", MarkDown)))
	s.hear("b", time.Minute)
	s.t = with(t, s.t, mark("b", MarkUp), Command{At: s.v.Now.Add(-time.Minute), Mark: &Mark{Node: "b", As: MarkDown}})
	s.wants(t, "remove 0 b")
}

func TestLimits_Validate(t *testing.T) {
	if err := (Limits{}).Validate(); err != nil {
		t.Error(err)
	}
	for _, l := range []Limits{{Moves: -1}, {DownAfter: -1}, {DownAfter: time.Hour}} {
		if !invalid(l.Validate()) {
			t.Errorf("%+v is taken", l)
		}
	}
}
