package catalog

import (
	"math"
	"sync/atomic"
)

// bell tells whoever sleeps until the answer of Due that the answer is no longer
// true. Any goroutine may ring; ask and answer are called under Catalog.fileMu, one
// question at a time.
type bell struct {
	ch      chan struct{} // buffer of one
	horizon atomic.Int64  // nobody needs to hear of a wake at or after it
	asking  atomic.Bool   // an answer is being computed
	askedAt int64         // the newest clock of a question; guarded by Catalog.fileMu
}

func newBell() *bell {
	b := &bell{ch: make(chan struct{}, 1), askedAt: math.MinInt64}
	b.horizon.Store(math.MaxInt64)
	return b
}

func (b *bell) ring() {
	select {
	case b.ch <- struct{}{}:
	default:
	}
}

// ask: from here on everything rings, because the answer may have missed it.
func (b *bell) ask() (before int64) {
	before = b.horizon.Swap(math.MaxInt64)
	b.asking.Store(true)
	return before
}

// answer: who asked sleeps until next. A question with an older clock than the
// newest may only raise the horizon: the newest asker sleeps at most as long.
func (b *bell) answer(now, next, before int64) {
	if now >= b.askedAt {
		b.askedAt = now
	} else {
		next = max(next, before)
	}
	b.horizon.Store(next)
	b.asking.Store(false)
}
