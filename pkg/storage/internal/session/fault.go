package session

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// Extended codes of SQLite that mean damaged bytes, not a broken disk.
const (
	ioShortRead sqlite.Code = 10 | 2<<8
	ioData      sqlite.Code = 10 | 32<<8
	ioCorruptFS sqlite.Code = 10 | 33<<8
)

// Fault turns what SQLite said about the database at path into an *agent.Error
// that says what to do.
func Fault(op string, id agent.ID, path string, err error) error {
	var cause *sqlite.Error
	if !errors.As(err, &cause) {
		return err
	}
	e := &agent.Error{Op: op, Agent: id, Kind: agent.SQL, Msg: cause.Msg}
	switch cause.Stop {
	case sqlite.StopInterrupt:
		e.Msg = "the statement was interrupted"
		return e
	case sqlite.StopWritten:
		e.Kind, e.Msg = agent.TooLarge, turnTooLarge
		return e
	case sqlite.StopMemory:
		e.Kind, e.Msg = agent.TooLarge, fmt.Sprintf("the statement needs more than %d MiB for sorting or temporary tables: narrow it, or add an index", maxStatementMemory>>20)
		return e
	}
	if cause.Denied != "" {
		e.Msg = cause.Denied
		return e
	}
	switch cause.Code {
	case ioShortRead, ioData, ioCorruptFS:
		return Damaged(op, id, path, err)
	}
	switch cause.Code.Primary() {
	case sqlite.Corrupt, sqlite.NotADB:
		return Damaged(op, id, path, err)
	case sqlite.Full:
		e.Kind, e.Msg = agent.StorageFull, fmt.Sprintf("no space for %s: the disk is full or the database has reached %d GiB; delete data or free space", path, storage.MaxDatabaseBytes>>30)
	case sqlite.TooBig:
		e.Kind, e.Msg = agent.TooLarge, fmt.Sprintf("a row, text or blob is over %d MiB: store it in parts", storage.MaxRowBytes>>20)
	case sqlite.NoMem:
		e.Kind, e.Msg = agent.MemoryLimit, "SQLite got no memory"
	case sqlite.IOErr, sqlite.CantOpen:
		e.Kind, e.Msg = agent.Internal, "cannot read or write "+path
		if errno := unix.Errno(cause.Errno); errno == unix.ENOSPC || errno == unix.EDQUOT {
			e.Kind, e.Msg = agent.StorageFull, "no space for "+path+": free some"
		} else if errno == unix.EACCES || errno == unix.EPERM || errno == unix.EROFS {
			e.Kind, e.Msg = agent.Denied, path+" cannot be accessed: change its owner or mode"
		}
		e.Err = err
	}
	return e
}

const turnTooLarge = "one turn may change 64 MiB: write in several turns"

var _ [storage.MaxTurnBytes]byte = [64 << 20]byte{} // turnTooLarge says so

// Damaged is the error of a file that cannot be believed.
func Damaged(op string, id agent.ID, path string, err error) error {
	return &agent.Error{Op: op, Agent: id, Kind: agent.Corrupt, Err: err,
		Msg: fmt.Sprintf("database file %s is damaged: restore it from a backup, or move it away to start the agent empty", path)}
}

// SyncFailed says whether a sync failed inside SQLite: what is on disk is then
// unknown.
func SyncFailed(err error) bool {
	var cause *sqlite.Error
	return errors.As(err, &cause) && (cause.Code == sqlite.IOErrFsync || cause.Code == ioDirFsync)
}

// ioDirFsync is the extended code of a folder whose sync failed.
const ioDirFsync sqlite.Code = 10 | 5<<8

// OutcomeUnknown is the error of a commit of which nobody can say whether it is on
// disk.
func OutcomeUnknown(path string, err error) error {
	return &agent.Error{Op: "commit", Kind: agent.OutcomeUnknown, Err: err,
		Msg: "the disk did not confirm a write to " + path + ": check the disk, restart agentd, and retry with the same key"}
}
