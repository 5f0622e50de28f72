package reference

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/session"
	"agentd/pkg/storage/internal/sqlite"
)

// Page cache of an agent's connection, and its pragmas.
const (
	cacheKiB = 512

	agentPragmas = `PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-512; PRAGMA max_page_count=2621440`
)

var _ [storage.MaxDatabaseBytes / session.PageBytes]struct{} = [2621440]struct{}{} // agentPragmas says so
var _ [cacheKiB]struct{} = [512]struct{}{}

// openConn opens an agent's existing file and reads its meta row.
//
// A log that does not exist yet needs no sync of its first page before the second
// (which would stop the loop): that sync keeps a log that is used again from being
// taken for the one before, and there is none before. Whoever checkpoints must turn
// syncs on first; see writeBack.
func openConn(path string) (*sqlite.Conn, session.Meta, error) {
	pragmas := agentPragmas
	if info, err := os.Lstat(path + "-wal"); errors.Is(err, fs.ErrNotExist) || (err == nil && info.Size() == 0) {
		pragmas += "; PRAGMA synchronous=OFF"
	}
	conn, err := sqlite.Open(path, session.Limits())
	if err != nil {
		return nil, session.Meta{}, err
	}
	var m session.Meta
	if err = conn.Exec(pragmas); err == nil {
		m, err = session.ReadMeta(conn)
	}
	if err != nil {
		return nil, session.Meta{}, errors.Join(err, conn.Close(false))
	}
	return conn, m, nil
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

// state of an agent's file, as found at start.
type fileState uint8

const (
	fileMissing fileState = iota
	fileEmpty             // exists, but nothing was ever committed
	fileGood
	fileDamaged
)

// inspect reads an agent's file without changing it.
func inspect(path string) (fileState, session.Meta, int64, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fileMissing, session.Meta{}, 0, nil
	}
	if err != nil {
		return fileDamaged, session.Meta{}, 0, err
	}
	if info.Size() == 0 {
		return fileEmpty, session.Meta{}, 0, nil
	}
	conn, m, err := openConn(path)
	if err != nil {
		return fileDamaged, session.Meta{}, 0, err
	}
	size, sizeErr := sizeOf(conn)
	if err := errors.Join(sizeErr, conn.Close(false)); err != nil {
		return fileDamaged, session.Meta{}, 0, err
	}
	if m.Seq == 0 {
		return fileEmpty, m, 0, nil
	}
	return fileGood, m, size, nil
}

func sizeOf(conn *sqlite.Conn) (int64, error) {
	row, err := session.QueryRow(conn, "PRAGMA page_count", 1)
	if err != nil || row == nil {
		return 0, err
	}
	pages, _ := row[0].(int64)
	return pages * session.PageBytes, nil
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
	err = conn.Exec(fmt.Sprintf("PRAGMA page_size=%d; PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; %s", session.PageBytes, session.MetaSchema))
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
