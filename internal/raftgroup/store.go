package raftgroup

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/hashicorp/raft"
)

// store is a Log as raft's LogStore and StableStore.
//
// raft panics, or goes on with a state that is not on disk, when a store fails. So a
// failed store ends the group and with it the goroutine that asked: raft's own
// deferred functions run, everybody waiting is answered, and nothing more is written
// or promised.
type store struct {
	log    Log
	fail   func(error)
	window *window

	committed func() uint64

	scratch []LogEntry // of StoreLogs, which only raft's main goroutine calls
}

var (
	_ raft.LogStore          = (*store)(nil)
	_ raft.MonotonicLogStore = (*store)(nil)
	_ raft.StableStore       = (*store)(nil)
)

// IsMonotonic tells raft that the log has no holes.
func (s *store) IsMonotonic() bool { return true }

func (s *store) FirstIndex() (uint64, error) { return s.log.First(), nil }
func (s *store) LastIndex() (uint64, error)  { return s.log.Last(), nil }

func (s *store) GetLog(index uint64, l *raft.Log) error {
	e, err := s.log.Get(index)
	if err != nil {
		if index < s.log.First() || index > s.log.Last() {
			return raft.ErrLogNotFound
		}
		return s.failed(fmt.Errorf("read entry %d of the log: %w", index, err))
	}
	*l = raft.Log{Index: e.Index, Term: e.Term, Type: raft.LogType(e.Type), Data: e.Data, Extensions: e.Extensions, AppendedAt: e.AppendedAt}
	if l.Type > raft.LogConfiguration {
		return s.failed(fmt.Errorf("entry %d of the log is of unknown type %d", index, e.Type))
	}
	if index <= s.committed() {
		s.window.take(index, len(e.Data))
	}
	return nil
}

func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s *store) StoreLogs(logs []*raft.Log) error {
	entries := s.scratch[:0]
	for _, l := range logs {
		entries = append(entries, LogEntry{Index: l.Index, Term: l.Term, Type: uint8(l.Type), Data: l.Data, Extensions: l.Extensions, AppendedAt: l.AppendedAt})
	}
	err := s.log.Append(entries)
	clear(entries) // keep no data alive
	s.scratch = entries[:0]
	if err != nil {
		return s.failed(fmt.Errorf("append to the log: %w", err))
	}
	return nil
}

// DeleteRange forgets entries at the front (after a snapshot) or at the back (a new
// leader has others). What reaches the first entry is taken as the front: the log may
// grow at its end while a snapshot truncates it, and that growth must stay.
func (s *store) DeleteRange(from, to uint64) error {
	var err error
	if from <= s.log.First() {
		err = s.log.TruncateFront(to)
	} else {
		err = s.log.TruncateBack(from)
	}
	if err != nil {
		err = fmt.Errorf("truncate the log: %w", err)
		s.fail(err)
	}
	return err // raft heeds it, and a Snapshot waits for the answer
}

func (s *store) Set(key, value []byte) error {
	if err := s.log.Set(string(key), value); err != nil {
		return s.failed(fmt.Errorf("write %q: %w", key, err))
	}
	return nil
}

func (s *store) Get(key []byte) ([]byte, error) {
	value, _ := s.log.Lookup(string(key))
	return value, nil
}

func (s *store) SetUint64(key []byte, n uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, n))
}

func (s *store) GetUint64(key []byte) (uint64, error) {
	value, ok := s.log.Lookup(string(key))
	switch {
	case !ok:
		return 0, nil
	case len(value) != 8:
		return 0, s.failed(fmt.Errorf("value %q of the log has %d bytes, not 8", key, len(value)))
	}
	return binary.BigEndian.Uint64(value), nil
}

// failed ends the group and the calling goroutine, which is always one of raft's
// (Start, too, calls raft on a goroutine of its own).
func (s *store) failed(err error) error {
	s.fail(err)
	runtime.Goexit()
	return err
}
