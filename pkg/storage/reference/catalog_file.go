package reference

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/session"
	"agentd/pkg/storage/internal/sqlite"
)

// The catalog's form. due_at is when the agent must be activated (0: at once, for
// unfinished work). dirty rows belong to agents that were live when they were last
// written: their files know better.
const (
	catalogForm   = 1
	catalogSchema = `
CREATE TABLE agents(
  namespace TEXT NOT NULL, class TEXT NOT NULL, name TEXT NOT NULL,
  seq INTEGER NOT NULL, wake_at INTEGER, resume INTEGER NOT NULL, due_at INTEGER, size INTEGER NOT NULL,
  created_at INTEGER NOT NULL, dirty INTEGER NOT NULL, quarantine TEXT NOT NULL, damage TEXT NOT NULL,
  PRIMARY KEY(namespace, class, name)) WITHOUT ROWID;
CREATE INDEX agents_due ON agents(due_at) WHERE due_at IS NOT NULL AND dirty=0 AND quarantine='' AND damage='';
CREATE INDEX agents_dirty ON agents(dirty) WHERE dirty=1;
CREATE INDEX agents_quarantined ON agents(dirty) WHERE quarantine<>'' OR damage<>''`

	rowColumns = `namespace, class, name, seq, wake_at, resume, size, created_at, CASE WHEN quarantine<>'' THEN quarantine ELSE damage END, quarantine=''`
	rowWidth   = 10

	catalogPragmas = `PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-4096`

	// catalogCheckpointFrames is the length of the catalog's log, in pages, at which
	// it is written back.
	catalogCheckpointFrames = 2048
)

// catalogFile is the SQLite file behind the catalog. It belongs to whoever holds
// catalog.fileMu.
type catalogFile struct {
	path  string
	conn  *sqlite.Conn
	stmts map[string]*sqlite.Stmt // a fixed set: one per SQL text in this file
}

// openCatalogFile opens an existing, healthy catalog of the present form. Anything
// else is errCatalogUnfit with the reason.
func openCatalogFile(path string) (*catalogFile, error) {
	if _, err := os.Lstat(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: it does not exist", errCatalogUnfit)
		}
		return nil, folderError(path, err)
	}
	conn, err := sqlite.Open(path, sqlite.Options{})
	if err != nil {
		return nil, catalogFault(err)
	}
	f := &catalogFile{path: path, conn: conn, stmts: make(map[string]*sqlite.Stmt)}
	if err := f.check(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *catalogFile) check() error {
	if err := f.conn.Exec(catalogPragmas); err != nil {
		return catalogFault(err)
	}
	form, err := f.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	if form != catalogForm {
		return fmt.Errorf("%w: it has form %d, this agentd writes %d", errCatalogUnfit, form, catalogForm)
	}
	row, err := session.QueryRow(f.conn, "PRAGMA quick_check(1)", 1)
	if err != nil {
		return catalogFault(err)
	}
	if row == nil || row[0] != "ok" {
		return fmt.Errorf("%w: its check says %v", errCatalogUnfit, row)
	}
	return nil
}

// errCatalogUnfit: the catalog must be rebuilt from the agents' files.
var errCatalogUnfit = errors.New("the catalog cannot be used")

// catalogFault tells damage (rebuild) from trouble with the disk (do not).
func catalogFault(err error) error {
	if err == nil {
		return nil
	}
	e := session.Fault("use catalog", agent.ID{}, catalogName, err)
	if agent.KindOf(e) == agent.Corrupt || agent.KindOf(e) == agent.SQL {
		return fmt.Errorf("%w: %w", errCatalogUnfit, err)
	}
	return e
}

// catalogTrouble is what a caller of the running catalog is told.
func catalogTrouble(path string, err error) error {
	if errors.Is(err, errCatalogUnfit) {
		return &agent.Error{Op: "use catalog", Kind: agent.Corrupt, Err: err,
			Msg: path + " is damaged: restart agentd, which rebuilds it from the agents' files"}
	}
	return err
}

