package apply

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Waits between attempts on a full disk.
const (
	firstWait = 100 * time.Millisecond
	longWait  = time.Second
)

var errAbandoned = errors.New("given up, because the store is closed")

// patience repeats what fails for a reason that can pass. Committed data cannot be
// refused, so there is no limit but the end of the Applier.
type patience struct {
	after   func(time.Duration) <-chan time.Time
	stuck   func(error)
	unstuck func()
	closing <-chan struct{}

	mu     sync.Mutex // guards number, and orders the calls of stuck and unstuck
	number int        // of workers that are stuck
}

// persist runs fn until it succeeds or fails for good. fn must be fit to be run
// again from its beginning.
func (p *patience) persist(fn func() error) error {
	err := fn()
	if !passing(err) {
		return err
	}
	p.enter(err)
	defer p.leave()
	for wait := firstWait; passing(err); wait = min(2*wait, longWait) {
		select {
		case <-p.after(wait):
		case <-p.closing:
			return fmt.Errorf("%w: %w", errAbandoned, err)
		}
		err = fn()
	}
	return err
}

func passing(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || outOfDescriptors(err)
}

func (p *patience) enter(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.number++; p.number == 1 {
		p.stuck(err)
	}
}

func (p *patience) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.number--; p.number == 0 {
		p.unstuck()
	}
}

func (p *patience) isStuck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.number > 0
}
