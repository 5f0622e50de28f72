// Package commitlog is the one log of a node: many groups of numbered entries and a
// few stable keys per group, in segments that are written in order by one goroutine,
// one write at a time. What arrives while a write is under way shares the next one.
//
// It knows bytes, not raft and not agents: internal/raftgroup makes a raft log store
// of a Group. DESIGN.md has the format and the rules of recovery.
package commitlog

import (
	"errors"
	"sync"
	"time"

	"agentd/pkg/agent"
)

const opOpen = "open commit log"

// ErrNotFound is the answer of Get for an index that the group does not have.
var ErrNotFound = errors.New("no such entry")

// Entry is one entry of a group. Index is from 1 to 1<<62.
type Entry struct {
	Index, Term      uint64
	Type             uint8
	Data, Extensions []byte
	AppendedAt       time.Time // nanoseconds are kept, the time zone is not
}

func (e *Entry) size() int { return len(e.Data) + len(e.Extensions) }

const maxIndex = 1 << 62

// Log is the log of a node. Its methods may be called from any goroutine.
type Log struct {
	config Config
	id     [16]byte
	failed chan struct{} // closed when err is set

	// mu guards all below but what a comment gives to the writer. The disk is not used
	// under it, and nothing waits under it but for the two conditions.
	mu      sync.Mutex
	work    sync.Cond // the writer waits for something to write
	room    sync.Cond // appends wait for room in the batch that fills, or for a segment
	groups  map[uint32]*Group
	order   []*Group // groups by age
	cache   cache
	entries int   // in all groups
	carry   int64 // bytes that all groups' state takes of each segment
	// unknown, if set, is the damage of every group that is not in groups: the part of
	// the log that would name them was lost.
	unknown error
	err     error // set once: nothing is acknowledged any more
	closing bool

	segments segments
	batches  batches
	keeper   keeper
	stats    counters
}

// Open opens the log in c.Dir, or makes one. It reads what is there from the oldest
// segment that is still needed. Damage that concerns some groups only is theirs to
// report (Group.Damage). Errors: Corrupt for segments of another log or a version
// that this program does not know, StorageFull if there is no room for a new log,
// Invalid for a Config out of its limits; otherwise what the file system said.
func Open(c Config) (*Log, error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return nil, err
	}
	if err := c.FS.MkdirAll(c.Dir); err != nil {
		return nil, &agent.Error{Op: opOpen, Msg: "make the folder of the log", Err: err}
	}
	l := &Log{config: c, failed: make(chan struct{}), groups: make(map[uint32]*Group), cache: cache{limit: c.CacheBytes}}
	l.work.L, l.room.L = &l.mu, &l.mu
	l.batches.init(c.maxBatch(), !c.Buffered)
	l.keeper.init(c.Retry)
	if err := l.restore(); err != nil {
		l.segments.close()
		return nil, err
	}
	if err := l.begin(); err != nil {
		l.segments.close()
		return nil, err
	}
	l.keeper.run.Go(l.write)
	l.keeper.run.Go(l.keep)
	l.keeper.wake()
	return l, nil
}

// Group is the group of an id, made on first use; the same pointer each time. Errors:
// TooLarge if there are MaxGroups, or if their state does not fit in a quarter of a
// segment.
func (l *Log) Group(id uint32) (*Group, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.groups[id]; g != nil {
		return g, nil
	}
	if len(l.groups) >= MaxGroups {
		return nil, &agent.Error{Op: "open group", Kind: agent.TooLarge, Msg: "a log has at most 4096 groups"}
	}
	if err := l.carryMoreLocked(stateBytes); err != nil {
		return nil, err
	}
	g := newGroup(l, id)
	g.damage = l.unknown
	l.addLocked(g)
	return g, nil
}

func (l *Log) addLocked(g *Group) {
	l.groups[g.id] = g
	l.order = append(l.order, g)
}

// carryMoreLocked takes n bytes more of what each segment repeats.
func (l *Log) carryMoreLocked(n int64) error {
	if n > 0 && l.carry+n > l.config.maxCarry() {
		return &agent.Error{Op: "commit log", Kind: agent.TooLarge,
			Msg: "the state of all groups takes more than a quarter of a segment; make segments larger, or stable values smaller"}
	}
	l.carry += n
	return nil
}

// Failed is closed when a write failed. From then on nothing is acknowledged: the
// process should end, and start again to find out what is durable.
func (l *Log) Failed() <-chan struct{} { return l.failed }

// Err is why the log failed, or nil.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// fail makes err the log's end, if nothing was before it.
func (l *Log) failLocked(err error) {
	if l.err != nil {
		return
	}
	l.err = &agent.Error{Op: "commit log", Kind: agent.OutcomeUnknown, Err: err,
		Msg: "the log could not be written; nothing is acknowledged until the process is started again on a sound disk"}
	close(l.failed)
	l.work.Broadcast()
	l.room.Broadcast()
	l.config.Log.Error("commit log failed", "dir", l.config.Dir, "err", err)
}

// usableLocked is nil while changes can be made.
func (l *Log) usableLocked() error {
	if l.err != nil {
		return l.err
	}
	if l.closing {
		return &agent.Error{Op: "commit log", Kind: agent.Unavailable, Msg: "the log is closed"}
	}
	return nil
}

// Close writes what is pending and a mark by which a later Open can tell damage of
// the last entries from a write that a crash cut short. Changes that come after it
// are refused. It returns the log's error if it failed. Entries must not be read
// after it.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closing {
		err := l.err
		l.mu.Unlock()
		l.keeper.run.Wait()
		return err
	}
	l.closing = true
	close(l.keeper.stop)
	l.work.Broadcast()
	l.room.Broadcast()
	l.mu.Unlock()
	l.keeper.run.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments.close()
	return l.err
}
