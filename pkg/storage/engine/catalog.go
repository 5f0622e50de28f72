package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/catalog"
	"agentd/pkg/storage/internal/session"
	"agentd/pkg/storage/internal/sqlite"
	"agentd/pkg/storage/record"
)

// openCatalog opens the catalog. One that is missing (the folder is new) or damaged
// is made from what agents' files say of themselves; the log then brings agents to
// the present.
func (s *Store) openCatalog(c Config) (*catalog.Catalog, error) {
	cfg := catalog.Config{Path: s.catalogPath(), FS: c.FS, Shards: c.Shards, ShardOf: c.ShardOf,
		Propose: s.quarantine, Log: c.Log}
	cat, err := catalog.Open(cfg)
	if err == nil {
		s.redo.rebuilt, err = halfRebuilt(s.life, cat, c.Shards)
		return cat, err
	}
	if agent.KindOf(err) != agent.Corrupt {
		return nil, err
	}
	found, broken := 0, 0
	rebuildErr := catalog.Rebuild(cfg, func(yield func(storage.Entry) error) error {
		return s.files.Walk(s.life, func(path string) error {
			entry, err := s.inspect(path)
			if err != nil {
				broken++
				c.Log.Error("an agent's file cannot be read; its agent is not listed", "path", path, "error", err)
				return nil
			}
			found++
			return yield(entry)
		})
	})
	if rebuildErr != nil {
		return nil, errors.Join(rebuildErr, err)
	}
	if found+broken > 0 {
		s.redo.rebuilt = true
		c.Log.Warn("the catalog was rebuilt from the agents' files; quarantines are lost", "agents", found, "unreadable", broken, "reason", err)
	}
	return catalog.Open(cfg)
}

// halfRebuilt: the process that rebuilt the catalog ended before its log was applied
// again. Rows come with a checkpoint, or from files.
func halfRebuilt(ctx context.Context, cat *catalog.Catalog, shards int) (bool, error) {
	n, err := cat.Count(ctx)
	if err != nil || n == 0 {
		return false, err
	}
	for shard := range shards {
		if cat.AppliedIndex(shard) != 0 {
			return false, nil
		}
	}
	return true, nil
}

// redo is whether the log of a rebuilt catalog is still being applied.
type redo struct {
	rebuilt bool // set before the store is used
	mu      sync.Mutex
	done    map[int]bool // shards that were led, or given up
}

func (r *redo) finished(shard int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(map[int]bool)
	}
	r.done[shard] = true
}

func (r *redo) underWay(shards int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rebuilt && len(r.done) < shards
}

// inspect reads what an agent's file says of itself.
func (s *Store) inspect(path string) (_ storage.Entry, err error) {
	file, err := s.fs.Open(path, os.O_RDONLY)
	if err != nil {
		return storage.Entry{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	size, err := file.Size()
	if err != nil {
		return storage.Entry{}, err
	}
	conn, _, err := sqlite.OpenCapture(sqlite.CaptureOptions{FD: file.Fd(), Pages: uint32(size / record.PageBytes), Seq: 1}, session.Limits())
	if err != nil {
		return storage.Entry{}, err
	}
	meta, err := session.ReadMeta(conn)
	if err := errors.Join(err, conn.Close(false)); err != nil {
		return storage.Entry{}, session.Fault("rebuild catalog", agent.ID{}, path, asDamage(err))
	}
	entry, err := meta.Entry(size)
	if err != nil {
		return storage.Entry{}, err
	}
	if want := s.files.Path(entry.ID); want != path {
		return storage.Entry{}, &agent.Error{Op: "rebuild catalog", Agent: entry.ID, Kind: agent.Corrupt, Msg: "its file belongs at " + want}
	}
	return entry, nil
}

func (s *Store) catalogPath() string { return filepath.Join(s.folder.Dir, catalogName) }
