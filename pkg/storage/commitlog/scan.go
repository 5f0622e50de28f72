package commitlog

import (
	"errors"
	"io"
	"math"

	"agentd/internal/disk"
)

// window reads a file forwards through a buffer.
type window struct {
	file disk.File
	size int64
	buf  []byte
	at   int64 // of buf in the file
}

const windowBytes = 1 << 20

// bytes is n bytes at an offset; fewer at the end of the file. Valid until the next
// call. n is bounded by the caller.
func (w *window) bytes(off int64, n int) ([]byte, error) {
	if n = int(min(int64(n), w.size-off)); off < 0 || n <= 0 {
		return nil, nil
	}
	if off >= w.at && off+int64(n) <= w.at+int64(len(w.buf)) {
		return w.buf[off-w.at:][:n], nil
	}
	want := int(min(int64(max(n, windowBytes)), w.size-off))
	if cap(w.buf) < want {
		w.buf = make([]byte, want)
	}
	w.buf, w.at = w.buf[:want], off
	got, err := w.file.ReadAt(w.buf, off)
	w.buf = w.buf[:got]
	if err != nil && !errors.Is(err, io.EOF) {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf[:min(n, got)], nil
}

// scan walks the batches of one segment in order.
type scan struct {
	window
	logID      [16]byte
	gen, first uint64
	limit      uint64 // the position at which the next segment begins, or maxPosition

	off     int64 // of the next batch
	over    bool  // there is none
	chained bool  // chain is known: the next batch must name it
	chain   uint32
}

const maxPosition = 1<<64 - 1

// found is a step of a scan: a sound batch, a range that is damaged, or the end.
type found struct {
	header  batchHeader
	off     int64
	payload []byte // nil for damage and at the end; valid until the next step
	lost    int64  // bytes from off that are damaged
	torn    bool   // at the end: what a crash cut short, or zeros and old bytes if not
}

func (s *scan) position(off int64) uint64 { return s.first + uint64(off-blockBytes) }

// header reads the batch header at an offset; ok means that it is whole and belongs
// there.
func (s *scan) header(off int64) (h batchHeader, ok bool, err error) {
	block, err := s.bytes(off, batchHead)
	if err != nil {
		return h, false, err
	}
	h, ok = decodeBatch(block)
	end := off + h.size()
	return h, ok && h.logID == s.logID && h.gen == s.gen && h.position == s.position(off) && end <= s.size && s.position(end) <= s.limit, nil
}

// next is the next step; done after the end.
func (s *scan) next() (f found, err error) {
	if f.off = s.off; s.over {
		return f, nil
	}
	var ok bool
	if f.header, ok, err = s.header(s.off); err != nil {
		return f, err
	}
	if ok && (!s.chained || f.header.chain == s.chain) {
		body, err := s.bytes(s.off, batchHead+int(f.header.length))
		if err != nil {
			return f, err
		}
		if len(body) == batchHead+int(f.header.length) && checksum(body[batchHead:]) == f.header.payload {
			f.payload = body[batchHead:]
			s.off += f.header.size()
			s.chain, s.chained = f.header.sum, true
			return f, nil
		}
	}
	return s.bad(ok)
}

// bad decides about bytes that are no batch: damage if anything later shows that
// they were durable, else the end. In a batch header everything before the batch was
// durable, and in the segment after this one everything of this one.
func (s *scan) bad(torn bool) (f found, err error) {
	f = found{off: s.off, torn: torn}
	if s.limit != maxPosition && s.position(s.off) >= s.limit {
		return f, nil
	}
	for off := s.off + blockBytes; off+blockBytes <= s.size; off += blockBytes {
		h, ok, err := s.header(off)
		if err != nil {
			return f, err
		}
		if ok && h.durable > s.position(s.off) {
			f.lost = off - s.off
			s.off, s.chained = off, false
			return f, nil
		}
	}
	if s.limit != maxPosition {
		f.lost = int64(min(s.limit-s.position(s.off), math.MaxInt64))
		s.over, s.chained = true, false
	}
	return f, nil
}

// end says that a step is the last one.
func (f *found) end() bool { return f.payload == nil && f.lost == 0 }
