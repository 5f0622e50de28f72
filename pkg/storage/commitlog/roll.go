package commitlog

import (
	"errors"
)

// rollFreesLocked says whether beginning a segment now would free older ones.
func (l *Log) rollFreesLocked() bool {
	s := &l.segments
	return s.rollSoon || len(s.spares) > 0 && l.lowLocked(s.nextGen) > s.low
}

// considerRollLocked begins a segment early when there is little room and entries
// that were forgotten hold some: a segment is used again only when a later one says
// durably that it is not needed.
func (l *Log) considerRollLocked() {
	if (l.roomLeftLocked() < l.config.usable() || len(l.segments.spares) < 2) && l.rollFreesLocked() {
		l.segments.rollSoon = true
		l.work.Signal()
	}
}

// lowLocked is the lowest generation that anything needs, if next is begun now.
func (l *Log) lowLocked(next uint64) uint64 {
	low := next
	for _, g := range l.order {
		if gen, ok := g.oldest(); ok {
			low = min(low, gen)
		}
		if g.damage != nil && g.keep > 0 {
			low = min(low, g.keep)
		}
	}
	return low
}

// rollLocked begins the next segment: its header and all groups' state in one write.
// Only then the segments that it does not need are free. The lock is free meanwhile.
func (l *Log) rollLocked() {
	s := &l.segments
	s.rollSoon = false
	seg := s.takeSpare()
	if seg == nil {
		l.failLocked(errors.New("no segment is ready")) // roomLocked sees to it that there is one
		return
	}
	seg.gen, seg.prev, seg.first = s.nextGen, 0, 0
	if s.active != nil {
		seg.prev, seg.first = s.active.gen, s.active.position(s.active.end)
	}
	s.nextGen++
	low, old := l.lowLocked(seg.gen), s.active
	b := l.carryLocked(seg, low)
	l.mu.Unlock()
	err := l.openWrite(seg)
	if err == nil {
		err = l.writeBatch(seg, blockBytes, b)
	}
	if old != nil {
		old.closeWrite()
	}
	l.mu.Lock()
	if err != nil {
		s.retired = append(s.retired, seg) // Close closes it
		l.failLocked(err)
		return
	}
	seg.end = blockBytes + int64(roundUp(len(b.buf)))
	s.durable = seg.position(seg.end)
	s.activate(seg, low)
	l.keeper.wake()
	l.room.Broadcast()
}

// carryLocked is the first batch of a segment, and the segment's header.
func (l *Log) carryLocked(seg *segment, low uint64) *batch {
	states, size := 0, batchHead+carryBytes
	for _, g := range l.order {
		if g.written > 0 || g.damage != nil {
			states++
			size += g.stateSize()
		}
	}
	front := aligned(blockBytes + roundUp(size))
	b := &batch{front: front, buf: front[blockBytes : blockBytes+batchHead]}
	var flags uint8
	if l.unknown != nil {
		flags = flagDamaged
	}
	b.buf = appendCarry(b.buf, flags, low, seg.prev, states)
	b.count = 1
	for _, g := range l.order {
		if g.written > 0 || g.damage != nil {
			b.buf = g.appendState(b.buf)
			b.count += 1 + len(g.keys)
		}
	}
	segmentHeader{logID: l.id, gen: seg.gen, prev: seg.prev, first: seg.first, size: seg.size}.encode(front)
	return b
}

func (g *Group) stateSize() int {
	n := stateBytes
	for key, value := range g.keys {
		n += keySize(key, value)
	}
	return n
}

// appendState appends what a segment repeats of a group. The first index may be ahead
// of the records so far: it only says what need not be kept.
func (g *Group) appendState(b []byte) []byte {
	var flags uint8
	if g.damage != nil {
		flags = flagDamaged
	}
	b = appendState(b, flags, g.id, g.written, g.first, g.last, g.keep)
	for key, value := range g.keys {
		b = appendKey(b, kindKey, g.id, g.written, key, value)
	}
	return b
}
