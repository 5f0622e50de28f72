package placement

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// world is a cluster without its network and disks: machines that live or not, and
// raft groups that follow the table one member at a time. The table and the planner
// are the real ones. After every command it checks what must hold.
type world struct {
	t      *Table
	now    time.Time
	since  time.Time
	limits Limits

	machines map[string]*machine // by name: the present one
	byDisk   map[string]*machine // and all that ever were
	groups   []*group
	fail     func(format string, args ...any)
	lose     func() bool // whether the next action is lost; nil: never
	lazy     func() bool // whether a group does nothing this time; nil: never
	log      []string
}

type machine struct {
	uuid  string
	alive bool
	heard time.Time // its last heartbeat
}

// group is a shard's raft group as it really is. It knows disks, not names.
type group struct {
	voters, learners []string
	leader           string
	lag              map[string]int64
	settled          uint64
}

const clusterID = "c-1"

func newWorld(shards int, fail func(format string, args ...any)) *world {
	w := &world{now: at, since: at, machines: map[string]*machine{}, byDisk: map[string]*machine{}, fail: fail, limits: DefaultLimits()}
	w.boot("a")
	w.t = NewTable(shards, "a")
	for range shards {
		first := w.machines["a"].uuid
		w.groups = append(w.groups, &group{voters: []string{first}, leader: first, lag: map[string]int64{}})
	}
	w.must(Command{Form: &Form{Cluster: clusterID, Nodes: []Join{w.joining("a")}}})
	return w
}

// boot starts a machine with an empty disk.
func (w *world) boot(name string) {
	m := &machine{uuid: fmt.Sprintf("disk-%d", len(w.byDisk)+1), alive: true}
	w.machines[name], w.byDisk[m.uuid] = m, m
}

func (w *world) joining(name string) Join {
	return Join{Cluster: clusterID, Node: name, UUID: w.machines[name].uuid, Addresses: Addresses{Peer: name + ":7690"}}
}

// add starts a machine with an empty disk and lets it join.
func (w *world) add(name, zone string) {
	w.boot(name)
	j := w.joining(name)
	j.Zone = zone
	w.must(Command{Join: &j})
}

func (w *world) must(cmd Command) {
	if err := w.propose(cmd); err != nil {
		w.fail("%+v: %v", cmd, err)
	}
}

// propose applies a command and checks the invariants of the change.
func (w *world) propose(cmd Command) error {
	cmd.At = w.now
	data, err := EncodeCommand(cmd)
	if err != nil {
		w.fail("encode %+v: %v", cmd, err)
	}
	if cmd, err = DecodeCommand(data); err != nil {
		w.fail("decode %s: %v", data, err)
	}
	before := w.t
	next, _, err := before.Apply(cmd)
	if err != nil {
		return err
	}
	w.t = next
	if next == before {
		return nil
	}
	w.log = append(w.log, fmt.Sprintf("%v %s", w.now.Sub(at), data))
	if err := next.check(); err != nil {
		w.fail("after %s: %v", data, err)
	}
	if next.revision != before.revision+1 {
		w.fail("after %s: revision %d follows %d", data, next.revision, before.revision)
	}
	if cmd.Form == nil {
		w.checkShards(before, next, string(data))
	}
	return nil
}

func (w *world) checkShards(before, next *Table, what string) {
	for i := range next.shards {
		old, now := before.Shard(i), next.Shard(i)
		added, removed := minus(now.Replicas, old.Replicas), minus(old.Replicas, now.Replicas)
		if len(added) > 1 || len(removed) > 1 {
			w.fail("%s: shard %d goes from %v to %v: more than one member changed", what, i, old.Replicas, now.Replicas)
		}
		if !old.equal(now) && now.Generation <= old.Generation && !strings.Contains(what, "Confirm") {
			w.fail("%s: shard %d changed and its generation did not grow", what, i)
		}
		if len(added)+len(removed) == 0 {
			continue
		}
		// Nobody can know of a death at once. Where the table is ahead of one, the
		// group does not follow it; see follow and checkGroups.
		alive := 0
		for _, r := range now.Replicas {
			m := w.byDisk[next.nodes[r].UUID]
			if m.alive || w.now.Sub(m.heard) < w.limits.DownAfter {
				alive++
			}
		}
		if alive < majority(len(now.Replicas)) {
			w.fail("%s: shard %d has lost its majority: %v", what, i, now.Replicas)
		}
	}
}

// checkGroups holds the groups as they are against what was promised.
func (w *world) checkGroups() {
	for i, g := range w.groups {
		if w.aliveOf(g.voters) < majority(len(g.voters)) {
			w.fail("the group of shard %d, %v, has lost its majority", i, g.voters)
		}
	}
}

func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(x string) bool { return slices.Contains(b, x) })
}

func (w *world) isAlive(name string) bool { return w.machines[name] != nil && w.machines[name].alive }

