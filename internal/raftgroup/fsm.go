package raftgroup

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// fsm stands between raft's goroutine for committed entries and the machine. Its
// fields belong to that goroutine but for seen.
type fsm struct {
	group     *Group
	entries   []Entry
	markers   []seal
	responses []any
	seen      atomic.Uint64 // index of the last entry that the machine has taken, or that was not for it
}

var _ raft.BatchingFSM = (*fsm)(nil)

// Apply is not called: raft prefers ApplyBatch.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch hands committed entries over. After a failure it takes nothing more, so
// that raft can end.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	if len(f.responses) < len(logs) {
		f.responses = make([]any, len(logs)) // raft wants a response for each; ours are all nil
	}
	if f.group.Err() == nil {
		if err := f.apply(logs); err != nil {
			f.group.fail(err)
		}
	}
	return f.responses[:len(logs)]
}

func (f *fsm) apply(logs []*raft.Log) error {
	entries, markers := f.entries[:0], f.markers[:0]
	for _, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		s, err := decodeSeal(l)
		switch {
		case err != nil:
			return err
		case s.void(l):
		case s.marker != 0:
			markers = append(markers, s)
		default:
			entries = append(entries, Entry{Index: l.Index, Term: l.Term, Data: l.Data})
		}
	}
	f.entries, f.markers = entries, markers
	if len(entries) > 0 {
		if err := f.group.machine.Apply(entries); err != nil {
			return err
		}
		clear(entries) // keep no data alive
	}
	last := logs[len(logs)-1].Index
	f.seen.Store(last)
	f.group.window.done(last)
	for _, m := range markers {
		f.group.barriers.reached(m)
	}
	return nil
}

// Snapshot is called between batches, so raft's index for it is the last entry that
// the machine has taken.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.group.Err(); err != nil {
		return nil, err
	}
	return snapshot{f.group}, nil
}

// snapshot is a promise of the machine: see Machine.Checkpoint.
type snapshot struct{ group *Group }

func (s snapshot) Persist(k raft.SnapshotSink) error {
	own, ok := k.(*sink)
	if !ok {
		return fmt.Errorf("a snapshot store of type %T is not known", k)
	}
	if err := s.group.machine.Checkpoint(*s.group.snapshots.ctx.Load(), own.manifest.Index); err != nil {
		return err
	}
	own.checkpointed = true
	return nil
}

func (s snapshot) Release() {}

// Restore replaces the machine's state by another replica's.
func (f *fsm) Restore(content io.ReadCloser) error {
	r, ok := f.group.machine.(Restorer)
	if !ok {
		return errors.Join(errNoImage, content.Close())
	}
	return errors.Join(r.Restore(content), content.Close())
}
