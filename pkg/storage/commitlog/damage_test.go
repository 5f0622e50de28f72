package commitlog

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"agentd/internal/disk"
	"agentd/pkg/agent"
)

// image is a folder's files in memory.
type image map[string][]byte

func readImage(t testing.TB, dir string) image {
	t.Helper()
	im := make(image)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		im[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
	}
	return im
}

// settled waits until the log makes no files, so that they can be copied.
func settled(t testing.TB, l *Log) {
	t.Helper()
	eventually(t, "spare segments", func() bool { return l.Stats().Spares >= l.config.spares() })
}

func (im image) write(t testing.TB, dir string) {
	t.Helper()
	must(t, os.RemoveAll(dir))
	must(t, os.MkdirAll(dir, 0o700))
	for name, data := range im {
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
}

// verdict opens an image and says which groups differ from what they should hold
// without saying so themselves. damaged is how many say it, or -1 if Open refuses.
func verdict(t testing.TB, im image, dir string, want map[uint32]holding) (silent string, damaged int) {
	t.Helper()
	im.write(t, dir)
	l, err := Open(small(dir))
	if err != nil {
		kindIs(t, err, agent.Corrupt)
		return "", -1
	}
	defer l.Close()
	for id, h := range want {
		g, err := l.Group(id)
		must(t, err)
		if g.Damage() != nil {
			kindIs(t, g.Damage(), agent.Corrupt)
			kindIs(t, g.Append(run(g.Last()+1, g.Last()+1, 1, 1)), agent.Corrupt)
			damaged++
			continue
		}
		if d := h.differs(g); d != "" {
			silent = fmt.Sprintf("group %d: %s", id, d)
		}
	}
	return silent, damaged
}

// TestDamage_OfAnyByteAfterCloseIsNeverSilent flips a bit of every byte that the log
// wrote (and of some that it did not).
func TestDamage_OfAnyByteAfterCloseIsNeverSilent(t *testing.T) {
	s := newStory(t, small)
	tale(s)
	dir := s.log.config.Dir
	must(t, s.log.Close())
	clean, into := readImage(t, dir), filepath.Join(folder(t), "flip")
	if silent, damaged := verdict(t, clean, into, s.now); silent != "" || damaged != 0 {
		t.Fatal("without damage:", silent, damaged)
	}
	flips, found := 0, 0
	for name, data := range clean {
		for at := range data {
			used := data[at] != 0 || at%blockBytes < batchHead
			if !used && at%257 != 0 || testing.Short() && at%7 != 0 {
				continue
			}
			flips++
			data[at] ^= 1 << (at % 8)
			silent, damaged := verdict(t, clean, into, s.now)
			if silent != "" {
				t.Errorf("%s, byte %d: %s", name, at, silent)
			}
			if damaged != 0 {
				found++
			}
			data[at] ^= 1 << (at % 8)
		}
	}
	t.Logf("%d flips, %d found to be damage, the others changed nothing", flips, found)
	if found < 100 {
		t.Error("too few flips were found to mean anything")
	}
}

// TestDamage_OfAnyByteAfterACrashCostsTheLastWriteAtMost is the same without the
// mark of a closed log: the last write alone may look like one that was cut short.
func TestDamage_OfAnyByteAfterACrashCostsTheLastWriteAtMost(t *testing.T) {
	s := newStory(t, small)
	tale(s)
	into := filepath.Join(folder(t), "flip")
	kill := filepath.Join(folder(t), "kill")
	must(t, s.rec.Kill(s.rec.Len(), kill))
	clean := readImage(t, kill)
	before := s.states[len(s.states)-2].groups
	for name, data := range clean {
		for at := range data {
			if data[at] == 0 || testing.Short() && at%5 != 0 {
				continue
			}
			data[at] ^= 0x10
			if silent, _ := verdict(t, clean, into, s.now); silent != "" {
				if silent, _ = verdict(t, clean, into, before); silent != "" {
					t.Errorf("%s, byte %d: %s", name, at, silent)
				}
			}
			data[at] ^= 0x10
		}
	}
}

// batches is the offsets of the batches in a segment's bytes.
func offsets(data []byte) (all []int) {
	h, _, ok := decodeSegment(data)
	for off := blockBytes; ok && off < len(data); {
		b, sound := decodeBatch(data[off:])
		if !sound || b.gen != h.gen {
			break
		}
		all = append(all, off)
		off += int(b.size())
	}
	return all
}

// TestDamage_ConcernsOnlyTheGroupsThatLost breaks one batch in the middle: groups
// whose later records show that nothing of theirs was in it go on.
func TestDamage_ConcernsOnlyTheGroupsThatLost(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", closed), func(t *testing.T) {
			dir := folder(t)
			l := mustOpen(t, small(dir))
			must(t, mustGroup(t, l, 1).Append(run(1, 3, 1, 10)))
			must(t, mustGroup(t, l, 2).Append(run(1, 3, 1, 10)))
			must(t, mustGroup(t, l, 3).Append(run(1, 3, 1, 10)))
			must(t, mustGroup(t, l, 1).Append(run(4, 4, 1, 10))) // this one is lost
			must(t, mustGroup(t, l, 1).Append(run(5, 5, 1, 10)))
			must(t, mustGroup(t, l, 2).Append(run(4, 4, 1, 10)))
			settled(t, l)
			im := readImage(t, dir)
			if closed {
				must(t, l.Close())
				im = readImage(t, dir)
			}
			data := im["00000001.seg"]
			data[offsets(data)[4]+batchHead+5] ^= 1
			into := filepath.Join(folder(t), "into")
			im.write(t, into)

			report, err := Verify(disk.OS{}, into)
			must(t, err)
			if report.OK() || len(report.Damage) != 1 || report.Damage[0].Bytes != blockBytes {
				t.Fatalf("report %+v", report)
			}
			for range 2 { // and again after the restart
				l := mustOpen(t, small(into))
				kindIs(t, mustGroup(t, l, 1).Damage(), agent.Corrupt)
				if _, err := mustGroup(t, l, 1).Get(5); agent.KindOf(err) != agent.Corrupt {
					t.Errorf("entry 5 of the damaged group: %v", err)
				}
				holding{entries: run(1, 4, 1, 10)}.check(t, mustGroup(t, l, 2))
				if closed {
					holding{entries: run(1, 3, 1, 10)}.check(t, mustGroup(t, l, 3))
				} else { // nothing later tells about group 3
					kindIs(t, mustGroup(t, l, 3).Damage(), agent.Corrupt)
				}
				// A group that no record names may have been named in what was lost.
				if g := mustGroup(t, l, 77); g.Damage() == nil {
					t.Error("an unknown group counts as sound")
				}
				must(t, l.Close())
			}
			heal(t, into)
		})
	}
}

