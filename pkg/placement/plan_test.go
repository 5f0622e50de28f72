package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// One node becomes three, five, and one again; at each stop the cluster is
// balanced and quiet, and after each single command every shard has its majority.
func TestPlan_GrowsOneThreeFiveAndBack(t *testing.T) {
	w := newWorld(DefaultShards, t.Fatalf)
	w.settle(50)
	w.checkBalanced()
	for _, name := range []string{"b", "c", "d", "e"} {
		w.add(name, "")
		w.settle(600)
		w.checkBalanced()
	}
	w.must(Command{SetReplication: &SetReplication{Replicas: 5}})
	w.settle(600)
	w.checkBalanced()
	w.must(Command{SetReplication: &SetReplication{Replicas: 3}})
	w.settle(600)
	w.checkBalanced()
	for _, name := range []string{"e", "b", "d", "a"} {
		w.must(Command{Mark: &Mark{Node: name, As: MarkDrain}})
		w.settle(600)
		w.checkBalanced()
		w.must(Command{Remove: &Remove{Node: name}})
		w.settle(600) // the machine runs on until no shard is pending
		w.checkBalanced()
		w.machines[name].alive = false
		w.settle(600)
		w.checkBalanced()
	}
	if n := w.t.Nodes(); len(n) != 1 || n[0].Name != "c" || w.t.Shard(3).Preferred != "c" {
		t.Errorf("left are %+v", n)
	}
}

// The same with machines that die, lose their disks and return at any moment, and
// actions that get lost.
func TestPlan_WalkWithFailures(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rapid.IntRange(1, 9).Draw(rt, "shards"), nil)
		w.fail = func(format string, args ...any) {
			rt.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(w.log[max(0, len(w.log)-40):], "\n"))
		}
		w.lose = func() bool { return rapid.IntRange(0, 7).Draw(rt, "lose") == 0 }
		w.lazy = func() bool { return rapid.IntRange(0, 3).Draw(rt, "lazy") == 0 }
		names := []string{"a", "b", "c", "d", "e", "f"}
		name := func() string { return rapid.SampledFrom(names).Draw(rt, "node") }
		noticed := func() bool { // an operator acts on what the table knows
			return !slices.ContainsFunc(w.t.Nodes(), func(n Node) bool { return n.live() && !w.isAlive(n.Name) })
		}
		rt.Repeat(map[string]func(*rapid.T){
			"tick": func(rt *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(rt, "ticks") {
					w.tick(time.Duration(rapid.IntRange(100, 3000).Draw(rt, "ms")) * time.Millisecond)
				}
			},
			"wait": func(*rapid.T) {
				for range 3 {
					w.tick(5 * time.Minute)
				}
			},
			"controller": func(*rapid.T) { w.since = w.now },
			"add": func(*rapid.T) {
				if n := name(); w.machines[n] == nil {
					w.add(n, "")
				}
			},
			"kill": func(*rapid.T) {
				if n := name(); w.tolerates(n) {
					w.machines[n].alive = false
				}
			},
			"revive": func(*rapid.T) {
				if m := w.machines[name()]; m != nil {
					m.alive = true
				}
			},
			"return empty": func(*rapid.T) {
				n := name()
				old := w.machines[n]
				if old == nil || old.alive || !noticed() {
					return
				}
				w.boot(n)
				j := w.joining(n)
				j.Replace = true
				if w.propose(Command{Join: &j}) != nil {
					w.machines[n] = old
				}
			},
			"drain":   func(*rapid.T) { _ = w.propose(Command{Mark: &Mark{Node: name(), As: MarkDrain}}) },
			"undrain": func(*rapid.T) { _ = w.propose(Command{Mark: &Mark{Node: name(), As: MarkUndrain}}) },
			"remove": func(*rapid.T) {
				if n := name(); noticed() && w.propose(Command{Remove: &Remove{Node: n}}) == nil {
					delete(w.machines, n) // its name is free; the machine itself runs on until it is stopped
				}
			},
			"replication": func(*rapid.T) {
				w.must(Command{SetReplication: &SetReplication{Replicas: rapid.SampledFrom([]int{1, 3, 5}).Draw(rt, "copies")}})
			},
			"": func(*rapid.T) { w.checkGroups() },
		})
		// All is well again: it must come to rest, balanced.
		for _, m := range w.machines {
			m.alive = true
		}
		w.lose, w.lazy = nil, nil
		w.settle(1500)
		w.checkBalanced()
	})
}
