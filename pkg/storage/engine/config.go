package engine

import (
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"agentd/internal/disk"
	"agentd/pkg/agent"
)

// DefaultMaxOpen is how many databases may be open at once unless Config says
// otherwise.
const DefaultMaxOpen = 4096

// Config says where a store lives and who orders its records. It is not changed
// after Open.
type Config struct {
	// Dir is the data folder; it is created with mode 0700. Required. Beside the
	// store's own files it may hold others, such as the log and the placement table.
	Dir string

	// FS is the file system; nil is the operating system's.
	FS disk.FS

	// Shards is the number of shards and ShardOf the shard of an agent, from 0.
	// Both are fixed for the life of the data. Required.
	Shards  int
	ShardOf func(agent.ID) int

	// MaxOpen bounds the databases that are open at once; further Opens are refused
	// with kind Overloaded. 0 is DefaultMaxOpen. It is lowered to what half of the
	// process's file descriptors allow, one for each database.
	MaxOpen int

	// Workers is how many goroutines write agents' files; 0 is 2.
	Workers int

	// Now tells the time. Required.
	Now func() time.Time

	// Room says why no new data can be taken in (kind StorageFull), nil while there is
	// room. It is asked once per commit and must not block. nil is always room.
	Room func() error

	// Stuck is told when committed data cannot be written to agents' files for want of
	// space. It must not block. nil for nobody.
	Stuck func(err error)

	// Log gets what an operator should know. nil for nothing.
	Log *slog.Logger
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
	case c.Shards < 1 || c.ShardOf == nil:
		return bad(fmt.Sprintf("%d shards are set; there must be at least one, and a function that finds an agent's", c.Shards))
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
	if most := limit.Cur / 2; uint64(c.MaxOpen) > most {
		c.MaxOpen = max(1, int(most))
	}
	if c.FS == nil {
		c.FS = disk.OS{}
	}
	if c.Workers == 0 {
		c.Workers = 2
	}
	if c.Room == nil {
		c.Room = func() error { return nil }
	}
	if c.Stuck == nil {
		c.Stuck = func(error) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
