package catalog

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
	"agentd/pkg/storage/internal/sqlite"
)

// Extended codes of SQLite that mean damaged bytes, not a broken disk.
const (
	ioShortRead sqlite.Code = 10 | 2<<8
	ioData      sqlite.Code = 10 | 32<<8
	ioCorruptFS sqlite.Code = 10 | 33<<8
)

// unfit is the error of a file that cannot be believed.
func unfit(op, path, why string, cause error) error {
	return &agent.Error{Op: op, Kind: agent.Corrupt, Err: cause,
		Msg: "the catalog " + path + " cannot be used: " + why + "; restart agentd, which rebuilds it from the agents' files"}
}

// fault turns what SQLite or the file system said about the file at path into an
// *agent.Error that says what to do.
func fault(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if known := (*agent.Error)(nil); errors.As(err, &known) {
		return err
	}
	e := &agent.Error{Op: op, Kind: agent.Internal, Msg: "cannot read or write " + path, Err: err}
	if cause := (*sqlite.Error)(nil); errors.As(err, &cause) {
		switch cause.Code {
		case ioShortRead, ioData, ioCorruptFS:
			return unfit(op, path, "it is damaged", err)
		}
		switch cause.Code.Primary() {
		case sqlite.Corrupt, sqlite.NotADB:
			return unfit(op, path, "it is damaged", err)
		case sqlite.Generic, sqlite.Mismatch, sqlite.Constraint:
			return unfit(op, path, "it has another form", err)
		case sqlite.NoMem:
			e.Kind, e.Msg = agent.MemoryLimit, "SQLite got no memory"
		case sqlite.Full:
			e.Kind, e.Msg = agent.StorageFull, "no space for "+path+": free some"
		}
		if cause.Errno != 0 {
			err = unix.Errno(cause.Errno)
		}
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e.Kind, e.Msg = agent.StorageFull, "no space for "+path+": free some"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		e.Kind, e.Msg = agent.Denied, path+" cannot be accessed: change its owner or mode"
	}
	return e
}

// defect is the error of a caller that broke this package's rules.
func defect(op, what string) error {
	return &agent.Error{Op: op, Kind: agent.Internal, Msg: what + "; this is a defect of agentd: please report it"}
}

func notFound(id agent.ID) error {
	return &agent.Error{Op: "find agent", Agent: id, Kind: agent.NotFound, Msg: "no such agent has stored anything"}
}

func closed(op string) error {
	return &agent.Error{Op: op, Kind: agent.Unavailable, Msg: "the store is closed"}
}
