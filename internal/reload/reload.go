// Package reload keeps a value that is made of files and makes it again when they
// change, so that certificates and tokens are rotated without a restart. It starts
// no goroutine and watches nothing: whoever asks for the value looks at the files,
// at most once a second. New files that cannot be used leave the old value in
// force and are reported.
package reload

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Interval is the least time between two looks at the files.
	Interval = time.Second
	// retry is when files that could not be used are tried and reported again although
	// they did not change: a certificate may have become valid.
	retry = time.Minute
	// settled is the age from which a file's time tells every later change. A younger
	// file may change again within one tick of the file system's clock.
	settled = 2 * time.Second
)

// Config says what the value is made of.
type Config[T any] struct {
	Paths []string // regular files, handed to Parse in this order
	Limit int64    // bytes, of each file
	// Parse makes the value. It must not keep the contents, and its errors name the
	// file.
	Parse func(contents [][]byte) (T, error)
	Now   func() time.Time
	// Report hears why new files are not used, once for each change and then once a
	// minute. It may be called from any goroutine that calls Get; nil drops it.
	Report func(error)
}

// Value is the newest usable value. All methods may be called from any goroutine.
type Value[T any] struct {
	cfg     Config[T]
	current atomic.Pointer[T]
	looked  atomic.Int64 // time of the last look, ns since 1970

	mu      sync.Mutex // held by the one that looks, also while it reads and parses; guards what follows
	seen    []fs.FileInfo
	sum     [sha256.Size]byte // of what was last read
	failed  bool              // it could not be used
	retryAt time.Time         // if failed: when to try the same contents again
	readAt  time.Time         // when to read although nothing seems to have changed; zero for never
}

// Open reads the files. Unlike later, files that cannot be used are an error.
func Open[T any](cfg Config[T]) (*Value[T], error) {
	v := &Value[T]{cfg: cfg}
	now := cfg.Now()
	v.looked.Store(now.UnixNano())
	if err := v.lookLocked(now); err != nil { // nobody else has v yet
		return nil, err
	}
	return v, nil
}

// Get is the value. One caller a second looks at the files, and reads them if they
// changed; the others get what is there.
func (v *Value[T]) Get() T {
	now := v.cfg.Now()
	if v.due(now) && v.mu.TryLock() {
		var err error
		if v.due(now) {
			v.looked.Store(now.UnixNano())
			err = v.lookLocked(now)
		}
		v.mu.Unlock()
		if err != nil && v.cfg.Report != nil {
			v.cfg.Report(err)
		}
	}
	return *v.current.Load()
}

// due is also true after the clock went back, or a look would not come for long.
func (v *Value[T]) due(now time.Time) bool {
	since := now.UnixNano() - v.looked.Load()
	return since < 0 || since >= int64(Interval)
}

// lookLocked makes the value again if the files changed. It returns why it could
// not; the value is then the old one.
func (v *Value[T]) lookLocked(now time.Time) error {
	infos := make([]fs.FileInfo, len(v.cfg.Paths))
	for i, path := range v.cfg.Paths {
		infos[i], _ = os.Stat(path) // nil if there is none; reading says so in words
	}
	if sameFiles(v.seen, infos) && (v.readAt.IsZero() || now.Before(v.readAt)) {
		return nil
	}
	contents, err := v.read(infos)
	sum := digest(contents, err)
	if known := v.seen != nil && sum == v.sum; !known || v.failed && !now.Before(v.retryAt) {
		if err == nil {
			err = v.parse(contents)
		}
		v.sum, v.failed, v.retryAt = sum, err != nil, now.Add(retry)
	} else {
		err = nil // it was reported
	}
	v.seen, v.readAt = infos, time.Time{}
	switch {
	case unsettled(infos, now):
		v.readAt = now
	case v.failed:
		v.readAt = v.retryAt
	}
	return err
}

func (v *Value[T]) parse(contents [][]byte) error {
	value, err := v.cfg.Parse(contents)
	if err == nil {
		v.current.Store(&value)
	}
	return err
}

func (v *Value[T]) read(infos []fs.FileInfo) ([][]byte, error) {
	contents := make([][]byte, len(infos))
	for i, path := range v.cfg.Paths {
		if infos[i] != nil && !infos[i].Mode().IsRegular() { // opening a pipe could block
			return nil, fmt.Errorf("%s is not a regular file", path)
		}
		var err error
		if contents[i], err = readFile(path, v.cfg.Limit); err != nil {
			return nil, err
		}
	}
	return contents, nil
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing can be lost
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, nil
}

// digest tells one outcome of a reading from another.
func digest(contents [][]byte, err error) [sha256.Size]byte {
	h := sha256.New()
	if err != nil {
		fmt.Fprintf(h, "error %v", err)
	}
	for _, c := range contents {
		fmt.Fprintf(h, "%d ", len(c))
		h.Write(c)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func sameFiles(a, b []fs.FileInfo) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] == nil || b[i] == nil {
			if a[i] != b[i] {
				return false
			}
			continue
		}
		if !os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) {
			return false
		}
	}
	return true
}

// unsettled says whether a file is so young that its time may not tell its next
// change. A clock behind that of the files only costs more reading.
func unsettled(infos []fs.FileInfo, now time.Time) bool {
	for _, info := range infos {
		if info != nil && now.Sub(info.ModTime()) < settled {
			return true
		}
	}
	return false
}