// disks are the disks that the table means by names.
func (w *world) disks(names []string) []string {
	var disks []string
	for _, n := range names {
		disks = append(disks, w.t.nodes[n].UUID)
	}
	return disks
}

// name is what the table calls a disk, or nothing.
func (w *world) name(disk string) string {
	for _, n := range w.t.nodes {
		if n.UUID == disk {
			return n.Name
		}
	}
	return ""
}

func (w *world) runs(disk string) bool { return w.byDisk[disk] != nil && w.byDisk[disk].alive }

func (w *world) aliveOf(disks []string) int {
	n := 0
	for _, d := range disks {
		if w.runs(d) {
			n++
		}
	}
	return n
}

// view is what a controller sees that listens from since.
func (w *world) view() View {
	v := View{Now: w.now, Since: w.since, Nodes: map[string]Heard{}}
	for _, name := range Voters(w.t) {
		if w.isAlive(name) && v.Self == "" {
			v.Self = name
		}
	}
	for name, m := range w.machines {
		if m.alive {
			m.heard = w.now
		}
		v.Nodes[name] = Heard{At: m.heard, UUID: m.uuid}
	}
	for _, g := range w.groups {
		s := ShardView{Leader: w.name(g.leader), Settled: g.settled, Lag: map[string]int64{}}
		for _, disk := range slices.Concat(g.voters, g.learners) {
			if w.runs(disk) {
				s.Lag[w.name(disk)] = g.lag[disk]
			}
		}
		v.Shards = append(v.Shards, s)
	}
	return v
}

// tick lets time pass, the groups follow, and a controller act once. It returns
// what the controller wanted.
func (w *world) tick(d time.Duration) []Action {
	w.now = w.now.Add(d)
	for i, g := range w.groups {
		if w.lazy == nil || !w.lazy() {
			before := slices.Clone(g.voters)
			w.follow(w.t.Shard(i), g)
			if len(minus(before, g.voters))+len(minus(g.voters, before)) > 1 {
				w.fail("shard %d: %v became %v in one step", i, before, g.voters)
			}
		}
	}
	w.checkGroups()
	actions := Plan(w.t, w.view(), w.limits)
	w.checkPlan(actions)
	for _, a := range actions {
		if w.lose != nil && w.lose() {
			continue
		}
		if a.Transfer != nil {
			w.hand(a.Transfer)
			continue
		}
		err := w.propose(*a.Command)
		if err != nil && w.lose == nil {
			w.fail("the plan's own command is refused: %s: %v", a.Why, err)
		}
	}
	return actions
}

// checkPlan holds a plan against its limits: moves in the cluster and per node.
func (w *world) checkPlan(actions []Action) {
	t := w.t
	for _, a := range actions {
		if a.Why == "" || (a.Command == nil) == (a.Transfer == nil) {
			w.fail("malformed action %+v", a)
		}
		if a.Command != nil {
			t, _, _ = t.Apply(*a.Command)
		}
	}
	moves, busy := 0, map[string]int{}
	var begun []Shard
	for i, s := range t.shards {
		if s.Learner == "" {
			continue
		}
		moves++
		busy[s.Learner]++
		if t.nodes[s.Replaces].live() {
			busy[s.Replaces]++
		}
		if w.t.shards[i].Learner != "" {
			continue
		}
		begun = append(begun, s)
		for _, r := range s.Replicas {
			if !t.nodes[r].live() && t.nodes[s.Replaces].State != Out {
				w.fail("shard %d is moved while its replica on %s is dead", i, r)
			}
		}
	}
	for _, s := range begun {
		if busy[s.Learner] > 1 || busy[s.Replaces] > 1 {
			w.fail("node %s or %s takes part in several moves", s.Learner, s.Replaces)
		}
	}
	if moves > max(w.limits.Moves, w.limits.withDefaults().Moves) {
		w.fail("%d moves at a time", moves)
	}
}

// follow is one step of a group towards the table: an election, or one member. A
// leader makes no change that would leave it without a majority.
func (w *world) follow(row Shard, g *group) {
	for disk := range g.lag {
		g.lag[disk] = max(0, g.lag[disk]-(3<<20))
	}
	quorum := func(set []string) bool { return w.aliveOf(set) >= majority(len(set)) }
	elect := func(set []string) string { return set[slices.IndexFunc(set, w.runs)] }
	if !quorum(g.voters) {
		g.leader = ""
		return
	}
	if !w.runs(g.leader) || !slices.Contains(g.voters, g.leader) {
		g.leader = elect(g.voters)
		return
	}
	want, learner := w.disks(row.Replicas), w.t.nodes[row.Learner].UUID
	for _, disk := range g.learners {
		if disk != learner && !slices.Contains(want, disk) {
			g.learners = without(g.learners, disk)
			return
		}
	}
	if learner != "" && !slices.Contains(slices.Concat(g.learners, g.voters), learner) {
		g.learners, g.lag[learner] = append(g.learners, learner), 8<<20
		return
	}
	if add := minus(want, g.voters); len(add) > 0 {
		more := append(slices.Clone(g.voters), add[0])
		if !quorum(more) {
			return
		}
		if !slices.Contains(g.learners, add[0]) && !slices.Contains(w.disks(row.Was), add[0]) {
			w.fail("disk %s becomes a voter of %v without having been its learner", add[0], g.voters)
		}
		g.learners, g.voters = without(g.learners, add[0]), more
		return
	}
	if gone := minus(g.voters, want); len(gone) > 0 {
		rest := without(g.voters, gone[0])
		switch {
		case !quorum(rest):
		case gone[0] == g.leader:
			g.leader = elect(rest)
		default:
			g.voters = rest
		}
		return
	}
	g.settled = row.Generation
}

