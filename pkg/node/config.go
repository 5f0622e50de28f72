package node

import (
	"fmt"
	"log/slog"
	"os"
	"time"

	"agentd/internal/governor"
	"agentd/pkg/agent"
)

// Defaults of Config.
const (
	DefaultGRPCAddr = "127.0.0.1:7600"
	DefaultHTTPAddr = "127.0.0.1:7680"
	DefaultIdle     = 10 * time.Second
	DefaultMaxLive  = 4096

	memoryShare = 70 // percent of the machine or its cgroup
	minMemory   = 64 << 20
)

// Config says how a node runs. The zero value of a field means its default; only
// DataDir has none.
type Config struct {
	DataDir      string        // folder of this node alone; created when absent
	GRPCAddr     string        // HOST:PORT; port 0 takes a free one
	HTTPAddr     string        // HOST:PORT for /healthz, /readyz, /metrics
	Name         string        // of the node in the cluster; default: the host name
	Memory       uint64        // bytes of Go memory before the turn that grows it is stopped; default 70 % of the machine or its cgroup
	TurnBudget   time.Duration // wall time of one turn; default 30 s
	Idle         time.Duration // without work, then an agent hibernates; default 10 s
	MaxLive      int           // agents in memory at once; default 4 096
	SegmentBytes int64         // of the commit log's files, some five of which are made ahead; default 64 MiB
	DevErrors    bool          // internal errors carry their causes to clients; for development
	Insecure     bool          // allow addresses beyond loopback without TLS and authentication
	Version      string        // reported to clients
	Log          *slog.Logger  // default: discard
	Security                   // default: none, which only loopback addresses may do
}

// Validate fills in defaults and refuses what cannot work, with kind Invalid, or Denied
// for an address that strangers could reach.
func (c *Config) Validate() error {
	bad := func(format string, args ...any) error {
		return &agent.Error{Op: "configure node", Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
	}
	if c.DataDir == "" {
		return bad("no data folder is given: use --data DIR")
	}
	setDefault(&c.GRPCAddr, DefaultGRPCAddr)
	setDefault(&c.HTTPAddr, DefaultHTTPAddr)
	setDefault(&c.TurnBudget, governor.DefaultBudget)
	setDefault(&c.Idle, DefaultIdle)
	setDefault(&c.MaxLive, DefaultMaxLive)
	setDefault(&c.Version, "dev")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return bad("the host has no name (%v): use --node NAME", err)
		}
		c.Name = name
	}
	if c.Memory == 0 {
		c.Memory = governor.MachineMemory() / 100 * memoryShare
	}
	switch {
	case c.Memory < minMemory:
		return bad("a memory limit of %d MiB is too low; at least %d MiB are needed", c.Memory>>20, uint64(minMemory)>>20)
	case c.TurnBudget < 10*time.Millisecond:
		return bad("a turn budget of %v is too short; at least 10ms are needed", c.TurnBudget)
	case c.Idle < 0 || c.MaxLive < 1:
		return bad("idle time and the number of live agents must be positive")
	}
	return c.Security.check(c.Insecure, c.GRPCAddr, c.HTTPAddr)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
