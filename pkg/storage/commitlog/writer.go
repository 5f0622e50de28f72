package commitlog

import (
	"errors"
	"fmt"

	"agentd/pkg/agent"

	"golang.org/x/sys/unix"
)

// batches is what fills while a write is under way, and what the writer knows.
type batches struct {
	max     int    // bytes of one batch, header included
	filling *batch // appends put records here. Guarded by Log.mu
	idle    *batch // the other one, unless it is being written. Guarded by Log.mu

	// The writer's own, and Open's before there is a writer.
	direct bool // writes bypass the page cache and are durable when they return
	proven bool // a write of that kind has worked
	chain  uint32
}

func (b *batches) init(size int, direct bool) {
	b.max, b.direct = size, direct
	b.filling, b.idle = &batch{}, &batch{}
}

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

// write is the writer's goroutine: the only one that writes batches.
func (l *Log) write() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		b, s := l.batches.filling, &l.segments
		for !(l.err != nil || l.closing || s.rollSoon || b.urgent) {
			l.work.Wait()
			b = l.batches.filling
		}
		switch size := int64(roundUp(len(b.buf))); {
		case l.err != nil:
			l.endLocked(b)
			return
		case s.rollSoon && l.lowLocked(s.nextGen) <= s.low: // what was being written needs them
			s.rollSoon = false
			l.room.Broadcast()
		case s.rollSoon || b.count > 0 && size > s.active.size-s.active.end:
			l.rollLocked()
		case b.count > 0:
			l.flushLocked(b)
		case l.closing:
			l.markLocked(l.closedLocked)
			return
		default:
			b.urgent = false
		}
	}
}

// flushLocked writes the batch that fills. The lock is free meanwhile, and the other
// batch fills.
func (l *Log) flushLocked(b *batch) {
	seg := l.segments.active
	off := seg.end
	seg.end += int64(roundUp(len(b.buf)))
	l.batches.filling, l.batches.idle = l.batches.idle, nil
	l.room.Broadcast()
	l.mu.Unlock()
	err := l.writeBatch(seg, off, b)
	l.mu.Lock()
	if err != nil {
		l.failLocked(err)
		l.endLocked(b)
		return
	}
	l.segments.durable = seg.position(seg.end)
	for i := range b.effects {
		l.applyLocked(&b.effects[i], seg.gen, uint32(off))
	}
	l.stats.entries += uint64(b.count)
	l.stats.counts.add(uint64(b.count))
	close(b.outcome.done)
	b.clear()
	l.batches.idle = b
}

// endLocked answers those who wait for a batch that will not be written, or of which
// nobody knows whether it was.
func (l *Log) endLocked(b *batch) {
	if b.outcome != nil {
		b.outcome.err = l.err
		close(b.outcome.done)
		b.clear()
	}
	if l.batches.idle == nil {
		l.batches.idle = b
	}
}

// applyLocked makes a record that is durable count.
func (l *Log) applyLocked(e *effect, gen uint64, off uint32) {
	g := e.group
	g.written = e.seq
	before := len(g.index)
	defer func() { l.entries += len(g.index) - before }()
	at := location{gen: gen, off: off + e.at.off, size: e.at.size}
	switch e.kind {
	case kindEntry:
		if e.rec.offset == 0 && e.rec.index <= g.last {
			// Nothing may be found in the cache that the chunks to come replace.
			l.cache.cutBack(g, e.rec.index)
		}
		if complete, ok := g.put(&e.rec, at); ok && complete {
			l.cache.add(g, e.entry)
		}
	case kindTruncateBack:
		l.cache.cutBack(g, e.entry.Index)
		g.truncateBack(e.entry.Index)
		l.considerRollLocked()
	case kindSet:
		g.keys[e.key] = e.entry.Data
	case kindReset:
		l.cache.drop(g.recent)
		for key, value := range g.keys {
			l.carry -= int64(keySize(key, value))
		}
		g.recent, g.damage, g.keep = nil, nil, 0
		g.content = newContent()
		l.considerRollLocked()
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

// closedLocked is the mark of a closed log: each group's last number, by which damage
// of anything before it shows.
func (l *Log) closedLocked(b []byte) []byte {
	room := l.batches.max - batchHead - recordHead
	var list []byte
	for _, g := range l.order {
		if g.written > 0 && g.damage == nil && len(list)+seqBytes <= room {
			list = le.AppendUint64(le.AppendUint32(list, g.id), g.written)
		}
	}
	all, rec := begin(b, recordHead+len(list), kindClosed, 0, 0, 0, 0)
	copy(rec[recordHead:], list)
	seal(rec)
	return all
}

// markLocked writes a batch that says nothing about groups' entries, if the active
// segment has room for it. The lock is free meanwhile.
func (l *Log) markLocked(records func([]byte) []byte) {
	b := &batch{buf: aligned(l.batches.max)[:batchHead]}
	if records != nil {
		b.buf = records(b.buf)
		b.count = 1
	}
	seg := l.segments.active
	off, size := seg.end, int64(roundUp(len(b.buf)))
	if size > seg.size-off {
		return
	}
	seg.end += size
	l.mu.Unlock()
	err := l.writeBatch(seg, off, b)
	l.mu.Lock()
	if err != nil {
		l.failLocked(err)
		return
	}
	l.segments.durable = seg.position(seg.end)
}

// writeBatch completes a batch and makes it durable at an offset of a segment. A
// segment's first batch takes the header in front of it along. The writer's, or
// Open's.
func (l *Log) writeBatch(seg *segment, off int64, b *batch) error {
	start := l.config.Now()
	size := roundUp(len(b.buf))
	image := b.buf[:size]
	clear(image[len(b.buf):])
	h := batchHeader{logID: l.id, gen: seg.gen, position: seg.position(off), wall: nanos(start), length: uint32(len(b.buf) - batchHead),
		count: uint32(b.count), chain: l.batches.chain, payload: checksum(b.buf[batchHead:])}
	h.durable = h.position // one write at a time: everything before it is durable
	l.batches.chain = h.encode(image)
	if b.front != nil {
		image, off = b.front[:blockBytes+size], off-blockBytes
	}
	if err := l.put(seg, off, image); err != nil {
		return fmt.Errorf("write %s: %w", seg.path, err)
	}
	took := l.config.Now().Sub(start)
	l.mu.Lock()
	l.stats.wrote(uint64(len(image)), took)
	l.mu.Unlock()
	return nil
}

// put writes an image and makes it durable.
func (l *Log) put(seg *segment, off int64, image []byte) error {
	w := &l.batches
	_, err := seg.write.WriteAt(image, off)
	if w.direct && !w.proven && errors.Is(err, unix.EINVAL) {
		// The file system opens files for direct writes, but does not take them.
		seg.closeWrite()
		l.goBuffered()
		if err = l.openWrite(seg); err == nil {
			_, err = seg.write.WriteAt(image, off)
		}
	}
	if err == nil && !w.direct {
		err = seg.write.Sync()
	}
	w.proven = w.proven || err == nil
	return err
}

// openWrite opens a segment for the writer, through the page cache if there is no
// other way.
func (l *Log) openWrite(seg *segment) error {
	err := seg.openWrite(l.config.FS, l.batches.direct)
	if l.batches.direct && errors.Is(err, unix.EINVAL) {
		l.goBuffered()
		err = seg.openWrite(l.config.FS, false)
	}
	return err
}

// goBuffered ends direct writes; Stats reads what only the writer changes.
func (l *Log) goBuffered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches.direct = false
}
