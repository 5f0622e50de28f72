package commitlog

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"agentd/internal/disk"

	"golang.org/x/sys/unix"
)

const (
	segmentSuffix = ".seg"
	freshSuffix   = ".new" // a segment whose zeros are not all written
)

func segmentName(slot uint64) string { return fmt.Sprintf("%08d%s", slot, segmentSuffix) }

// segment is one file of the log. Its name says nothing about its place in the log,
// which changes each time it is used again.
type segment struct {
	path string
	size int64
	read disk.File // until the log is closed

	// Of the present life; set before the segment becomes active, or by recovery.
	gen, prev, first uint64

	write disk.File // the writer's; only of the active segment
	end   int64     // of the active segment: where the next batch goes. Guarded by Log.mu
	pins  int       // reads under way. Guarded by Log.mu
}

// position is where in the log an offset of the file is.
func (s *segment) position(off int64) uint64 { return s.first + uint64(off-blockBytes) }

// openWrite opens the segment for the writer, past the page cache if direct.
func (s *segment) openWrite(fs disk.FS, direct bool) error {
	flags := os.O_RDWR
	if direct {
		flags |= unix.O_DIRECT | unix.O_DSYNC
	}
	f, err := fs.Open(s.path, flags)
	if err != nil {
		return err
	}
	s.write = f
	return nil
}

func (s *segment) closeWrite() {
	if s.write != nil {
		_ = s.write.Close() // everything in it is synced
		s.write = nil
	}
}

func (s *segment) close() {
	s.closeWrite()
	if s.read != nil {
		_ = s.read.Close()
	}
}

// segments is all files of a log. Guarded by Log.mu.
type segments struct {
	live     map[uint64]*segment // by generation, from low to that of active
	active   *segment
	spares   []*segment // ready for use
	retired  []*segment // not needed any more, but being read
	useless  []*segment // too small for the present configuration; to be removed
	low      uint64     // durably the lowest generation that is needed
	nextGen  uint64
	nextSlot uint64
	bytes    int64 // of all files
	durable  uint64
	rollSoon bool // the writer should begin a segment, since that frees others
}

// takeSpare is a segment for the next life.
func (s *segments) takeSpare() *segment {
	if len(s.spares) == 0 {
		return nil
	}
	last := len(s.spares) - 1
	seg := s.spares[last]
	s.spares = s.spares[:last]
	return seg
}

// activate makes seg the one that is written, and low what is durably needed.
func (s *segments) activate(seg *segment, low uint64) {
	s.active, s.low = seg, low
	s.live[seg.gen] = seg
	for gen, old := range s.live {
		if gen < low {
			delete(s.live, gen)
			s.retired = append(s.retired, old)
		}
	}
	s.release()
}

// release makes spares of retired segments that nobody reads.
func (s *segments) release() {
	s.retired = slices.DeleteFunc(s.retired, func(seg *segment) bool {
		if seg.pins == 0 {
			s.spares = append(s.spares, seg)
		}
		return seg.pins == 0
	})
}

func (s *segments) close() {
	for _, seg := range s.live {
		seg.close()
	}
	for _, list := range [][]*segment{s.spares, s.retired, s.useless} {
		for _, seg := range list {
			seg.close()
		}
	}
}

// zeroChunk is written at once when a segment is prepared, and synced in turn, so that
// the log's own writes do not wait behind a whole segment.
const zeroChunk = 1 << 20

// prepare makes a segment: allocated and zeroed, so that writing to it later needs no
// space and no change of the file system's own records. stop ends it early.
func prepare(c Config, slot uint64, stop func() error) (*segment, error) {
	path := filepath.Join(c.Dir, segmentName(slot))
	fresh := path + freshSuffix
	if err := fill(c, fresh, stop); err != nil {
		_ = c.FS.Remove(fresh) // gives the space back; what is left is removed by the next Open
		return nil, err
	}
	if err := c.FS.Rename(fresh, path); err != nil {
		return nil, err
	}
	if err := c.FS.SyncDir(c.Dir); err != nil {
		return nil, err
	}
	f, err := c.FS.Open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &segment{path: path, size: c.SegmentBytes, read: f}, nil
}

func fill(c Config, path string, stop func() error) (err error) {
	f, err := c.FS.Open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	zeros := make([]byte, min(zeroChunk, c.SegmentBytes))
	for at := int64(0); at < c.SegmentBytes; at += int64(len(zeros)) {
		if err := stop(); err != nil {
			return err
		}
		n := min(int64(len(zeros)), c.SegmentBytes-at)
		if _, err := f.WriteAt(zeros[:n], at); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// aligned is memory that O_DIRECT can write from.
func aligned(n int) []byte {
	b := make([]byte, n+blockBytes)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (blockBytes - 1))
	return b[skip : skip+n : skip+n]
}
