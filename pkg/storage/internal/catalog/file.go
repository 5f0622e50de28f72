package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage/internal/sqlite"
)

// The file's form. due_at orders agents by when they must be activated. sum is the
// row's checksum (row.go). facts holds the numbers of shards and of agents.
const (
	fileForm  = 1
	fileMagic = 0x61676463 // application_id: "agdc"

	fileSchema = `
CREATE TABLE agents(
  namespace TEXT NOT NULL, class TEXT NOT NULL, name TEXT NOT NULL,
  seq INTEGER NOT NULL, wake_at INTEGER, resume INTEGER NOT NULL, size INTEGER NOT NULL,
  created_at INTEGER NOT NULL, committed_at INTEGER NOT NULL, sum INTEGER NOT NULL,
  due_at INTEGER AS (CASE WHEN resume<>0 THEN -4611686018427387904 ELSE wake_at END) VIRTUAL,
  PRIMARY KEY(namespace, class, name)) STRICT, WITHOUT ROWID;
CREATE INDEX agents_due ON agents(due_at, namespace, class, name) WHERE due_at IS NOT NULL;
CREATE TABLE quarantines(
  namespace TEXT NOT NULL, class TEXT NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL, sum INTEGER NOT NULL,
  PRIMARY KEY(namespace, class, name)) STRICT, WITHOUT ROWID;
CREATE TABLE applied(shard INTEGER PRIMARY KEY, log_index INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT;
CREATE TABLE facts(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID`

	// One connection, so no locks and no shared memory. It syncs nothing itself: see
	// file.fold for the order in which the file and its log reach the disk.
	filePragmas = `PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=OFF; PRAGMA temp_store=MEMORY;
PRAGMA cache_size=-8192; PRAGMA cell_size_check=ON`

	// foldFrames is foldAt outside of tests.
	foldFrames = 1024
)

var _ [-resumeKey]struct{} = [4611686018427387904]struct{}{} // due_at says so

// file is catalog.db. It belongs to whoever holds Catalog.fileMu, but for what is
// marked: the writer's, who holds Catalog.writeMu.
type file struct {
	path  string
	conn  *sqlite.Conn
	stmts map[string]*sqlite.Stmt // a fixed set: one per SQL text of this package
	main  disk.File               // the database, to sync it; the writer's
	log   disk.File               // its write-ahead log, to sync it; the writer's

	foldAt int // pages of the log at which it is written back

	shards int
	agents int64 // rows, as of the last transaction; the writer's

	folding bool  // a fold has begun: nothing may be written before it has ended; the writer's
	failed  error // a sync failed: what is on disk is unknown; the writer's
}

const (
	logSuffix  = "-wal"
	markSuffix = ".damaged" // while this file exists, Open calls the catalog unfit
)

// openFile opens a catalog of the present form and makes durable whatever it holds.
func openFile(path string, d disk.FS) (*file, error) {
	if _, err := d.Stat(path + markSuffix); err == nil {
		return nil, unfit("open catalog", path, "it was found damaged, or its rebuild was not finished", nil)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fault("open catalog", path, err)
	}
	f := &file{path: path, foldAt: foldFrames, stmts: make(map[string]*sqlite.Stmt)}
	err := f.openAll(d)
	if err == nil {
		err = f.check()
	}
	if err == nil {
		err = f.fold() // the log may hold a transaction that was written and never synced
	}
	if err != nil {
		return nil, errors.Join(fault("open catalog", path, err), f.close())
	}
	return f, nil
}

// openAll opens the two files and the connection.
func (f *file) openAll(d disk.FS) (err error) {
	if f.main, err = d.Open(f.path, os.O_RDWR); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = unfit("open catalog", f.path, "it does not exist", err)
		}
		f.main = nil
		return err
	}
	if f.log, err = d.Open(f.path+logSuffix, os.O_RDWR|os.O_CREATE); err != nil {
		f.log = nil
		return err
	}
	if err = d.SyncDir(filepath.Dir(f.path)); err != nil {
		return err
	}
	if f.conn, err = sqlite.Open(f.path, sqlite.Options{}); err != nil {
		return err
	}
	return f.conn.Exec(filePragmas)
}

// check compares the form and reads the facts.
func (f *file) check() error {
	for _, want := range []struct {
		what, sql string
		value     any
	}{
		{"mark", "PRAGMA application_id", int64(fileMagic)},
		{"form", "PRAGMA user_version", int64(fileForm)},
		{"journal mode", "PRAGMA journal_mode", "wal"},
	} {
		got, err := f.value(want.sql)
		if err != nil {
			return err
		}
		if got != want.value {
			return unfit("open catalog", f.path, fmt.Sprintf("its %s is %v, this agentd writes %v", want.what, got, want.value), nil)
		}
	}
	shards, err := f.number(`SELECT value FROM facts WHERE name='shards'`)
	if err != nil {
		return err
	}
	f.shards = int(shards)
	f.agents, err = f.number(`SELECT value FROM facts WHERE name='agents'`)
	return err
}

