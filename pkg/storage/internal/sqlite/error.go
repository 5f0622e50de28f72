package sqlite

// #include "engine.h"
import "C"

import "fmt"

// Code is an (extended) result code of SQLite.
type Code int32

// Primary codes that callers tell apart.
const (
	Generic    Code = 1
	Internal   Code = 2
	Perm       Code = 3
	NoMem      Code = 7
	ReadOnly   Code = 8
	Interrupt  Code = 9
	IOErr      Code = 10
	Corrupt    Code = 11
	Full       Code = 13
	CantOpen   Code = 14
	TooBig     Code = 18
	Constraint Code = 19
	Mismatch   Code = 20
	Misuse     Code = 21
	Auth       Code = 23
	NotADB     Code = 26

	// IOErrFsync is the extended code of a sync that failed.
	IOErrFsync Code = 10 | 4<<8
)

// Primary is the code without its extension.
func (c Code) Primary() Code { return c & 0xff }

// Stop says what ended a statement that SQLite reports as interrupted.
type Stop int32

const (
	StopNone      Stop = C.AGENTD_STOP_NONE
	StopInterrupt Stop = C.AGENTD_STOP_INTERRUPT
	StopWritten   Stop = C.AGENTD_STOP_WRITTEN // Options.MaxWrittenPages
	StopMemory    Stop = C.AGENTD_STOP_MEMORY  // Options.MaxStatementMemory
)

// Error is what SQLite said.
type Error struct {
	Code   Code
	Stop   Stop
	Errno  int    // of the operating system; 0 if it was not involved
	Msg    string // SQLite's words
	Denied string // why the authorizer refused, if it did
}

func (e *Error) Error() string {
	if e.Denied != "" {
		return e.Denied
	}
	return fmt.Sprintf("%s (SQLite code %d)", e.Msg, e.Code)
}

func (c *Conn) errorOf(rc C.int) error {
	e := &Error{Code: Code(rc), Stop: Stop(c.c.stop), Denied: C.GoString(&c.c.denied[0])}
	if c.c.db == nil {
		e.Msg = "out of memory"
		return e
	}
	e.Msg = C.GoString(C.sqlite3_errmsg(c.c.db))
	switch e.Code.Primary() {
	case IOErr, CantOpen, Full:
		e.Errno = int(C.sqlite3_system_errno(c.c.db))
	}
	return e
}
