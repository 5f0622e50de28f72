package session

import (
	"errors"
	"fmt"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

const (
	maxSavepointDepth = 32
	maxTurnPages      = storage.MaxTurnBytes / PageBytes
)

// turn is the open transaction of a session; guarded by its lock.
type turn struct {
	open    bool  // BEGIN was run; read-only statements need none
	changed bool  // there is something to commit
	rows    int64 // the connection's count of changed rows when last looked at
	depth   int   // of savepoints
	lost    error // SQLite dropped the transaction after this; until Rollback or Commit
}

// beginLocked opens the transaction at the first statement that may write.
func (s *Session) beginLocked() error {
	if s.turn.open {
		return nil
	}
	conn := s.conn.Load()
	if err := s.stepOwnLocked("begin", "BEGIN", nil, nil); err != nil {
		return err
	}
	s.turn.open = true
	s.turn.rows = conn.TotalChanges()
	conn.MarkWritten()
	return nil
}

// steppedLocked looks at the transaction after a step: did it take the write lock or
// change rows, and did SQLite end it by itself (disk full, a write that was
// interrupted)? Then the turn cannot go on as if its first half were still there.
func (s *Session) steppedLocked(op string, err error) error {
	conn := s.conn.Load()
	if n := conn.TotalChanges(); n != s.turn.rows {
		s.turn.rows, s.turn.changed = n, true
	}
	if !s.announced && conn.Txn() == sqlite.TxnWrite {
		s.announceLocked()
	}
	if err == nil {
		return nil
	}
	err = s.fault(op, err)
	if !s.turn.open {
		return err
	}
	if agent.KindOf(err) == agent.TooLarge && conn.WrittenPages() > maxTurnPages && !conn.Autocommit() {
		err = errors.Join(err, s.fault(op, conn.Exec("ROLLBACK")))
	}
	if conn.Autocommit() {
		s.turn.open, s.turn.changed = false, false
		s.turn.lost = &agent.Error{Op: op, Agent: s.cfg.Agent, Kind: agent.KindOf(err), Err: err,
			Msg: "everything that this turn wrote was dropped"}
		return s.turn.lost
	}
	return err
}

// Savepoint runs fn and takes back what it wrote if it returns an error or panics;
// see storage.DB.
func (s *Session) Savepoint(fn func() error) error {
	undo, err := s.savepoint()
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned { // fn panicked; the panic goes on and is the louder error
			if err := undo(true); err != nil {
				s.cfg.Log.Error("savepoint cannot be taken back", "agent", s.cfg.Agent.Key(), "error", err)
			}
		}
	}()
	err = fn()
	returned = true
	if undoErr := undo(err != nil); undoErr != nil {
		return errors.Join(undoErr, err)
	}
	return err
}

// savepoint begins one and returns the function that ends it, taking back what was
// written or keeping it.
func (s *Session) savepoint() (end func(back bool) error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return nil, err
	}
	if s.turn.depth >= maxSavepointDepth {
		return nil, s.refuse(agent.SQL, "savepoints are nested more than %d deep", maxSavepointDepth)
	}
	conn, err := s.connectLocked()
	if err == nil {
		conn.ClearInterrupt()
		err = s.beginLocked()
	}
	if err != nil {
		return nil, err
	}
	if err := s.steppedLocked("savepoint", conn.Exec(fmt.Sprintf("SAVEPOINT agentd_%d", s.turn.depth))); err != nil {
		return nil, err
	}
	depth, changed, cursors := s.turn.depth, s.turn.changed, len(s.cursors)
	s.turn.depth++
	return func(back bool) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.turn.depth = depth
		if err := s.usableLocked(); err != nil {
			return err
		}
		if !back {
			return s.steppedLocked("savepoint", conn.Exec(fmt.Sprintf("RELEASE agentd_%d", depth)))
		}
		err := s.closeCursorsLocked(min(cursors, len(s.cursors)))
		err = errors.Join(err, s.steppedLocked("savepoint", conn.Exec(fmt.Sprintf("ROLLBACK TO agentd_%d; RELEASE agentd_%d", depth, depth))))
		if err == nil {
			s.turn.changed = changed
			s.statements.clear()
		}
		return err
	}, nil
}

// Rollback drops everything since the last commit; see storage.DB.
func (s *Session) Rollback() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.overLocked(); err != nil {
		return err
	}
	return s.rollbackLocked()
}

func (s *Session) rollbackLocked() error {
	s.turn.lost = nil
	conn := s.conn.Load()
	if conn == nil {
		return nil
	}
	for len(s.cursors) > 0 {
		c := s.cursors[len(s.cursors)-1]
		c.endLocked(&agent.Error{Op: "query", Agent: s.cfg.Agent, Kind: agent.SQL, Msg: "the transaction was rolled back"})
	}
	if !s.turn.open {
		return nil
	}
	s.turn = turn{depth: s.turn.depth, rows: s.turn.rows}
	s.statements.clear() // a schema change may have been taken back
	if conn.Autocommit() {
		return nil
	}
	return s.fault("rollback", conn.Exec("ROLLBACK"))
}