// createFile makes an empty catalog at path, where nothing is. It is not durable.
func createFile(path string, shards int, d disk.FS) (*sqlite.Conn, error) {
	empty, err := d.Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err == nil {
		err = empty.Close()
	}
	if err != nil {
		return nil, fault("create catalog", path, err)
	}
	conn, err := sqlite.Open(path, sqlite.Options{})
	if err != nil {
		return nil, fault("create catalog", path, err)
	}
	err = conn.Exec(fmt.Sprintf(`%s; PRAGMA journal_mode=MEMORY; BEGIN; %s; INSERT INTO facts VALUES('shards',%d),('agents',0);
PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT`, filePragmas, fileSchema, shards, fileMagic, fileForm))
	if err != nil {
		return nil, errors.Join(fault("create catalog", path, err), conn.Close(false))
	}
	return conn, nil
}

func (f *file) close() error {
	for _, stmt := range f.stmts {
		stmt.Finalize()
	}
	clear(f.stmts)
	var err error
	if f.conn != nil {
		err = f.conn.Close(false) // SQLite would remove the log without a sync
	}
	for _, d := range []disk.File{f.main, f.log} {
		if d != nil {
			err = errors.Join(err, d.Close())
		}
	}
	return fault("close catalog", f.path, err)
}

// sync makes what was written to one of the two files durable.
func (f *file) sync(d disk.File) error {
	if f.failed != nil {
		return f.failed
	}
	if err := d.Sync(); err != nil {
		f.failed = &agent.Error{Op: "sync catalog", Kind: agent.Internal, Err: err,
			Msg: "what is on the disk is unknown: restart agentd"}
		return f.failed
	}
	return nil
}

// fold writes the log back into the database and empties it. Each step is durable
// before the next, so that at any moment the database under the whole log is the
// last transaction: the log before the database is touched; the database before the
// log goes; the empty log before anything is written over its old pages, the first
// of which could otherwise be taken for a short log over a newer database.
func (f *file) fold() error {
	if err := f.foldMain(); err != nil {
		return err
	}
	if err := f.sync(f.main); err != nil {
		return err
	}
	return f.emptyLog()
}

// foldMain writes every page of the log, which must be durable, to the database.
func (f *file) foldMain() error {
	f.folding = true
	if err := f.sync(f.log); err != nil {
		return err
	}
	return f.checkpoint("PRAGMA wal_checkpoint(PASSIVE)")
}

// emptyLog ends a fold; the database must be durable.
func (f *file) emptyLog() error {
	err := f.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")
	if err == nil {
		err = f.sync(f.log)
	}
	if err == nil {
		f.folding = false
	}
	return err
}

func (f *file) checkpoint(sql string) error {
	return f.each(sql, nil, func(row []any) (bool, error) {
		if row[0] != int64(0) || row[1] != row[2] {
			return false, defect("fold catalog", fmt.Sprintf("the log of the catalog could not be written back: %v", row))
		}
		return false, nil
	})
}

// each runs a statement and gives every row to fn until it returns false. The row is
// overwritten by the next.
func (f *file) each(sql string, args []any, fn func(row []any) (more bool, err error)) error {
	stmt := f.stmts[sql]
	if stmt == nil {
		var err error
		if stmt, _, err = f.conn.Prepare(sqlite.Platform, sqlite.Terminated(sql)); err != nil {
			return err
		}
		f.stmts[sql] = stmt
	}
	defer stmt.Release()
	row, err := stmt.Run(args)
	dst := make([]any, stmt.Columns)
	for row && err == nil {
		if err = stmt.Scan(dst); err != nil {
			break
		}
		if more, err := fn(dst); err != nil || !more {
			return err
		}
		row, err = stmt.Next()
	}
	return err
}

// exec runs a statement without rows and returns how many it changed.
func (f *file) exec(sql string, args ...any) (int64, error) {
	if err := f.each(sql, args, func([]any) (bool, error) { return true, nil }); err != nil {
		return 0, err
	}
	return f.conn.Changes(), nil
}

// value is the first column of a statement's first row; nil if there is none.
func (f *file) value(sql string) (v any, err error) {
	err = f.each(sql, nil, func(row []any) (bool, error) {
		v = row[0]
		return false, nil
	})
	return v, err
}

func (f *file) number(sql string) (int64, error) {
	v, err := f.value(sql)
	n, ok := v.(int64)
	if err == nil && (!ok || n < 0) {
		err = unfit("open catalog", f.path, "a number is missing", nil)
	}
	return n, err
}

// begin opens a transaction, after what an interrupted fold has left to do.
func (f *file) begin() error {
	if f.failed != nil {
		return f.failed
	}
	if f.folding {
		if err := f.fold(); err != nil {
			return err
		}
	}
	return f.conn.Exec("BEGIN IMMEDIATE")
}

// open says whether the transaction is still there: SQLite ends it by itself after
// some errors, also of a reader's statement.
func (f *file) open() error {
	if f.conn.Autocommit() {
		return &agent.Error{Op: "write catalog", Kind: agent.Internal, Msg: "SQLite ended the transaction of " + f.path}
	}
	return nil
}

func (f *file) rollback() error {
	if f.conn.Autocommit() {
		return nil
	}
	return f.conn.Exec("ROLLBACK")
}
