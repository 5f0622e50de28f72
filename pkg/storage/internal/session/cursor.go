package session

import (
	"errors"
	"io"
	"slices"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// cursor is the session's side of storage.Rows with a row to read. Its fields are
// guarded by the session's lock.
type cursor struct {
	s       *Session
	st      *statement // nil once ended
	fresh   bool       // the row of the first step was not read yet
	err     error      // of the step that ended it
	changes int64
	rows    storage.Rows
}

// openLocked hands out the rows of a statement whose first step gave one.
func (s *Session) openLocked(st *statement) *storage.Rows {
	c := &cursor{s: s, st: st, fresh: true}
	c.rows = storage.Rows{Columns: st.Names(), NextFunc: c.next, CloseFunc: c.close, Changes: c.changed}
	s.cursors = append(s.cursors, c)
	return &c.rows
}

func (c *cursor) changed() int64 { return c.changes }

func (c *cursor) next(dst []storage.Value) error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.st == nil {
		if c.err != nil {
			return c.err
		}
		return io.EOF
	}
	if err := c.s.brokenBy(); err != nil {
		return err
	}
	if !c.fresh {
		row, err := c.s.stepLocked(c.st)
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
	return c.s.fault("query", c.st.Scan(dst))
}

func (c *cursor) close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.finishLocked()
}

// finishLocked lets a statement that changes rows come to its end, so that its
// count is right, and frees any other.
func (c *cursor) finishLocked() error {
	if c.st == nil {
		return nil
	}
	var err error
	for row := !c.st.ReadOnly; row && err == nil; {
		row, err = c.s.stepLocked(c.st)
	}
	c.endLocked(err)
	return err
}

// endLocked gives the statement back. Reads after it give err, or the end.
func (c *cursor) endLocked(err error) {
	c.err = err
	c.changes = c.s.endLocked(c.st, err)
	c.st = nil
	if i := slices.Index(c.s.cursors, c); i >= 0 {
		c.s.cursors = slices.Delete(c.s.cursors, i, i+1)
	}
}

// closeCursorsLocked ends the rows opened since there were keep of them; whoever
// reads on is told why.
func (s *Session) closeCursorsLocked(keep int) error {
	var errs []error
	for len(s.cursors) > keep {
		c := s.cursors[len(s.cursors)-1]
		errs = append(errs, c.finishLocked())
		c.err = &agent.Error{Op: "query", Agent: s.cfg.Agent, Kind: agent.SQL,
			Msg: "the rows were still open when their transaction ended: read them to the end within the turn"}
	}
	return errors.Join(errs...)
}