// heal resets a damaged group, goes through enough segments that all that was damaged
// is used again, and finds everything in order.
func heal(t *testing.T, dir string) {
	l := mustOpen(t, small(dir))
	for _, id := range []uint32{1, 3, 77} {
		must(t, mustGroup(t, l, id).Reset())
	}
	g := mustGroup(t, l, 1)
	for i := uint64(50); i < 80; i++ {
		must(t, g.Append(run(i, i, 2, 10_000)))
		must(t, g.TruncateFront(i-1))
	}
	must(t, l.Close())
	l = mustOpen(t, small(dir))
	holding{entries: run(79, 79, 2, 10_000)}.check(t, mustGroup(t, l, 1))
	holding{}.check(t, mustGroup(t, l, 3))
	holding{}.check(t, mustGroup(t, l, 77))
	holding{entries: run(1, 4, 1, 10)}.check(t, mustGroup(t, l, 2))
}

// TestDamage_KeepsTheSegmentsOfADamagedGroup goes on with another group through many
// segments; the damaged one, which has stable keys only, stays damaged, and its bytes
// stay.
func TestDamage_KeepsTheSegmentsOfADamagedGroup(t *testing.T) {
	dir := folder(t)
	l := mustOpen(t, small(dir))
	for i := range 4 {
		must(t, mustGroup(t, l, 1).Set("vote", []byte{byte(i)}))
	}
	must(t, mustGroup(t, l, 2).Append(run(1, 1, 1, 10)))
	must(t, l.Close())
	im := readImage(t, dir)
	data := im["00000001.seg"]
	data[offsets(data)[2]] ^= 1
	into := filepath.Join(folder(t), "into")
	im.write(t, into)
	l = mustOpen(t, small(into))
	g := mustGroup(t, l, 2)
	for i := uint64(2); i < 40; i++ {
		must(t, g.Append(run(i, i, 1, 10_000)))
		must(t, g.TruncateFront(i-1))
	}
	if st := l.Stats(); st.Oldest != 1 || st.Damaged != 1 {
		t.Errorf("the damaged segment is gone: %+v", st)
	}
	must(t, l.Close())
	l = mustOpen(t, small(into))
	kindIs(t, mustGroup(t, l, 1).Damage(), agent.Corrupt)
	holding{entries: run(39, 39, 1, 10_000)}.check(t, mustGroup(t, l, 2))
}

