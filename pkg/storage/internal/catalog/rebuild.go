package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// rebuildBatch is how many rows one transaction of a rebuild adds.
const rebuildBatch = 10_000

// Rebuild makes the catalog anew from the entries that scan yields, which the caller
// read out of agents' files; scan may be nil for an empty catalog. The applied index
// of every shard is then 0: the whole log is to be applied again. Quarantines are
// lost. An old file is kept beside the new one, as Path with ".old". A crash in
// between leaves the old state or a file that Open calls unfit.
func Rebuild(c Config, scan func(yield func(storage.Entry) error) error) error {
	if err := c.validate(); err != nil {
		return err
	}
	fresh := c.Path + ".new"
	err := remove(c, fresh)
	if err == nil {
		err = buildFile(c, fresh, scan)
	}
	if err == nil {
		err = replace(c, fresh)
	}
	return fault("rebuild catalog", c.Path, err)
}

func buildFile(c Config, path string, scan func(yield func(storage.Entry) error) error) error {
	conn, err := createFile(path, c.Shards, c.FS)
	if err != nil {
		return err
	}
	f := &file{path: path, conn: conn, stmts: make(map[string]*sqlite.Stmt), shards: c.Shards}
	err = fillFile(f, scan)
	return errors.Join(err, f.close())
}

func fillFile(f *file, scan func(yield func(storage.Entry) error) error) error {
	// Rows come in no order: without a large cache each would read a page.
	if err := f.conn.Exec("PRAGMA cache_size=-65536; BEGIN"); err != nil {
		return err
	}
	if scan != nil {
		err := scan(func(e storage.Entry) error {
			if err := e.ID.Validate(); err != nil {
				return err
			}
			if e.Seq == 0 {
				return &agent.Error{Op: "rebuild catalog", Agent: e.ID, Kind: agent.Invalid, Msg: "an agent without a commit has no place in the catalog"}
			}
			s := stateOf(e, e.CreatedAt)
			added, err := f.put(e.ID, &s, true)
			if err == nil && added {
				if f.agents++; f.agents%rebuildBatch == 0 {
					err = f.conn.Exec("COMMIT; BEGIN")
				}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := f.setAgents(f.agents); err != nil {
		return err
	}
	// The mode is part of the file; changing it last keeps a log from being made.
	return f.conn.Exec("COMMIT; PRAGMA journal_mode=WAL")
}

// replace puts the new file in the place of the old one. From the first step to the
// last the mark says that what lies there is unfit: the old file without its log is
// older than the log's index may be, and its log must never lie beside the new one.
func replace(c Config, fresh string) error {
	if err := syncFile(c, fresh); err != nil {
		return err
	}
	if err := setMark(c); err != nil {
		return err
	}
	if _, err := c.FS.Stat(c.Path); err == nil {
		if err := remove(c, c.Path+".old"); err != nil {
			return err
		}
	}
	for _, suffix := range []string{"", logSuffix} {
		if err := c.FS.Rename(c.Path+suffix, c.Path+".old"+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := c.FS.Rename(fresh, c.Path); err != nil {
		return err
	}
	if err := c.FS.SyncDir(filepath.Dir(c.Path)); err != nil {
		return err
	}
	if err := c.FS.Remove(c.Path + markSuffix); err != nil {
		return err
	}
	return c.FS.SyncDir(filepath.Dir(c.Path))
}

// setMark makes durable that the catalog is unfit.
func setMark(c Config) error {
	d, err := c.FS.Open(c.Path+markSuffix, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	return errors.Join(d.Close(), c.FS.SyncDir(filepath.Dir(c.Path)))
}

func syncFile(c Config, path string) error {
	d, err := c.FS.Open(path, os.O_RDWR)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// remove removes a database and its log, if they are there.
func remove(c Config, path string) error {
	for _, suffix := range []string{logSuffix, ""} {
		if err := c.FS.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
