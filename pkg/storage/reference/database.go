package reference

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// database is one agent's open database.
type database struct {
	store *Store
	id    agent.ID
	path  string
	life  *life      // its entry in the catalog
	log   *commitLog // its commits on their way to the disk

	// conn is nil until the first statement of an agent that has no file. It is set
	// under mu and read by Interrupt without.
	conn atomic.Pointer[sqlite.Conn]

	// mu guards what follows. The loop takes it for each call, and Store.Close when
	// it closes what is left; nobody else waits for it.
	mu         sync.Mutex
	meta       meta
	last       *storage.Ticket // of the newest commit of this life
	marked     bool            // the catalog was asked for the note of this life
	statements statements
	cursors    []*cursor // with rows to read
	turn       turn
	broken     error // after a failed Commit: only Close is of use
	closed     bool
}

var _ storage.DB = (*database)(nil)

// maxScriptBytes bounds SQL of several statements.
const maxScriptBytes = 16 << 20

func (db *database) Query(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.query(sqlite.Platform, query, args)
}

func (db *database) UserQuery(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.query(sqlite.User, query, args)
}

func (db *database) ReadQuery(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.query(sqlite.Read, query, args)
}

func (db *database) query(mode sqlite.Mode, query string, args []storage.Value) (*storage.Rows, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.usableLocked(); err != nil {
		return nil, err
	}
	if mode != sqlite.Platform && len(args) > storage.MaxParameters {
		return nil, db.refuse(agent.SQL, "%d arguments were given; at most %d are allowed", len(args), storage.MaxParameters)
	}
	if mode != sqlite.Read && db.conn.Load() == nil {
		db.markLocked() // it will be needed soon, and takes as long as making the file
	}
	conn, err := db.connectLocked()
	if err != nil {
		return nil, err
	}
	conn.ClearInterrupt()
	key := statementKey{mode, query}
	if stmt := db.statements.take(key); stmt != nil {
		return db.runLastLocked(&cursor{db: db, key: key, stmt: stmt, keep: true}, args)
	}
	return db.scriptLocked(conn, key, args)
}

// scriptLocked compiles and runs one statement after the other, for a later one may
// need what an earlier one created. The last one gets the arguments.
func (db *database) scriptLocked(conn *sqlite.Conn, key statementKey, args []storage.Value) (*storage.Rows, error) {
	if len(key.query) > maxScriptBytes {
		return nil, db.refuse(agent.TooLarge, "the SQL has %d bytes; at most %d are allowed", len(key.query), maxScriptBytes)
	}
	if strings.IndexByte(key.query, 0) >= 0 {
		return nil, db.refuse(agent.SQL, "the SQL holds a NUL byte; bind such text as an argument")
	}
	text := sqlite.Terminated(key.query)
	if sqlite.Blank(text) {
		return nil, db.refuse(agent.SQL, "the SQL holds no statement")
	}
	for single := true; ; single = false {
		stmt, used, err := conn.Prepare(key.mode, text)
		if err != nil {
			return nil, db.fault("query", err)
		}
		if stmt == nil {
			return nil, db.refuse(agent.SQL, "the SQL holds no statement after a semicolon")
		}
		if err := db.admit(key.mode, stmt, text[:used]); err != nil {
			stmt.Finalize()
			return nil, err
		}
		text = text[used:]
		c := &cursor{db: db, key: key, stmt: stmt}
		if sqlite.Blank(text) {
			c.keep = single
			return db.runLastLocked(c, args)
		}
		rows, err := db.runLastLocked(c, nil)
		if err != nil {
			return nil, err
		}
		rows.Columns = nil
		for c.stmt != nil { // to the end: a SELECT may fail at any row
			row, err := c.stepLocked(c.stmt.Next())
			if err != nil || !row {
				c.endLocked(err)
			}
			if err != nil {
				return nil, err
			}
		}
	}
}

// admit checks the rules that need the compiled statement; the authorizer has
// checked those about names.
func (db *database) admit(mode sqlite.Mode, stmt *sqlite.Stmt, text []byte) error {
	switch {
	case mode == sqlite.Platform:
		return nil
	case len(text) > storage.MaxStatementBytes:
		return db.refuse(agent.SQL, "a statement has %d bytes; at most %d are allowed: bind long values as arguments", len(text), storage.MaxStatementBytes)
	case stmt.Params > storage.MaxParameters:
		return db.refuse(agent.SQL, "a statement has %d parameters; at most %d are allowed", stmt.Params, storage.MaxParameters)
	case mode == sqlite.Read && !stmt.ReadOnly:
		return db.refuse(agent.SQL, "the statement would write, and only reading is allowed here")
	case stmt.Alters && strings.Contains(strings.ToLower(string(text)), "agentd_"):
		return db.refuse(agent.SQL, "names that begin with agentd_ are reserved for the platform")
	}
	return nil
}

