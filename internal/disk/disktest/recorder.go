// Package disktest is a false disk for crash tests: a Recorder passes everything on
// to a real folder and remembers each operation. From the record it makes folders as
// a crash of the machine or of the process could have left them at any point:
//
//	rec, _ := disktest.New(dir)
//	… run the code with rec as its disk.FS; note rec.Len() at each acknowledgement …
//	for point := 0; point <= rec.Len(); point++ {
//		world := rec.At(point)
//		disktest.Every(4096, func(choose disktest.Chooser) bool {
//			world.Crash(choose, folder)   // the machine died after that many operations
//			… open folder with disk.OS{}; what was acknowledged at or before point must be there …
//		})
//	}
//
// What a crash may do (World says it in detail): bytes that were not synced are there
// or not, by sectors of 512 bytes, each as any write since the last sync left it;
// names that were not synced (creation, renaming, removal) are there or not, in order
// per folder. A process that is killed loses nothing that it did: World.Kill.
//
// The Recorder sees what goes through disk.FS and disk.File only. Bytes written
// through File.Fd, or by SQLite in a folder of its own, are not in the record.
//
// It also fails operations on demand (Intercept, Nth) and has a size (SetSpace).
package disktest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"agentd/internal/disk"

	"golang.org/x/sys/unix"
)

// Recorder is a disk.FS over one real folder. All methods may be called from any
// goroutine. Operations are recorded when they have happened, syncs with what had
// been recorded before they began; failed ones are not recorded.
type Recorder struct {
	root  string
	base  *World // the folder as New found it, taken as durable
	under disk.OS

	mu     sync.Mutex // guards all below; never held over a call to the disk
	ops    []Op
	files  map[string]int // path to number of file
	next   int            // the next file's number
	before func(Op) error
	space  space
}

var _ disk.FS = (*Recorder)(nil)

// New records what happens in dir, which is made if it is missing. What dir holds
// now counts as durable.
func New(dir string) (*Recorder, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &Recorder{root: root, files: make(map[string]int), space: space{total: -1, used: make(map[int]map[int64]bool)}}
	if err := r.under.MkdirAll(root); err != nil {
		return nil, err
	}
	if r.base, err = load(root, r.files); err != nil {
		return nil, err
	}
	r.next = len(r.base.files)
	for id, f := range r.base.files {
		r.space.take(id, 0, int64(len(f.live)))
	}
	return r, nil
}

// Len is the number of operations so far: what is acknowledged now must survive a
// crash at this point and at every later one.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// Ops is a copy of the record; the Data of its writes must not be changed.
func (r *Recorder) Ops() []Op {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Op(nil), r.ops...)
}

// At is the folder's world after the first point operations.
func (r *Recorder) At(point int) *World {
	w := r.base.clone()
	for i, op := range r.Ops()[:point] {
		w.apply(i, op)
	}
	return w
}

// Each calls fn with the world after each number of operations, from 0 on, until fn
// returns false. The world is fn's until it returns. Cheaper than At for each point.
func (r *Recorder) Each(fn func(point int, w *World) bool) {
	w, ops := r.base.clone(), r.Ops()
	for i, op := range ops {
		if !fn(i, w) {
			return
		}
		w.apply(i, op)
	}
	fn(len(ops), w)
}

// Crash is At(point).Crash: the machine died after that many operations.
func (r *Recorder) Crash(point int, choose Chooser, into string) error {
	return r.At(point).Crash(choose, into)
}

// Kill is At(point).Kill: the process died after that many operations.
func (r *Recorder) Kill(point int, into string) error { return r.At(point).Kill(into) }

func (r *Recorder) Open(path string, flags int) (disk.File, error) {
	rel, err := r.rel(path)
	if err != nil {
		return nil, err
	}
	info, statErr := r.under.Stat(path)
	fresh := flags&os.O_CREATE != 0 && statErr != nil
	if fresh {
		if err := r.admit(Op{Kind: Create, Path: rel}); err != nil {
			return nil, pathError("open", path, err)
		}
	}
	f, err := r.under.Open(path, flags)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if fresh {
		r.files[rel] = r.next
		r.ops = append(r.ops, Op{Kind: Create, Path: rel, File: r.next})
		r.next++
	}
	id := r.files[rel]
	if flags&os.O_TRUNC != 0 && !fresh && info.Size() > 0 {
		r.ops = append(r.ops, Op{Kind: Resize, Path: rel, File: id})
		r.space.cut(id, 0)
	}
	return &file{File: f, r: r, rel: rel, id: id, dsync: flags&unix.O_DSYNC != 0}, nil
}

