package commitlog

import (
	"math/bits"
	"time"
)

// Stats is a log's state at a moment. Counts are since Open; sizes are in bytes.
type Stats struct {
	Segments, Spares   int
	Bytes, LiveBytes   int64 // of all files; of the entries that groups have
	Room               int64
	Full               bool
	Direct             bool // writes bypass the page cache
	Groups, Damaged    int
	Entries            int // that groups have
	Batches            uint64
	Records            uint64 // in those batches
	Written            uint64 // bytes, with headers and padding
	Durable            uint64 // position up to which everything is durable
	WriteP50, WriteP99 time.Duration
	BatchP50, BatchP99 int    // records per batch
	Oldest             uint64 // the lowest generation of a segment that is needed
}

// Stats may be called at any time; it takes time for each group.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, c := &l.segments, &l.stats
	st := Stats{
		Segments: len(s.live) + len(s.retired), Spares: len(s.spares), Bytes: s.bytes, Room: max(0, l.roomLeftLocked()),
		Direct: l.batches.direct, Groups: len(l.order), Entries: l.entries, Batches: c.batches, Records: c.entries, Written: c.bytes,
		Durable: s.durable, Oldest: s.low,
		WriteP50: time.Duration(c.latency.quantile(0.50)), WriteP99: time.Duration(c.latency.quantile(0.99)),
		BatchP50: int(c.counts.quantile(0.50)), BatchP99: int(c.counts.quantile(0.99)),
	}
	st.Full = l.roomLeftLocked() <= 0 || st.Entries >= maxEntries
	for _, g := range l.order {
		st.LiveBytes += g.bytes
		if g.damage != nil {
			st.Damaged++
		}
	}
	return st
}

// counters is what the writer counts. Guarded by Log.mu.
type counters struct {
	batches, entries, bytes uint64
	latency                 histogram // nanoseconds
	counts                  histogram // records per batch
}

func (c *counters) wrote(bytes uint64, took time.Duration) {
	c.batches++
	c.bytes += bytes
	c.latency.add(uint64(max(0, took)))
}

// histogram counts values in eight steps per power of two.
type histogram struct {
	total   uint64
	buckets [62 * 8]uint64
}

func bucket(v uint64) int {
	if v < 8 {
		return int(v)
	}
	shift := bits.Len64(v) - 4
	return (shift+1)*8 + int(v>>shift) - 8
}

// bound is the largest value of a bucket.
func bound(i int) uint64 {
	if i < 8 {
		return uint64(i)
	}
	shift := i/8 - 1
	return (uint64(i%8)+9)<<shift - 1
}

func (h *histogram) add(v uint64) {
	h.total++
	h.buckets[min(bucket(v), len(h.buckets)-1)]++
}

// quantile is a value that the share q of all do not exceed.
func (h *histogram) quantile(q float64) uint64 {
	rank, seen := uint64(q*float64(h.total)), uint64(0)
	for i, n := range h.buckets {
		if seen += n; seen > rank {
			return bound(i)
		}
	}
	return 0
}
