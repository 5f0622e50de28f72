package commitlog

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"agentd/internal/disk"
	"agentd/pkg/agent"
)

// survey is what the files of a folder say about themselves.
type survey struct {
	fs       disk.FS
	id       [16]byte // of the log; zero if no file says it
	segments []*segment
	blank    []*segment // without a header, or of a life whose first write did not end
	fresh    []string   // left by an Open that did not end; to be removed
	chain    []*segment // the log, oldest first
	low      uint64     // the generation from which the log is needed
	lost     bool       // segments from low to the first of chain are missing
	nextGen  uint64
	nextSlot uint64
}

// surveyFolder reads the headers in a folder. want is the identity that the log must have, or
// zero.
func surveyFolder(fs disk.FS, dir string, want [16]byte) (*survey, error) {
	s := &survey{fs: fs, id: want, nextGen: 1, nextSlot: 1}
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		name := entry.Name()
		slot, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSuffix(name, freshSuffix), segmentSuffix), 10, 32)
		switch {
		case err != nil || !strings.Contains(name, segmentSuffix):
			continue // not ours
		case strings.HasSuffix(name, freshSuffix):
			s.fresh = append(s.fresh, filepath.Join(dir, name))
		default:
			if err := s.add(filepath.Join(dir, name)); err != nil {
				return s, err
			}
		}
		s.nextSlot = max(s.nextSlot, slot+1)
	}
	if err := s.rescue(); err != nil {
		return s, err
	}
	return s, s.link()
}

func (s *survey) all() []*segment { return slices.Concat(s.segments, s.blank) }

func (s *survey) close() {
	for _, seg := range s.all() {
		seg.close()
	}
}

// add reads one file's header.
func (s *survey) add(path string) error {
	f, err := s.fs.Open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	seg := &segment{path: path, read: f}
	s.blank = append(s.blank, seg)
	if seg.size, err = f.Size(); err != nil {
		return err
	}
	block := make([]byte, blockBytes)
	if n, err := f.ReadAt(block, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	} else if n < blockBytes {
		return nil
	}
	h, version, ok := decodeSegment(block)
	switch {
	case !ok:
		return nil
	case version != formatVersion:
		return &agent.Error{Op: opOpen, Kind: agent.Corrupt,
			Msg: fmt.Sprintf("%s has format version %d, this program knows %d; use the program that wrote it, or a newer one", path, version, formatVersion)}
	case s.id != [16]byte{} && h.logID != s.id:
		return &agent.Error{Op: opOpen, Kind: agent.Corrupt,
			Msg: fmt.Sprintf("%s belongs to another log; remove it if it was copied here by mistake", path)}
	}
	s.id = h.logID
	s.blank = s.blank[:len(s.blank)-1]
	seg.gen, seg.prev, seg.first = h.gen, h.prev, h.first
	s.segments = append(s.segments, seg)
	s.nextGen = max(s.nextGen, h.gen+1)
	return nil
}

// rescue looks into files without a whole header for batches, which say as much: a
// header that was damaged must not hide its segment.
func (s *survey) rescue() error {
	var blank []*segment
	for _, seg := range s.blank {
		h, off, err := s.firstBatch(seg)
		if err != nil {
			return err
		}
		if h.gen == 0 {
			blank = append(blank, seg)
			continue
		}
		s.nextGen = max(s.nextGen, h.gen+1)
		if slices.ContainsFunc(s.segments, func(other *segment) bool { return other.gen == h.gen }) {
			blank = append(blank, seg) // left by a life whose first write did not end
			continue
		}
		s.id = h.logID
		seg.gen, seg.first = h.gen, h.position-uint64(off-blockBytes)
		if seg.prev, err = s.carriedPrev(seg); err != nil {
			return err
		}
		s.segments = append(s.segments, seg)
	}
	s.blank = blank
	slices.SortFunc(s.segments, func(a, b *segment) int { return cmp.Compare(a.gen, b.gen) })
	return nil
}

// firstBatch is the newest generation's first batch header in a file, wherever it is;
// gen is 0 if there is none.
func (s *survey) firstBatch(seg *segment) (best batchHeader, at int64, err error) {
	w := window{file: seg.read, size: seg.size}
	for off := int64(blockBytes); off+batchHead <= seg.size; off += blockBytes {
		b, err := w.bytes(off, batchHead)
		if err != nil {
			return best, 0, err
		}
		h, ok := decodeBatch(b)
		if ok && h.gen > best.gen && h.position >= uint64(off-blockBytes) && (s.id == [16]byte{} || h.logID == s.id) {
			best, at = h, off
		}
	}
	return best, at, nil
}

// scanner walks a segment's batches.
func (s *survey) scanner(seg *segment, limit uint64) *scan {
	return &scan{window: window{file: seg.read, size: seg.size}, logID: s.id, gen: seg.gen, first: seg.first, limit: limit, off: blockBytes}
}

// carried is the carry at a segment's beginning. started says that the segment's life
// began: it has a carry, or something after a damaged one.
func (s *survey) carried(seg *segment) (carry *record, started bool, err error) {
	f, err := s.scanner(seg, maxPosition).next()
	if err != nil || f.end() {
		return nil, false, err
	}
	if r, _, err := decodeRecord(f.payload); err == nil && r.kind == kindCarry {
		return &r, true, nil
	}
	return nil, true, nil
}

func (s *survey) carriedPrev(seg *segment) (uint64, error) {
	carry, _, err := s.carried(seg)
	if carry == nil {
		return 0, err
	}
	return carry.term, nil
}

// link finds the newest segment whose life began, and from it the way back to the
// oldest that is needed.
func (s *survey) link() error {
	rest := s.segments
	for len(rest) > 0 {
		_, started, err := s.carried(rest[len(rest)-1])
		if err != nil {
			return err
		}
		if started {
			break
		}
		rest = rest[:len(rest)-1]
	}
	if len(rest) == 0 {
		return s.checkBlank()
	}
	for len(rest) > 0 {
		seg := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		s.chain = append(s.chain, seg)
		if s.low == 0 {
			carry, _, err := s.carried(seg)
			if err != nil {
				return err
			}
			if carry != nil {
				s.low = carry.index
			}
		}
		rest = s.before(seg, rest)
	}
	slices.Reverse(s.chain)
	return nil
}

// before is what of rest, older segments in order, comes before seg in the log.
func (s *survey) before(seg *segment, rest []*segment) []*segment {
	want := seg.prev
	if want == 0 && seg.gen > 1 && s.low < seg.gen { // a damaged beginning does not say it
		want = seg.gen - 1
	}
	if want == 0 || want < s.low {
		return nil
	}
	for len(rest) > 0 && rest[len(rest)-1].gen > want {
		rest = rest[:len(rest)-1]
	}
	for len(rest) > 0 && rest[0].gen < s.low {
		rest = rest[1:]
	}
	s.lost = len(rest) == 0
	return rest
}

// checkBlank makes sure that files that say nothing are those of a log that was never
// used: but for the first write, which may have been cut short, they are zeros.
func (s *survey) checkBlank() error {
	for _, seg := range s.all() {
		w := window{file: seg.read, size: seg.size}
		for off := int64(2 * blockBytes); off < seg.size; off += blockBytes {
			b, err := w.bytes(off, blockBytes)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
				return &agent.Error{Op: opOpen, Kind: agent.Corrupt,
					Msg: fmt.Sprintf("%s is not empty, but nothing in it can be read; move it away if its entries are to be given up", seg.path)}
			}
		}
	}
	return nil
}