func (w *world) hand(x *Transfer) {
	g, to := w.groups[x.Shard], w.t.nodes[x.To].UUID
	if w.name(g.leader) == x.From && w.runs(g.leader) && w.runs(to) && slices.Contains(g.voters, to) {
		g.leader = to
	}
}

// settle ticks until the controller has wanted nothing for long enough that every
// limit has passed, and fails if that takes too many ticks.
func (w *world) settle(ticks int) {
	quiet := 0
	for range ticks {
		if len(w.tick(time.Second)) > 0 || !w.agreed() {
			quiet = 0
			continue
		}
		if quiet++; quiet == 10 {
			w.now, w.since = w.now.Add(w.limits.DownOut), w.since.Add(w.limits.DownOut)
			for range 5 {
				if more := w.tick(time.Second); len(more) > 0 {
					w.fail("not quiet: %s", more[0].Why)
				}
			}
			return
		}
	}
	w.fail("not settled after %d ticks; it still wants %+v", ticks, Plan(w.t, w.view(), w.limits))
}

// agreed says whether the groups that can do anything are as the table wants.
func (w *world) agreed() bool {
	for i, g := range w.groups {
		if g.settled != w.t.shards[i].Generation && w.aliveOf(g.voters) >= majority(len(g.voters)) {
			return false
		}
	}
	return true
}

// tolerates says whether every shard, and the table, would keep a majority without
// one more machine, in every set that is on its way.
func (w *world) tolerates(name string) bool {
	if !w.isAlive(name) {
		return false
	}
	m := w.machines[name]
	m.alive = false
	defer func() { m.alive = true }()
	sets := [][]string{w.disks(Voters(w.t))}
	for i, s := range w.t.shards {
		if len(s.Replicas) > w.t.replication {
			return false
		}
		want, have := w.disks(s.Replicas), w.groups[i].voters
		sets = append(sets, want, have, slices.Concat(have, minus(want, have)))
		if s.Learner != "" {
			sets = append(sets, w.disks(append(slices.Clone(s.Replicas), s.Learner)), w.disks(append(without(s.Replicas, s.Replaces), s.Learner)))
		}
	}
	for _, n := range w.t.nodes {
		if n.live() && n.Name != name && !w.isAlive(n.Name) {
			return false // another death has not been noticed yet
		}
	}
	return !slices.ContainsFunc(sets, func(set []string) bool { return w.aliveOf(set) < majority(len(set)) })
}

// checkBalanced is what a healthy cluster settles to.
func (w *world) checkBalanced() {
	up := map[string]bool{}
	for _, n := range w.t.Nodes() {
		if n.State == Up {
			up[n.Name] = true
		} else if n.State != Draining {
			w.fail("node %s is %s although everything is healthy", n.Name, n.State)
		}
	}
	replicas, leads := map[string]int{}, map[string]int{}
	for i, s := range w.t.shards {
		if want := min(w.t.replication, len(up)); len(s.Replicas) < want || len(s.Replicas) > w.t.replication || s.Learner != "" {
			w.fail("shard %d has replicas %v and learner %q; %d are wanted", i, s.Replicas, s.Learner, want)
		}
		if w.name(w.groups[i].leader) != s.Preferred || !up[s.Preferred] {
			w.fail("shard %d is led by %s and should be by %s", i, w.name(w.groups[i].leader), s.Preferred)
		}
		for _, r := range s.Replicas {
			replicas[r]++
			if !up[r] && len(up) >= w.t.replication {
				w.fail("shard %d still has a replica on draining %s", i, r)
			}
		}
		leads[s.Preferred]++
	}
	for what, counts := range map[string]map[string]int{"replicas": replicas, "leaderships": leads} {
		least, most := len(w.t.shards), 0
		for name := range up {
			least, most = min(least, counts[name]), max(most, counts[name])
		}
		if most-least > 1 {
			w.fail("unequal %s: %v", what, counts)
		}
	}
}
