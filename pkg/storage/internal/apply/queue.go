package apply

import (
	"sync"
	"sync/atomic"
	"time"
)

// itemCost is what an entry counts beside its bytes, so that empty ones are bounded
// too.
const itemCost = 64

// item is one thing to do for a worker: an entry of a shard, or a cut of all its
// shards.
type item struct {
	shard *progress
	index uint64
	entry []byte

	cut chan<- []shardCut // buffered; nil for an entry
}

func (i *item) bytes() int64 { return int64(len(i.entry)) + itemCost }

// queue is what a worker has to do, bounded by bytes: those of what it works on count
// until it is done. Any goroutine may push, one takes.
//
// What is pushed may linger: the longer it does, the more commits of a busy agent
// become one write of each page.
type queue struct {
	limit  int64
	linger time.Duration
	hurry  *atomic.Int64 // above 0: somebody waits for what is applied

	mu     sync.Mutex // guards what follows
	items  []item
	used   int64
	due    bool // the oldest item has lingered long enough
	closed bool // nothing more is taken in
	timer  *time.Timer
	ready  sync.Cond
	room   sync.Cond
}

// lingerBytes is how much may linger.
const lingerBytes = 2 << 20

func newQueue(limit int64, linger time.Duration, hurry *atomic.Int64) *queue {
	q := &queue{limit: limit, linger: linger, hurry: hurry}
	q.ready.L, q.room.L = &q.mu, &q.mu
	return q
}

// push waits for room; false if the queue was closed. A cut never waits.
func (q *queue) push(i item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i.cut == nil && q.used > 0 && q.used+i.bytes() > q.limit && !q.closed {
		q.room.Wait()
	}
	if q.closed {
		return false
	}
	q.items = append(q.items, i)
	q.used += i.bytes()
	if i.cut != nil || q.linger == 0 || q.used >= min(lingerBytes, q.limit/2) || q.hurry.Load() > 0 {
		q.due = true
		q.ready.Signal()
	} else if len(q.items) == 1 {
		q.armLocked()
	}
	return true
}

// armLocked makes what is queued due after q.linger.
func (q *queue) armLocked() {
	if q.timer == nil {
		q.timer = time.AfterFunc(q.linger, q.nudge)
	} else {
		q.timer.Reset(q.linger)
	}
}

// nudge ends the lingering of what is queued.
func (q *queue) nudge() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.due = true
	q.ready.Signal()
}

// take waits for items and moves the first ones, up to half of the limit, to batch,
// so that the next can be gathered meanwhile. It is empty once the queue is closed
// and nothing is left.
func (q *queue) take(batch []item) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	for (len(q.items) == 0 || !q.due) && !q.closed {
		q.ready.Wait()
	}
	n, bytes := 0, int64(0)
	for n < len(q.items) && (n == 0 || bytes+q.items[n].bytes() <= q.limit/2) {
		bytes += q.items[n].bytes()
		n++
	}
	batch = append(batch, q.items[:n]...)
	rest := copy(q.items, q.items[n:])
	clear(q.items[rest:])
	q.items = q.items[:rest]
	if q.due = q.linger == 0 || rest > 0; !q.due && q.timer != nil {
		q.timer.Stop()
	}
	return batch
}

// done gives back the room of items that were taken.
func (q *queue) done(batch []item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range batch {
		q.used -= batch[i].bytes()
	}
	q.room.Broadcast()
}

// close refuses what comes; what is there can be taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.timer != nil {
		q.timer.Stop()
	}
	q.ready.Broadcast()
	q.room.Broadcast()
}

// abort closes the queue and drops what is there.
func (q *queue) abort() {
	q.close()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = nil
}

func (q *queue) size() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used
}
