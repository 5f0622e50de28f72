package commitlog

import (
	"testing"
	"time"
)

func TestHistogram_QuantilesAreWithinAnEighth(t *testing.T) {
	var h histogram
	for v := uint64(1); v <= 100_000; v++ {
		h.add(v)
	}
	for q, want := range map[float64]uint64{0.5: 50_000, 0.99: 99_000} {
		if got := h.quantile(q); got < want || got > want+want/8 {
			t.Errorf("quantile %v is %d, want about %d", q, got, want)
		}
	}
	for _, v := range []uint64{0, 1, 7, 8, 9, 15, 16, 17, 1 << 40, 1<<40 + 12345, 1<<63 + 5} {
		if i := bucket(v); bound(i) < v || i > 0 && bound(i-1) >= v {
			t.Errorf("%d is in bucket %d, which ends at %d", v, i, bound(i))
		}
	}
	h.add(1<<64 - 1)
}

func TestStats_CountWhatWasWritten(t *testing.T) {
	c := small(folder(t))
	ticks := time.Unix(0, 0)
	c.Now = func() time.Time { ticks = ticks.Add(time.Millisecond); return ticks }
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	before := l.Stats()
	for i := uint64(1); i <= 10; i++ {
		must(t, g.Append(run(i, i, 1, 100)))
	}
	must(t, g.TruncateFront(4))
	st := l.Stats()
	if st.Batches != before.Batches+10 || st.Records != 10 || st.Written != before.Written+10*blockBytes || st.Durable != before.Durable+10*blockBytes {
		t.Errorf("%+v after %+v", st, before)
	}
	if st.Entries != 6 || st.LiveBytes != 6*(100+entryHead) || st.Groups != 1 {
		t.Errorf("%+v", st)
	}
	if st.WriteP50 < time.Millisecond || st.WriteP50 > 2*time.Millisecond || st.BatchP99 != 1 {
		t.Errorf("write %v, batch %d", st.WriteP50, st.BatchP99)
	}
	if st.Room <= 0 || st.Room >= before.Room+1 {
		t.Errorf("room %d, was %d", st.Room, before.Room)
	}
	t.Logf("direct: %v", st.Direct)
}

// TestCache_IsBounded also when entries are forgotten by other ways.
func TestCache_IsBounded(t *testing.T) {
	c := small(folder(t))
	c.CacheBytes = 10_000
	l := mustOpen(t, c)
	idle, busy := mustGroup(t, l, 1), mustGroup(t, l, 2)
	must(t, idle.Append(run(1, 1, 1, 10)))
	for i := uint64(1); i < 400; i++ {
		must(t, busy.Append(run(i, i, 1, 10)))
		must(t, busy.TruncateFront(i-1))
		l.mu.Lock()
		bytes, queue := l.cache.bytes, len(l.cache.queue)-l.cache.head
		l.mu.Unlock()
		if bytes > 10_000 || queue > 2*10_000/entryOverhead+1 {
			t.Fatalf("%d bytes, %d in the queue", bytes, queue)
		}
	}
	must(t, busy.Append(run(400, 400, 1, 20_000))) // larger than the cache
	holding{entries: append(run(399, 399, 1, 10), entry(400, 1, 20_000))}.check(t, busy)
}