// createCatalogFile makes an empty catalog at path.
func createCatalogFile(path string) (*catalogFile, error) {
	if err := removeDatabase(path); err != nil {
		return nil, folderError(path, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil { // SQLite would let others read it
		return nil, folderError(path, err)
	}
	conn, err := sqlite.Open(path, sqlite.Options{})
	if err != nil {
		return nil, session.Fault("create catalog", agent.ID{}, path, err)
	}
	f := &catalogFile{path: path, conn: conn, stmts: make(map[string]*sqlite.Stmt)}
	err = conn.Exec(catalogPragmas + fmt.Sprintf("; PRAGMA journal_mode=WAL; BEGIN; %s; PRAGMA user_version=%d; COMMIT", catalogSchema, catalogForm))
	if err != nil {
		return nil, errors.Join(session.Fault("create catalog", agent.ID{}, path, err), f.close())
	}
	return f, nil
}

func (f *catalogFile) close() error {
	for _, stmt := range f.stmts {
		stmt.Finalize()
	}
	clear(f.stmts)
	return catalogFault(f.conn.Close(true))
}

// each runs a statement and gives every row to fn, until it returns false. The row
// is overwritten by the next.
func (f *catalogFile) each(sql string, args []any, fn func(row []any) (more bool, err error)) error {
	stmt := f.stmts[sql]
	if stmt == nil {
		var err error
		if stmt, _, err = f.conn.Prepare(sqlite.Platform, sqlite.Terminated(sql)); err != nil {
			return catalogFault(err)
		}
		f.stmts[sql] = stmt
	}
	defer stmt.Release()
	row, err := stmt.Run(args)
	dst := make([]any, stmt.Columns)
	for more := true; row && err == nil; row, err = stmt.Next() {
		if err = stmt.Scan(dst); err != nil {
			break
		}
		var fnErr error
		if more, fnErr = fn(dst); fnErr != nil || !more {
			return fnErr
		}
	}
	return catalogFault(err)
}

// exec runs a statement without rows and returns how many it changed.
func (f *catalogFile) exec(sql string, args ...any) (int64, error) {
	err := f.each(sql, args, func([]any) (bool, error) { return true, nil })
	return f.conn.Changes(), err
}

func (f *catalogFile) number(sql string) (int64, error) {
	var n int64
	err := f.each(sql, nil, func(row []any) (bool, error) {
		n, _ = row[0].(int64)
		return false, nil
	})
	return n, err
}

// entryOf reads the columns of rowColumns.
func entryOf(row []any) (storage.Entry, error) {
	namespace, ok1 := row[0].(string)
	class, ok2 := row[1].(string)
	name, ok3 := row[2].(string)
	seq, ok4 := row[3].(int64)
	size, ok5 := row[6].(int64)
	created, ok6 := row[7].(int64)
	quarantine, ok7 := row[8].(string)
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || !ok6 || !ok7 || seq < 0 {
		return storage.Entry{}, fmt.Errorf("%w: a row holds impossible values", errCatalogUnfit)
	}
	return storage.Entry{ID: agent.ID{Namespace: namespace, Class: class, Name: name}, Seq: uint64(seq), SizeBytes: size,
		Wake: session.WakeFromColumns(row[4], row[5]), CreatedAt: time.UnixMilli(created), Quarantine: quarantine}, nil
}

// put writes everything that an agent's file says about itself and leaves what an
// operator said.
func (f *catalogFile) put(e storage.Entry, dirty bool) error {
	at, resume := session.WakeColumns(e.Wake)
	due := at
	if e.Wake.Resume {
		due = int64(0)
	}
	_, err := f.exec(`INSERT INTO agents VALUES(?,?,?,?,?,?,?,?,?,?,'','') ON CONFLICT DO UPDATE SET
  seq=excluded.seq, wake_at=excluded.wake_at, resume=excluded.resume, due_at=excluded.due_at, size=excluded.size,
  created_at=excluded.created_at, dirty=excluded.dirty, damage=''`,
		e.ID.Namespace, e.ID.Class, e.ID.Name, int64(e.Seq), at, resume, due, e.SizeBytes, e.CreatedAt.UnixMilli(), dirty)
	return err
}

func (f *catalogFile) remove(id agent.ID) error {
	_, err := f.exec(`DELETE FROM agents WHERE namespace=? AND class=? AND name=?`, id.Namespace, id.Class, id.Name)
	return err
}

// setDamage keeps an agent listed whose file cannot be read. A first life that was
// not closed has left no commit number, and an entry needs one.
func (f *catalogFile) setDamage(id agent.ID, why string) error {
	_, err := f.exec(`UPDATE agents SET damage=?, seq=max(seq,1) WHERE namespace=? AND class=? AND name=?`, why, id.Namespace, id.Class, id.Name)
	return err
}

// setQuarantine reports whether the agent is there. Lifting it forgives damage that
// was found at start too; the next activation will see.
func (f *catalogFile) setQuarantine(id agent.ID, why string) (found bool, err error) {
	n, err := f.exec(`UPDATE agents SET quarantine=?, damage='' WHERE namespace=? AND class=? AND name=?`, why, id.Namespace, id.Class, id.Name)
	return n > 0, err
}

func (f *catalogFile) get(id agent.ID) (e storage.Entry, found bool, err error) {
	err = f.each(`SELECT `+rowColumns+` FROM agents WHERE namespace=? AND class=? AND name=?`,
		[]any{id.Namespace, id.Class, id.Name}, func(row []any) (bool, error) {
			found = true
			var err error
			e, err = entryOf(row)
			return false, err
		})
	return e, found, err
}

// transaction runs fn in one transaction.
func (f *catalogFile) transaction(fn func() error) error {
	if err := f.conn.Exec("BEGIN IMMEDIATE"); err != nil {
		return catalogFault(err)
	}
	err := fn()
	if err == nil {
		err = catalogFault(f.conn.Exec("COMMIT"))
	}
	if err != nil && !f.conn.Autocommit() {
		err = errors.Join(err, catalogFault(f.conn.Exec("ROLLBACK")))
	}
	return err
}
