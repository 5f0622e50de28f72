package reference

import (
	"errors"
	"fmt"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

const (
	maxSavepointDepth = 32
	// checkpointFrames is the length of the log, in pages, at which a commit writes it
	// back: 2 MiB keep that stall to a few milliseconds.
	checkpointFrames = 512
	walHeaderBytes   = 32
	walFrameBytes    = pageBytes + 24
)

// turn is the open transaction of a database; guarded by database.mu.
type turn struct {
	open    bool  // BEGIN was run; read-only statements need none
	changed bool  // there is something to commit
	rows    int64 // the connection's count of changed rows when last looked at
	depth   int   // of savepoints
	lost    error // SQLite dropped the transaction after this; until Rollback or Commit
}

// beginLocked opens the transaction at the first statement that may write.
func (db *database) beginLocked() error {
	if db.turn.open {
		return nil
	}
	conn := db.conn.Load()
	if err := db.runOwnLocked(conn, "BEGIN"); err != nil {
		return err
	}
	db.turn.open = true
	db.turn.rows = conn.TotalChanges()
	conn.MarkWritten()
	return nil
}

// steppedLocked looks at the transaction after a step: did it change rows, and did
// SQLite end it by itself (disk full, a write that was interrupted)? Then the turn
// cannot go on as if its first half were still there. The first step that takes the
// write lock has the catalog begin to note that the agent is live.
func (db *database) steppedLocked(op string, err error) error {
	conn := db.conn.Load()
	if n := conn.TotalChanges(); n != db.turn.rows {
		db.turn.rows, db.turn.changed = n, true
	}
	if !db.marked && conn.Txn() == sqlite.TxnWrite {
		db.markLocked()
	}
	if err == nil {
		return nil
	}
	err = db.fault(op, err)
	if !db.turn.open {
		return err
	}
	if agent.KindOf(err) == agent.TooLarge && conn.WrittenPages() > storage.MaxTurnBytes/pageBytes && !conn.Autocommit() {
		err = errors.Join(err, db.fault(op, conn.Exec("ROLLBACK")))
	}
	if conn.Autocommit() {
		db.turn.open, db.turn.changed = false, false
		db.turn.lost = &agent.Error{Op: op, Agent: db.id, Kind: agent.KindOf(err), Err: err,
			Msg: "everything that this turn wrote was dropped"}
		return db.turn.lost
	}
	return err
}

// markLocked asks for the catalog's note once per life; a commit waits for it.
func (db *database) markLocked() {
	db.marked = true
	db.store.catalog.mark(db.life)
}

func (db *database) Savepoint(fn func() error) error {
	undo, err := db.savepoint()
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned { // fn panicked; the panic goes on and is the louder error
			if err := undo(true); err != nil {
				db.store.log.Error("savepoint cannot be taken back", "agent", db.id.Key(), "error", err)
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
func (db *database) savepoint() (end func(back bool) error, err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.usableLocked(); err != nil {
		return nil, err
	}
	if db.turn.depth >= maxSavepointDepth {
		return nil, db.refuse(agent.SQL, "savepoints are nested more than %d deep", maxSavepointDepth)
	}
	conn, err := db.connectLocked()
	if err == nil {
		err = db.beginLocked()
	}
	if err != nil {
		return nil, err
	}
	if err := db.steppedLocked("savepoint", conn.Exec(fmt.Sprintf("SAVEPOINT agentd_%d", db.turn.depth))); err != nil {
		return nil, err
	}
	depth, changed, cursors := db.turn.depth, db.turn.changed, len(db.cursors)
	db.turn.depth++
	return func(back bool) error {
		db.mu.Lock()
		defer db.mu.Unlock()
		db.turn.depth = depth
		if err := db.usableLocked(); err != nil {
			return err
		}
		if !back {
			return db.steppedLocked("savepoint", conn.Exec(fmt.Sprintf("RELEASE agentd_%d", depth)))
		}
		err := db.closeCursorsLocked(min(cursors, len(db.cursors)))
		err = errors.Join(err, db.steppedLocked("savepoint", conn.Exec(fmt.Sprintf("ROLLBACK TO agentd_%d; RELEASE agentd_%d", depth, depth))))
		if err == nil {
			db.turn.changed = changed
			db.statements.clear()
		}
		return err
	}, nil
}

func (db *database) Rollback() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed || db.broken != nil {
		return db.usableLocked()
	}
	return db.rollbackLocked()
}

func (db *database) rollbackLocked() error {
	db.turn.lost = nil
	conn := db.conn.Load()
	if conn == nil || db.closed {
		return nil
	}
	for len(db.cursors) > 0 {
		c := db.cursors[len(db.cursors)-1]
		c.endLocked(&agent.Error{Op: "query", Agent: db.id, Kind: agent.SQL, Msg: "the transaction was rolled back"})
	}
	if !db.turn.open {
		return nil
	}
	db.turn = turn{depth: db.turn.depth, rows: db.turn.rows}
	db.statements.clear() // a schema change may have been taken back
	if conn.Autocommit() {
		return nil
	}
	return db.fault("rollback", conn.Exec("ROLLBACK"))
}

func (db *database) Commit(wake storage.Wake) (*storage.Ticket, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed || db.broken != nil {
		return nil, db.usableLocked()
	}
	ticket, err := db.commitLocked(wake)
	if err == nil {
		return ticket, nil
	}
	if undo := db.rollbackLocked(); undo != nil {
		db.store.log.Warn("rollback after a failed commit", "agent", db.id.Key(), "error", undo)
	}
	db.broken = err
	return nil, err
}

func (db *database) commitLocked(wake storage.Wake) (*storage.Ticket, error) {
	if db.turn.lost != nil {
		return nil, db.turn.lost
	}
	if err := db.store.Err(); err != nil {
		return nil, outcomeUnknown(db.path, err)
	}
	if db.turn.depth > 0 {
		return nil, db.refuse(agent.Internal, "commit inside a savepoint")
	}
	if err := db.closeCursorsLocked(0); err != nil {
		return nil, err
	}
	if !db.turn.changed && wake.Equal(db.meta.wake) {
		return db.commitNothingLocked()
	}
	conn, err := db.connectLocked()
	if err == nil {
		err = db.beginLocked()
	}
	if err == nil {
		// No wake may be lost: before the file can hold a commit that the catalog does
		// not know, the catalog durably says "read the file".
		err = db.store.catalog.awaitMark(db.life)
	}
	if err != nil {
		return nil, err
	}
	next := meta{key: db.id.Key(), seq: db.meta.seq + 1, wake: wake, createdAt: db.meta.createdAt}
	if db.meta.seq == 0 {
		next.createdAt = db.store.now()
	}
	if err := db.writeMetaLocked(conn, next); err != nil {
		return nil, err
	}
	if conn.WrittenPages() > storage.MaxTurnBytes/pageBytes {
		return nil, db.refuse(agent.TooLarge, turnTooLarge)
	}
	pages, err := db.pagesLocked(conn)
	if err == nil {
		err = db.runOwnLocked(conn, "COMMIT")
	}
	if err != nil {
		return nil, err
	}
	db.turn.open, db.turn.changed = false, false
	if err := db.log.reserve(walHeaderBytes + int64(conn.WALFrames())*walFrameBytes); err != nil {
		return nil, folderError(db.path, err)
	}
	db.meta = next
	db.last = storage.NewTicket(next.seq)
	db.store.catalog.committed(db.life, next, pages*pageBytes)
	db.log.add(db.store.syncer, db.last)
	if conn.WALFrames() >= checkpointFrames {
		db.checkpointLocked(conn)
	}
	return db.last, nil
}

// commitNothingLocked ends a transaction that wrote nothing.
func (db *database) commitNothingLocked() (*storage.Ticket, error) {
	if db.turn.open {
		if err := db.runOwnLocked(db.conn.Load(), "COMMIT"); err != nil {
			return nil, err
		}
		db.turn.open = false
	}
	if db.last == nil { // the last commit is of an earlier life
		db.last = storage.NewTicket(db.meta.seq)
		db.last.Settle(nil)
	}
	return db.last, nil
}

func (db *database) writeMetaLocked(conn *sqlite.Conn, m meta) error {
	at, resume := wakeColumns(m.wake)
	return db.runOwnLocked(conn, metaWrite, m.key, int64(m.seq), at, resume, m.createdAt.UnixMilli())
}

// runOwnLocked runs a statement of the engine itself, without rows.
func (db *database) runOwnLocked(conn *sqlite.Conn, sql string, args ...any) error {
	return db.stepOwnLocked(conn, sql, args, nil)
}

// pagesLocked counts the pages of the database as the open transaction has it;
// some 0.8 µs.
func (db *database) pagesLocked(conn *sqlite.Conn) (int64, error) {
	var row [1]any
	err := db.stepOwnLocked(conn, "PRAGMA page_count", nil, row[:])
	pages, _ := row[0].(int64)
	return pages, err
}

// stepOwnLocked makes one step of a statement of the engine itself, which is kept
// for the next time; row gets the columns of a statement that has a row.
func (db *database) stepOwnLocked(conn *sqlite.Conn, sql string, args, row []any) error {
	key := statementKey{sqlite.Platform, sql}
	stmt := db.statements.take(key)
	if stmt == nil {
		var err error
		if stmt, _, err = conn.Prepare(sqlite.Platform, sqlite.Terminated(sql)); err != nil {
			return db.fault("commit", err)
		}
	}
	conn.ClearInterrupt() // an interrupt is for the agent's statements
	has, err := stmt.Run(args)
	if has && err == nil && row != nil {
		err = stmt.Scan(row)
	}
	err = db.steppedLocked("commit", err)
	stmt.Release()
	db.statements.put(key, stmt)
	return err
}

// checkpointLocked keeps the log short. What cannot be written back now stays in
// the log, which is safe, so only a failed sync is fatal.
func (db *database) checkpointLocked(conn *sqlite.Conn) {
	if err := db.last.Wait(); err != nil {
		return // the store has failed, and has said so
	}
	if err := writeBack(conn); err != nil {
		err = db.fault("checkpoint", err)
		db.store.log.Warn("the log cannot be written back", "agent", db.id.Key(), "error", err)
	}
}
