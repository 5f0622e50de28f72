package apply

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// Handle is an agent's file, open as long as somebody holds it. Its exported methods
// may be called from any goroutine until Release.
type Handle struct {
	files *Files
	id    agent.ID
	path  string

	fd     atomic.Int32  // of file; -1 while there is none
	pages  atomic.Uint32 // of the database, as applied
	writes atomic.Uint64 // odd while a worker changes the file

	refs       int // guarded by Files.mu, as are the neighbours in the ring of idle handles
	prev, next *Handle

	mu      sync.Mutex // guards what follows: held while the file is opened, made, removed
	file    disk.File  // nil while there is none
	opened  bool       // whether there is one is known
	removed bool       // the file lost its name: the handle is of the past
	size    int64      // of file in bytes; -1 after a failed write, when it is unknown
}

// FD is the file's descriptor, valid until Release, for reading; -1 while the agent
// has no file.
func (h *Handle) FD() int { return int(h.fd.Load()) }

// Pages is the size of the file in whole pages: as it was found, then as applied.
func (h *Handle) Pages() uint32 { return h.pages.Load() }

// Path is where the file is, or would be.
func (h *Handle) Path() string { return h.path }

// Release gives the handle back; it must not be used afterwards.
func (h *Handle) Release() { h.files.release(h) }

// open opens the file if there is one. It is false for a handle of the past.
func (h *Handle) open() (usable bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.removed || h.opened {
		return !h.removed, nil
	}
	file, err := h.files.openFile(h.path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		h.opened = true
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if err := h.adoptLocked(file); err != nil {
		return false, err
	}
	return true, nil
}

// create makes the file if there is none. Workers only.
func (h *Handle) create() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file != nil {
		return nil
	}
	const flags = os.O_RDWR | os.O_CREATE
	file, err := h.files.openFile(h.path, flags)
	if errors.Is(err, fs.ErrNotExist) {
		if err = h.files.fs.MkdirAll(filepath.Dir(h.path)); err == nil {
			file, err = h.files.openFile(h.path, flags)
		}
	}
	if err != nil {
		return err
	}
	return h.adoptLocked(file)
}

func (h *Handle) adoptLocked(file disk.File) error {
	size, err := file.Size()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	h.file, h.opened, h.size = file, true, size
	h.pages.Store(uint32(min(size/record.PageBytes, record.MaxPages)))
	h.fd.Store(int32(file.Fd()))
	return nil
}

// begin makes the file if there is none and says that it changes from here on.
// Workers only.
func (h *Handle) begin() (file disk.File, size int64, err error) {
	if err := h.create(); err != nil {
		return nil, 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.size < 0 {
		if h.size, err = h.file.Size(); err != nil {
			return nil, 0, err
		}
	}
	size, h.size = h.size, -1
	h.writes.Add(1)
	return h.file, size, nil
}

// end says that the file has a size of so many pages now, or, with an error, that it
// is unknown what it has.
func (h *Handle) end(pages uint32, err error) {
	h.writes.Add(1)
	if err != nil {
		return
	}
	h.mu.Lock()
	h.size = int64(pages) * record.PageBytes
	h.mu.Unlock()
	h.pages.Store(pages)
}

func (h *Handle) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file == nil {
		return nil
	}
	file := h.file
	h.file, h.opened, h.removed = nil, false, true
	h.fd.Store(-1)
	return file.Close()
}
