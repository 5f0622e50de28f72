package session

import (
	"agentd/pkg/agent"
	"agentd/pkg/storage/internal/sqlite"
)

// Writer runs the engine's own statements inside the transaction that Commit is
// about to end. It is valid within the function that got it.
type Writer struct{ s *Session }

// Exec runs one statement that gives no rows. It is kept for the next time, unless
// it changes the schema.
func (w Writer) Exec(sql string, args ...any) error {
	return w.s.stepOwnLocked("commit", sql, args, nil)
}

// Pages is the size of the database after the transaction, in pages of PageBytes.
func (w Writer) Pages() (int64, error) {
	return w.s.pagesLocked("commit")
}

// Commit ends the turn. When it changed something, or with force, own is called
// inside the transaction to write the engine's rows, under the session's lock, and
// then the transaction is committed. changed is false when there was nothing to
// commit; own was not called then. Rows that are still open end; within a Savepoint
// it is refused (kind Internal).
//
// After an error everything since the last commit is gone and the session is broken,
// unless own refused with kind StorageFull: then it can go on, to read. Kinds: SQL (a
// deferred constraint), TooLarge (over storage.MaxTurnBytes), StorageFull, Internal,
// and those of own.
func (s *Session) Commit(force bool, own func(Writer) error) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.overLocked(); err != nil {
		return false, err
	}
	refused := false
	changed, err = s.commitLocked(force, func(w Writer) error {
		err := own(w)
		refused = agent.KindOf(err) == agent.StorageFull && err != nil
		return err
	})
	if err == nil {
		return changed, nil
	}
	undo := s.rollbackLocked()
	if undo != nil {
		s.cfg.Log.Warn("rollback after a failed commit", "agent", s.cfg.Agent.Key(), "error", undo)
	}
	if !refused || undo != nil {
		s.Break(err)
	}
	return false, err
}

func (s *Session) commitLocked(force bool, own func(Writer) error) (changed bool, err error) {
	if s.turn.lost != nil {
		return false, s.turn.lost
	}
	if s.turn.depth > 0 {
		return false, s.refuse(agent.Internal, "commit inside a savepoint")
	}
	if err := s.closeCursorsLocked(0); err != nil {
		return false, err
	}
	write := s.turn.changed || force
	if !write && !s.turn.open {
		return false, nil
	}
	s.setDeaf(true)
	defer s.setDeaf(false)
	w := Writer{s}
	if !write {
		// It changed nothing that counts, and only has to end. COMMIT would write what a
		// savepoint took back: pages that are as they were, but for counters of SQLite's own.
		err = w.Exec("ROLLBACK")
		s.turn.open = err != nil
		return false, err
	}
	conn, err := s.connectLocked()
	if err == nil {
		err = s.beginLocked()
	}
	if err == nil {
		err = own(w)
	}
	if err == nil {
		err = s.brokenBy() // own may have waited
	}
	if err == nil && conn.WrittenPages() > maxTurnPages {
		err = s.refuse(agent.TooLarge, turnTooLarge)
	}
	if err == nil {
		err = w.Exec("COMMIT")
	}
	if err != nil {
		return false, err
	}
	s.turn.open, s.turn.changed = false, false
	return true, nil
}

func (s *Session) pagesLocked(op string) (int64, error) {
	var row [1]any
	err := s.stepOwnLocked(op, "PRAGMA page_count", nil, row[:])
	pages, _ := row[0].(int64)
	return pages, err
}

// stepOwnLocked makes one step of a statement of the platform itself, which is kept
// for the next time; row gets the columns of a statement that has a row.
func (s *Session) stepOwnLocked(op, sql string, args, row []any) error {
	key := statementKey{sqlite.Platform, sql}
	st := s.statements.take(key)
	if st == nil {
		stmt, _, err := s.conn.Load().Prepare(sqlite.Platform, sqlite.Terminated(sql))
		if err != nil {
			return s.fault(op, err)
		}
		st = newStatement(key, stmt, stmt.ReadOnly || !stmt.DDL) // the schema is not changed twice
	}
	has, err := st.Run(args)
	if has && err == nil && row != nil {
		err = st.Scan(row)
	}
	err = s.steppedLocked(op, err)
	st.Release()
	s.statements.give(st)
	return err
}
