package reference

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"

	"agentd/pkg/agent"
	datafolder "agentd/pkg/storage/internal/folder"
)

// Names inside the data folder.
const (
	formatName  = datafolder.FormatName
	catalogName = "catalog.db"
	agentsName  = "agents"
)

// folder is the data folder: held by a lock, of a known format.
type folder struct {
	*datafolder.Folder
	dir  string
	disk func(syncOp, *os.File) error

	mu      sync.Mutex // guards durable; nothing is synced under it
	durable [256]bool  // the entries of the folders ab are on disk
}

// openFolder creates, checks and locks the data folder.
func openFolder(c Config) (*folder, error) {
	held, err := datafolder.Open(c.Dir, datafolder.Reference, func(f *os.File) error { return c.disk(syncFormat, f) })
	if err != nil {
		return nil, err
	}
	f := &folder{Folder: held, dir: held.Dir, disk: c.disk}
	err = folderErrorOrNil(f.dir, os.MkdirAll(filepath.Join(f.dir, agentsName), 0o700))
	if err == nil {
		err = f.syncDir(f.dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *folder) close() error { return f.Close() }

// agentPath is the database file of an agent. The name is a hash, because names of
// agents are longer and freer than names of files; the ID is inside.
func (f *folder) agentPath(id agent.ID) string {
	sum := sha256.Sum256([]byte(id.Key()))
	name := hex.EncodeToString(sum[:20])
	return filepath.Join(f.dir, agentsName, name[:2], name+".db")
}

// syncDir makes the entries of dir durable.
func (f *folder) syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return folderError(dir, err)
	}
	err = f.disk(syncFolder, file)
	return folderErrorOrNil(dir, errors.Join(err, file.Close()))
}

// syncFile makes the existence of an agent's files durable: their entries, and once
// per process that of the folder itself, which may be new or left from a process
// that died before it synced it.
func (f *folder) syncFile(path string) error {
	leaf := filepath.Dir(path)
	slot, err := strconv.ParseUint(filepath.Base(leaf), 16, 8)
	if err != nil {
		return &agent.Error{Op: "sync agent file", Kind: agent.Internal, Msg: path + " does not lie in the folder of agents", Err: err}
	}
	f.mu.Lock()
	done := f.durable[slot]
	f.mu.Unlock()
	if done {
		return f.syncDir(leaf)
	}
	var g errgroup.Group
	for _, dir := range []string{leaf, filepath.Dir(leaf)} {
		g.Go(func() error { return f.syncDir(dir) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	f.mu.Lock()
	f.durable[slot] = true
	f.mu.Unlock()
	return nil
}

func folderError(path string, err error) error { return datafolder.Error(path, err) }

func folderErrorOrNil(path string, err error) error {
	if err == nil {
		return nil
	}
	return folderError(path, err)
}
