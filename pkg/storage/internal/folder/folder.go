// Package folder holds a data folder for one process: it is locked, of a known
// format, and nobody else's.
package folder

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
)

// Names inside the data folder.
const (
	LockName   = "LOCK"
	FormatName = "FORMAT"

	formatMagic = "agentd data folder"
)

// Format is a way of keeping data in a folder. Its number is in the FORMAT file.
type Format int

// The formats that this program knows; the reference engine's is the older one.
const (
	Reference Format = 1
	Engine    Format = 2
	newest           = Engine
)

func (f Format) String() string {
	if f == Reference {
		return "the reference engine (format 1)"
	}
	return fmt.Sprintf("the storage engine (format %d)", int(f))
}

// Folder is a locked data folder. Its methods may be called from any goroutine.
type Folder struct {
	Dir  string // absolute
	ID   string // told from every other folder's, for its whole life: 32 hexadecimal digits
	lock *os.File
}

// Open creates the folder if need be (mode 0700), checks its format and locks it.
// sync makes the new FORMAT file and the folder's entries durable. Errors: InUse
// (another process has it), Denied, Invalid (not a data folder, of another engine,
// or of a newer agentd), StorageFull. A folder that is refused is not changed.
func Open(path string, format Format, sync func(*os.File) error) (*Folder, error) {
	dir, err := filepath.Abs(path)
	if err != nil {
		return nil, Error(path, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Error(dir, err)
	}
	id, err := readFormat(dir, format)
	if err != nil {
		return nil, err
	}
	f := &Folder{Dir: dir, ID: id}
	if f.lock, err = takeLock(dir); err != nil {
		return nil, err
	}
	if id == "" {
		err = f.writeFormat(format, sync)
	}
	if err == nil {
		err = syncFolder(dir, sync)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close lets the next process have the folder.
func (f *Folder) Close() error { return f.lock.Close() }

// readFormat returns the ID of a folder that is ours already; "" for a new one. One
// that holds other things is refused.
func readFormat(dir string, want Format) (id string, err error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", &agent.Error{Op: "open data folder", Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
	}
	path := filepath.Join(dir, FormatName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", refuseForeign(dir)
	}
	if err != nil {
		return "", Error(dir, err)
	}
	magic, rest, _ := strings.Cut(strings.TrimSpace(string(text)), "\nversion ")
	version, id, _ := strings.Cut(rest, "\nid ")
	n, err := strconv.Atoi(version)
	switch {
	case magic != formatMagic || err != nil || n < 1:
		return refuse("%s is not a format file of agentd: choose another data folder, or restore the file", path)
	case Format(n) > newest:
		return refuse("%s was written by a newer agentd (format %d; this one knows %d): run that version or choose another folder", dir, n, int(newest))
	case Format(n) != want:
		return refuse("%s was written by %v, and this is %v: choose another folder", dir, Format(n), want)
	case len(id) != 2*idBytes:
		return refuse("%s names no ID of the folder: restore the file, or choose another data folder", path)
	}
	return id, nil
}

const idBytes = 16

// refuseForeign: a folder without a FORMAT file must be empty, but for what an
// interrupted first start and file systems themselves leave.
func refuseForeign(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Error(dir, err)
	}
	for _, e := range entries {
		switch e.Name() {
		case LockName, FormatName + ".tmp", "lost+found":
		default:
			return &agent.Error{Op: "open data folder", Kind: agent.Invalid,
				Msg: fmt.Sprintf("%s holds %s but no %s file, so it is no data folder of agentd: choose an empty folder", dir, e.Name(), FormatName)}
		}
	}
	return nil
}

func (f *Folder) writeFormat(format Format, sync func(*os.File) error) error {
	path := filepath.Join(f.Dir, FormatName)
	file, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return Error(f.Dir, err)
	}
	id := make([]byte, idBytes)
	_, _ = rand.Read(id) // never fails
	f.ID = hex.EncodeToString(id)
	_, err = fmt.Fprintf(file, "%s\nversion %d\nid %s\n", formatMagic, int(format), f.ID)
	if err == nil {
		err = sync(file)
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	return errorOrNil(f.Dir, err)
}

func syncFolder(dir string, sync func(*os.File) error) error {
	file, err := os.Open(dir)
	if err != nil {
		return Error(dir, err)
	}
	err = sync(file)
	return errorOrNil(dir, errors.Join(err, file.Close()))
}

// takeLock holds the folder until the process ends, and leaves its number for the
// message that the next one gives.
func takeLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, LockName)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, Error(dir, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := file.ReadAt(holder, 0) // only for the message; short by nature
		file.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, Error(dir, fmt.Errorf("lock %s: %w", path, err))
		}
		who := "another process"
		if pid := strings.TrimSpace(string(holder[:n])); pid != "" {
			who = "process " + pid
		}
		return nil, &agent.Error{Op: "open data folder", Kind: agent.InUse,
			Msg: fmt.Sprintf("data folder %s is in use by %s; stop it or choose another --data", dir, who)}
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(Error(dir, err), file.Close())
	}
	return file, nil
}

// Error says what is wrong with a path of the data folder, and what to do.
func Error(path string, err error) error {
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

func errorOrNil(path string, err error) error {
	if err == nil {
		return nil
	}
	return Error(path, err)
}
