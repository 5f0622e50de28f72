package sqlite

// #include <stdlib.h>
// #include "engine.h"
// #include "capture.h"
import "C"

import (
	"sync"
	"unsafe"
)

// CaptureOptions says over which file a capture begins.
type CaptureOptions struct {
	// FD is the agent's file, for reading; -1 while there is none. The capture neither
	// writes nor closes it; whoever wants to close it calls Applied with another, or
	// closes the connection, first.
	FD int
	// Pages of the database in that file, 0 for none. The file is exactly that long.
	Pages uint32
	// Seq is the number of the last commit in that file.
	Seq uint64
	// MaxPages is how many pages one transaction may change, 0 for no limit. One more
	// fails it with Full and StopWritten.
	MaxPages uint32
}

// Capture is the file of one connection as SQLite sees it: what it commits lies in
// memory, over the agent's file, until Applied says that the file holds it too. See
// DESIGN.md.
type Capture struct {
	mu sync.Mutex // guards c against the end of the connection
	c  *C.agentd_capture
}

// OpenCapture opens a connection whose file is a capture. Conn.Close ends both. The
// database is in memory from SQLite's point of view, except for what it reads: it
// needs no checkpoints, and there is no way to it by name.
func OpenCapture(co CaptureOptions, o Options) (*Conn, *Capture, error) {
	if rc := initialize(); rc != 0 {
		return nil, nil, &Error{Code: Code(rc), Msg: "SQLite cannot be initialised"}
	}
	raw := C.agentd_capture_new(C.int(co.FD), C.uint32_t(co.Pages), C.uint64_t(co.Seq), C.uint32_t(co.MaxPages))
	if raw == nil {
		return nil, nil, &Error{Code: NoMem, Msg: "out of memory"}
	}
	var c *C.agentd_conn
	rc := C.agentd_open_capture(raw, openNoMutex|openExtended|openReadWrite|openCreate, &c)
	if c == nil {
		C.agentd_capture_free(raw)
		return nil, nil, &Error{Code: NoMem, Msg: "out of memory"}
	}
	conn := &Conn{c: c, capture: &Capture{c: raw}}
	if rc != 0 {
		err := conn.errorOf(rc)
		_ = conn.Close(false)
		return nil, nil, err
	}
	conn.limit(o)
	return conn, conn.capture, nil
}

// Take appends the delta of the last commit to dst, in the format of record.Delta.
// pages is the size of the database and seq the number of the commit. ok is false if
// there was nothing to commit; seq is then that of the commit before. Owner's goroutine, after each
// COMMIT: while a delta waits, the next transaction that writes fails.
func (c *Capture) Take(dst []byte) (delta []byte, pages uint32, seq uint64, ok bool) {
	raw := c.c // the owner's goroutine also closes: no lock
	if raw == nil {
		return dst, 0, 0, false
	}
	if ok = raw.delta.waits != 0; ok {
		dst = append(dst, unsafe.Slice((*byte)(unsafe.Pointer(raw.delta.data)), int(raw.delta.size))...)
		C.agentd_capture_taken(raw)
	}
	return dst, uint32(raw.pages), uint64(raw.seq), ok
}

// Applied says that the agent's file, which can be read at fd, holds all commits up to
// seq; what the overlay holds of them is dropped. When it returns, no earlier
// descriptor is in use. Numbers must not go back; a smaller one is ignored. Any
// goroutine; nothing happens after the end of the connection.
func (c *Capture) Applied(seq uint64, fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		C.agentd_capture_applied(c.c, C.uint64_t(seq), C.int(fd))
	}
}

// PendingBytes is the memory that committed pages take until they are applied. Any
// goroutine.
func (c *Capture) PendingBytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c == nil {
		return 0
	}
	return int64(C.agentd_capture_pending(c.c))
}

// pageBytes is the size of a page, as record.PageBytes.
const pageBytes = C.PAGE_BYTES

// detach has Applied and the others find nothing from now on.
func (c *Capture) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c = nil
}
