package sqlite

// #include <stdlib.h>
// #include "engine.h"
// #include "capture.h"
import "C"

import (
	"sync"
	"unsafe"
)

// Mode says whose SQL a statement is.
type Mode int32

const (
	Platform Mode = C.AGENTD_PLATFORM // everything is allowed
	User     Mode = C.AGENTD_USER     // an agent's code: see authorizer.c
	Read     Mode = C.AGENTD_READ     // as User, and nothing may be written
)

// TxnState is how far the open transaction has come.
type TxnState int32

const (
	TxnNone  TxnState = iota // none, or one that has not touched the database
	TxnRead                  // a snapshot is held
	TxnWrite                 // the write lock is held
)

// Options of Open.
type Options struct {
	// Pages that one transaction may write to the log before it is stopped; 0 for no
	// limit. What is still in the page cache is not counted. A capture has
	// CaptureOptions.MaxPages beside it, which counts all.
	MaxWrittenPages int64
	// Bytes of memory that one statement may take for sorting and temporary tables;
	// 0 for no limit. Measured over the process, so a little imprecise.
	MaxStatementMemory int64
	// Bytes of one row, text or blob; 0 for SQLite's limit (1 GB).
	MaxValueBytes int
	ReadOnly      bool
	Create        bool
}

// Numbers of SQLite's interface.
const (
	openReadOnly  = 0x1
	openReadWrite = 0x2
	openCreate    = 0x4
	openNoMutex   = 0x8000
	openNoFollow  = 0x01000000
	openExtended  = 0x02000000 // extended result codes, also of the opening itself

	limitLength        = 0
	limitVdbeOp        = 5
	limitAttached      = 7
	limitLikePattern   = 8
	limitTriggerDepth  = 10
	limitWorkerThreads = 11

	maxTriggerDepth     = 10
	maxLikePatternBytes = 4096
	maxVdbeOps          = 100_000
)

// vfsNoLocks is SQLite's Unix file layer without POSIX locks: the data folder is
// locked as a whole, and the layer with locks keeps all open files in one list.
// vfsName is ours above it, see vfs.c.
const (
	vfsNoLocks = "unix-none"
	vfsName    = "agentd"
)

// Lookaside memory of a connection: 32 slots of 128 bytes instead of 40 KiB.
const (
	lookasideBytes = 128
	lookasideSlots = 32
)

// vfsText is vfsName for C, kept for the life of the process.
var vfsText *C.char

var initialize = sync.OnceValue(func() int {
	if rc := C.agentd_initialize(lookasideBytes, lookasideSlots); rc != 0 {
		return int(rc)
	}
	under := C.CString(vfsNoLocks)
	defer C.free(unsafe.Pointer(under))
	vfsText = C.CString(vfsName)
	if rc := C.agentd_register_vfs(under, vfsText); rc != 0 {
		return int(rc)
	}
	return int(C.agentd_capture_register(under))
})

// Conn is one connection. It belongs to one goroutine at a time; only Interrupt
// may be called from others.
type Conn struct {
	c       *C.agentd_conn // nil once closed; written under mu, read by the owner without
	capture *Capture       // its file; nil if that is one of the system

	mu sync.Mutex // guards c against Interrupt during Close; no SQLite call is made under it

	current *Stmt   // whose row is in c.row
	args    []value // scratch of Run
	data    []byte  // scratch of Run
}

// Open opens the database file at path, which should be absolute. The connection
// takes no file locks. A log appears with the first write.
func Open(path string, o Options) (*Conn, error) {
	if rc := initialize(); rc != 0 {
		return nil, &Error{Code: Code(rc), Msg: "SQLite cannot be initialised"}
	}
	flags := openNoMutex | openNoFollow | openReadWrite
	if o.ReadOnly {
		flags = openNoMutex | openNoFollow | openReadOnly
	}
	if o.Create {
		flags |= openCreate
	}
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var c *C.agentd_conn
	rc := C.agentd_open(name, C.int(flags), vfsText, &c)
	if c == nil {
		return nil, &Error{Code: NoMem, Msg: "out of memory"}
	}
	conn := &Conn{c: c}
	if rc != 0 {
		err := conn.errorOf(rc)
		C.agentd_close(c, 0)
		return nil, err
	}
	conn.limit(o)
	return conn, nil
}