// TestDamage_OfWholeSegments loses a file at the beginning, in the middle, at the end.
func TestDamage_OfWholeSegments(t *testing.T) {
	s := newStory(t, small)
	for i := uint64(1); i <= 40; i++ {
		s.append(1, run(i, i, 1, 7000)...)
	}
	s.set(2, "a", "b")
	dir := s.log.config.Dir
	must(t, s.log.Close())
	clean, into := readImage(t, dir), filepath.Join(folder(t), "lost")
	lost := 0
	for name, data := range clean {
		if h, _, ok := decodeSegment(data); !ok || h.gen == 0 {
			continue
		}
		lost++
		last := len(offsets(data)) > 0 && s.log.segments.active.path == filepath.Join(dir, name)
		delete(clean, name)
		silent, damaged := verdict(t, clean, into, s.now)
		clean.write(t, into)
		report, err := Verify(disk.OS{}, into)
		must(t, err)
		if !last && len(report.Damage) == 0 {
			t.Errorf("Verify does not miss %s", name)
		}
		// The last segment as a whole leaves no trace of itself.
		if !last && (silent != "" || damaged == 0) {
			t.Errorf("without %s: %q, %d damaged", name, silent, damaged)
		}
		clean[name] = data
	}
	if lost < 4 {
		t.Fatalf("only %d segments", lost)
	}
}

// TestRecovery_OldBytesDoNotComeBackToLife has a sound batch of the same life right
// behind a shorter one that took the place of the batch before it.
func TestRecovery_OldBytesDoNotComeBackToLife(t *testing.T) {
	dir := folder(t)
	l := mustOpen(t, small(dir))
	g := mustGroup(t, l, 1)
	must(t, g.Append(run(1, 1, 1, 10)))
	settled(t, l)
	before := readImage(t, dir)
	must(t, g.Append(run(2, 2, 1, 10))) // B
	must(t, g.Append(run(3, 3, 1, 10))) // C, right behind it
	after := readImage(t, dir)
	must(t, l.Close())

	// The same log, in which B was never written and B' was.
	into := filepath.Join(folder(t), "into")
	before.write(t, into)
	c := small(into)
	c.FS = disk.OS{}
	l = mustOpen(t, c)
	must(t, mustGroup(t, l, 1).Append(run(2, 2, 9, 20)))
	settled(t, l)
	other := readImage(t, into)
	must(t, l.Close())

	const name = "00000001.seg"
	at := offsets(other[name])
	end := at[len(at)-1] + blockBytes // of B'
	stale := offsets(after[name])
	copy(other[name][end:], after[name][stale[len(stale)-1]:]) // C behind it
	// C's position and generation would be right if the mark of the start were not there.
	h, ok := decodeBatch(other[name][end:])
	if !ok {
		t.Fatal("no batch where one was put")
	}
	h.position = uint64(end - blockBytes)
	h.durable = h.position
	h.encode(other[name][end:])
	other.write(t, into)
	l = mustOpen(t, small(into))
	holding{entries: append(run(1, 1, 1, 10), entry(2, 9, 20))}.check(t, mustGroup(t, l, 1))
}

