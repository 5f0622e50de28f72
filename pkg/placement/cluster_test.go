package placement

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

func joinOf(name string) Join {
	return Join{Cluster: clusterID, Node: name, UUID: "disk-" + name, Incarnation: 1, Addresses: Addresses{Peer: name + ":7690"}}
}

// clusterOf is a cluster formed by these nodes together, all up.
func clusterOf(t testing.TB, shards int, names ...string) *Table {
	t.Helper()
	form := &Form{Cluster: clusterID, Shards: shards}
	for _, n := range names {
		form.Nodes = append(form.Nodes, joinOf(n))
	}
	table, _, err := new(Table).Apply(Command{At: at, Form: form})
	if err != nil {
		t.Fatal(err)
	}
	return valid(t, table)
}

func valid(t testing.TB, table *Table) *Table {
	t.Helper()
	if err := table.check(); err != nil {
		t.Fatal(err)
	}
	return table
}

func mark(name string, as Remark) Command { return Command{At: at, Mark: &Mark{Node: name, As: as}} }

func join(name string) Command { j := joinOf(name); return Command{At: at, Join: &j} }

// with applies commands that must succeed.
func with(t testing.TB, table *Table, cmds ...Command) *Table {
	t.Helper()
	for _, cmd := range cmds {
		next, _, err := table.Apply(cmd)
		if err != nil {
			t.Fatalf("%+v: %v", cmd, err)
		}
		table = valid(t, next)
	}
	return table
}

