package engine

import (
	"context"
	"sync"
)

// window bounds the bytes of records that are proposed and not settled. A commit
// waits before it begins, when its size is not known yet: once SQLite has committed,
// refusing the record would break the agent. The bound is therefore passed by at
// most one record for each loop that commits at that moment.
type window struct {
	limit int64

	mu    sync.Mutex // guards what follows
	bytes int64
	room  chan struct{} // closed when bytes falls below limit; nil while nobody waits
}

// await returns when the window is open.
func (w *window) await(ctx context.Context) error {
	for {
		w.mu.Lock()
		if w.bytes < w.limit {
			w.mu.Unlock()
			return nil
		}
		if w.room == nil {
			w.room = make(chan struct{})
		}
		room := w.room
		w.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *window) enter(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes += int64(n)
}

func (w *window) leave(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes -= int64(n)
	if w.room != nil && w.bytes < w.limit {
		close(w.room)
		w.room = nil
	}
}

func (w *window) size() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}
