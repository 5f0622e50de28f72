package raftgroup

import (
	"sync"
	"time"
)

// window bounds the bytes of committed entries that raft has read from the log and
// the machine has not taken yet. raft itself counts entries, not bytes, and at a
// restart reads the log as fast as the disk gives it.
type window struct {
	limit int64
	ended <-chan struct{} // nobody waits any more

	mu    sync.Mutex // guards what follows
	bytes int64
	high  uint64 // highest index that was counted
	queue []sized
	moved chan struct{} // closed by done when somebody waits; else nil
}

type sized struct {
	index uint64
	bytes int64
}

const (
	windowBytes = 64 << 20

	// raft hands entries over in batches; those of an unfinished one wait for entries
	// that are not read yet. So no wait is longer than this, and the bound is soft
	// for entries so large that a single batch passes it.
	windowPatience = time.Second

	entryOverhead = 128
)

// take counts an entry that was read and waits while there are too many. Entries
// are read in order once; reading again (for a follower) is not counted.
func (w *window) take(index uint64, size int) {
	w.mu.Lock()
	if index <= w.high {
		w.mu.Unlock()
		return
	}
	w.high = index
	w.queue = append(w.queue, sized{index, int64(size) + entryOverhead})
	w.bytes += int64(size) + entryOverhead
	if w.bytes <= w.limit {
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	timer := time.NewTimer(windowPatience)
	defer timer.Stop()
	for {
		moved := w.over()
		if moved == nil {
			return
		}
		select {
		case <-moved:
		case <-timer.C:
			return
		case <-w.ended:
			return
		}
	}
}

// over returns a channel that is closed at the next progress, nil when there is room.
func (w *window) over() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bytes <= w.limit {
		return nil
	}
	if w.moved == nil {
		w.moved = make(chan struct{})
	}
	return w.moved
}

// done says that the machine has taken everything up to index.
func (w *window) done(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.queue) && w.queue[n].index <= index {
		w.bytes -= w.queue[n].bytes
		n++
	}
	if n == 0 {
		return
	}
	if w.queue = w.queue[n:]; len(w.queue) == 0 {
		w.queue = nil
	}
	if w.moved != nil {
		close(w.moved)
		w.moved = nil
	}
}