// TestScan_TakesOnlyBatchesThatBelongThere puts one wrong thing after the other into
// a sound batch, without the help of the chain.
func TestScan_TakesOnlyBatchesThatBelongThere(t *testing.T) {
	id := [16]byte{7}
	good := batchHeader{logID: id, gen: 5, position: 1_000_000, durable: 1_000_000, length: 10, payload: checksum(make([]byte, 10))}
	for name, c := range map[string]struct {
		change func(h *batchHeader)
		limit  uint64
		sound  bool
	}{
		"nothing":               {func(*batchHeader) {}, maxPosition, true},
		"another life":          {func(h *batchHeader) { h.gen = 4 }, maxPosition, false},
		"another place":         {func(h *batchHeader) { h.position -= blockBytes; h.durable = 0 }, maxPosition, false},
		"another log":           {func(h *batchHeader) { h.logID[0] = 8 }, maxPosition, false},
		"over the next segment": {func(*batchHeader) {}, 1_000_000 + 10, false},
		"too long for the file": {func(h *batchHeader) { h.length = 3 * blockBytes }, maxPosition, false},
		"another payload":       {func(h *batchHeader) { h.payload++ }, maxPosition, false},
	} {
		path := filepath.Join(folder(t), "f")
		data, h := make([]byte, 3*blockBytes), good
		c.change(&h)
		h.encode(data[blockBytes:])
		must(t, os.WriteFile(path, data, 0o600))
		f, err := disk.OS{}.Open(path, os.O_RDONLY)
		must(t, err)
		walk := &scan{window: window{file: f, size: int64(len(data))}, logID: id, gen: 5, first: 1_000_000, limit: c.limit, off: blockBytes}
		step, err := walk.next()
		must(t, err)
		if (step.payload != nil) != c.sound {
			t.Errorf("%s: sound is %v", name, step.payload != nil)
		}
		must(t, f.Close())
	}
}

// TestRecovery_ADamagedSegmentHeaderHidesNothing breaks the headers of all segments
// in turn: the batches behind them say the same.
func TestRecovery_ADamagedSegmentHeaderHidesNothing(t *testing.T) {
	s := newStory(t, small)
	for i := uint64(1); i <= 30; i++ {
		s.append(1, run(i, i, 1, 7000)...)
	}
	dir := s.log.config.Dir
	must(t, s.log.Close())
	clean, into := readImage(t, dir), filepath.Join(folder(t), "header")
	for name, data := range clean {
		for _, at := range []int{0, 12, 20, 33, 50, 58} {
			data[at] ^= 1
			if silent, damaged := verdict(t, clean, into, s.now); silent != "" || damaged != 0 {
				t.Errorf("%s, byte %d: %q, %d damaged", name, at, silent, damaged)
			}
			data[at] ^= 1
		}
	}
}

// TestVerify_FindsDamageAtTheEndOfASegment breaks the last batch of a segment that
// others follow. Nothing in it is needed any more; it is damage all the same.
func TestVerify_FindsDamageAtTheEndOfASegment(t *testing.T) {
	s := newStory(t, small)
	for i := uint64(1); i <= 30; i++ {
		s.append(1, run(i, i, 1, 7000)...)
	}
	dir := s.log.config.Dir
	must(t, s.log.Close())
	im := readImage(t, dir)
	at := offsets(im["00000001.seg"])
	im["00000001.seg"][at[len(at)-1]+100] ^= 1
	into := filepath.Join(folder(t), "end")
	im.write(t, into)
	report, err := Verify(disk.OS{}, into)
	must(t, err)
	if len(report.Damage) != 1 || report.Damage[0].Offset != int64(at[len(at)-1]) || len(report.Damaged) != 1 {
		t.Errorf("%+v", report)
	}
}

