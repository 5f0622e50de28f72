package commitlog

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	"agentd/internal/disk"
	"agentd/pkg/agent"
)

// Limits of one log and of one group. Each is an error of kind TooLarge, or
// StorageFull where waiting can help.
const (
	MaxGroups     = 4096
	MaxEntryBytes = 80 << 20 // Data and Extensions together
	MaxKeyBytes   = 128
	MaxValueBytes = 64 << 10
	MaxKeys       = 64 // of a group

	DefaultSegmentBytes = 64 << 20
	MinSegmentBytes     = 64 << 10
	MaxSegmentBytes     = 1 << 30
	DefaultMaxBytes     = 4 << 30
	DefaultCacheBytes   = 32 << 20
)

// maxEntries bounds the index, 16 bytes an entry.
const maxEntries = 8 << 20

// Config is what a Log needs to know. Dir and FS are required.
type Config struct {
	Dir string  // holds nothing but the log's segments
	FS  disk.FS // the operating system's outside of tests

	Log *slog.Logger     // nil: nothing is said
	Now func() time.Time // for latencies and the time in batches; nil: the machine's clock

	// LogID tells this log from others, so that a segment that was copied into the
	// wrong folder is refused. Zero: that of the folder, or random for a new log.
	LogID [16]byte

	// SegmentBytes is the size of new segments, a multiple of 4096 from 64 KiB to
	// 1 GiB; 0: 64 MiB. Segments of another size that exist stay as they are.
	SegmentBytes int64

	// MaxBytes is the size of all segments together, at least 4 of them; 0: 4 GiB. A
	// log that has reached it is Full until entries are forgotten.
	MaxBytes int64

	// ReserveBytes is kept free for the platform's own entries: Room ends that much
	// before the log does. 0: a quarter of a segment; at most half of MaxBytes.
	ReserveBytes int64

	// CacheBytes bounds the recent entries kept in memory; 0: 32 MiB.
	CacheBytes int64

	// Buffered writes through the page cache and syncs, also where the file system
	// would take writes past it. Slower; for file systems whose O_DIRECT misbehaves.
	Buffered bool

	// Retry ticks when a segment that could not be prepared may be tried again.
	// nil: each second.
	Retry <-chan time.Time
}

func (c Config) withDefaults() Config {
	set := func(p *int64, value int64) {
		if *p == 0 {
			*p = value
		}
	}
	set(&c.SegmentBytes, DefaultSegmentBytes)
	set(&c.MaxBytes, max(DefaultMaxBytes, 4*c.SegmentBytes))
	set(&c.ReserveBytes, c.SegmentBytes/4)
	set(&c.CacheBytes, DefaultCacheBytes)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

func (c Config) validate() error {
	msg := ""
	switch {
	case c.Dir == "" || c.FS == nil:
		msg = "Dir and FS are required"
	case c.SegmentBytes < MinSegmentBytes || c.SegmentBytes > MaxSegmentBytes || c.SegmentBytes%blockBytes != 0:
		msg = fmt.Sprintf("a segment has 64 KiB to 1 GiB, in steps of 4 KiB, not %d bytes", c.SegmentBytes)
	case c.MaxBytes < 4*c.SegmentBytes:
		msg = fmt.Sprintf("a log has at least 4 segments of %d bytes, not %d bytes", c.SegmentBytes, c.MaxBytes)
	case c.ReserveBytes < 0 || c.ReserveBytes > c.MaxBytes/2:
		msg = fmt.Sprintf("the reserve is 0 to half of the log, not %d bytes", c.ReserveBytes)
	case c.CacheBytes < 0:
		msg = "CacheBytes is negative"
	default:
		return nil
	}
	return &agent.Error{Op: opOpen, Kind: agent.Invalid, Msg: msg}
}

// maxBatch is the most that one write has, header included. A quarter of a segment, so
// that after a carry, which is a quarter at most, two of them always fit.
func (c Config) maxBatch() int {
	return int(min(1<<20, c.SegmentBytes/4) &^ (blockBytes - 1))
}

// maxCarry bounds what each segment repeats of all groups' state.
func (c Config) maxCarry() int64 { return c.SegmentBytes/4 - blockBytes }

// usable is what of a new segment entries can count on.
func (c Config) usable() int64 {
	return c.SegmentBytes - blockBytes - c.SegmentBytes/4 - int64(c.maxBatch())
}

// spares is how many prepared segments are kept ready: one that only a roll which frees
// others may take, one for the next roll, and those that hold the reserve.
func (c Config) spares() int {
	n := 2 + (c.ReserveBytes+c.usable()-1)/c.usable()
	return int(min(n, c.MaxBytes/c.SegmentBytes-1))
}

// newID is the identity of a new log.
func (c Config) newID() (id [16]byte) {
	if c.LogID != id {
		return c.LogID
	}
	_, _ = rand.Read(id[:]) // never fails
	return id
}