// refused wants an error of a kind that says certain things, and no change.
func refused(t *testing.T, table *Table, cmd Command, kind agent.Kind, say ...string) {
	t.Helper()
	next, _, err := table.Apply(cmd)
	if agent.KindOf(err) != kind || err == nil {
		t.Errorf("error is %v (%v); want kind %v", err, agent.KindOf(err), kind)
		return
	}
	for _, s := range say {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
	if next != table {
		t.Errorf("a refused command changed the table")
	}
}

func same(t *testing.T, table *Table, cmd Command) {
	t.Helper()
	if next, _, err := table.Apply(cmd); err != nil || next != table {
		t.Errorf("repeating %+v: changed %v, error %v; want no change and no error", cmd, next != table, err)
	}
}

// The table of a node that ran before there were clusters, byte for byte.
const oldFile = `{"format":1,"shards":["n1","n1","n1"],"classes":{"default":{"Counter":[{"namespace":"default","class":"Counter","version":1,"bundle":"b1","methods":["add"],"deployedAt":"2026-11-21T12:00:00Z"}]}}}`

func TestForm_GrowsFromTheFileOfOneNode(t *testing.T) {
	old := new(Table)
	if err := json.Unmarshal([]byte(oldFile), old); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(old); err != nil || string(again) != oldFile {
		t.Errorf("written again it is %s, %v; an older agentd could not read it", again, err)
	}
	form := Command{At: at, Form: &Form{Cluster: clusterID, Nodes: []Join{joinOf("n1")}, Table: old}}
	data, err := EncodeCommand(form)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := DecodeCommand(data)
	if err != nil {
		t.Fatal(err)
	}
	table := with(t, new(Table), decoded)
	same(t, table, form)
	if v, err := table.Current("default", "Counter"); err != nil || v.Bundle != "b1" {
		t.Errorf("the class is %+v, %v", v, err)
	}
	n, _ := table.Node("n1")
	if table.Shards() != 3 || table.Shard(2).Preferred != "n1" || n.UUID != "disk-n1" || n.State != Up || table.Cluster() != clusterID {
		t.Errorf("node %+v, shard %+v", n, table.Shard(2))
	}
	with(t, table, join("n2"), mark("n2", MarkUp))
	// The same in place, as the node alone would do it.
	if inPlace := with(t, old, Command{At: at, Form: &Form{Cluster: clusterID, Nodes: []Join{joinOf("n1")}}}); inPlace.Shards() != 3 {
		t.Error("the shards are lost")
	}
	refused(t, new(Table), Command{At: at, Form: &Form{Cluster: clusterID, Nodes: []Join{joinOf("n2")}, Table: old}}, agent.Conflict, "n1")
	refused(t, table, Command{At: at, Form: &Form{Cluster: "c-2", Nodes: []Join{joinOf("n1")}}}, agent.Conflict, clusterID)
}

func TestForm_SpreadsOverNodesAndZones(t *testing.T) {
	form := &Form{Cluster: clusterID, Shards: 12}
	for i := range 6 {
		j := joinOf(fmt.Sprintf("n%d", i))
		j.Zone = string(rune('a' + i/2)) // two nodes in each of three zones
		form.Nodes = append(form.Nodes, j)
	}
	table := with(t, new(Table), Command{At: at, Form: form})
	p := planner{t: table}
	leads, replicas := map[string]int{}, map[string]int{}
	for i := range table.Shards() {
		s := table.Shard(i)
		leads[s.Preferred]++
		for _, r := range s.Replicas {
			replicas[r]++
		}
		if len(s.Replicas) != 3 || p.zones(s.Replicas) != 3 {
			t.Errorf("shard %d is on %v", i, s.Replicas)
		}
	}
	for n := range table.nodes {
		if leads[n] != 2 || replicas[n] != 6 {
			t.Errorf("node %s leads %d shards and keeps %d", n, leads[n], replicas[n])
		}
	}
	two := &Form{Cluster: clusterID, Nodes: []Join{joinOf("a"), joinOf("a")}}
	refused(t, new(Table), Command{At: at, Form: two}, agent.Conflict, "two nodes with one name")
	refused(t, new(Table), Command{At: at, Form: &Form{Cluster: "other", Nodes: []Join{joinOf("a")}}}, agent.Denied)
	refused(t, new(Table), Command{At: at, Form: &Form{Cluster: clusterID, Shards: MaxShards + 1, Nodes: []Join{joinOf("a")}}}, agent.Invalid)
	refused(t, new(Table), join("a"), agent.Unavailable, "not been formed")
}

func TestJoin_KnowsWhoMayBePart(t *testing.T) {
	table := with(t, clusterOf(t, 2, "a", "b", "c"), join("d"))
	if n, _ := table.Node("d"); n.State != Joining || n.Since != at {
		t.Errorf("d is %+v", n)
	}
	same(t, table, join("d"))
	edit := func(name string, f func(*Join)) Command {
		j := joinOf(name)
		f(&j)
		return Command{At: at, Join: &j}
	}
	moved := with(t, table, edit("d", func(j *Join) { j.Incarnation, j.Addresses.Peer = 2, "d2:7690" }))
	if n, _ := moved.Node("d"); n.Addresses.Peer != "d2:7690" || n.Incarnation != 2 {
		t.Errorf("after its second start d is %+v", n)
	}
	refused(t, moved, join("d"), agent.Conflict, "copy")
	refused(t, table, edit("e", func(j *Join) { j.Cluster = "c-2" }), agent.Denied, "c-2", clusterID)
	refused(t, table, edit("c", func(j *Join) { j.UUID = "new" }), agent.Conflict, "two nodes with one name", "agentd cluster remove c")
	refused(t, table, edit("c", func(j *Join) { j.UUID, j.Replace = "new", true }), agent.Conflict, "two nodes with one name", "up")
	refused(t, table, edit("e", func(j *Join) { j.UUID = "disk-c" }), agent.Conflict, "--node c")
	refused(t, NewTable(1, "a"), join("b"), agent.Unavailable)
	for name, f := range map[string]func(*Join){
		"no name":       func(j *Join) { j.Node = "" },
		"bad name":      func(j *Join) { j.Node = "a b" },
		"long name":     func(j *Join) { j.Node = strings.Repeat("x", 256) },
		"no disk":       func(j *Join) { j.UUID = "" },
		"no address":    func(j *Join) { j.Addresses.Peer = "" },
		"long address":  func(j *Join) { j.Addresses.HTTP = strings.Repeat("x", 256) },
		"blank address": func(j *Join) { j.Addresses.GRPC = "a\nb" },
		"bad zone":      func(j *Join) { j.Zone = "\xff" },
	} {
		t.Run(name, func(t *testing.T) { refused(t, table, edit("e", f), agent.Invalid) })
	}
}

func TestJoin_ReplacesALostDisk(t *testing.T) {
	table := with(t, clusterOf(t, 4, "a", "b", "c"), mark("c", MarkDown))
	j := joinOf("c")
	j.UUID, j.Replace = "disk-c2", true
	table = with(t, table, Command{At: at, Join: &j})
	if n, _ := table.Node("c"); n.State != Joining || n.UUID != "disk-c2" {
		t.Errorf("c is %+v", n)
	}
	for i := range table.Shards() {
		// The new disk has nothing of the old one: it must not count as a replica.
		if s := table.Shard(i); slices.Contains(s.Replicas, "c") || slices.Contains(s.Was, "c") || s.Preferred == "c" || !s.Pending() {
			t.Errorf("shard %d is %+v", i, s)
		}
	}
	refused(t, table, join("c"), agent.Denied, "removed", "empty data folder")
	// What was said of the old c is not about the new one.
	for g := uint64(1); g <= 2; g++ {
		refused(t, table, Command{At: at, Mark: &Mark{Node: "c", As: MarkUp, Generation: g}}, agent.Conflict)
	}
	same(t, table, Command{At: at, Remove: &Remove{Node: "c", UUID: "disk-c"}})
}

func TestJoin_IsBounded(t *testing.T) {
	table := clusterOf(t, 1, "a")
	for i := len(table.nodes); i < MaxNodes; i++ {
		table, _, _ = table.Apply(join(fmt.Sprintf("n%d", i)))
	}
	if len(valid(t, table).nodes) != MaxNodes {
		t.Fatalf("%d nodes", len(table.nodes))
	}
	refused(t, table, join("one-more"), agent.TooLarge)
}

func TestMark_KeepsWhatTheOperatorWants(t *testing.T) {
	table := clusterOf(t, 2, "a", "b", "c")
	state := func(table *Table) NodeState { n, _ := table.Node("c"); return n.State }
	steps := []struct {
		as   Remark
		want NodeState
	}{{MarkDrain, Draining}, {MarkUp, Draining}, {MarkDown, Down}, {MarkOut, Out}, {MarkDown, Out}, {MarkUp, Draining}, {MarkUndrain, Up}}
	for _, s := range steps {
		before := table
		table = with(t, table, mark("c", s.as))
		if state(table) != s.want {
			t.Fatalf("after %s c is %s, want %s", s.as, state(table), s.want)
		}
		same(t, table, mark("c", s.as))
		old, _ := before.Node("c")
		if n, _ := table.Node("c"); table != before && n.Generation <= old.Generation {
			t.Errorf("after %s the generation did not grow", s.as)
		}
	}
	refused(t, table, mark("c", MarkOut), agent.Conflict, "down")
	refused(t, table, mark("z", MarkDrain), agent.NotFound, "[a b c]")
	refused(t, table, mark("c", "dancing"), agent.Invalid)
	n, _ := table.Node("c")
	refused(t, table, Command{At: at, Mark: &Mark{Node: "c", As: MarkDown, Generation: n.Generation - 1}}, agent.Conflict, "changed since")
	refused(t, with(t, table, mark("a", MarkDrain), mark("b", MarkDown)), mark("c", MarkDrain), agent.Conflict, "no other node")
}

func TestRemove_NeverTakesAMajority(t *testing.T) {
	table := clusterOf(t, 4, "a", "b", "c")
	remove := func(name string) Command { return Command{At: at, Remove: &Remove{Node: name}} }
	refused(t, table, remove("c"), agent.Conflict, "agentd cluster drain c")
	refused(t, table, remove("z"), agent.NotFound)
	refused(t, clusterOf(t, 1, "a"), remove("a"), agent.Conflict, "only node")

	// Two of three are down: without either there is no majority left.
	two := with(t, table, mark("b", MarkDown), mark("c", MarkDown))
	refused(t, two, remove("c"), agent.Conflict, "majority", "Start b, c again")

	// A node that has been drained as far as possible may go, one member per shard.
	draining := with(t, table, mark("c", MarkDrain))
	refused(t, draining, remove("c"), agent.Conflict, "still being drained")
	for i := range draining.Shards() {
		if s := draining.Shard(i); s.Preferred == "c" {
			draining = with(t, draining, Command{At: at, SetPreferred: &SetPreferred{Shard: i, Generation: s.Generation, Node: "a"}})
		}
	}
	gone := with(t, draining, remove("c"))
	same(t, gone, remove("c"))
	for i := range gone.Shards() {
		if s := gone.Shard(i); len(s.Replicas) != 2 || !s.Pending() {
			t.Errorf("shard %d is %+v", i, s)
		}
	}
	// Until the groups have followed, no second one.
	refused(t, with(t, gone, mark("b", MarkDown)), remove("b"), agent.Conflict, "try again")
	// With a spare node a drain is not done before its replicas have moved.
	refused(t, with(t, draining, join("d"), mark("d", MarkUp)), remove("c"), agent.Conflict, "4 shards")
	// Nobody would be left to hold data.
	refused(t, with(t, clusterOf(t, 1, "a", "b"), mark("a", MarkDrain), mark("b", MarkDown)), remove("b"), agent.Conflict, "undrain")
}

func TestShard_ChangesOneMemberAtATime(t *testing.T) {
	table := with(t, clusterOf(t, 1, "a", "b", "c"), join("d"), mark("d", MarkUp), join("e"), mark("e", MarkUp))
	g := func() uint64 { return table.Shard(0).Generation }
	add := func(node, replace string, gen uint64) Command {
		return Command{At: at, AddLearner: &AddLearner{Generation: gen, Node: node, Replace: replace}}
	}
	promote := func(node, replace string, gen uint64) Command {
		return Command{At: at, PromoteLearner: &PromoteLearner{Generation: gen, Node: node, Replace: replace}}
	}
	refused(t, table, add("d", "", g()), agent.Conflict, "3 replicas already")
	refused(t, table, add("b", "", g()), agent.Conflict)
	refused(t, table, add("d", "e", g()), agent.Conflict)
	refused(t, table, add("z", "a", g()), agent.NotFound)
	refused(t, table, add("d", "a", g()+1), agent.Conflict, "changed since")
	refused(t, with(t, table, mark("d", MarkDown)), add("d", "a", g()), agent.Conflict, "down")
	refused(t, table, Command{At: at, AddLearner: &AddLearner{Shard: 1, Node: "d"}}, agent.NotFound)
	refused(t, table, promote("d", "a", g()), agent.Conflict, "no learner")

	table = with(t, table, add("d", "a", g()))
	same(t, table, add("d", "a", g()-1)) // a repetition after a lost answer
	refused(t, table, add("e", "b", g()), agent.Conflict, "one at a time")
	refused(t, table, promote("d", "", g()), agent.Conflict)
	refused(t, table, promote("d", "e", g()), agent.Conflict)
	refused(t, table, promote("d", "a", g()-1), agent.Conflict, "changed since")
	dropped := with(t, table, Command{At: at, DropLearner: &DropLearner{Generation: g(), Node: "d"}})
	same(t, dropped, Command{At: at, DropLearner: &DropLearner{Generation: g(), Node: "d"}})

	table = with(t, table, promote("d", "a", g()))
	same(t, table, promote("d", "a", g()-1))
	if s := table.Shard(0); !slices.Equal(s.Replicas, []string{"d", "b", "c"}) || !slices.Equal(s.Was, []string{"a", "b", "c"}) || s.Preferred != "d" {
		t.Fatalf("shard is %+v", s)
	}
	// The group has not followed yet: nothing on top of it.
	refused(t, table, add("e", "b", g()), agent.Conflict, "try again in a moment")
	refused(t, table, Command{At: at, Confirm: &Confirm{Generation: g() - 1}}, agent.Conflict)
	confirmed := with(t, table, Command{At: at, Confirm: &Confirm{Generation: g()}})
	same(t, confirmed, Command{At: at, Confirm: &Confirm{Generation: g()}})
	with(t, confirmed, add("e", "b", g()))
	// Or it could not, and the change is taken back.
	back := with(t, table, mark("d", MarkDown), Command{At: at, Revert: &Revert{Generation: g()}})
	if s := back.Shard(0); !slices.Equal(s.Replicas, []string{"a", "b", "c"}) || !s.Pending() || s.Preferred != "a" {
		t.Errorf("taken back it is %+v", s)
	}
	refused(t, confirmed, Command{At: at, Revert: &Revert{Generation: g()}}, agent.Conflict)
	refused(t, with(t, table, mark("a", MarkDown), mark("b", MarkDown)), Command{At: at, Revert: &Revert{Generation: g()}}, agent.Conflict, "majority")
}

func TestShard_KeepsAMajorityThroughEveryChange(t *testing.T) {
	base := with(t, clusterOf(t, 1, "a", "b", "c"), join("d"), mark("d", MarkUp))
	g := base.Shard(0).Generation
	add := Command{At: at, AddLearner: &AddLearner{Generation: g, Node: "d", Replace: "a"}}
	promote := func(replace string) Command {
		return Command{At: at, PromoteLearner: &PromoteLearner{Generation: g + 1, Node: "d", Replace: replace}}
	}
	learner := with(t, base, add)
	// One dead: replacing it is the repair, replacing a live one still leaves two.
	with(t, learner, mark("b", MarkDown), promote("b"))
	with(t, learner, mark("b", MarkDown), promote("a"))
	// Two dead: the group cannot agree on anything.
	dead := with(t, learner, mark("b", MarkDown), mark("c", MarkDown))
	refused(t, dead, promote("b"), agent.Conflict, "majority", "Start b, c again")
	refused(t, with(t, base, mark("b", MarkDown), mark("c", MarkDown)), add, agent.Conflict, "majority")
	// Of two, neither can be replaced while the other is dead.
	two := with(t, clusterOf(t, 1, "a", "b"), join("d"), mark("d", MarkUp))
	two = with(t, two, Command{At: at, AddLearner: &AddLearner{Generation: 1, Node: "d", Replace: "a"}}, mark("b", MarkDown))
	refused(t, two, Command{At: at, PromoteLearner: &PromoteLearner{Generation: 2, Node: "d", Replace: "b"}}, agent.Conflict, "majority")

	remove := Command{At: at, RemoveReplica: &RemoveReplica{Generation: 1, Node: "a"}}
	refused(t, base, remove, agent.Conflict, "agentd cluster replication")
	one := with(t, base, Command{At: at, SetReplication: &SetReplication{Replicas: 1}})
	refused(t, with(t, one, mark("b", MarkDown)), remove, agent.Conflict, "majority")
	shrunk := with(t, one, remove)
	same(t, shrunk, remove)
	if s := shrunk.Shard(0); !slices.Equal(s.Replicas, []string{"b", "c"}) || s.Preferred != "b" {
		t.Errorf("shard is %+v", s)
	}
	refused(t, with(t, clusterOf(t, 1, "a"), mark("a", MarkDown)), remove, agent.Conflict, "only replica")
	refused(t, base, Command{At: at, SetReplication: &SetReplication{Replicas: 2}}, agent.Invalid, "1, 3 or 5")
}

func TestShard_PreferredIsALivingVoter(t *testing.T) {
	table := with(t, clusterOf(t, 1, "a", "b", "c"), join("d"), mark("d", MarkUp))
	prefer := func(node string, gen uint64) Command {
		return Command{At: at, SetPreferred: &SetPreferred{Generation: gen, Node: node}}
	}
	refused(t, table, prefer("d", 1), agent.Conflict, "no replica")
	refused(t, table, prefer("b", 7), agent.Conflict, "changed since")
	refused(t, with(t, table, mark("b", MarkDown)), prefer("b", 1), agent.Conflict, "down")
	refused(t, with(t, table, mark("b", MarkDrain)), prefer("b", 1), agent.Conflict, "draining")
	table = with(t, table, prefer("b", 1))
	same(t, table, prefer("b", 1))
	if owner := table.Owner(agent.ID{Namespace: "default", Class: "C", Name: "n"}); owner != "b" {
		t.Errorf("owner is %s", owner)
	}
}

func TestNamespace_Limits(t *testing.T) {
	set := func(name string, l NamespaceLimits) Command {
		return Command{At: at, SetNamespace: &SetNamespace{Name: name, Limits: l}}
	}
	table := with(t, clusterOf(t, 1, "a"), set("team", NamespaceLimits{Agents: 5}), deploy("b", "Counter"))
	same(t, table, set("team", NamespaceLimits{Agents: 5}))
	if l, ok := table.Namespace("team"); !ok || l.Agents != 5 {
		t.Errorf("limits are %+v, %v", l, ok)
	}
	if got := table.Namespaces(); !slices.Equal(got, []string{"default", "team"}) {
		t.Errorf("namespaces are %v", got)
	}
	refused(t, table, set("Upper", NamespaceLimits{}), agent.Invalid)
	refused(t, table, set("team", NamespaceLimits{Bytes: -1}), agent.Invalid)
	drop := Command{At: at, DropNamespace: &DropNamespace{Name: "team"}}
	table = with(t, table, drop)
	same(t, table, drop)
	refused(t, table, Command{At: at, DropNamespace: &DropNamespace{Name: "default"}}, agent.Conflict, "classes")
}

func TestVoters_FirstFive(t *testing.T) {
	table := clusterOf(t, 1, "a")
	check := func(want string) {
		t.Helper()
		if got := strings.Join(Voters(table), ""); got != want {
			t.Errorf("voters are %s, want %s", got, want)
		}
	}
	check("a")
	for _, step := range [][2]string{{"g", "ag"}, {"f", "agf"}, {"e", "agf"}, {"d", "agfed"}, {"c", "agfed"}, {"b", "agfed"}} {
		table = with(t, table, join(step[0]))
		table = with(t, table, mark(step[0], MarkUp))
		check(step[1])
	}
	table = with(t, table, join("z")) // never heard from
	check("agfed")
	table = with(t, table, mark("g", MarkDown))
	check("agfed") // it may come back
	table = with(t, table, mark("g", MarkOut))
	check("afedc")
	table = with(t, table, mark("f", MarkDrain))
	check("aedcb")
}

func TestTable_SnapshotGivesTheSameTable(t *testing.T) {
	w := newWorld(8, t.Fatalf)
	for _, n := range []string{"b", "c", "d"} {
		w.add(n, "z"+n)
	}
	w.must(Command{SetNamespace: &SetNamespace{Name: "team", Limits: NamespaceLimits{Agents: 7}}})
	w.must(deploy("b1", "Counter"))
	w.settle(600)
	w.machines["d"].alive = false
	w.tick(time.Minute)
	w.must(Command{Remove: &Remove{Node: "d"}})
	for name, table := range map[string]*Table{"cluster": w.t, "not formed": new(Table), "alone": NewTable(3, "a")} {
		t.Run(name, func(t *testing.T) {
			var b, again bytes.Buffer
			if err := WriteSnapshot(&b, table); err != nil {
				t.Fatal(err)
			}
			data := bytes.Clone(b.Bytes())
			got, err := ReadSnapshot(&b)
			if err != nil {
				t.Fatal(err)
			}
			if err := WriteSnapshot(&again, got); err != nil || !bytes.Equal(again.Bytes(), data) {
				t.Errorf("written again it differs, %v", err)
			}
			if got.Revision() != table.Revision() || !reflect.DeepEqual(got.Nodes(), table.Nodes()) || !reflect.DeepEqual(got.Removed(), table.Removed()) {
				t.Errorf("nodes are %+v, want %+v", got.Nodes(), table.Nodes())
			}
			for i := range data {
				bad := bytes.Clone(data)
				bad[i] ^= 0x10
				if _, err := ReadSnapshot(bytes.NewReader(bad)); err == nil {
					t.Fatalf("a flipped bit in byte %d is not seen", i)
				}
			}
			for _, n := range []int{0, 7, 23, len(data) - 1} {
				if _, err := ReadSnapshot(bytes.NewReader(data[:n])); agent.KindOf(err) != agent.Corrupt {
					t.Errorf("cut to %d bytes: %v", n, err)
				}
			}
			if _, err := ReadSnapshot(bytes.NewReader(append(data, 0))); agent.KindOf(err) != agent.Corrupt {
				t.Errorf("with a byte more: %v", err)
			}
		})
	}
}

func TestTable_ReadsNothingThatBreaksARule(t *testing.T) {
	good, err := json.Marshal(clusterOf(t, 1, "a", "b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	if err := new(Table).UnmarshalJSON(good); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"format":2`, `"format":3`},
		{`"replicas":["a","b","c"]`, `"replicas":["a","a","c"]`},
		{`"replicas":["a","b","c"]`, `"replicas":["a","b","z"]`},
		{`"replicas":["a","b","c"]`, `"replicas":[]`},
		{`"preferred":"a"`, `"preferred":"z"`},
		{`"preferred":"a"`, `"preferred":"a","learner":"b"`},
		{`"preferred":"a"`, `"preferred":"a","replaces":"b"`},
		{`"preferred":"a"`, `"preferred":"a","was":["z"]`},
		{`"preferred":"a","generation":1`, `"preferred":"a","generation":0`},
		{`"state":"up"`, `"state":"odd"`},
		{`"state":"up"`, `"state":"up","drain":true`},
		{`"uuid":"disk-a"`, `"uuid":"disk-b"`},
		{`"peer":"a:7690"`, `"peer":""`},
		{`"replication":3`, `"replication":2`},
		{`"cluster":"c-1"`, `"cluster":"c-1","surprise":1`},
		{`"cluster":"c-1",`, ``},
	} {
		bad := strings.Replace(string(good), change[0], change[1], 1)
		if bad == string(good) {
			t.Fatalf("nothing to change: %s in %s", change[0], good)
		}
		if err := new(Table).UnmarshalJSON([]byte(bad)); err == nil {
			t.Errorf("%s is read", change[1])
		}
	}
}

func TestCommand_IsReadWholeOrNotAtAll(t *testing.T) {
	data, err := EncodeCommand(mark("a", MarkDrain))
	if err != nil {
		t.Fatal(err)
	}
	if cmd, err := DecodeCommand(data); err != nil || cmd.Mark == nil || *cmd.Mark != (Mark{Node: "a", As: MarkDrain}) || !cmd.At.Equal(at) {
		t.Errorf("read %+v, %v", cmd, err)
	}
	for text, kind := range map[string]agent.Kind{
		`{"format":2,"Invented":{}}`:                                     agent.Unavailable,
		`{"format":1}`:                                                   agent.Corrupt,
		`{"format":0,"Mark":{}}`:                                         agent.Corrupt,
		`{"format":1,"Mark":{"Node":"a","As":"up","New":1}}`:             agent.Corrupt,
		`{"format":1,"Mark":{"Node":"a"},"Remove":{"Node":"a"}}`:         agent.Corrupt,
		`{"format":1,"Mark":{"Node":"a","As":"up"}} {}`:                  agent.Corrupt,
		`{"format":1,"Form":{"Table":{"format":1,"shards":["a","b"]}}}`:  agent.Corrupt,
		`{"format":1,"Mark":{"Node":"a"}`:                                agent.Corrupt,
		`{"format":1,"At":"not a time","Mark":{"Node":"a","As":"up"}}`:   agent.Corrupt,
		`{"format":1,"AddLearner":{"Shard":99999999999999999999999999}}`: agent.Corrupt,
	} {
		if _, err := DecodeCommand([]byte(text)); err == nil || agent.KindOf(err) != kind {
			t.Errorf("%s: %v; want kind %v", text, err, kind)
		}
	}
	if _, err := EncodeCommand(Command{}); agent.KindOf(err) != agent.Invalid {
		t.Errorf("an empty command is written: %v", err)
	}
	refused(t, NewTable(1, "a"), Command{At: at.AddDate(9000, 0, 0), SetReplication: &SetReplication{Replicas: 1}}, agent.Invalid, "year")
}

// FuzzCommand reads hostile commands and applies them: whatever comes, the table
// stays one that passes every check, and can be written and read.
func FuzzCommand(f *testing.F) {
	for _, cmd := range []Command{join("d"), mark("c", MarkDrain), mark("c", MarkDown), {Remove: &Remove{Node: "c"}}, deploy("b", "C"),
		{AddLearner: &AddLearner{Generation: 1, Node: "d", Replace: "a"}}, {SetPreferred: &SetPreferred{Generation: 1, Node: "b"}},
		{Form: &Form{Cluster: clusterID, Nodes: []Join{joinOf("a")}, Table: NewTable(2, "a")}}, {SetReplication: &SetReplication{Replicas: 1}},
		{RemoveReplica: &RemoveReplica{Generation: 1, Node: "a"}}, {SetNamespace: &SetNamespace{Name: "n"}}} {
		data, err := EncodeCommand(cmd)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	tables := []*Table{new(Table), NewTable(1, "a"), with(f, clusterOf(f, 2, "a", "b", "c"), join("d"), mark("d", MarkUp), mark("c", MarkDown))}
	f.Fuzz(func(t *testing.T, data []byte) {
		cmd, err := DecodeCommand(data)
		if err != nil {
			return
		}
		for _, table := range tables {
			next, _, err := table.Apply(cmd)
			if err != nil && next != table {
				t.Fatalf("%s: refused (%v) and yet changed", data, err)
			}
			if err := next.check(); err != nil {
				t.Fatalf("%s makes a table with %v", data, err)
			}
			var b bytes.Buffer
			if err := WriteSnapshot(&b, next); err != nil {
				t.Fatalf("%s: %v", data, err)
			}
			if _, err := ReadSnapshot(&b); err != nil {
				t.Fatalf("%s: %v", data, err)
			}
			if next != table {
				_ = Plan(next, View{Now: at, Since: at}, Limits{})
			}
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	for _, table := range []*Table{new(Table), NewTable(2, "a"), clusterOf(f, 2, "a", "b", "c")} {
		var b bytes.Buffer
		if err := WriteSnapshot(&b, table); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), b.Bytes()[snapshotHeader:])
	}
	f.Fuzz(func(t *testing.T, data, text []byte) {
		tables := make([]*Table, 0, 2)
		if table, err := ReadSnapshot(bytes.NewReader(data)); err == nil {
			tables = append(tables, table)
		}
		if table := new(Table); table.UnmarshalJSON(text) == nil {
			tables = append(tables, table)
		}
		for _, table := range tables {
			again, err := json.Marshal(table)
			if err != nil {
				t.Fatal(err)
			}
			if err := new(Table).UnmarshalJSON(again); err != nil {
				t.Fatalf("%s is written as %s and then not read: %v", text, again, err)
			}
			_ = Voters(table)
			_ = Plan(table, View{Now: at, Since: at.Add(-time.Hour)}, Limits{})
		}
	})
}

func TestTable_OldestIsWhatEveryNodeReads(t *testing.T) {
	newer, older := joinOf("d"), joinOf("e")
	newer.Versions, older.Versions = Versions{Binary: "2", Record: 3, Command: 2}, Versions{Binary: "10", Record: 2, Command: 4}
	table := with(t, clusterOf(t, 1, "a"), Command{At: at, Join: &newer}, Command{At: at, Join: &older})
	again := joinOf("a")
	again.Incarnation, again.Versions = 2, Versions{Record: 9, Command: 9}
	table = with(t, table, Command{At: at, Join: &again})
	if record, command := table.Oldest(); record != 2 || command != 2 {
		t.Errorf("records of format %d and commands of format %d", record, command)
	}
}
