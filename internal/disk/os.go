package disk

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

func (OS) Open(path string, flags int) (File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (OS) MkdirAll(path string) error                 { return os.MkdirAll(path, 0o700) }
func (OS) Remove(path string) error                   { return os.Remove(path) }
func (OS) Rename(from, to string) error               { return os.Rename(from, to) }
func (OS) Stat(path string) (fs.FileInfo, error)      { return os.Lstat(path) }
func (OS) ReadDir(path string) ([]fs.DirEntry, error) { return os.ReadDir(path) }

func (OS) SyncDir(path string) error { return withFolder(path, unix.Fsync) }
func (OS) SyncFS(path string) error  { return withFolder(path, unix.Syncfs) }

func withFolder(path string, fn func(fd int) error) error {
	dir, err := os.Open(filepath.Clean(path))
	if err != nil {
		return err
	}
	err = again(func() error { return fn(int(dir.Fd())) })
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	return pathError("sync", path, err)
}

func (OS) Free(path string) (int64, error) {
	var st unix.Statfs_t
	if err := again(func() error { return unix.Statfs(path, &st) }); err != nil {
		return 0, pathError("statfs", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

type osFile struct{ *os.File }

func (f osFile) Sync() error {
	return pathError("sync", f.Name(), again(func() error { return unix.Fdatasync(f.Fd()) }))
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f osFile) Fd() int { return int(f.File.Fd()) }

// again repeats what a signal interrupted.
func again(fn func() error) error {
	for {
		if err := fn(); err != unix.EINTR {
			return err
		}
	}
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