func (r *Recorder) MkdirAll(path string) error {
	rel, err := r.rel(path)
	if err != nil {
		return err
	}
	var missing []Op
	for p := rel; p != "."; p = filepath.Dir(p) {
		if _, err := r.under.Stat(filepath.Join(r.root, p)); err == nil {
			break
		}
		missing = append([]Op{{Kind: Mkdir, Path: p}}, missing...)
	}
	for _, op := range missing {
		if err := r.do(op, func() error { return r.under.MkdirAll(filepath.Join(r.root, op.Path)) }); err != nil {
			return err
		}
	}
	return r.under.MkdirAll(path)
}

func (r *Recorder) Remove(path string) error {
	rel, err := r.rel(path)
	if err != nil {
		return err
	}
	return r.do(Op{Kind: Remove, Path: rel}, func() error { return r.under.Remove(path) })
}

// Rename moves a file within its folder; between folders is not modelled and is an
// error, as is the renaming of a folder.
func (r *Recorder) Rename(from, to string) error {
	a, err := r.rel(from)
	if err != nil {
		return err
	}
	b, err := r.rel(to)
	if err != nil {
		return err
	}
	info, err := r.under.Stat(from)
	if err != nil {
		return err
	}
	if filepath.Dir(a) != filepath.Dir(b) || info.IsDir() {
		return fmt.Errorf("disktest: rename %s to %s: only files within a folder", a, b)
	}
	return r.do(Op{Kind: Rename, Path: a, To: b}, func() error { return r.under.Rename(from, to) })
}

func (r *Recorder) SyncDir(path string) error {
	rel, err := r.rel(path)
	if err != nil {
		return err
	}
	return r.do(Op{Kind: SyncDir, Path: rel, Upto: r.Len()}, func() error { return r.under.SyncDir(path) })
}

func (r *Recorder) SyncFS(path string) error {
	rel, err := r.rel(path)
	if err != nil {
		return err
	}
	return r.do(Op{Kind: SyncFS, Path: rel, Upto: r.Len()}, func() error { return r.under.SyncFS(path) })
}

func (r *Recorder) Stat(path string) (fs.FileInfo, error) {
	if _, err := r.rel(path); err != nil {
		return nil, err
	}
	return r.under.Stat(path)
}

func (r *Recorder) ReadDir(path string) ([]fs.DirEntry, error) {
	if _, err := r.rel(path); err != nil {
		return nil, err
	}
	return r.under.ReadDir(path)
}

// Free is what SetSpace left, or the real file system's.
func (r *Recorder) Free(path string) (int64, error) {
	r.mu.Lock()
	total, left := r.space.total, r.space.left()
	r.mu.Unlock()
	if total >= 0 {
		return max(left, 0), nil
	}
	return r.under.Free(path)
}

// rel is a path inside the folder; anything outside is a defect of the test.
func (r *Recorder) rel(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(r.root, abs)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("disktest: %s is outside of %s", path, r.root)
	}
	return rel, nil
}

// do runs an operation that concerns names or all files, and records it.
func (r *Recorder) do(op Op, fn func() error) error {
	if err := r.admit(op); err != nil {
		return pathError(op.Kind.String(), op.Path, err)
	}
	if err := fn(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch op.Kind {
	case Remove:
		if id, ok := r.files[op.Path]; ok {
			r.space.cut(id, 0)
			delete(r.files, op.Path)
		}
	case Rename:
		if old, ok := r.files[op.To]; ok {
			r.space.cut(old, 0)
		}
		r.files[op.To] = r.files[op.Path]
		delete(r.files, op.Path)
	}
	r.ops = append(r.ops, op)
	return nil
}

func pathError(op, path string, err error) error {
	return &fs.PathError{Op: op, Path: path, Err: err}
}
