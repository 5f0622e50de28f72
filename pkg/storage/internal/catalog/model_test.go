package catalog

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/record"
)

// model is what the catalog must say, kept as plain maps: the log of each shard, the
// applied state of each agent, the state that open or just closed databases report.
type model struct {
	w       *world
	t       *rapid.T
	ids     []agent.ID
	log     [testShards][]*record.Record // the record of index i+1
	done    [testShards]int              // applied
	applied map[agent.ID]modelState
	reason  map[agent.ID]string
	lives   map[agent.ID]*modelLife
	held    []any // cuts that are not written yet

	// A waker: what it was told, and for which clock.
	clock int64
	next  int64
	told  map[agent.ID]bool
}

type modelState struct {
	seq  uint64
	wake storage.Wake
}

type modelLife struct {
	modelState
	life *Life // nil once closed
}

func (m *model) pending(id agent.ID) (n int) {
	s := shardOf(id)
	for _, r := range m.log[s][m.done[s]:] {
		if r.Agent == id {
			n++
		}
	}
	return n
}

func (m *model) propose(r *record.Record) {
	s := shardOf(r.Agent)
	m.log[s] = append(m.log[s], r)
}

// applyTo applies a shard's log up to a length.
func (m *model) applyTo(s, to int) {
	for ; m.done[s] < to; m.done[s]++ {
		r := m.log[s][m.done[s]]
		index := uint64(m.done[s] + 1)
		seq, err := m.w.Seq(r.Agent)
		m.w.must(err)
		if seq != m.applied[r.Agent].seq || seq != r.Base {
			m.t.Fatalf("applied number of %s is %d, want %d; the record builds on %d", r.Agent, seq, m.applied[r.Agent].seq, r.Base)
		}
		switch r.Kind {
		case record.Commit:
			m.applied[r.Agent] = modelState{r.Seq, r.Wake}
			if l := m.lives[r.Agent]; l != nil && l.life == nil && l.seq <= r.Seq {
				delete(m.lives, r.Agent)
			}
			m.w.must(m.w.Commit(s, index, r))
		case record.Delete:
			delete(m.applied, r.Agent)
			delete(m.reason, r.Agent)
			m.w.must(m.w.Delete(s, index, r.Agent))
		case record.Quarantine:
			m.reason[r.Agent] = r.Reason
			m.w.must(m.w.Commit(s, index, r))
		}
	}
}

func (m *model) applyAll(id agent.ID) { s := shardOf(id); m.applyTo(s, len(m.log[s])) }

func (m *model) state(id agent.ID) (s modelState, live bool) {
	if l := m.lives[id]; l != nil {
		return l.modelState, l.life != nil
	}
	return m.applied[id], false
}

func (m *model) anyID() agent.ID { return rapid.SampledFrom(m.ids).Draw(m.t, "id") }

func (m *model) anyWake() storage.Wake {
	w := storage.Wake{Resume: rapid.IntRange(0, 5).Draw(m.t, "resume") == 0}
	if ms := rapid.Int64Range(0, 60).Draw(m.t, "wake"); ms > 0 {
		w.At = at(ms)
	}
	return w
}

func (m *model) open(*rapid.T) {
	id := m.anyID()
	if l := m.lives[id]; l != nil && l.life != nil || (l == nil && m.pending(id) > 0) {
		return // the engine waits for what a broken instance has left
	}
	s, _ := m.state(id)
	m.lives[id] = &modelLife{s, m.w.openAgent(id)}
}

func (m *model) commit(*rapid.T) {
	id := m.anyID()
	l := m.lives[id]
	if l == nil || l.life == nil {
		return
	}
	r := &record.Record{Kind: record.Commit, Agent: id, Base: l.seq, Seq: l.seq + 1, CreatedAt: at(1000), Wake: m.anyWake(), Pages: uint32(l.seq + 1)}
	m.propose(r)
	if rapid.Bool().Draw(m.t, "applied first") {
		m.applyAll(id)
	}
	l.seq, l.wake = r.Seq, r.Wake
	m.w.committed(l.life, r.Seq, r.Wake)
}

func (m *model) apply(*rapid.T) {
	s := rapid.IntRange(0, testShards-1).Draw(m.t, "shard")
	m.applyTo(s, rapid.IntRange(m.done[s], len(m.log[s])).Draw(m.t, "up to"))
}

func (m *model) close(*rapid.T) {
	id := m.anyID()
	l := m.lives[id]
	if l == nil || l.life == nil {
		return
	}
	l.life.Closed()
	l.life = nil
	if m.applied[id].seq >= l.seq {
		delete(m.lives, id)
	}
}

