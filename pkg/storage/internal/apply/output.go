package apply

import (
	"fmt"
	"io"

	"agentd/internal/disk"
	"agentd/pkg/storage/record"
)

const (
	outputBytes = 64 * record.PageBytes // most that one call writes
	directRuns  = 2                     // runs of a page up to which each is written alone
)

// output writes pages to one file at a time with few system calls: neighbours
// together, a page of many runs as a whole. It belongs to a worker.
type output struct {
	counters *counters

	file disk.File
	size int64  // of the file now
	buf  []byte // pages that follow each other and are not written yet
	at   int64  // where buf begins
}

func (o *output) begin(file disk.File, size int64) {
	o.file, o.size, o.buf = file, size, o.buf[:0]
}

// shorten cuts the file to at most keep bytes.
func (o *output) shorten(keep int64) error {
	if o.size <= keep {
		return nil
	}
	return o.resize(keep)
}

func (o *output) resize(to int64) error {
	if err := o.file.Truncate(to); err != nil {
		return err
	}
	o.counters.writes.Add(1)
	o.size = to
	return nil
}

// page writes what the patches, in order, say of their page.
func (o *output) page(patches []record.Patch) error {
	at := int64(patches[0].Page-1) * record.PageBytes
	for i := len(patches) - 1; i > 0; i-- {
		if patches[i].Whole() {
			patches = patches[i:] // nothing is left of those before
			break
		}
	}
	whole := patches[0].Whole()
	if len(patches) == 1 && !whole && patches[0].Runs <= directRuns {
		return patches[0].Each(func(offset int, b []byte) error { return o.write(b, at+int64(offset)) })
	}
	if len(o.buf) == outputBytes || at != o.at+int64(len(o.buf)) {
		if err := o.flush(); err != nil {
			return err
		}
	}
	if len(o.buf) == 0 {
		o.at = at
	}
	if o.buf == nil {
		o.buf = make([]byte, 0, outputBytes)
	}
	n := len(o.buf)
	o.buf = o.buf[:n+record.PageBytes]
	image := o.buf[n:]
	if !whole {
		if err := o.read(image, at); err != nil {
			o.buf = o.buf[:n]
			return err
		}
	}
	for _, p := range patches {
		p.Apply(image)
	}
	return nil
}

// read reads a page; what the file does not have is zero.
func (o *output) read(image []byte, at int64) error {
	n := int(min(max(o.size-at, 0), int64(len(image))))
	clear(image[n:])
	if n == 0 {
		return nil
	}
	got, err := o.file.ReadAt(image[:n], at)
	if got == n {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("the file ends in its page at %d: something else has changed it", at)
	}
	return err
}

func (o *output) write(b []byte, at int64) error {
	if _, err := o.file.WriteAt(b, at); err != nil {
		return err
	}
	o.counters.writes.Add(1)
	o.counters.bytes.Add(uint64(len(b)))
	o.size = max(o.size, at+int64(len(b)))
	return nil
}

func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	err := o.write(o.buf, o.at)
	o.buf = o.buf[:0]
	return err
}

// finish writes what is left and sets the size.
func (o *output) finish(size int64) error {
	if err := o.flush(); err != nil {
		return err
	}
	if o.size == size {
		return nil
	}
	return o.resize(size)
}
