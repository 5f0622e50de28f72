package commitlog

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"agentd/internal/disk"
	"agentd/internal/disk/disktest"
	"agentd/pkg/agent"

	"golang.org/x/sys/unix"
)

// TestFail_NothingIsAcknowledgedAfterAFailedWrite fails one write, or one sync.
func TestFail_NothingIsAcknowledgedAfterAFailedWrite(t *testing.T) {
	for name, fault := range map[string]func(op disktest.Op) error{
		"write": disktest.Nth(disktest.Write, ".seg", 3, unix.EIO, false),
		"sync":  disktest.Nth(disktest.Sync, ".seg", 3, unix.EIO, false),
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			rec, err := disktest.New(dir)
			must(t, err)
			c := small(dir)
			c.FS, c.Buffered = rec, true
			l := mustOpen(t, c)
			g := mustGroup(t, l, 1)
			rec.Intercept(func(op disktest.Op) error {
				if filepath.Ext(op.Path) == ".new" {
					return nil
				}
				return fault(op)
			})
			must(t, g.Append(run(1, 1, 1, 10)))
			must(t, g.Append(run(2, 2, 1, 10)))
			err = g.Append(run(3, 3, 1, 10))
			kindIs(t, err, agent.OutcomeUnknown)
			if !errors.Is(err, unix.EIO) {
				t.Errorf("the cause is not in %v", err)
			}
			select {
			case <-l.Failed():
			default:
				t.Error("Failed is open")
			}
			// The disk is sound again, and that changes nothing.
			other := mustGroup(t, l, 2)
			for i, change := range []func() error{
				func() error { return g.Append(run(3, 3, 1, 10)) },
				func() error { return g.Set("a", nil) },
				func() error { return g.TruncateBack(2) },
				func() error { return g.TruncateFront(1) },
				g.Reset,
				func() error { return other.Append(run(1, 1, 1, 1)) },
			} {
				refused := make(chan error, 1)
				go func() { refused <- change() }()
				select {
				case err := <-refused:
					kindIs(t, err, agent.OutcomeUnknown)
				case <-time.After(10 * time.Second):
					t.Fatalf("change %d is not refused", i)
				}
			}
			if l.Err() == nil || l.Close() == nil {
				t.Error("the failure is forgotten")
			}
			holding{entries: run(1, 2, 1, 10)}.check(t, g)
		})
	}
}

// full appends to a group until the log says that it is full.
func fillUp(t *testing.T, l *Log, g *Group) {
	t.Helper()
	for i := 0; !l.Full(); i++ {
		if i > 5000 {
			t.Fatal("never full")
		}
		must(t, g.Append([]Entry{entry(g.Last()+1, 1, 9000)}))
	}
}

// eventually polls what another goroutine brings about.
func eventually(t testing.TB, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !fn(); {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
		<-time.After(time.Millisecond)
	}
}

// TestFull_OfTheDiskEndsWhenSpaceReturns never sees a write fail: the log says that
// it is full, takes the platform's entries from the reserve, and goes on by itself.
func TestFull_OfTheDiskEndsWhenSpaceReturns(t *testing.T) {
	dir := folder(t)
	rec, err := disktest.New(dir)
	must(t, err)
	retry := make(chan time.Time)
	c := small(dir)
	c.FS, c.Retry, c.ReserveBytes, c.Log = rec, retry, 20_000, testLog(t)
	rec.SetSpace(8*MinSegmentBytes + 10_000)
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	fillUp(t, l, g)
	if used := rec.Used(); used > 8*MinSegmentBytes {
		t.Errorf("used %d bytes", used)
	}
	if l.Room() != 0 {
		t.Errorf("full, with room for %d bytes", l.Room())
	}
	last := g.Last()
	h := holding{entries: run(1, last, 1, 9000)}

	// The reserve: two more, and small changes even when nothing else is taken.
	for i := range uint64(2) {
		h.append(entry(last+1+i, 1, 9000))
		must(t, g.Append([]Entry{entry(last+1+i, 1, 9000)}))
	}
	for _, size := range []int{9000, 10} {
		for err = nil; err == nil; {
			e := entry(g.Last()+1, 1, size)
			if err = g.Append([]Entry{e}); err == nil {
				h.append(e)
			}
		}
		kindIs(t, err, agent.StorageFull)
	}
	must(t, g.Set("vote", []byte("x")))
	h.keys = map[string]string{"vote": "x"}
	h.check(t, g)
	retry <- time.Time{} // still no space
	retry <- time.Time{}
	if !l.Full() {
		t.Error("not full any more")
	}

	rec.SetSpace(20 * MinSegmentBytes)
	retry <- time.Time{}
	eventually(t, "room after the disk has space", func() bool { return !l.Full() })
	e := entry(g.Last()+1, 1, 9000)
	h.append(e)
	must(t, g.Append([]Entry{e}))
	must(t, l.Err())
	must(t, l.Close())
	h.check(t, mustGroup(t, mustOpen(t, c), 1))
}

