package reference

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
)

// Names inside the data folder.
const (
	lockName    = "LOCK"
	formatName  = "FORMAT"
	catalogName = "catalog.db"
	agentsName  = "agents"

	formatMagic   = "agentd data folder"
	formatVersion = 1
)

// folder is the data folder: held by a lock, of a known format.
type folder struct {
	dir  string
	lock *os.File
	disk func(syncOp, *os.File) error

	mu      sync.Mutex // guards durable; nothing is synced under it
	durable [256]bool  // the entries of the folders ab are on disk
}

// openFolder creates, checks and locks the data folder.
func openFolder(c Config) (*folder, error) {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, folderError(c.Dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, folderError(dir, err)
	}
	f := &folder{dir: dir, disk: c.disk}
	known, err := f.readFormat()
	if err != nil {
		return nil, err
	}
	if err := f.takeLock(); err != nil {
		return nil, err
	}
	if !known {
		err = f.writeFormat()
	}
	if err == nil {
		err = folderErrorOrNil(dir, os.MkdirAll(filepath.Join(dir, agentsName), 0o700))
	}
	if err == nil {
		err = f.syncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *folder) close() error { return f.lock.Close() }

// readFormat says whether the folder is ours; one that holds other things or comes
// from a newer agentd is refused before anything is written.
func (f *folder) readFormat() (known bool, err error) {
	refuse := func(format string, args ...any) (bool, error) {
		return false, &agent.Error{Op: "open data folder", Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
	}
	text, err := os.ReadFile(filepath.Join(f.dir, formatName))
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(f.dir)
		if err != nil {
			return false, folderError(f.dir, err)
		}
		for _, e := range entries {
			switch e.Name() {
			case lockName, formatName + ".tmp", "lost+found":
			default:
				return refuse("%s holds %s but no %s file, so it is no data folder of agentd: choose an empty folder", f.dir, e.Name(), formatName)
			}
		}
		return false, nil
	}
	if err != nil {
		return false, folderError(f.dir, err)
	}
	magic, version, _ := strings.Cut(strings.TrimSpace(string(text)), "\nversion ")
	n, err := strconv.Atoi(version)
	switch {
	case magic != formatMagic || err != nil || n < 1:
		return refuse("%s is not a format file of agentd: choose another data folder, or restore the file", filepath.Join(f.dir, formatName))
	case n > formatVersion:
		return refuse("%s was written by a newer agentd (format %d; this one knows %d): run that version or choose another folder", f.dir, n, formatVersion)
	}
	return true, nil
}

func (f *folder) writeFormat() error {
	path := filepath.Join(f.dir, formatName)
	file, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return folderError(f.dir, err)
	}
	_, err = fmt.Fprintf(file, "%s\nversion %d\n", formatMagic, formatVersion)
	if err == nil {
		err = f.disk(syncFormat, file)
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return folderErrorOrNil(f.dir, err)
}

// takeLock holds the folder until the process ends, and leaves its number for the
// message that the next one gives.
func (f *folder) takeLock() error {
	path := filepath.Join(f.dir, lockName)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return folderError(f.dir, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := file.ReadAt(holder, 0) // only for the message; short by nature
		file.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return folderError(f.dir, fmt.Errorf("lock %s: %w", path, err))
		}
		who := "another process"
		if pid := strings.TrimSpace(string(holder[:n])); pid != "" {
			who = "process " + pid
		}
		return &agent.Error{Op: "open data folder", Kind: agent.InUse,
			Msg: fmt.Sprintf("data folder %s is in use by %s; stop it or choose another --data", f.dir, who)}
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return errors.Join(folderError(f.dir, err), file.Close())
	}
	f.lock = file
	return nil
}

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

// folderError says what is wrong with a path of the data folder.
func folderError(path string, err error) error {
	e := &agent.Error{Op: "open data folder", Kind: agent.Internal, Err: err}
	switch {
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS):
		e.Kind, e.Msg = agent.Denied, fmt.Sprintf("%s cannot be written: change its owner or mode, or choose another --data", path)
	case errors.Is(err, unix.ENOTDIR):
		e.Kind, e.Msg = agent.Invalid, fmt.Sprintf("%s is a file, not a folder: choose another --data", path)
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		e.Kind, e.Msg = agent.StorageFull, fmt.Sprintf("no space for %s: free some", path)
	default:
		e.Msg = path
	}
	return e
}

func folderErrorOrNil(path string, err error) error {
	if err == nil {
		return nil
	}
	return folderError(path, err)
}
