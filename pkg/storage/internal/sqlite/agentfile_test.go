package sqlite

import (
	"os"
	"path/filepath"
	"testing"
)

// agentFile is an agent's file with the test's own applier, and beside it the image
// that all commits together give.
type agentFile struct {
	path    string
	file    *os.File
	capture *Capture

	image   []byte // after all commits
	seq     uint64 // of the last commit taken
	pages   uint32 // of the file
	applied uint64
	queue   []fileCommit
}

type fileCommit struct {
	delta []byte
	pages uint32
	seq   uint64
}

func newAgentFile(t testing.TB) *agentFile {
	t.Helper()
	f := &agentFile{path: filepath.Join(t.TempDir(), "agent.db")}
	f.reopen(t)
	t.Cleanup(func() { f.file.Close() })
	return f
}

// reopen gives the file another descriptor and returns the one before.
func (f *agentFile) reopen(t testing.TB) (old *os.File) {
	t.Helper()
	old = f.file
	var err error
	if f.file, err = os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		t.Fatal(err)
	}
	return old
}

// open opens a capture over the file, which must hold all commits.
func (f *agentFile) open(t testing.TB, maxPages uint32) (*Conn, *Capture) {
	t.Helper()
	conn, capture, err := OpenCapture(CaptureOptions{FD: int(f.file.Fd()), Pages: f.pages, Seq: f.applied, MaxPages: maxPages}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	f.capture = capture
	t.Cleanup(func() {
		if err := conn.Close(false); err != nil {
			t.Error(err)
		}
	})
	return conn, capture
}

// take takes the delta of the last commit, if it has one, into image and queue.
func (f *agentFile) take(t testing.TB) (ok bool) {
	t.Helper()
	delta, pages, seq, ok := f.capture.Take(nil)
	if ok {
		f.seq++
		f.add(delta, pages, seq)
		var err error
		if f.image, err = replay(f.image, delta, pages); err != nil {
			t.Fatal(err)
		}
	}
	if seq != f.seq {
		t.Fatalf("commit has number %d, want %d", seq, f.seq)
	}
	return ok
}

func (f *agentFile) add(delta []byte, pages uint32, seq uint64) {
	f.queue = append(f.queue, fileCommit{append([]byte(nil), delta...), pages, seq})
}

func (f *agentFile) behind() int { return len(f.queue) }

// apply writes the oldest n commits (all, if negative) to the file, one run at a
// time, and tells the capture after the last.
func (f *agentFile) apply(t testing.TB, n int) {
	t.Helper()
	if n < 0 || n > len(f.queue) {
		n = len(f.queue)
	}
	for _, c := range f.queue[:n] {
		f.write(t, c)
	}
	f.queue = f.queue[n:]
	f.capture.Applied(f.applied, int(f.file.Fd()))
}

func (f *agentFile) write(t testing.TB, c fileCommit) {
	t.Helper()
	if c.pages < f.pages {
		if err := f.file.Truncate(int64(c.pages) * pageBytes); err != nil {
			t.Fatal(err)
		}
	}
	err := eachRun(c.delta, c.pages, func(at int64, bytes []byte) error {
		_, err := f.file.WriteAt(bytes, at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.pages > f.pages { // the last page is in the delta
		if info, err := f.file.Stat(); err != nil || info.Size() != int64(c.pages)*pageBytes {
			t.Fatalf("file has %d bytes after a commit with %d pages: %v", info.Size(), c.pages, err)
		}
	}
	f.pages, f.applied = c.pages, c.seq
}