// TestFull_OfMaxBytesEndsWhenEntriesAreForgotten needs no disk space and no restart.
func TestFull_OfMaxBytesEndsWhenEntriesAreForgotten(t *testing.T) {
	dir := folder(t)
	c := small(dir)
	c.MaxBytes = 6 * MinSegmentBytes
	l := mustOpen(t, c)
	g, other := mustGroup(t, l, 1), mustGroup(t, l, 2)
	must(t, other.Set("vote", []byte("x")))
	for range 10 {
		fillUp(t, l, g)
		// To the last byte, too.
		for err := error(nil); err == nil; {
			if err = g.Append([]Entry{entry(g.Last()+1, 1, 9000)}); err != nil {
				kindIs(t, err, agent.StorageFull)
			}
		}
		must(t, g.TruncateFront(g.Last()-2))
		eventually(t, "room after a truncation", func() bool { return !l.Full() })
		must(t, g.Append([]Entry{entry(g.Last()+1, 1, 9000)}))
	}
	if st := l.Stats(); st.Bytes > c.MaxBytes {
		t.Errorf("%d bytes", st.Bytes)
	}
	h := holding{}
	for i := g.First(); i <= g.Last(); i++ {
		h.entries = append(h.entries, entry(i, 1, 9000))
	}
	must(t, l.Close())
	l = mustOpen(t, c)
	h.check(t, mustGroup(t, l, 1))
	holding{keys: map[string]string{"vote": "x"}}.check(t, mustGroup(t, l, 2))
}

// TestFull_AtTheStart has no room for the first segment.
func TestFull_AtTheStart(t *testing.T) {
	dir := folder(t)
	rec, err := disktest.New(dir)
	must(t, err)
	c := small(dir)
	c.FS = rec
	rec.SetSpace(100_000)
	_, err = Open(c)
	kindIs(t, err, agent.StorageFull)
	rec.SetSpace(-1)
	must(t, mustOpen(t, c).Close())
	// A log that exists opens on a full disk, and its reads go on.
	rec.SetSpace(0)
	l := mustOpen(t, c)
	must(t, mustGroup(t, l, 1).Append(run(1, 1, 1, 10)))
}

// TestRecycle_SegmentIsNotReusedWhileItIsRead holds a read back until the log has
// gone round.
func TestRecycle_SegmentIsNotReusedWhileItIsRead(t *testing.T) {
	dir := folder(t)
	c := small(dir)
	c.CacheBytes = 1
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	must(t, g.Append(run(1, 1, 1, 9000)))
	l.mu.Lock() // as Get does it
	at := g.index[0]
	seg := l.segments.live[at.gen]
	seg.pins++
	l.mu.Unlock()
	for i := uint64(2); i < 100; i++ {
		must(t, g.Append(run(i, i, 1, 9000)))
		must(t, g.TruncateFront(i-1))
	}
	e, err := g.read(1, []location{at}, []*segment{seg})
	must(t, err)
	if !same(e, entry(1, 1, 9000)) {
		t.Error("the entry changed while it was read")
	}
	l.mu.Lock()
	free := len(l.segments.spares)
	l.unpinLocked([]*segment{seg})
	if len(l.segments.spares) != free+1 {
		t.Error("the segment is not free after the read")
	}
	l.mu.Unlock()
}