// breakLife discards an instance; the records that were not acknowledged may be lost.
func (m *model) breakLife(*rapid.T) {
	id := m.anyID()
	l := m.lives[id]
	if l == nil || l.life == nil {
		return
	}
	if s := shardOf(id); rapid.Bool().Draw(m.t, "lost") {
		kept := slices.DeleteFunc(slices.Clone(m.log[s][m.done[s]:]), func(r *record.Record) bool { return r.Agent == id })
		m.log[s] = append(m.log[s][:m.done[s]:m.done[s]], kept...)
	}
	delete(m.lives, id)
	l.life.Broken()
}

func (m *model) remove(*rapid.T) {
	id := m.anyID()
	if m.lives[id] != nil && m.lives[id].life != nil {
		return
	}
	m.applyAll(id)
	m.propose(&record.Record{Kind: record.Delete, Agent: id, Base: m.applied[id].seq})
	m.applyAll(id)
}

func (m *model) quarantine(*rapid.T) {
	id := m.anyID()
	reason := rapid.SampledFrom([]string{"", "why", "because"}).Draw(m.t, "reason")
	s, _ := m.state(id)
	err := m.w.SetQuarantine(ctx, id, reason)
	if s.seq == 0 {
		m.w.wantKind(err, agent.NotFound)
		return
	}
	m.w.must(err)
}

func (m *model) cut(*rapid.T) {
	m.held = nil
	for s := range testShards {
		if rapid.IntRange(0, 3).Draw(m.t, "cut") > 0 {
			m.held = append(m.held, m.w.Cut(s, uint64(m.done[s])))
		}
	}
}

// write writes what was cut, or fails, and looks at the catalog in between.
func (m *model) write(*rapid.T) {
	c, cancel := context.WithCancel(ctx)
	defer cancel()
	failAt, lookAt := rapid.IntRange(0, 8).Draw(m.t, "fail at"), rapid.IntRange(0, 3).Draw(m.t, "look at")
	step := 0
	m.w.onStep(betweenHolds, func() {
		if step == failAt {
			cancel()
		}
		if step == lookAt {
			m.check(m.t)
		}
		step++
	})
	_ = m.w.Write(c, m.held)
	m.w.step, m.held = nil, nil
}

// crash restarts with what was written; the log repeats the rest.
func (m *model) crash(*rapid.T) {
	m.w.restart()
	m.lives, m.held = map[agent.ID]*modelLife{}, nil
	m.applied, m.reason = map[agent.ID]modelState{}, map[agent.ID]string{}
	for s := range testShards {
		m.done[s] = 0
		for i, r := range m.log[s] {
			if uint64(i) == m.w.AppliedIndex(s) {
				break
			}
			m.done[s]++
			switch r.Kind {
			case record.Commit:
				m.applied[r.Agent] = modelState{r.Seq, r.Wake}
			case record.Delete:
				delete(m.applied, r.Agent)
				delete(m.reason, r.Agent)
			case record.Quarantine:
				m.reason[r.Agent] = r.Reason
			}
		}
	}
	m.clock, m.next, m.told = 0, 0, nil
	m.check(m.t)
	for s := range testShards {
		m.applyTo(s, len(m.log[s]))
	}
}

type modelDue struct {
	key int64
	id  agent.ID
}

func (m *model) due(now int64) (due []modelDue, next int64) {
	next = noWake
	for _, id := range m.ids {
		s, live := m.state(id)
		if s.seq == 0 || m.reason[id] != "" {
			continue
		}
		st := state{resume: s.wake.Resume, wakeAt: wakeMillis(s.wake)}
		if key := st.key(live); key <= now {
			due = append(due, modelDue{key, id})
		} else {
			next = min(next, key)
		}
	}
	slices.SortFunc(due, func(a, b modelDue) int { return cmp.Or(cmp.Compare(a.key, b.key), compareIDs(a.id, b.id)) })
	return due, next
}

// ask is the waker's question.
func (m *model) ask(*rapid.T) {
	m.clock += rapid.Int64Range(0, 5).Draw(m.t, "passed")
	select {
	case <-m.w.Changed():
	default:
	}
	due, next := m.due(m.clock)
	m.next, m.told = next, make(map[agent.ID]bool)
	for _, d := range due {
		m.told[d.id] = true
	}
	m.checkDue(m.clock, 1000)
}

// checkWaker: a waker that hears nothing sleeps no longer than it may.
func (m *model) checkWaker() {
	if m.told == nil || len(m.w.Changed()) > 0 {
		return
	}
	due, next := m.due(m.clock)
	if next < m.next {
		m.t.Fatalf("a waker sleeps until %d, and an agent is due at %d", m.next, next)
	}
	for _, d := range due {
		if !m.told[d.id] {
			m.t.Fatalf("a waker was not told that %v is due", d.id)
		}
	}
}

