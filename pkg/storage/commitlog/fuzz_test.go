package commitlog

import (
	"os"
	"path/filepath"
	"testing"

	"agentd/internal/disk"
)

// FuzzRecover takes bytes for a segment. Whatever they are, the log opens and works,
// or refuses with an error; and Verify agrees.
func FuzzRecover(f *testing.F) {
	s := newStory(f, small)
	tale(s)
	dir := s.log.config.Dir
	must(f, s.log.Close())
	for name, data := range readImage(f, dir) {
		if name == "00000001.seg" {
			f.Add(data[:5*blockBytes])
			f.Add(data[:9000])
		}
	}
	f.Add([]byte{})
	f.Add(make([]byte, 3*blockBytes))
	into := folder(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > MinSegmentBytes {
			return
		}
		recoverFrom(t, into, append(data, make([]byte, MinSegmentBytes-len(data))...))
	})
}

// FuzzRecords takes bytes for the records of a sound batch, with their checksums
// made right, so that what is behind the checksums is reached.
func FuzzRecords(f *testing.F) {
	s := newStory(f, small)
	tale(s)
	dir := s.log.config.Dir
	must(f, s.log.Close())
	data := readImage(f, dir)["00000001.seg"]
	var payload []byte
	for _, off := range offsets(data) {
		h, _ := decodeBatch(data[off:])
		body := data[off+batchHead:][:h.length]
		f.Add(body)
		payload = append(payload, body...)
	}
	f.Add(payload)
	into := folder(f)
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > MinSegmentBytes-blockBytes-batchHead {
			return
		}
		for at := 0; at+recordHead <= len(payload); {
			n := int(le.Uint32(payload[at+4:]))
			if n < recordHead || n > len(payload)-at {
				le.PutUint32(payload[at+4:], uint32(len(payload)-at))
				n = len(payload) - at
			}
			seal(payload[at : at+n])
			at += n
		}
		id := small("").LogID
		seg := make([]byte, MinSegmentBytes)
		segmentHeader{logID: id, gen: 1, size: MinSegmentBytes}.encode(seg)
		b := seg[blockBytes:]
		copy(b[batchHead:], payload)
		batchHeader{logID: id, gen: 1, length: uint32(len(payload)), count: 1, payload: checksum(payload)}.encode(b)
		recoverFrom(t, into, seg)
	})
}

func recoverFrom(t *testing.T, dir string, segment []byte) {
	must(t, os.RemoveAll(dir))
	must(t, os.MkdirAll(dir, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "00000001.seg"), segment, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "00000002.seg"), make([]byte, MinSegmentBytes), 0o600))
	report, verifyErr := Verify(disk.OS{}, dir)
	l, err := Open(small(dir))
	if err != nil {
		return
	}
	defer l.Close()
	if verifyErr != nil {
		t.Fatalf("opens, but Verify says %v", verifyErr)
	}
	if st := l.Stats(); st.Damaged != len(report.Damaged) || st.Damaged > 0 && report.OK() {
		t.Fatalf("%d groups are damaged, Verify says %+v", st.Damaged, report)
	}
	l.mu.Lock()
	groups := append([]*Group(nil), l.order...)
	l.mu.Unlock()
	for _, g := range groups {
		if g.Damage() != nil {
			continue
		}
		for i := g.First(); i != 0 && i <= g.Last(); i++ {
			if _, err := g.Get(i); err != nil {
				t.Fatalf("group %d, entry %d: %v", g.id, i, err)
			}
		}
		next := g.Last() + 1
		if err := g.Append([]Entry{{Index: next, Data: []byte("next")}}); err == nil && g.Last() != next {
			t.Fatalf("group %d ends at %d, not %d", g.id, g.Last(), next)
		}
	}
}