// limit sets the limits of o and those that hold for every connection.
func (c *Conn) limit(o Options) {
	c.c.written_max = C.int64_t(o.MaxWrittenPages)
	c.c.memory_max = C.int64_t(o.MaxStatementMemory)
	if o.MaxValueBytes > 0 {
		C.agentd_limit(c.c, limitLength, C.int(o.MaxValueBytes))
	}
	C.agentd_limit(c.c, limitVdbeOp, maxVdbeOps)
	C.agentd_limit(c.c, limitAttached, 0)
	C.agentd_limit(c.c, limitLikePattern, maxLikePatternBytes)
	C.agentd_limit(c.c, limitTriggerDepth, maxTriggerDepth)
	C.agentd_limit(c.c, limitWorkerThreads, 0)
}

// Close frees the connection; its statements must be finalized. With checkpoint
// the log is first written back to the database, synced and removed. Closing twice
// is harmless.
func (c *Conn) Close(checkpoint bool) error {
	c.mu.Lock()
	raw := c.c
	c.c = nil
	c.mu.Unlock()
	if raw == nil {
		return nil
	}
	if c.capture != nil {
		c.capture.detach()
	}
	flag := C.int(0)
	if checkpoint {
		flag = 1
	}
	if rc := C.agentd_close(raw, flag); rc != 0 {
		return &Error{Code: Code(rc), Msg: "cannot close"}
	}
	return nil
}

// Interrupt stops the statement under way, or the next that runs before
// ClearInterrupt. Any goroutine.
func (c *Conn) Interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.c != nil {
		C.agentd_interrupt(c.c)
	}
}

// ClearInterrupt forgets an earlier Interrupt.
func (c *Conn) ClearInterrupt() { C.agentd_clear_interrupt(c.c) }

// Exec runs SQL of the platform that needs no arguments and gives no rows.
func (c *Conn) Exec(sql string) error {
	text := C.CString(sql)
	defer C.free(unsafe.Pointer(text))
	if rc := C.agentd_exec(c.c, text); rc != 0 {
		return c.errorOf(rc)
	}
	return nil
}

// Vacuum rebuilds the database without its free pages, in memory: it takes as much
// as the database is large. No transaction may be open.
func (c *Conn) Vacuum() error {
	C.agentd_limit(c.c, limitAttached, 1) // SQLite attaches the copy
	defer C.agentd_limit(c.c, limitAttached, 0)
	return c.Exec("VACUUM")
}

// Checkpoint writes the log back to the database as far as possible and syncs both.
func (c *Conn) Checkpoint() error {
	if rc := C.agentd_checkpoint(c.c); rc != 0 {
		return c.errorOf(rc)
	}
	return nil
}

// Autocommit says whether no transaction was open after the last step. SQLite ends
// a transaction by itself after some errors (disk full, interrupted write).
func (c *Conn) Autocommit() bool { return c.c.autocommit != 0 }

// Txn is the state of the transaction after the last step.
func (c *Conn) Txn() TxnState { return TxnState(c.c.txn) }

// WALFrames is the number of pages in the log after the last commit that wrote.
func (c *Conn) WALFrames() int { return int(c.c.wal_frames) }

// TotalChanges counts the rows changed since Open, as of the last step.
func (c *Conn) TotalChanges() int64 { return int64(c.c.total) }

// WrittenPages counts pages written since MarkWritten began a new transaction's
// count. What is still in the page cache is not counted, and on a capture each page
// counts once.
func (c *Conn) WrittenPages() int64 { return int64(C.agentd_written(c.c) - c.c.written_base) }

// MarkWritten begins the count of MaxWrittenPages for a new transaction.
func (c *Conn) MarkWritten() { c.c.written_base = C.agentd_written(c.c) }
