package disktest

import (
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Intercept has fn called before each operation, on the goroutine that does it; nil
// ends that. An error fails the operation, which then does not happen. fn may block,
// to hold an operation back. For a write with O_DSYNC it is called once, with Write.
func (r *Recorder) Intercept(fn func(Op) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = fn
}

// Nth is for Intercept: the nth operation (from 1) of a kind on a path that contains
// part fails with err, and all such after it too if sticky.
func Nth(kind Kind, part string, n int64, err error, sticky bool) func(Op) error {
	var seen atomic.Int64
	return func(op Op) error {
		if op.Kind != kind || !strings.Contains(op.Path, part) {
			return nil
		}
		if at := seen.Add(1); at == n || sticky && at > n {
			return err
		}
		return nil
	}
}

// SetSpace gives the folder a size in bytes; negative means no limit but the real
// one. Writes to blocks of 4 KiB that a file does not have yet take space and fail
// with ENOSPC, whole, when it does not suffice. Names and folders are free. It may be
// raised and lowered at any time.
func (r *Recorder) SetSpace(total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.space.total = total
}

// Used is the number of bytes that files take of the space.
func (r *Recorder) Used() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.space.bytes
}

// admit asks whether an operation may happen, and takes the space that it needs.
func (r *Recorder) admit(op Op) error {
	r.mu.Lock()
	before := r.before
	r.mu.Unlock()
	if before != nil {
		if err := before(op); err != nil {
			return err
		}
	}
	if op.Kind != Write {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	end := op.Offset + int64(len(op.Data))
	if need := r.space.need(op.File, op.Offset, end); r.space.total >= 0 && need > 0 && need > r.space.left() {
		return unix.ENOSPC
	}
	r.space.take(op.File, op.Offset, end)
	return nil
}

const blockBytes = 4096

// space counts the blocks of files. It is guarded by Recorder.mu.
type space struct {
	total int64 // negative: unlimited
	bytes int64
	used  map[int]map[int64]bool // blocks by file
}

func (s *space) left() int64 { return s.total - s.bytes }

// need is what a write of [from, to) would take.
func (s *space) need(file int, from, to int64) int64 {
	var n int64
	for b := from / blockBytes; b*blockBytes < to; b++ {
		if !s.used[file][b] {
			n += blockBytes
		}
	}
	return n
}

func (s *space) take(file int, from, to int64) {
	s.bytes += s.need(file, from, to)
	if s.used[file] == nil {
		s.used[file] = make(map[int64]bool)
	}
	for b := from / blockBytes; b*blockBytes < to; b++ {
		s.used[file][b] = true
	}
}

// cut gives back what lies beyond size.
func (s *space) cut(file int, size int64) {
	for b := range s.used[file] {
		if b*blockBytes >= size {
			delete(s.used[file], b)
			s.bytes -= blockBytes
		}
	}
}