// runLastLocked binds the arguments and makes the first step. It owns c.stmt.
func (db *database) runLastLocked(c *cursor, args []storage.Value) (*storage.Rows, error) {
	stmt := c.stmt
	if len(args) != stmt.Params {
		c.endLocked(nil)
		return nil, db.refuse(agent.SQL, "the statement has %d parameters but %d arguments were given", stmt.Params, len(args))
	}
	if !stmt.ReadOnly || stmt.DDL {
		if err := db.beginLocked(); err != nil {
			c.endLocked(nil)
			return nil, err
		}
	}
	row, err := c.stepLocked(stmt.Run(args))
	if err != nil {
		c.endLocked(err)
		return nil, err
	}
	return db.rowsLocked(c, row), nil
}

func (db *database) Wake() storage.Wake {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.meta.wake
}

func (db *database) SizeBytes() int64 {
	db.mu.Lock()
	defer db.mu.Unlock()
	conn := db.conn.Load()
	if conn == nil || db.closed {
		return 0
	}
	size, err := sizeOf(conn)
	if err != nil {
		db.store.log.Warn("size of a database is unknown", "agent", db.id.Key(), "error", err)
	}
	return size
}

func (db *database) Interrupt() {
	if conn := db.conn.Load(); conn != nil {
		conn.Interrupt()
	}
}

// Close drops an open transaction and waits for the last commit. Hibernated agents
// have one file: what is in the log is written back.
func (db *database) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	errs := []error{db.rollbackLocked()}
	db.closed = true
	db.statements.clear()
	if db.last != nil {
		errs = append(errs, db.last.Wait())
	}
	size := int64(0)
	if conn := db.conn.Load(); conn != nil {
		var err error
		if size, err = sizeOf(conn); err != nil {
			errs = append(errs, db.fault("close database", err))
		}
		errs = append(errs, db.closeConn(conn))
	}
	errs = append(errs, db.log.close())
	if db.meta.seq == 0 && db.conn.Load() != nil {
		errs = append(errs, folderErrorOrNil(db.path, removeDatabase(db.path)))
	}
	db.store.release(db, size)
	return errors.Join(errs...)
}

// closeConn writes the log back, unless there is none or the disk can no longer be
// trusted. Few agents do so at once, so that those that wake find the disk free.
func (db *database) closeConn(conn *sqlite.Conn) error {
	keep := func(err error) error {
		return errors.Join(db.fault("close database", err), db.fault("close database", conn.Close(false)))
	}
	if db.store.Err() != nil || db.meta.seq == 0 {
		return keep(nil)
	}
	if _, err := os.Lstat(db.path + "-wal"); errors.Is(err, fs.ErrNotExist) {
		return keep(nil) // nothing was written in this life
	}
	db.store.closing <- struct{}{}
	defer func() { <-db.store.closing }()
	err := db.writeBackForGood(conn)
	if err != nil {
		return keep(err)
	}
	return db.fault("close database", conn.Close(true))
}

// writeBackForGood writes the log back before it is removed. The log of a life that
// committed is durable, so one sync is enough: that of the database.
func (db *database) writeBackForGood(conn *sqlite.Conn) error {
	if db.log.file == nil {
		err := writeBack(conn)
		if isSyncFailure(err) {
			db.store.fail(err)
		}
		return err
	}
	if err := conn.Exec("PRAGMA synchronous=OFF"); err != nil {
		return err
	}
	if err := conn.Checkpoint(); err != nil {
		return err
	}
	file, err := os.Open(db.path)
	if err != nil {
		return folderError(db.path, err)
	}
	if err = db.store.folder.disk(syncBack, file); err != nil {
		db.store.fail(err)
	}
	// Should SQLite find more to write back, it syncs that itself.
	return errors.Join(err, file.Close(), conn.Exec("PRAGMA synchronous=NORMAL"))
}

// connectLocked gives an agent that has no file its first one.
func (db *database) connectLocked() (*sqlite.Conn, error) {
	if conn := db.conn.Load(); conn != nil {
		return conn, nil
	}
	if err := createDatabase(db.path, db.store.template); err != nil {
		return nil, folderError(db.path, err)
	}
	conn, _, err := openConn(db.path)
	if err != nil {
		return nil, errors.Join(db.fault("create database", err), folderErrorOrNil(db.path, removeDatabase(db.path)))
	}
	db.log.born = true
	db.conn.Store(conn)
	return conn, nil
}

// usableLocked says why nothing can be done, if so.
func (db *database) usableLocked() error {
	switch {
	case db.closed:
		return &agent.Error{Op: "use database", Agent: db.id, Kind: agent.Unavailable, Msg: "the database is closed"}
	case db.broken != nil:
		return db.broken
	}
	return db.turn.lost
}

func (db *database) refuse(kind agent.Kind, format string, args ...any) error {
	return &agent.Error{Op: "query", Agent: db.id, Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

func (db *database) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	if isSyncFailure(err) {
		db.store.fail(err)
	}
	return fault(op, db.id, db.path, err)
}
