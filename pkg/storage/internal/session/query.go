package session

import (
	"io"
	"strings"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// maxScriptBytes bounds SQL of several statements.
const maxScriptBytes = 16 << 20

// Query runs SQL of mode's author; see storage.DB. Errors are of the kinds that
// storage.DB names, and Create's.
func (s *Session) Query(mode sqlite.Mode, query string, args []storage.Value) (*storage.Rows, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return nil, err
	}
	if mode != sqlite.Platform && len(args) > storage.MaxParameters {
		return nil, s.refuse(agent.SQL, "%d arguments were given; at most %d are allowed", len(args), storage.MaxParameters)
	}
	if mode != sqlite.Read && s.conn.Load() == nil {
		s.announceLocked() // it will be needed soon, and may take as long as making the file
	}
	conn, err := s.connectLocked()
	if err != nil {
		return nil, err
	}
	conn.ClearInterrupt()
	key := statementKey{mode, query}
	if st := s.statements.take(key); st != nil {
		return s.runLocked(st, args)
	}
	return s.scriptLocked(conn, key, args)
}

// scriptLocked compiles and runs one statement after the other, for a later one may
// need what an earlier one created. The last one gets the arguments.
func (s *Session) scriptLocked(conn *sqlite.Conn, key statementKey, args []storage.Value) (*storage.Rows, error) {
	if len(key.query) > maxScriptBytes {
		return nil, s.refuse(agent.TooLarge, "the SQL has %d bytes; at most %d are allowed", len(key.query), maxScriptBytes)
	}
	if strings.IndexByte(key.query, 0) >= 0 {
		return nil, s.refuse(agent.SQL, "the SQL holds a NUL byte; bind such text as an argument")
	}
	text := sqlite.Terminated(key.query)
	if sqlite.Blank(text) {
		return nil, s.refuse(agent.SQL, "the SQL holds no statement")
	}
	for single := true; ; single = false {
		stmt, used, err := conn.Prepare(key.mode, text)
		if err != nil {
			return nil, s.fault("query", err)
		}
		if stmt == nil {
			return nil, s.refuse(agent.SQL, "the SQL holds no statement after a semicolon")
		}
		if err := s.admit(key.mode, stmt, text[:used]); err != nil {
			stmt.Finalize()
			return nil, err
		}
		text = text[used:]
		if sqlite.Blank(text) {
			return s.runLocked(newStatement(key, stmt, single), args)
		}
		if err := s.exhaustLocked(newStatement(key, stmt, false)); err != nil {
			return nil, err
		}
	}
}

// admit checks the rules that need the compiled statement; the authorizer has
// checked those about names.
func (s *Session) admit(mode sqlite.Mode, stmt *sqlite.Stmt, text []byte) error {
	switch {
	case mode == sqlite.Platform:
		return nil
	case len(text) > storage.MaxStatementBytes:
		return s.refuse(agent.SQL, "a statement has %d bytes; at most %d are allowed: bind long values as arguments", len(text), storage.MaxStatementBytes)
	case stmt.Params > storage.MaxParameters:
		return s.refuse(agent.SQL, "a statement has %d parameters; at most %d are allowed", stmt.Params, storage.MaxParameters)
	case mode == sqlite.Read && !stmt.ReadOnly:
		return s.refuse(agent.SQL, "the statement would write, and only reading is allowed here")
	case stmt.Alters && strings.Contains(strings.ToLower(string(text)), "agentd_"):
		return s.refuse(agent.SQL, "names that begin with agentd_ are reserved for the platform")
	}
	return nil
}

// runLocked starts a statement and hands out its rows. It owns st.
func (s *Session) runLocked(st *statement, args []storage.Value) (*storage.Rows, error) {
	row, err := s.startLocked(st, args)
	if err != nil {
		return nil, err
	}
	if row {
		return s.openLocked(st), nil
	}
	rows := &storage.Rows{Columns: noColumns, NextFunc: noRow, CloseFunc: nothing}
	if st.Columns > 0 {
		rows.Columns = st.Names()
	}
	changes := s.endLocked(st, nil)
	rows.Changes = func() int64 { return changes }
	return rows, nil
}

// What a statement that has ended has to read.
var noColumns = []string{}

func noRow([]storage.Value) error { return io.EOF }
func nothing() error              { return nil }

// exhaustLocked runs a statement of a script whose rows nobody reads to its end, for
// a SELECT may fail at any row. It owns st.
func (s *Session) exhaustLocked(st *statement) error {
	row, err := s.startLocked(st, nil)
	if err != nil {
		return err
	}
	for row && err == nil {
		row, err = s.stepLocked(st)
	}
	s.endLocked(st, err)
	return err
}

// startLocked binds the arguments and makes the first step. After an error the
// statement has ended.
func (s *Session) startLocked(st *statement, args []storage.Value) (row bool, err error) {
	if len(args) != st.Params {
		s.endLocked(st, nil)
		return false, s.refuse(agent.SQL, "the statement has %d parameters but %d arguments were given", st.Params, len(args))
	}
	if !st.ReadOnly || st.DDL {
		if err := s.beginLocked(); err != nil {
			s.endLocked(st, nil)
			return false, err
		}
	}
	row, err = st.Run(args)
	if err = s.afterStepLocked(st, err); err != nil {
		s.endLocked(st, err)
		return false, err
	}
	return row, nil
}

// stepLocked makes a further step.
func (s *Session) stepLocked(st *statement) (row bool, err error) {
	row, err = st.Next()
	if err = s.afterStepLocked(st, err); err != nil {
		return false, err
	}
	return row, nil
}

// afterStepLocked notes what a step did to the transaction. A change of the schema
// has no rows to count; one that found nothing to do (CREATE … IF NOT EXISTS) has
// not taken the write lock.
func (s *Session) afterStepLocked(st *statement, err error) error {
	if err = s.steppedLocked("query", err); err != nil {
		return err
	}
	if st.DDL && !st.ReadOnly && s.conn.Load().Txn() == sqlite.TxnWrite {
		s.turn.changed = true
		s.statements.clear() // names of columns may have changed
	}
	return nil
}

// endLocked takes leave of a statement after its last step, of which err is the
// outcome, and says how many rows it changed.
func (s *Session) endLocked(st *statement, err error) (changes int64) {
	if !st.ReadOnly && err == nil {
		changes = s.conn.Load().Changes()
	}
	st.Release()
	s.statements.give(st)
	return changes
}
