package reference

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
)

// DefaultMaxOpen is how many databases may be open at once unless Config says
// otherwise.
const DefaultMaxOpen = 4096

// descriptorsPerDatabase: the database, its log as SQLite sees it, its log as the
// syncer sees it.
const descriptorsPerDatabase = 3

// Config says where a store lives. It is not changed after Open.
type Config struct {
	// Dir is the data folder; it is created with mode 0700. Required.
	Dir string

	// MaxOpen bounds the databases that are open at once; further Opens are refused
	// with kind Overloaded. 0 is DefaultMaxOpen. It is lowered to what half of the
	// process's file descriptors allow.
	MaxOpen int

	// Now tells the time of creation of agents. Required.
	Now func() time.Time

	// Log gets what an operator should know: rebuilt catalogs, damaged files. nil
	// for nothing.
	Log *slog.Logger

	// disk makes files and folders durable. nil for the operating system's; tests
	// put failing and recording ones here.
	disk func(op syncOp, f *os.File) error
}

// syncOp says what is made durable: it names the boundary in errors and tests.
type syncOp string

const (
	syncLog     syncOp = "log"     // an agent's write-ahead log
	syncNew     syncOp = "new"     // an agent's new database file
	syncBack    syncOp = "back"    // an agent's database, before its log is removed
	syncFolder  syncOp = "folder"  // directory entries
	syncCatalog syncOp = "catalog" // the catalog's write-ahead log
	syncFormat  syncOp = "format"  // the FORMAT file
)

func osSync(op syncOp, f *os.File) error {
	for {
		var err error
		if op == syncFolder {
			err = unix.Fsync(int(f.Fd()))
		} else {
			err = unix.Fdatasync(int(f.Fd()))
		}
		if err != unix.EINTR {
			return err
		}
	}
}

// validate fills in defaults and refuses nonsense.
func (c Config) validate() (Config, error) {
	bad := func(msg string) (Config, error) {
		return c, &agent.Error{Op: "open store", Kind: agent.Invalid, Msg: msg}
	}
	switch {
	case c.Dir == "":
		return bad("no data folder is set")
	case c.Now == nil:
		return bad("no clock is set")
	case c.MaxOpen < 0:
		return bad(fmt.Sprintf("the limit of open databases is %d; it must be positive", c.MaxOpen))
	}
	if c.MaxOpen == 0 {
		c.MaxOpen = DefaultMaxOpen
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return c, &agent.Error{Op: "open store", Kind: agent.Internal, Msg: "the limit of file descriptors is unknown", Err: err}
	}
	if most := limit.Cur / 2 / descriptorsPerDatabase; uint64(c.MaxOpen) > most {
		c.MaxOpen = max(1, int(most))
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.disk == nil {
		c.disk = osSync
	}
	return c, nil
}