// TestRecycle_NothingIsFreeBeforeTheNextSegmentSaysSo holds the first write of each
// segment back and looks at the others.
func TestRecycle_NothingIsFreeBeforeTheNextSegmentSaysSo(t *testing.T) {
	dir := folder(t)
	rec, err := disktest.New(dir)
	must(t, err)
	c := small(dir)
	c.FS = rec
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	rolls, durable := 0, l.segments.low
	rec.Intercept(func(op disktest.Op) error {
		if op.Kind != disktest.Write || op.Offset != 0 || filepath.Ext(op.Path) != segmentSuffix {
			return nil
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.segments.low != durable {
			t.Errorf("free up to generation %d, durably only to %d", l.segments.low, durable)
		}
		carry, _, err := decodeRecord(op.Data[blockBytes+batchHead:])
		if err != nil || carry.kind != kindCarry {
			t.Errorf("a segment begins with %v, %v", carry.kind, err)
		}
		rolls, durable = rolls+1, carry.index
		return nil
	})
	for i := uint64(1); i < 60; i++ {
		must(t, g.Append(run(i, i, 1, 9000)))
		must(t, g.TruncateFront(i-1))
	}
	if rolls < 5 {
		t.Errorf("%d rolls", rolls)
	}
}

// TestRecycle_StableKeysStay goes round many times; a key that was set once, in a
// group that does nothing else, is still there.
func TestRecycle_StableKeysStay(t *testing.T) {
	dir := folder(t)
	c := small(dir)
	l := mustOpen(t, c)
	must(t, mustGroup(t, l, 9).Set("once", []byte("said")))
	g := mustGroup(t, l, 1)
	for i := uint64(1); i < 200; i++ {
		must(t, g.Append(run(i, i, 1, 9000)))
		must(t, g.TruncateFront(i-1))
	}
	if st := l.Stats(); st.Bytes > 8*MinSegmentBytes {
		t.Errorf("segments are not used again: %+v", st)
	}
	must(t, l.Close())
	// Segments that were used again are not missed.
	if report, err := Verify(c.FS, dir); err != nil || !report.OK() {
		t.Errorf("%+v, %v", report, err)
	}
	l = mustOpen(t, c)
	holding{keys: map[string]string{"once": "said"}}.check(t, mustGroup(t, l, 9))
	holding{entries: run(199, 199, 1, 9000)}.check(t, mustGroup(t, l, 1))
}

// TestOpen_WithAnotherSegmentSize goes on with the segments that are there.
func TestOpen_WithAnotherSegmentSize(t *testing.T) {
	dir := folder(t)
	c := small(dir)
	h := holding{}
	next := uint64(1)
	for _, size := range []int64{1, 4, 2, 8} {
		c.SegmentBytes = size * MinSegmentBytes
		l := mustOpen(t, c)
		g := mustGroup(t, l, 1)
		h.check(t, g)
		for range 20 {
			h.append(entry(next, 1, 9000))
			must(t, g.Append([]Entry{entry(next, 1, 9000)}))
			next++
		}
		must(t, g.TruncateFront(next-10))
		h.entries = h.entries[len(h.entries)-9:]
		must(t, l.Close())
	}
}

// TestOpen_FallsBackWhereDirectWritesFail has a file system that opens with O_DIRECT
// and then refuses the write.
func TestOpen_FallsBackWhereDirectWritesFail(t *testing.T) {
	dir := folder(t)
	c := small(dir)
	c.FS = stubborn{}
	l := mustOpen(t, c)
	must(t, mustGroup(t, l, 1).Append(run(1, 1, 1, 10)))
	if l.Stats().Direct {
		t.Error("still direct")
	}
	must(t, l.Close())
	holding{entries: run(1, 1, 1, 10)}.check(t, mustGroup(t, mustOpen(t, c), 1))
}

type stubborn struct{ disk.OS }

type stubbornFile struct{ disk.File }

func (stubborn) Open(path string, flags int) (disk.File, error) {
	f, err := disk.OS{}.Open(path, flags&^unix.O_DIRECT)
	if err == nil && flags&unix.O_DIRECT != 0 {
		f = stubbornFile{f}
	}
	return f, err
}

func (stubbornFile) WriteAt([]byte, int64) (int, error) {
	return 0, &os.PathError{Op: "write", Err: unix.EINVAL}
}
