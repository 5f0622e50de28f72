package apply

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"agentd/internal/disk"
	"agentd/pkg/agent"
)

// Files are the agents' database files under one folder: ab/cd/HASH.db, the hash that
// of the agent's key, because names of agents are longer and freer than names of
// files. Folders are made when a file needs them. Nothing is synced here.
//
// Methods may be called from any goroutine; only workers of the Applier create,
// change or remove files.
type Files struct {
	fs     disk.FS
	dir    string
	spares int // handles without a reference that are kept

	// mu guards what follows, and refs, prev and next of every handle. No I/O happens
	// under it. Lock order: Handle.mu, mu.
	mu       sync.Mutex
	handles  map[agent.ID]*Handle
	idle     Handle // anchor of the ring of handles without a reference, oldest first
	idleLen  int
	closed   bool
	closeErr error // the first of a handle that was let go
}

// OpenFiles makes the folder if it is missing. maxHandles bounds the files that are
// kept open although nobody holds them; those that are held come on top.
func OpenFiles(fsys disk.FS, dir string, maxHandles int) (*Files, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, fileError("open agents' files", agent.ID{}, dir, err)
	}
	if _, err := fsys.ReadDir(dir); err != nil { // refused now rather than agent by agent
		return nil, fileError("open agents' files", agent.ID{}, dir, err)
	}
	f := &Files{fs: fsys, dir: dir, spares: max(0, maxHandles), handles: make(map[agent.ID]*Handle)}
	f.idle.prev, f.idle.next = &f.idle, &f.idle
	return f, nil
}

const suffix = ".db"

// Path is where the agent's file is, or would be.
func (f *Files) Path(id agent.ID) string {
	sum := sha256.Sum256([]byte(id.Key()))
	name := hex.EncodeToString(sum[:20])
	return filepath.Join(f.dir, name[:2], name[2:4], name+suffix)
}

// Acquire gives a handle of the agent's file, to be released. The file is opened if
// it exists. All holders at a time share one handle. Errors: Overloaded (too many
// open files), Denied, Unavailable (closed), Internal.
func (f *Files) Acquire(id agent.ID) (*Handle, error) {
	for {
		h, err := f.hold(id)
		if err != nil {
			return nil, err
		}
		usable, err := h.open()
		if usable {
			return h, nil
		}
		h.Release()
		if err != nil {
			return nil, fileError("open database file", id, h.path, err)
		}
	}
}

// hold references the agent's handle, without opening it.
func (f *Files) hold(id agent.ID) (*Handle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, &agent.Error{Op: "open database file", Agent: id, Kind: agent.Unavailable, Msg: "the store is closed"}
	}
	h := f.handles[id]
	if h == nil {
		h = &Handle{files: f, id: id, path: f.Path(id)}
		h.fd.Store(-1)
		f.handles[id] = h
	} else if h.refs == 0 {
		f.unlinkLocked(h)
	}
	h.refs++
	return h, nil
}

// release takes back a reference. Handles that nobody holds stay open, the youngest
// f.spares of them.
func (f *Files) release(h *Handle) {
	f.mu.Lock()
	h.refs--
	var goes *Handle
	switch {
	case h.refs > 0:
	case f.handles[h.id] != h: // its file was removed
		goes = h
	default:
		h.prev, h.next = f.idle.prev, &f.idle
		h.prev.next, h.next.prev = h, h
		f.idleLen++
		if f.idleLen > f.spares || f.closed {
			goes = f.dropOldestLocked()
		}
	}
	f.mu.Unlock()
	f.let(goes)
}

// openFile makes do with the file descriptors that there are.
func (f *Files) openFile(path string, flags int) (disk.File, error) {
	file, err := f.fs.Open(path, flags)
	if outOfDescriptors(err) && f.shed() {
		return f.fs.Open(path, flags)
	}
	return file, err
}

// shed closes half of the handles that nobody holds, at least one; false if there
// are none.
func (f *Files) shed() bool {
	var goes []*Handle
	f.mu.Lock()
	for range (f.idleLen + 1) / 2 {
		goes = append(goes, f.dropOldestLocked())
	}
	f.mu.Unlock()
	for _, h := range goes {
		f.let(h)
	}
	return len(goes) > 0
}

func (f *Files) unlinkLocked(h *Handle) {
	h.prev.next, h.next.prev = h.next, h.prev
	h.prev, h.next = nil, nil
	f.idleLen--
}

func (f *Files) dropOldestLocked() *Handle {
	h := f.idle.next
	f.unlinkLocked(h)
	delete(f.handles, h.id)
	return h
}

// let closes a handle that nobody can reach any more; nil is none.
func (f *Files) let(h *Handle) {
	if h == nil {
		return
	}
	if err := h.close(); err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.closeErr == nil {
			f.closeErr = fileError("close database file", h.id, h.path, err)
		}
	}
}

// remove deletes the agent's file; one that does not exist is fine. Who holds its
// handle can go on reading from it, and every later Acquire begins with no file.
func (f *Files) remove(id agent.ID) error {
	h, err := f.hold(id)
	if err != nil {
		return err
	}
	defer h.Release()
	// Whoever acquires the handle meanwhile waits for mu and then tries again: were the
	// path opened before it is gone, later commits would go into a file without a name.
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := f.fs.Remove(h.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	h.removed = true
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handles[id] == h {
		delete(f.handles, id)
	}
	return nil
}

// Open is the number of handles: those held, and spare ones.
func (f *Files) Open() (held, spare int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.handles) - f.idleLen, f.idleLen
}

// Walk calls fn with the path of every agent's file, in order of their hashes, until
// fn fails. Other files in the folder are passed over.
func (f *Files) Walk(ctx context.Context, fn func(path string) error) error {
	return f.walk(ctx, f.dir, 0, fn)
}

// walk goes down the two levels of folders.
func (f *Files) walk(ctx context.Context, dir string, level int, fn func(path string) error) error {
	entries, err := f.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fileError("list database files", agent.ID{}, dir, err)
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return agent.FromContext(ctx, "list database files", agent.ID{})
		}
		path := filepath.Join(dir, e.Name())
		switch {
		case level < 2 && e.IsDir() && len(e.Name()) == 2:
			err = f.walk(ctx, path, level+1, fn)
		case level == 2 && e.Type().IsRegular() && strings.HasSuffix(e.Name(), suffix):
			err = fn(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Close closes what nobody holds; what is held is closed with its last release.
func (f *Files) Close() error {
	f.mu.Lock()
	f.closed = true
	var goes []*Handle
	for f.idleLen > 0 {
		goes = append(goes, f.dropOldestLocked())
	}
	f.mu.Unlock()
	for _, h := range goes {
		f.let(h)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closeErr
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

// fileError classifies an error of the file system.
func fileError(op string, id agent.ID, path string, err error) error {
	e := &agent.Error{Op: op, Agent: id, Kind: agent.Internal, Msg: path, Err: err}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e.Kind, e.Msg = agent.StorageFull, fmt.Sprintf("no space for %s: free some", path)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		e.Kind, e.Msg = agent.Denied, fmt.Sprintf("%s cannot be written: change its owner or mode", path)
	case outOfDescriptors(err):
		e.Kind, e.Msg = agent.Overloaded, "too many files are open: raise the limit of file descriptors, or lower that of open databases"
	}
	return e
}
