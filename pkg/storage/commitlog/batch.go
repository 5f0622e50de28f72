package commitlog

import (
	"agentd/pkg/agent"
)

// batch is records for one write, and what they do once they are durable.
type batch struct {
	buf     []byte // room for the header, then records
	count   int
	effects []effect
	urgent  bool     // somebody waits for it
	outcome *outcome // of the next write
	front   []byte   // a segment's first batch: the same memory with the segment's header in front
}

// outcome is how a write ended; err is set before done closes.
type outcome struct {
	done chan struct{}
	err  error
}

// effect is one record in a batch.
type effect struct {
	group *Group
	kind  recordKind
	seq   uint64
	at    location // its offset is that in the batch until the batch has its place
	rec   record   // kindEntry: without its bytes
	key   string
	entry Entry
}

// urgency says how a record is put in a batch.
type urgency struct {
	wait  bool // somebody waits for it: write it now
	small bool // may use the room at a segment's end that entries leave
}

// smallBatch is the memory that a batch begins with.
const smallBatch = 64 << 10

// begin readies an empty batch.
func (b *batch) begin(size int) {
	if b.buf == nil {
		b.buf = aligned(min(smallBatch, size))[:batchHead]
	}
	if b.outcome == nil {
		b.outcome = &outcome{done: make(chan struct{})}
	}
}

// reserve makes the batch hold n more bytes, in aligned memory.
func (b *batch) reserve(n, most int) {
	if need := len(b.buf) + n; need > cap(b.buf) {
		more := aligned(min(max(roundUp(need), 2*cap(b.buf)), most))
		b.buf = more[:copy(more, b.buf)]
	}
}

func (b *batch) clear() {
	clear(b.effects)
	b.buf, b.effects, b.count, b.urgent, b.outcome = b.buf[:batchHead], b.effects[:0], 0, false, nil
}

// putLocked puts one record of n bytes, which add appends, into the batch that fills.
// The group has its next number when add runs.
func (l *Log) putLocked(g *Group, n int, u urgency, e effect, add func([]byte) []byte) (*outcome, error) {
	b, err := l.roomLocked(n, u)
	if err != nil {
		return nil, err
	}
	g.seq++
	e.group, e.seq, e.at = g, g.seq, location{off: uint32(len(b.buf)), size: uint32(n)}
	b.buf = add(b.buf)
	b.effects = append(b.effects, e)
	b.count++
	if u.wait || len(b.buf) > l.batches.max/2 {
		b.urgent = true
		l.work.Signal()
	}
	return b.outcome, nil
}

// putEntryLocked puts an entry into the batch that fills, or into several if it is
// larger than a batch.
func (l *Log) putEntryLocked(g *Group, e *Entry, flags uint8) (*outcome, error) {
	total, most := e.size(), l.batches.max-batchHead-entryHead
	var wait *outcome
	for c := (chunk{0, min(total, most)}); ; c = (chunk{c.offset + c.size, min(total-c.offset-c.size, most)}) {
		b, err := l.roomLocked(entryHead+c.size, urgency{wait: true})
		if err != nil {
			return wait, err
		}
		g.seq++
		start := len(b.buf)
		b.buf = appendEntry(b.buf, g.id, g.seq, flags, e, c)
		r := record{kind: kindEntry, flags: flags, index: e.Index, total: uint32(total), offset: uint32(c.offset), body: b.buf[start+entryHead:]}
		b.effects = append(b.effects, effect{group: g, kind: kindEntry, seq: g.seq, rec: r, entry: *e,
			at: location{off: uint32(start), size: uint32(entryHead + c.size)}})
		b.count++
		b.urgent = true
		wait = b.outcome
		if c.offset+c.size == total {
			l.work.Signal()
			return wait, nil
		}
	}
}

// roomLocked is the batch that fills, once it has room for a record of n bytes. It
// waits for the writer, and for a segment that is on its way.
func (l *Log) roomLocked(n int, u urgency) (*batch, error) {
	for {
		if err := l.usableLocked(); err != nil {
			return nil, err
		}
		b := l.batches.filling
		b.begin(l.batches.max)
		switch {
		case len(b.buf)+n > l.batches.max:
			b.urgent = true
			l.work.Signal()
		case l.fitsLocked(len(b.buf)+n, u.small):
			b.reserve(n, l.batches.max)
			return b, nil
		case !l.segmentComesLocked():
			return nil, &agent.Error{Op: "append to commit log", Kind: agent.StorageFull,
				Msg: "the log is full; it has room again after the next checkpoint, or when the disk has space"}
		}
		l.room.Wait()
	}
}

// fitsLocked says whether the batch that fills will find its place if it has size
// bytes: in the active segment, or in the next one with a spare left. What is
// accepted here never meets a full disk.
func (l *Log) fitsLocked(size int, small bool) bool {
	need := int64(roundUp(size))
	if !small {
		need += l.config.SegmentBytes / 16
	}
	return need <= l.segments.active.size-l.segments.active.end || len(l.segments.spares) >= 2
}

// segmentComesLocked says whether waiting will bring a spare segment, and sees to it.
func (l *Log) segmentComesLocked() bool {
	s := &l.segments
	switch {
	case l.rollFreesLocked():
		s.rollSoon = true
		l.work.Signal()
	case len(s.retired) > 0: // the last reader wakes us
	case l.canPrepareLocked():
		l.keeper.wake()
	default:
		return false
	}
	return true
}

// settleLocked releases the lock, waits until what was put is durable, and says how
// that ended.
func (l *Log) settleLocked(wait *outcome, err error) error {
	l.mu.Unlock()
	if wait != nil {
		<-wait.done
		if err == nil {
			err = wait.err
		}
	}
	return err
}
