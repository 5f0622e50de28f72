package commitlog

import (
	"errors"
	"fmt"

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
