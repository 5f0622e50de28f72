package raftgroup

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"agentd/pkg/agent"
)

// store is a Log as raft's LogStore and StableStore.
//
// raft panics, or goes on with a state that is not on disk, when a store fails. So a
// failed store ends the group and with it the goroutine that asked: raft's own
// deferred functions run, everybody waiting is answered, and nothing more is written
// or promised.
//
// A log without room (kind StorageFull) has not failed: an entry that does not fit
// costs a leader its leadership, and a term or vote is waited for.
type store struct {
	log    Log
	logger *slog.Logger
	fail   func(error)
	window *window
	ended  <-chan struct{}

	patient atomic.Bool // Start has returned: Set may wait for room

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
	switch {
	case full(err):
		return err // raft steps down; whatever was added is overwritten by the next leader's first entry
	case err != nil:
		return s.failed(fmt.Errorf("append to the log: %w", err))
	}
	return nil
}

func full(err error) bool { return err != nil && agent.KindOf(err) == agent.StorageFull }

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
	if err != nil && !full(err) {
		err = fmt.Errorf("truncate the log: %w", err)
		s.fail(err)
	}
	return err // raft heeds it, and a Snapshot waits for the answer
}

// roomPause is how long to wait before the log is asked again for room.
const roomPause = 200 * time.Millisecond

// Set keeps a term or a vote. raft cannot go on without it, so it waits for room.
func (s *store) Set(key, value []byte) error {
	if old, ok := s.log.Lookup(string(key)); ok && bytes.Equal(old, value) {
		return nil // raft repeats its term at each start
	}
	for said := false; ; said = true {
		err := s.log.Set(string(key), value)
		switch {
		case err == nil:
			return nil
		case !full(err) || !s.patient.Load():
			return s.failed(fmt.Errorf("write %q: %w", key, err))
		case !said:
			s.logger.Warn("no leader can be elected until the log has room", "error", err)
		}
		timer := time.NewTimer(roomPause)
		select {
		case <-timer.C:
		case <-s.ended:
			timer.Stop()
			runtime.Goexit()
		}
	}
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
