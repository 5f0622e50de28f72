package reference

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// meta is the row that every agent's database holds about itself. It is written in
// the transaction of each commit, so it cannot disagree with the data.
type meta struct {
	key       string // agent.ID.Key
	seq       uint64 // 0: never committed; there is no row then
	wake      storage.Wake
	createdAt time.Time
}

const (
	metaSchema = `CREATE TABLE agentd_meta(id INTEGER PRIMARY KEY CHECK(id=1), key TEXT NOT NULL, seq INTEGER NOT NULL, wake_at INTEGER, resume INTEGER NOT NULL, created_at INTEGER NOT NULL)`
	metaRead   = `SELECT key, seq, wake_at, resume, created_at FROM agentd_meta`
	metaWrite  = `INSERT INTO agentd_meta VALUES(1,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET seq=excluded.seq, wake_at=excluded.wake_at, resume=excluded.resume`
)

// Page cache and turn bookkeeping of an agent's connection.
const (
	pageBytes          = 4096
	cacheKiB           = 512
	maxStatementMemory = 128 << 20

	agentPragmas = `PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-512; PRAGMA max_page_count=2621440`
)

var _ [storage.MaxDatabaseBytes / pageBytes]struct{} = [2621440]struct{}{} // agentPragmas says so
var _ [cacheKiB]struct{} = [512]struct{}{}

// wakeColumns and wakeFromColumns are the two ways between a Wake and its columns.
func wakeColumns(w storage.Wake) (at any, resume int64) {
	if !w.At.IsZero() {
		at = w.At.UnixMilli()
	}
	if w.Resume {
		resume = 1
	}
	return at, resume
}

func wakeFromColumns(at, resume any) storage.Wake {
	var w storage.Wake
	if ms, ok := at.(int64); ok {
		w.At = time.UnixMilli(ms)
	}
	w.Resume = resume == int64(1)
	return w
}

// openConn opens an agent's existing file and reads its meta row.
//
// A log that does not exist yet needs no sync of its first page before the second
// (which would stop the loop): that sync keeps a log that is used again from being
// taken for the one before, and there is none before. Whoever checkpoints must turn
// syncs on first; see writeBack.
func openConn(path string) (*sqlite.Conn, meta, error) {
	pragmas := agentPragmas
	if info, err := os.Lstat(path + "-wal"); errors.Is(err, fs.ErrNotExist) || (err == nil && info.Size() == 0) {
		pragmas += "; PRAGMA synchronous=OFF"
	}
	conn, err := sqlite.Open(path, sqlite.Options{
		MaxWrittenPages:    storage.MaxTurnBytes / pageBytes,
		MaxStatementMemory: maxStatementMemory,
		MaxValueBytes:      storage.MaxRowBytes,
	})
	if err != nil {
		return nil, meta{}, err
	}
	m, err := readMeta(conn, pragmas)
	if err != nil {
		return nil, meta{}, errors.Join(err, conn.Close(false))
	}
	return conn, m, nil
}

func readMeta(conn *sqlite.Conn, pragmas string) (meta, error) {
	if err := conn.Exec(pragmas); err != nil {
		return meta{}, err
	}
	row, err := queryRow(conn, metaRead, 5)
	if err != nil || row == nil {
		return meta{}, err
	}
	key, ok1 := row[0].(string)
	seq, ok2 := row[1].(int64)
	created, ok3 := row[4].(int64)
	if !ok1 || !ok2 || !ok3 || seq < 1 {
		return meta{}, &sqlite.Error{Code: sqlite.Corrupt, Msg: "agentd_meta holds impossible values"}
	}
	return meta{key: key, seq: uint64(seq), wake: wakeFromColumns(row[2], row[3]), createdAt: time.UnixMilli(created)}, nil
}

// writeBack moves the log's pages into the database and syncs both. All commits of
// this life must be durable already: only then is it certain that a log of an
// earlier life, removed when that ended, cannot come back after a power cut and be
// replayed over newer pages.
func writeBack(conn *sqlite.Conn) error {
	if err := conn.Exec("PRAGMA synchronous=NORMAL"); err != nil {
		return err
	}
	return conn.Checkpoint()
}

// queryRow runs one statement and returns a copy of its first row; nil if none.
func queryRow(conn *sqlite.Conn, sql string, columns int, args ...any) ([]any, error) {
	stmt, _, err := conn.Prepare(sqlite.Platform, sqlite.Terminated(sql))
	if err != nil {
		return nil, err
	}
	defer stmt.Finalize()
	row, err := stmt.Run(args)
	if err != nil || !row {
		return nil, err
	}
	dst := make([]any, columns)
	return dst, stmt.Scan(dst)
}

// state of an agent's file, as found at start.
type fileState uint8

const (
	fileMissing fileState = iota
	fileEmpty             // exists, but nothing was ever committed
	fileGood
	fileDamaged
)

// inspect reads an agent's file without changing it.
func inspect(path string) (fileState, meta, int64, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fileMissing, meta{}, 0, nil
	}
	if err != nil {
		return fileDamaged, meta{}, 0, err
	}
	if info.Size() == 0 {
		return fileEmpty, meta{}, 0, nil
	}
	conn, m, err := openConn(path)
	if err != nil {
		return fileDamaged, meta{}, 0, err
	}
	size, sizeErr := sizeOf(conn)
	if err := errors.Join(sizeErr, conn.Close(false)); err != nil {
		return fileDamaged, meta{}, 0, err
	}
	if m.seq == 0 {
		return fileEmpty, m, 0, nil
	}
	return fileGood, m, size, nil
}

func sizeOf(conn *sqlite.Conn) (int64, error) {
	row, err := queryRow(conn, "PRAGMA page_count", 1)
	if err != nil || row == nil {
		return 0, err
	}
	pages, _ := row[0].(int64)
	return pages * pageBytes, nil
}

// newTemplate makes the bytes of a database that holds the meta table and nothing
// else; writing them is cheaper than running the same statements for every agent.
func newTemplate(dir string) ([]byte, error) {
	path := filepath.Join(dir, "template.tmp")
	if err := removeDatabase(path); err != nil {
		return nil, err
	}
	conn, err := sqlite.Open(path, sqlite.Options{Create: true})
	if err != nil {
		return nil, err
	}
	err = conn.Exec(fmt.Sprintf("PRAGMA page_size=%d; PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; %s", pageBytes, metaSchema))
	if err := errors.Join(err, conn.Close(true)); err != nil {
		return nil, err
	}
	image, err := os.ReadFile(path)
	return image, errors.Join(err, removeDatabase(path))
}

// createDatabase writes the template to path. A log left beside it by a deletion
// that was cut short must go first: SQLite would replay it.
func createDatabase(path string, image []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := removeDatabase(path); err != nil {
		return err
	}
	return os.WriteFile(path, image, 0o600)
}

// removeDatabase removes the database file, then its log.
func removeDatabase(path string) error {
	for _, name := range []string{path, path + "-wal"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// entry is the catalog's view of a meta row.
func (m meta) entry(size int64) (storage.Entry, error) {
	id, err := agent.ParseKey(m.key)
	if err != nil {
		return storage.Entry{}, err
	}
	return storage.Entry{ID: id, Wake: m.wake, Seq: m.seq, SizeBytes: size, CreatedAt: m.createdAt}, nil
}
