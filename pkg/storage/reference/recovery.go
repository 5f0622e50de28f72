package reference

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/session"
)

// recoveryReaders is how many agents' files are read at once at start.
const recoveryReaders = 8

// finding is what an agent's file says at start.
type finding struct {
	id    agent.ID // of the row; zero in a rebuild
	path  string
	state fileState
	meta  session.Meta
	size  int64
	err   error // why it is damaged
}

// recoverCatalog opens the catalog as the files of the agents say it must be: the
// rows of agents that were live when the process ended are read anew; a catalog
// that is lost, damaged or of another form is rebuilt.
func recoverCatalog(f *folder, log *slog.Logger) (*catalogFile, error) {
	path := filepath.Join(f.dir, catalogName)
	file, err := openCatalogFile(path)
	if err == nil {
		err = recoverDirty(f, file, log)
		if err == nil {
			return file, nil
		}
		err = errors.Join(err, file.close())
	}
	if !errors.Is(err, errCatalogUnfit) {
		return nil, err
	}
	return rebuildCatalog(f, path, err, log)
}

// recoverDirty reads the files of dirty rows.
func recoverDirty(f *folder, file *catalogFile, log *slog.Logger) error {
	var found []finding
	err := file.each(`SELECT `+rowColumns+` FROM agents INDEXED BY agents_dirty WHERE dirty=1`, nil, func(row []any) (bool, error) {
		e, err := entryOf(row)
		found = append(found, finding{id: e.ID, path: f.agentPath(e.ID)})
		return true, err
	})
	if err != nil || len(found) == 0 {
		return err
	}
	readAll(found)
	log.Info("reading agents that were live when agentd ended", "agents", len(found))
	return file.transaction(func() error {
		for _, x := range found {
			if err := recoverRow(file, x, log); err != nil {
				return err
			}
		}
		return nil
	})
}

func recoverRow(file *catalogFile, x finding, log *slog.Logger) error {
	switch x.state {
	case fileGood:
		e, err := x.meta.Entry(x.size)
		if err == nil && e.ID == x.id {
			return file.put(e, false)
		}
		x.err = fmt.Errorf("it belongs to the agent %s", x.meta.Key)
	case fileEmpty: // its first commit never reached the disk
		if err := removeDatabase(x.path); err != nil {
			return folderError(x.path, err)
		}
		return file.remove(x.id)
	case fileMissing: // deleted, or never made
		return file.remove(x.id)
	case fileDamaged:
	}
	err := session.Damaged("recover agent", x.id, x.path, x.err)
	log.Error("an agent cannot be recovered", "agent", x.id.Key(), "path", x.path, "error", err)
	return file.setDamage(x.id, err.Error())
}

// rebuildCatalog reads every agent's file. The old catalog is kept beside the new
// one; only quarantines are lost with it.
func rebuildCatalog(f *folder, path string, why error, log *slog.Logger) (*catalogFile, error) {
	fresh := path + ".new"
	file, err := createCatalogFile(fresh)
	if err != nil {
		return nil, err
	}
	n, broken, err := rebuildRows(f, file, log)
	if err := errors.Join(err, file.close()); err != nil {
		return nil, err
	}
	if err := replaceCatalog(f, path, fresh); err != nil {
		return nil, err
	}
	if n+broken > 0 {
		log.Warn("the catalog was rebuilt from the agents' files", "why", why, "agents", n, "unreadable", broken)
	}
	return openCatalogFile(path)
}

// replaceCatalog puts the new catalog in the place of the old one, which is kept as
// catalog.db.old. At no moment can a half-built one be taken for whole.
func replaceCatalog(f *folder, path, fresh string) error {
	for _, suffix := range []string{"-wal", ""} {
		if err := os.Rename(path+suffix, path+".old"+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return folderError(path, err)
		}
	}
	file, err := os.Open(fresh)
	if err == nil {
		err = errors.Join(f.disk(syncNew, file), file.Close())
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		return folderError(path, err)
	}
	return f.syncDir(f.dir)
}

// rebuildBatch is how many files are read between two transactions.
const rebuildBatch = 4096

func rebuildRows(f *folder, file *catalogFile, log *slog.Logger) (good, broken int, err error) {
	var batch []finding
	flush := func() error {
		readAll(batch)
		err := file.transaction(func() error {
			for _, x := range batch {
				ok, err := rebuildRow(f, file, x, log)
				if err != nil {
					return err
				}
				if ok {
					good++
				} else {
					broken++
				}
			}
			return nil
		})
		batch = batch[:0]
		return err
	}
	root := filepath.Join(f.dir, agentsName)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return folderError(path, err)
		}
		if d.IsDir() || !strings.HasSuffix(path, ".db") {
			return nil
		}
		batch = append(batch, finding{path: path})
		if len(batch) < rebuildBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return good, broken, err
}

// rebuildRow reports whether the file could be read. A file without any commit is
// nobody's and goes.
func rebuildRow(f *folder, file *catalogFile, x finding, log *slog.Logger) (bool, error) {
	var e storage.Entry
	err := x.err
	switch x.state {
	case fileEmpty, fileMissing:
		return true, folderErrorOrNil(x.path, removeDatabase(x.path))
	case fileGood:
		e, err = x.meta.Entry(x.size)
		if err == nil && f.agentPath(e.ID) != x.path {
			err = fmt.Errorf("it belongs at %s", f.agentPath(e.ID))
		}
	case fileDamaged:
	}
	if err != nil {
		log.Error("an agent's file cannot be read", "path", x.path, "error", session.Damaged("rebuild catalog", agent.ID{}, x.path, err))
		return false, nil
	}
	return true, file.put(e, false)
}

// readAll inspects the files, several at once.
func readAll(found []finding) {
	var g errgroup.Group
	g.SetLimit(recoveryReaders)
	for i := range found {
		g.Go(func() error {
			x := &found[i]
			x.state, x.meta, x.size, x.err = inspect(x.path)
			return nil
		})
	}
	_ = g.Wait() // the functions above keep their errors in the findings
}
