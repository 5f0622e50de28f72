package raftgroup

import "sync"

// life is how a group ends: by Stop, or by itself with an error.
type life struct {
	ending  sync.Once
	ended   chan struct{} // closed at either end
	failing sync.Once
	failed  chan struct{} // closed by fail; err is valid then
	err     error
}

func newLife() life { return life{ended: make(chan struct{}), failed: make(chan struct{})} }

func (l *life) end() { l.ending.Do(func() { close(l.ended) }) }

// fail keeps the first error.
func (l *life) fail(err error) {
	l.failing.Do(func() {
		l.err = err
		close(l.failed)
	})
	l.end()
}

// Failed is closed when the group ended itself: its log or its machine returned an
// error, which Err returns then. Stop must still be called.
func (l *life) Failed() <-chan struct{} { return l.failed }

// Err is nil as long as the group has not failed.
func (l *life) Err() error {
	select {
	case <-l.failed:
		return l.err
	default:
		return nil
	}
}
