// Package raftgrouptest is a log in memory for tests of groups: it can fail, and it
// can be held up, at will.
package raftgrouptest

import (
	"errors"
	"maps"
	"sync"

	"agentd/internal/raftgroup"
	"agentd/pkg/agent"
)

// Log is a raftgroup.Log in memory. All methods may be called from any goroutine.
type Log struct {
	mu      sync.Mutex // guards what follows
	room    *sync.Cond // held became false
	first   uint64
	entries []raftgroup.LogEntry
	values  map[string][]byte
	failure error
	full    bool
	held    bool
	writes  int
}

var _ raftgroup.Log = (*Log)(nil)

// NewLog is an empty log.
func NewLog() *Log {
	l := &Log{values: make(map[string][]byte)}
	l.room = sync.NewCond(&l.mu)
	return l
}

// ErrNotFound is what Get returns outside of First to Last.
var ErrNotFound = errors.New("no such entry")

// Fail makes every write and read of an entry fail from now on; nil ends that.
func (l *Log) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
	l.room.Broadcast()
}

// Fill makes every write fail with kind StorageFull until Fill(false).
func (l *Log) Fill(full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = full
	l.room.Broadcast()
}

// brokenLocked is why nothing can be written.
func (l *Log) brokenLocked() error {
	if l.failure == nil && l.full {
		return &agent.Error{Op: "append", Kind: agent.StorageFull, Msg: "no room"}
	}
	return l.failure
}

// Hold makes Append wait until Release, as a slow disk would.
func (l *Log) Hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
}

// Release ends Hold.
func (l *Log) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	l.room.Broadcast()
}

// Copy is the log as a restarted process would find it.
func (l *Log) Copy() *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := NewLog()
	c.first, c.entries, c.values = l.first, append([]raftgroup.LogEntry(nil), l.entries...), maps.Clone(l.values)
	return c
}

// Entries is what the log holds.
func (l *Log) Entries() []raftgroup.LogEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]raftgroup.LogEntry(nil), l.entries...)
}

// Writes counts successful Appends.
func (l *Log) Writes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writes
}

// First implements raftgroup.Log.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// Last implements raftgroup.Log.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastLocked()
}

func (l *Log) lastLocked() uint64 {
	if len(l.entries) == 0 {
		return 0
	}
	return l.first + uint64(len(l.entries)) - 1
}

// Get implements raftgroup.Log.
func (l *Log) Get(index uint64) (raftgroup.LogEntry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.failure != nil:
		return raftgroup.LogEntry{}, l.failure
	case len(l.entries) == 0 || index < l.first || index > l.lastLocked():
		return raftgroup.LogEntry{}, ErrNotFound
	}
	return l.entries[index-l.first], nil
}

// Append implements raftgroup.Log.
func (l *Log) Append(entries []raftgroup.LogEntry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.held && l.brokenLocked() == nil {
		l.room.Wait()
	}
	if err := l.brokenLocked(); err != nil {
		return err
	}
	for _, e := range entries {
		switch last := l.lastLocked(); {
		case last == 0:
			l.first = e.Index
		case e.Index > last+1 || e.Index < l.first:
			return errors.New("an entry that does not follow the last")
		default:
			l.entries = l.entries[:e.Index-l.first]
		}
		l.entries = append(l.entries, e)
	}
	l.writes++
	return nil
}

// TruncateFront implements raftgroup.Log.
func (l *Log) TruncateFront(upto uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.brokenLocked()
	switch {
	case err != nil:
		return err
	case len(l.entries) == 0 || upto < l.first:
		return nil
	}
	n := min(upto-l.first+1, uint64(len(l.entries)))
	l.entries = append([]raftgroup.LogEntry(nil), l.entries[n:]...)
	if l.first += n; len(l.entries) == 0 {
		l.first = 0
	}
	return nil
}

// TruncateBack implements raftgroup.Log.
func (l *Log) TruncateBack(from uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.brokenLocked()
	switch {
	case err != nil:
		return err
	case len(l.entries) == 0 || from > l.lastLocked():
		return nil
	}
	if l.entries = l.entries[:max(from, l.first)-l.first]; len(l.entries) == 0 {
		l.first = 0
	}
	return nil
}

// Set implements raftgroup.Log.
func (l *Log) Set(key string, value []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.brokenLocked(); err != nil {
		return err
	}
	l.values[key] = append([]byte(nil), value...)
	return nil
}

// Lookup implements raftgroup.Log.
func (l *Log) Lookup(key string) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	value, ok := l.values[key]
	return value, ok
}
