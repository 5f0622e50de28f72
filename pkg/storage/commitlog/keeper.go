package commitlog

import (
	"errors"
	"sync"
	"time"

	"agentd/pkg/agent"

	"golang.org/x/sys/unix"
)

// keeper keeps segments ready, in the background.
type keeper struct {
	run   sync.WaitGroup // the writer and the keeper
	stop  chan struct{}  // closed by Close
	kick  chan struct{}
	retry <-chan time.Time
	tick  *time.Ticker // if retry is ours

	// Guarded by Log.mu.
	blocked error // why the last segment could not be prepared
	warned  bool  // and it was said
	free    int64 // bytes of the file system, as the keeper last saw it
}

func (k *keeper) init(retry <-chan time.Time) {
	k.stop, k.kick = make(chan struct{}), make(chan struct{}, 1)
	if k.retry = retry; retry == nil {
		k.tick = time.NewTicker(time.Second)
		k.retry = k.tick.C
	}
}

// wake makes the keeper look; it does not wait.
func (k *keeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// keep is the keeper's goroutine.
func (l *Log) keep() {
	k := &l.keeper
	if k.tick != nil {
		defer k.tick.Stop()
	}
	for {
		again := false
		select {
		case <-k.stop:
			return
		case <-l.failed:
			return
		case <-k.kick:
		case _, again = <-k.retry:
			if !again {
				k.retry = nil // closed: no more tries
			}
		}
		l.look()
		for l.tend(again) {
			again = false
		}
	}
}

// look asks how much the disk has left.
func (l *Log) look() {
	free, err := l.config.FS.Free(l.config.Dir)
	if err != nil {
		return // what is known stays
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keeper.free = free
}

// tend does one thing about segments; false if nothing is to be done. again says
// that what failed may be tried once more.
func (l *Log) tend(again bool) bool {
	l.mu.Lock()
	s := &l.segments
	surplus := l.surplusLocked()
	if surplus != nil {
		l.mu.Unlock()
		l.discard(surplus)
		return true
	}
	want := l.config.spares()
	if again && len(s.spares)+len(s.retired) < want {
		l.keeper.blocked = nil
	}
	if l.closing || l.err != nil || len(s.spares)+len(s.retired) >= want || !l.canPrepareLocked() {
		l.mu.Unlock()
		return false
	}
	slot := s.nextSlot
	s.nextSlot++
	l.mu.Unlock()
	return l.prepareOne(slot) == nil
}

// canPrepareLocked says whether another segment may be made.
func (l *Log) canPrepareLocked() bool {
	return l.keeper.blocked == nil && l.segments.bytes+l.config.SegmentBytes <= l.config.MaxBytes
}

// prepareOne makes a spare. What kept it from doing so is remembered until the next
// tick; those who wait for a segment learn of both.
func (l *Log) prepareOne(slot uint64) error {
	free, err := l.config.FS.Free(l.config.Dir)
	var seg *segment
	if err == nil && free < l.config.SegmentBytes {
		err = unix.ENOSPC
	}
	if err == nil {
		seg, err = prepare(l.config, slot, l.stopped)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.room.Broadcast()
	if err != nil {
		l.keeper.blocked = err
		if !l.closing && !l.keeper.warned {
			l.keeper.warned = true
			l.config.Log.Warn("no room for another log segment", "dir", l.config.Dir, "err", err)
		}
		return err
	}
	l.keeper.blocked, l.keeper.warned = nil, false
	l.keeper.free = max(0, free-seg.size)
	l.segments.spares = append(l.segments.spares, seg)
	l.segments.bytes += seg.size
	return nil
}

var errStopped = errors.New("stopped")

func (l *Log) stopped() error {
	select {
	case <-l.keeper.stop:
		return errStopped
	default:
		return nil
	}
}

// surplusLocked takes a file that is no use: of too small a size, or one spare too
// many.
func (l *Log) surplusLocked() *segment {
	s := &l.segments
	if n := len(s.useless); n > 0 {
		seg := s.useless[n-1]
		s.useless = s.useless[:n-1]
		return seg
	}
	if len(s.spares) > l.config.spares()+2 {
		return s.takeSpare()
	}
	return nil
}

// discard removes a file. If it cannot, the next Open finds it again.
func (l *Log) discard(seg *segment) {
	seg.close()
	if err := l.config.FS.Remove(seg.path); err != nil {
		l.config.Log.Warn("old log segment stays", "path", seg.path, "err", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments.bytes -= seg.size
}

// Room is the number of bytes of entries that the log can still take before its
// reserve: in the active segment, in spare ones, and in those that can be made. An
// estimate on the low side.
func (l *Log) Room() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, l.roomLeftLocked())
}

func (l *Log) roomLeftLocked() int64 {
	c, s := &l.config, &l.segments
	left := max(0, s.active.size-s.active.end-c.SegmentBytes/16-int64(l.batches.max))
	left += int64(max(0, len(s.spares)+len(s.retired)-1)) * c.usable()
	if l.keeper.blocked == nil {
		more := min((c.MaxBytes-s.bytes)/c.SegmentBytes, l.keeper.free/c.SegmentBytes)
		left += max(0, more) * c.usable()
	}
	return left - c.ReserveBytes
}

// Full says that new data should be refused (StorageFull): only the reserve is left,
// on disk or of MaxBytes or of the index in memory. Appends still work while the
// reserve lasts; reads always do. It ends by itself when entries are forgotten, or
// when the disk has space again.
func (l *Log) Full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.roomLeftLocked() <= 0 || l.entries >= maxEntries
}

// fullError is what Open says when there is no room for a new log.
func fullError(err error) error {
	kind := agent.Internal
	if errors.Is(err, unix.ENOSPC) {
		kind = agent.StorageFull
	}
	return &agent.Error{Op: opOpen, Kind: kind, Msg: "prepare a segment", Err: err}
}
