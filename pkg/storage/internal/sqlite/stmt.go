package sqlite

// #include "engine.h"
import "C"

import (
	"math"
	"unsafe"
)

const (
	codeRow  = 100
	codeDone = 101
)

// Stmt is a prepared statement of one connection and belongs to its goroutine.
type Stmt struct {
	conn *Conn
	s    *C.sqlite3_stmt // nil once finalized
	mode Mode

	Columns  int
	Params   int
	ReadOnly bool // cannot change the database
	DDL      bool // does more than read rows and change rows: schema, pragma
	Alters   bool // holds ALTER TABLE
	Memory   int  // bytes that SQLite holds for it

	names []string // of the columns; nil until asked
}

// Terminated copies sql and ends it with a NUL, so that a script can be prepared
// statement by statement without copies. SQL with a NUL inside ends there.
func Terminated(sql string) []byte {
	text := make([]byte, len(sql)+1)
	copy(text, sql)
	return text
}

// Prepare compiles the first statement of text (from Terminated) and returns how
// many bytes it took. stmt is nil if text holds only blanks and comments.
func (c *Conn) Prepare(mode Mode, text []byte) (stmt *Stmt, used int, err error) {
	if len(text) == 0 || text[len(text)-1] != 0 {
		return nil, 0, &Error{Code: Misuse, Msg: "statement text is not terminated"}
	}
	if len(text) > math.MaxInt32 {
		return nil, 0, &Error{Code: TooBig, Msg: "statement too long"}
	}
	var out C.agentd_prepared
	rc := C.agentd_prepare(c.c, C.int(mode), (*C.char)(unsafe.Pointer(&text[0])), C.int(len(text)), &out)
	if rc != 0 {
		return nil, 0, c.errorOf(rc)
	}
	if out.stmt == nil {
		return nil, int(out.tail), nil
	}
	return &Stmt{conn: c, s: out.stmt, mode: mode, Columns: int(out.ncol), Params: int(out.nparam),
		ReadOnly: out.readonly != 0, DDL: out.ddl != 0, Alters: out.alters != 0, Memory: int(out.memory)}, int(out.tail), nil
}

// Finalize frees the statement. Twice is harmless.
func (s *Stmt) Finalize() {
	if s.s != nil {
		C.sqlite3_finalize(s.s)
		s.s = nil
	}
}

// Names are the columns' names. A change of the schema may change them: ask after
// the first step.
func (s *Stmt) Names() []string {
	if n := int(C.sqlite3_column_count(s.s)); s.names == nil || len(s.names) != n {
		s.names = make([]string, n)
		for i := range s.names {
			s.names[i] = C.GoString(C.sqlite3_column_name(s.s, C.int(i)))
		}
		s.Columns = n
	}
	return s.names
}

// Run binds args (nil, bool, int, int64, float64, string, []byte) and makes the
// first step. row says whether there is a row to Scan.
func (s *Stmt) Run(args []any) (row bool, err error) {
	c := s.conn
	if err := c.pack(args); err != nil {
		return false, err
	}
	rc := C.agentd_run(c.c, s.s, C.int(s.mode), (*C.agentd_value)(unsafe.Pointer(unsafe.SliceData(c.args))), C.int(len(c.args)), (*C.char)(unsafe.Pointer(unsafe.SliceData(c.data))))
	if cap(c.data) > maxScratchBytes {
		c.data = nil
	}
	return s.stepped(rc)
}

// maxScratchBytes is what a connection keeps of its argument buffer between calls.
const maxScratchBytes = 4 << 10

// Next makes a further step.
func (s *Stmt) Next() (row bool, err error) {
	return s.stepped(C.agentd_next(s.conn.c, s.s, C.int(s.mode)))
}

func (s *Stmt) stepped(rc C.int) (bool, error) {
	s.conn.current = nil
	switch rc {
	case codeRow:
		s.conn.current = s
		return true, nil
	case codeDone:
		return false, nil
	}
	return false, s.conn.errorOf(rc)
}

// Scan copies the statement's current row into dst: nil, int64, float64, string or
// []byte.
func (s *Stmt) Scan(dst []any) error {
	if s.conn.current != s { // another statement stepped in between
		if rc := C.agentd_export(s.conn.c, s.s); rc != codeRow {
			return s.conn.errorOf(rc)
		}
		s.conn.current = s
	}
	s.conn.scan(dst)
	return nil
}

// Release makes the statement ready for another Run and forgets its arguments.
func (s *Stmt) Release() { C.agentd_release(s.s) }

// Changes is the number of rows changed by the statement that ended last.
func (c *Conn) Changes() int64 { return int64(c.c.changes) }

// Complete says whether SQLite takes sql for a complete statement, judging by its
// tokens alone.
func Complete(sql string) bool {
	text := Terminated(sql)
	return C.sqlite3_complete((*C.char)(unsafe.Pointer(&text[0]))) != 0
}
