package disktest

import (
	"agentd/internal/disk"
)

// file is an open file of a Recorder.
type file struct {
	disk.File
	r     *Recorder
	rel   string
	id    int
	dsync bool
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	op := Op{Kind: Write, Path: f.rel, File: f.id, Offset: off, Data: append([]byte(nil), p...)}
	if err := f.r.admit(op); err != nil {
		return 0, pathError("write", f.rel, err)
	}
	n, err := f.File.WriteAt(p, off)
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	if n > 0 {
		op.Data = op.Data[:n]
		f.r.ops = append(f.r.ops, op)
		if f.dsync && err == nil {
			done := op
			done.Kind, done.Upto = Written, len(f.r.ops)-1
			f.r.ops = append(f.r.ops, done)
		}
	}
	return n, err
}

func (f *file) Truncate(size int64) error {
	op := Op{Kind: Resize, Path: f.rel, File: f.id, Offset: size}
	if err := f.r.admit(op); err != nil {
		return pathError("truncate", f.rel, err)
	}
	if err := f.File.Truncate(size); err != nil {
		return err
	}
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	f.r.space.cut(f.id, size)
	f.r.ops = append(f.r.ops, op)
	return nil
}

func (f *file) Sync() error {
	op := Op{Kind: Sync, Path: f.rel, File: f.id, Upto: f.r.Len()}
	if err := f.r.admit(op); err != nil {
		return pathError("sync", f.rel, err)
	}
	if err := f.File.Sync(); err != nil {
		return err
	}
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	f.r.ops = append(f.r.ops, op)
	return nil
}
