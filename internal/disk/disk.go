// Package disk is the file system as storage needs it: positioned reads and
// writes, and one word for each way of making something durable. The operating
// system's is OS; disktest records every operation of it and makes from the record
// what a crash could have left.
package disk

import (
	"io"
	"io/fs"
)

// FS is a file system. Its methods may be called from any goroutine. Errors are
// those of package os (fs.ErrNotExist, unix.ENOSPC and so on can be asked for with
// errors.Is).
type FS interface {
	// Open opens a file with the flags of package os and, for writes that bypass the
	// page cache or are durable when they return, unix.O_DIRECT and unix.O_DSYNC.
	// Files are created with mode 0600.
	Open(path string, flags int) (File, error)

	// MkdirAll makes a folder and its parents with mode 0700.
	MkdirAll(path string) error
	Remove(path string) error
	Rename(from, to string) error
	Stat(path string) (fs.FileInfo, error)
	ReadDir(path string) ([]fs.DirEntry, error)

	// SyncDir makes the names inside a folder durable.
	SyncDir(path string) error
	// SyncFS makes everything durable that was written to the file system of path
	// (syncfs(2)).
	SyncFS(path string) error
	// Free is the number of bytes that can still be written to the file system of
	// path.
	Free(path string) (int64, error)
}

// File is an open file. Reads and writes at different positions may run at once.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Size() (int64, error)
	// Sync makes the file's bytes and size durable (fdatasync(2)). After an error it
	// is unknown what is durable, and a second Sync would not tell.
	Sync() error
	// Fd is the descriptor, valid until Close.
	Fd() int
}