func (m *model) checkDue(now int64, limit int) {
	want, wantNext := m.due(now)
	due, next, err := m.w.Due(ctx, at(now), limit)
	m.w.must(err)
	want = want[:min(limit, len(want))]
	if !slices.EqualFunc(due, want, func(e storage.Entry, d modelDue) bool { return e.ID == d.id }) {
		m.t.Fatalf("due at %d: %v, want %v", now, due, want)
	}
	if next.IsZero() != (wantNext == noWake) || (!next.IsZero() && next.UnixMilli() != wantNext) {
		m.t.Fatalf("next after %d: %v, want %d", now, next.UnixMilli(), wantNext)
	}
}

func (m *model) check(*rapid.T) {
	m.checkWaker()
	var want []agent.ID
	for _, id := range m.ids {
		s, live := m.state(id)
		e, ok, err := m.w.Entry(id)
		m.w.must(err)
		if ok != (s.seq > 0) {
			m.t.Fatalf("%v is there: %v, want %v", id, ok, s.seq > 0)
		}
		if !ok {
			continue
		}
		want = append(want, id)
		if e.ID != id || e.Seq != s.seq || !e.Wake.Equal(s.wake) || e.Live != live || e.Quarantine != m.reason[id] || e.SizeBytes != int64(s.seq)*4096 {
			m.t.Fatalf("%v: %+v, want %+v live %v reason %q", id, e, s, live, m.reason[id])
		}
	}
	if n, err := m.w.Count(ctx); err != nil || n != len(want) {
		m.t.Fatalf("count %d (%v), want %d", n, err, len(want))
	}
	m.checkList(want)
	m.checkDue(rapid.Int64Range(0, 70).Draw(m.t, "now"), rapid.IntRange(1, 12).Draw(m.t, "limit"))
	m.checkMemory()
}

func (m *model) checkList(ids []agent.ID) {
	class := rapid.SampledFrom([]string{"", "A", "B"}).Draw(m.t, "class")
	var want []string
	for _, id := range ids { // in order already
		if id.Namespace == "n1" && (class == "" || id.Class == class) {
			want = append(want, id.String())
		}
	}
	if got := m.w.names("n1", class, rapid.IntRange(1, 9).Draw(m.t, "page")); !slices.Equal(got, want) {
		m.t.Fatalf("list of %q: %v, want %v", class, got, want)
	}
}

// checkMemory: memory holds what it must, and nothing else.
func (m *model) checkMemory() {
	recent := 0
	for _, p := range m.w.parts {
		for n := range maps.Values(p.agents) {
			if n.nowGen != 0 {
				recent++
			} else if n.life == nil {
				m.t.Fatalf("%v is in memory for nothing", n.id)
			}
		}
	}
	if got := m.w.RecentLen(); got != recent {
		m.t.Fatalf("recent %d, want %d", got, recent)
	}
}

func TestCatalog_IsItsModel(t *testing.T) {
	defer func(steps string) { _ = flag.Set("rapid.steps", steps) }(flag.Lookup("rapid.steps").Value.String())
	_ = flag.Set("rapid.steps", "150") // short histories reach little
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		m := &model{w: w, t: rt, applied: map[agent.ID]modelState{}, reason: map[agent.ID]string{}, lives: map[agent.ID]*modelLife{}}
		for _, class := range []string{"n1/A", "n1/B", "n2/A"} {
			for i := range 4 {
				id, err := agent.ParseKey(fmt.Sprintf("%s/%d", class, i))
				w.must(err)
				m.ids = append(m.ids, id)
			}
		}
		w.config.Propose = func(_ context.Context, id agent.ID, reason string) error {
			m.applyAll(id)
			m.propose(&record.Record{Kind: record.Quarantine, Agent: id, Base: m.applied[id].seq, Seq: m.applied[id].seq, Reason: reason})
			m.applyAll(id)
			return nil
		}
		w.restart()
		defer func() { w.must(w.Catalog.Close()) }()
		actions := map[string]func(*rapid.T){"": m.check, "open": m.open, "commit": m.commit, "commit again": m.commit, "apply": m.apply,
			"close": m.close, "break": m.breakLife, "remove": m.remove, "quarantine": m.quarantine, "cut": m.cut, "write": m.write,
			"crash": m.crash, "ask": m.ask}
		rt.Repeat(actions)
		for s := range testShards {
			m.applyTo(s, len(m.log[s]))
		}
		for _, l := range m.lives {
			l.life.Closed()
		}
		m.lives = map[agent.ID]*modelLife{}
		w.must(w.Write(ctx, cutsAt(w, m.done)))
		m.check(rt)
		if r, err := w.Verify(ctx); err != nil || len(r.Problems) > 0 {
			rt.Fatalf("%v %v", r.Problems, err)
		}
		for _, p := range w.parts {
			if len(p.agents)+len(p.touched) > 0 {
				rt.Fatalf("memory is not empty after a checkpoint")
			}
		}
	})
}

func cutsAt(w *world, done [testShards]int) (cuts []any) {
	for s, n := range done {
		cuts = append(cuts, w.Cut(s, uint64(n)))
	}
	return cuts
}
