package reference

import (
	"errors"
	"io/fs"
	"os"
	"sync"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/session"
	"agentd/pkg/storage/internal/sqlite"
)

// database is one agent's open database: a session, and what becomes of its commits.
type database struct {
	store *Store
	id    agent.ID
	path  string
	life  *life            // its entry in the catalog
	log   *commitLog       // its commits on their way to the disk
	sql   *session.Session // everything that is SQL; locks itself

	// conn is the session's connection, nil until there is one. It belongs to the
	// loop, which sets it within sql.Query and the like, see create, and reads it in
	// Commit.
	conn *sqlite.Conn

	// mu guards what follows. The loop takes it, and Store.Close when it closes what
	// is left; nobody else waits for it. It is taken before the session's lock.
	mu   sync.Mutex
	meta session.Meta
	last *storage.Ticket // of the newest commit of this life
}

var _ storage.DB = (*database)(nil)

// begin starts the life of an agent whose file, if it has one, was connected and has
// size bytes.
func (db *database) begin(size int64) {
	db.life = db.store.catalog.open(storage.Entry{ID: db.id, Wake: db.meta.Wake, Seq: db.meta.Seq, SizeBytes: size, CreatedAt: db.meta.CreatedAt})
	db.sql = session.New(session.Config{
		Agent:     db.id,
		Path:      db.path,
		Log:       db.store.log,
		Create:    db.create,
		WillWrite: func() { db.store.catalog.mark(db.life) }, // a commit waits for it
		Fault:     db.store.fail,
	}, db.conn)
}

// create gives an agent that has no file its first one.
func (db *database) create() (*sqlite.Conn, error) {
	if err := createDatabase(db.path, db.store.template); err != nil {
		return nil, folderError(db.path, err)
	}
	conn, _, err := openConn(db.path)
	if err != nil {
		return nil, errors.Join(db.fault("create database", err), folderErrorOrNil(db.path, removeDatabase(db.path)))
	}
	db.log.born = true
	db.conn = conn
	return conn, nil
}

func (db *database) Query(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.sql.Query(sqlite.Platform, query, args)
}

func (db *database) UserQuery(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.sql.Query(sqlite.User, query, args)
}

func (db *database) ReadQuery(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.sql.Query(sqlite.Read, query, args)
}

func (db *database) Savepoint(fn func() error) error { return db.sql.Savepoint(fn) }

func (db *database) Rollback() error { return db.sql.Rollback() }

func (db *database) Interrupt() { db.sql.Interrupt() }

func (db *database) Wake() storage.Wake {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.meta.Wake
}

func (db *database) SizeBytes() int64 {
	pages, err := db.sql.Pages()
	if err != nil {
		db.store.log.Warn("size of a database is unknown", "agent", db.id.Key(), "error", err)
	}
	return pages * session.PageBytes
}

// Close drops an open transaction and waits for the last commit. Hibernated agents
// have one file: what is in the log is written back.
func (db *database) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.sql.Close(db.closeLocked)
}

// closeLocked ends what is below the session.
func (db *database) closeLocked(conn *sqlite.Conn) error {
	var errs []error
	if db.last != nil {
		errs = append(errs, db.last.Wait())
	}
	size := int64(0)
	if conn != nil {
		var err error
		if size, err = sizeOf(conn); err != nil {
			errs = append(errs, db.fault("close database", err))
		}
		errs = append(errs, db.closeConnLocked(conn))
	}
	errs = append(errs, db.log.close())
	if db.meta.Seq == 0 && conn != nil {
		errs = append(errs, folderErrorOrNil(db.path, removeDatabase(db.path)))
	}
	db.store.release(db, size)
	return errors.Join(errs...)
}

// closeConnLocked writes the log back, unless there is none or the disk can no
// longer be trusted. Few agents do so at once, so that those that wake find the disk
// free.
func (db *database) closeConnLocked(conn *sqlite.Conn) error {
	keep := func(err error) error {
		return errors.Join(db.fault("close database", err), db.fault("close database", conn.Close(false)))
	}
	if db.store.Err() != nil || db.meta.Seq == 0 {
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
		if session.SyncFailed(err) {
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

// fault is for what SQLite says outside the session.
func (db *database) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	if session.SyncFailed(err) {
		db.store.fail(err)
	}
	return session.Fault(op, db.id, db.path, err)
}
