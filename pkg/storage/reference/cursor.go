package reference

import (
	"errors"
	"io"
	"slices"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// cursor is the engine's side of storage.Rows. Its fields are guarded by db.mu.
type cursor struct {
	db      *database
	key     statementKey
	stmt    *sqlite.Stmt // nil once ended
	keep    bool         // the statement may go to the cache
	fresh   bool         // the row of the first step was not read yet
	err     error        // of the step that ended it
	changes int64
}

// rowsLocked wraps a statement after its first step.
func (db *database) rowsLocked(c *cursor, row bool) *storage.Rows {
	rows := &storage.Rows{Columns: c.stmt.Names(), NextFunc: c.next, CloseFunc: c.close,
		Changes: func() int64 { return c.changes }}
	if !row {
		c.endLocked(nil)
		return rows
	}
	c.fresh = true
	db.cursors = append(db.cursors, c)
	return rows
}

// stepLocked takes the result of a step of the statement and notes what it did to
// the transaction. A change of the schema has no rows to count; one that found
// nothing to do (CREATE … IF NOT EXISTS) has not taken the write lock.
func (c *cursor) stepLocked(row bool, err error) (bool, error) {
	db := c.db
	if err = db.steppedLocked("query", err); err != nil {
		return false, err
	}
	if c.stmt.DDL && !c.stmt.ReadOnly && db.conn.Load().Txn() == sqlite.TxnWrite {
		db.turn.changed = true
		db.statements.clear() // names of columns may have changed
	}
	return row, nil
}

func (c *cursor) next(dst []storage.Value) error {
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	if c.stmt == nil {
		if c.err != nil {
			return c.err
		}
		return io.EOF
	}
	if !c.fresh {
		row, err := c.stepLocked(c.stmt.Next())
		if err != nil {
			c.endLocked(err)
			return err
		}
		if !row {
			c.endLocked(nil)
			return io.EOF
		}
	}
	c.fresh = false
	return c.db.fault("query", c.stmt.Scan(dst))
}

func (c *cursor) close() error {
	c.db.mu.Lock()
	defer c.db.mu.Unlock()
	return c.finishLocked()
}

// finishLocked lets a statement that changes rows come to its end, so that its
// count is right, and frees any other.
func (c *cursor) finishLocked() error {
	if c.stmt == nil {
		return nil
	}
	var err error
	for row := !c.stmt.ReadOnly; row && err == nil; {
		row, err = c.stepLocked(c.stmt.Next())
	}
	c.endLocked(err)
	return err
}

// endLocked frees the statement. Reads after it give err, or the end.
func (c *cursor) endLocked(err error) {
	c.err = err
	if !c.stmt.ReadOnly && err == nil {
		c.changes = c.db.conn.Load().Changes()
	}
	c.stmt.Release()
	if c.keep && err == nil {
		c.db.statements.put(c.key, c.stmt)
	} else {
		c.stmt.Finalize()
	}
	c.stmt = nil
	if i := slices.Index(c.db.cursors, c); i >= 0 {
		c.db.cursors = slices.Delete(c.db.cursors, i, i+1)
	}
}

// closeCursorsLocked ends the rows opened since there were keep of them; whoever
// reads on is told why.
func (db *database) closeCursorsLocked(keep int) error {
	var errs []error
	for len(db.cursors) > keep {
		c := db.cursors[len(db.cursors)-1]
		errs = append(errs, c.finishLocked())
		c.err = &agent.Error{Op: "query", Agent: db.id, Kind: agent.SQL,
			Msg: "the rows were still open when their transaction ended: read them to the end within the turn"}
	}
	return errors.Join(errs...)
}