func TestOpen_RefusesForeignAndNewerSegments(t *testing.T) {
	dir := folder(t)
	must(t, mustOpen(t, small(dir)).Close())
	im, into := readImage(t, dir), filepath.Join(folder(t), "into")
	data := im["00000001.seg"]

	c := small(into)
	im.write(t, into)
	c.LogID = [16]byte{9}
	_, err := Open(c)
	kindIs(t, err, agent.Corrupt)

	le.PutUint32(data[8:], formatVersion+1)
	le.PutUint32(data[12:], headerSum(data))
	im.write(t, into)
	_, err = Open(small(into))
	kindIs(t, err, agent.Corrupt)
	_, err = Verify(disk.OS{}, into)
	kindIs(t, err, agent.Corrupt)

	for i := range data {
		data[i] = 0xAA
	}
	im.write(t, into)
	_, err = Open(small(into))
	kindIs(t, err, agent.Corrupt)
}

func TestOpen_RefusesLimitsThatMakeNoSense(t *testing.T) {
	for i, change := range []func(*Config){
		func(c *Config) { c.SegmentBytes = 4096 },
		func(c *Config) { c.SegmentBytes += 100 },
		func(c *Config) { c.MaxBytes = c.SegmentBytes },
		func(c *Config) { c.ReserveBytes = c.MaxBytes },
		func(c *Config) { c.FS = nil },
	} {
		c := small(folder(t))
		change(&c)
		if _, err := Open(c); agent.KindOf(err) != agent.Invalid {
			t.Errorf("change %d: %v", i, err)
		}
	}
}

// TestDamage_OfTheLastWriteIsFoundOnceTheLogWasOpenedAgain kills the log twice; the
// second life writes nothing but the mark that it began.
func TestDamage_OfTheLastWriteIsFoundOnceTheLogWasOpenedAgain(t *testing.T) {
	dir, second := folder(t), filepath.Join(folder(t), "second")
	l := mustOpen(t, small(dir))
	must(t, mustGroup(t, l, 1).Append(run(1, 1, 1, 100)))
	must(t, mustGroup(t, l, 1).Append(run(2, 2, 1, 100)))
	settled(t, l)
	copyFolder(t, dir, second)
	l = mustOpen(t, small(second))
	settled(t, l)
	im := readImage(t, second)
	must(t, l.Close())
	at := offsets(im["00000001.seg"])
	im["00000001.seg"][at[2]+batchHead+recordHead] ^= 4
	if silent, damaged := verdict(t, im, second, map[uint32]holding{1: {entries: run(1, 2, 1, 100)}}); silent != "" || damaged != 1 {
		t.Errorf("%q, %d damaged", silent, damaged)
	}
}

// TestGet_FindsDamageThatCameLater changes an entry's bytes under a log in use.
func TestGet_FindsDamageThatCameLater(t *testing.T) {
	c := small(folder(t))
	c.CacheBytes = 1
	l := mustOpen(t, c)
	g := mustGroup(t, l, 1)
	must(t, g.Append(run(1, 2, 1, 100)))
	f, err := disk.OS{}.Open(l.segments.active.path, os.O_RDWR)
	must(t, err)
	_, err = f.WriteAt([]byte("rot"), int64(g.index[0].off)+entryHead+10)
	must(t, err)
	must(t, f.Close())
	_, err = g.Get(1)
	kindIs(t, err, agent.Corrupt)
	_, err = g.Get(2)
	must(t, err)
	report, err := l.Verify()
	must(t, err)
	if report.OK() {
		t.Error("Verify finds nothing")
	}
}
