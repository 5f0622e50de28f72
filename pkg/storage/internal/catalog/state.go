package catalog

import (
	"math"
	"strings"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/record"
)

const (
	noWake    = math.MaxInt64     // the key of an agent without a wake
	resumeKey = math.MinInt64 / 2 // of unfinished work without an instance: before every time
)

// state is what one layer says about an agent. Times are milliseconds since 1970.
type state struct {
	seq       uint64 // 0: the agent does not exist (deleted, or nothing committed yet)
	wakeAt    int64  // noWake for none
	size      int64
	createdAt int64
	at        int64 // of the last commit
	resume    bool
}

// key orders by when the agent must be activated.
func (s *state) key(live bool) int64 {
	if s.resume && !live {
		return resumeKey
	}
	return s.wakeAt
}

func stateOf(e storage.Entry, at time.Time) state {
	return state{seq: e.Seq, wakeAt: wakeMillis(e.Wake), size: e.SizeBytes, createdAt: e.CreatedAt.UnixMilli(),
		at: at.UnixMilli(), resume: e.Wake.Resume}
}

func stateOfRecord(r *record.Record) state {
	return state{seq: r.Seq, wakeAt: wakeMillis(r.Wake), size: int64(r.Pages) * record.PageBytes,
		createdAt: r.CreatedAt.UnixMilli(), at: r.At.UnixMilli(), resume: r.Wake.Resume}
}

func wakeMillis(w storage.Wake) int64 {
	if w.At.IsZero() {
		return noWake
	}
	return w.At.UnixMilli()
}

func (s *state) entry(id agent.ID, live bool, quarantine string) storage.Entry {
	e := storage.Entry{ID: id, Wake: storage.Wake{Resume: s.resume}, Seq: s.seq, SizeBytes: s.size,
		CreatedAt: time.UnixMilli(s.createdAt), Quarantine: quarantine, Live: live}
	if s.wakeAt != noWake {
		e.Wake.At = time.UnixMilli(s.wakeAt)
	}
	return e
}

// node is an agent of which memory knows something that its row does not: its
// database is open, or records were applied since its row was written. It belongs to
// its part's mutex; id never changes.
type node struct {
	id    agent.ID
	links [orders]link

	life    *Life  // nil if the database is closed and its last commit is applied
	applied uint64 // number of the last commit that is applied; 0 if the agent does not exist there

	// What records said since the row was written. now belongs to generation nowGen (0:
	// the row is right); then is what a cut froze, if now has moved on since.
	now, then       state
	nowGen, thenGen uint64

	key     int64 // when it must be activated; noWake for never
	place   int64 // its place in byTime, never behind key; noWake: not in it
	rowless bool  // there may be no row: it must be found by name here
	early   bool  // its life is counted as an agent, its first commit is not applied yet
}

// newest is what counts now. ok is false if only the row knows.
func (n *node) newest() (s *state, live, ok bool) {
	if n.life != nil {
		return &n.life.state, n.life.open, true
	}
	return &n.now, false, n.nowGen != 0
}

// frozen is what the cut of a generation holds.
func (n *node) frozen(gen uint64) (state, bool) {
	switch gen {
	case n.nowGen:
		return n.now, true
	case n.thenGen:
		return n.then, true
	}
	return state{}, false
}

// ownID copies an ID whose strings may lie in somebody's buffer.
func ownID(id agent.ID) agent.ID {
	all := strings.Join([]string{id.Namespace, id.Class, id.Name}, "")
	n, c := len(id.Namespace), len(id.Namespace)+len(id.Class)
	return agent.ID{Namespace: all[:n], Class: all[n:c], Name: all[c:]}
}
