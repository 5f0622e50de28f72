package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/record"
)

// MaxReasonBytes is what is kept of a quarantine's reason.
const MaxReasonBytes = 4 << 10

// Config of Open and Rebuild.
type Config struct {
	Path    string             // of catalog.db, absolute; its folder exists
	FS      disk.FS            // creates, renames and syncs; SQLite reads and writes the file itself
	Shards  int                // number of shards, fixed when the file is made
	ShardOf func(agent.ID) int // 0 to Shards-1; any goroutine
	Log     *slog.Logger

	// Propose sends a record of kind Quarantine through the log and returns when it is
	// applied, which is to say when Commit has had it.
	Propose func(ctx context.Context, id agent.ID, reason string) error
}

func (c *Config) validate() error {
	if c.Shards < 1 || c.ShardOf == nil || c.FS == nil || c.Log == nil || !filepath.IsAbs(c.Path) {
		return defect("open catalog", "Path (absolute), FS, Shards, ShardOf and Log are needed")
	}
	return nil
}

// Catalog answers who exists and who is due. Three layers know, the first that knows
// an agent wins: lives (open databases), memory (records applied since the last
// checkpoint), rows (as of the last checkpoint).
//
// Lock order: writeMu, fileMu, part.mu.
type Catalog struct {
	config Config
	bell   *bell
	sum    sums
	parts  []*part
	closed atomic.Bool // written under fileMu

	writeMu sync.Mutex // held by Write, Verify and Close: one at a time

	fileMu sync.Mutex // guards what follows; SQL runs under it, and around a write-back two short syncs of the log
	file   *file
	window window

	step func(stage) // set by tests: what happens between two steps of Write and Due
}

var _ storage.Catalog = (*Catalog)(nil)

// stage is where Write or Due has come.
type stage int

const (
	betweenHolds stage = iota // Write has let go of fileMu
	rowsRead                  // Due has read rows, not yet memory
	memoryRead                // Due has read both and not told the bell
)

func (c *Catalog) at(s stage) {
	if c.step != nil {
		c.step(s)
	}
}

// Open opens the catalog. A file that is missing, damaged or of another form is an
// error of kind Corrupt: Rebuild makes a new one. Another number of shards is of kind
// Invalid. Rows are not read, but for quarantines.
func Open(c Config) (*Catalog, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	f, err := openFile(c.Path, c.FS)
	if err != nil {
		return nil, err
	}
	cat := &Catalog{config: c, bell: newBell(), file: f}
	cat.window.reset()
	if err := cat.load(); err != nil {
		return nil, errors.Join(fault("open catalog", c.Path, err), f.close())
	}
	return cat, nil
}

func (c *Catalog) load() error {
	f := c.file
	if f.shards != c.config.Shards {
		return &agent.Error{Op: "open catalog", Kind: agent.Invalid,
			Msg: fmt.Sprintf("%s was made for %d shards, not for %d: the number cannot be changed", f.path, f.shards, c.config.Shards)}
	}
	for range f.shards {
		c.parts = append(c.parts, newPart(c.bell, &c.sum))
	}
	c.sum.applied.Store(f.agents)
	err := f.eachApplied(func(shard int, index uint64) { c.parts[shard].appliedAt = index })
	if err != nil {
		return err
	}
	return f.eachQuarantine(func(id agent.ID, reason string) { c.partOf(id).quarantined[id] = reason })
}

// Close writes nothing: what is not in the rows yet is in the log. The lives must
// have ended; afterwards every method fails with kind Unavailable.
func (c *Catalog) Close() error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	if c.closed.Swap(true) {
		return nil
	}
	return c.file.close()
}

func (c *Catalog) partOf(id agent.ID) *part { return c.parts[c.config.ShardOf(id)] }

// Commit applies a record of kind Commit or Quarantine; a quarantine of an agent that
// does not exist (it was deleted meanwhile) changes nothing. The applier's worker of
// the shard calls it, in the log's order; the index is told to Cut. A commit reads
// no row and cannot fail.
func (c *Catalog) Commit(shard int, _ uint64, r *record.Record) error {
	switch r.Kind {
	case record.Commit:
		c.parts[shard].commit(r)
	case record.Quarantine:
		if seq, err := c.Seq(r.Agent); err != nil || seq == 0 {
			return err
		}
		c.parts[shard].judge(r.Agent, r.Reason)
	default:
		return defect("apply to catalog", fmt.Sprintf("a record has the kind %d", r.Kind))
	}
	return nil
}

// Delete applies a deletion; also of an agent that does not exist. Called as Commit.
func (c *Catalog) Delete(shard int, _ uint64, id agent.ID) error {
	p := c.parts[shard]
	existed := false
	if _, known := p.appliedSeq(id); !known {
		seq, err := c.rowSeq(id)
		if err != nil {
			return err
		}
		existed = seq != 0
	}
	p.remove(id, existed)
	return nil
}

// Seq is the number of the agent's last applied commit; 0 for an agent that does not
// exist. It reads the row of an agent without recent records.
func (c *Catalog) Seq(id agent.ID) (uint64, error) {
	if seq, known := c.partOf(id).appliedSeq(id); known {
		return seq, nil
	}
	return c.rowSeq(id)
}

func (c *Catalog) rowSeq(id agent.ID) (uint64, error) {
	s, _, err := c.row("read catalog", id)
	return s.seq, err
}

// row reads an agent's row.
func (c *Catalog) row(op string, id agent.ID) (s state, found bool, err error) {
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	if c.closed.Load() {
		return s, false, closed(op)
	}
	s, found, err = c.file.get(id)
	return s, found, c.troubleLocked(op, err)
}

// AppliedIndex is the log's index that the shard's rows stand for: everything up to
// it survives without the log.
func (c *Catalog) AppliedIndex(shard int) uint64 {
	p := c.parts[shard]
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.appliedAt
}

// Cut freezes what was applied to the shard, up to index, for Write. It is called by
// the shard's worker. A cut that is never written becomes part of the next.
func (c *Catalog) Cut(shard int, index uint64) any { return c.parts[shard].freeze(shard, index) }

// RecentLen is the number of agents in memory that wait for a checkpoint. The engine
// bounds it by asking for one; nothing is refused here.
func (c *Catalog) RecentLen() int { return int(c.sum.recent.Load()) }

// Changed: see storage.Catalog.
func (c *Catalog) Changed() <-chan struct{} { return c.bell.ch }

// Wakened signals Changed for a reason that the catalog cannot know: agents that were
// due elsewhere are due here now. Any goroutine.
func (c *Catalog) Wakened() { c.bell.ring() }

// Count is the number of agents, open ones as their loops have reported.
func (c *Catalog) Count(context.Context) (int, error) {
	if c.closed.Load() {
		return 0, closed("count agents")
	}
	return int(c.sum.applied.Load() + c.sum.early.Load()), nil
}

// SetQuarantine proposes the change to the log; see Config.Propose.
func (c *Catalog) SetQuarantine(ctx context.Context, id agent.ID, reason string) error {
	if err := id.Validate(); err != nil {
		return err
	}
	if _, ok, err := c.Entry(id); err != nil {
		return err
	} else if !ok {
		return notFound(id)
	}
	return c.config.Propose(ctx, id, clip(reason))
}

// clip makes a reason fit for a record and a row.
func clip(reason string) string {
	reason = strings.ToValidUTF8(strings.ReplaceAll(reason, "\x00", "?"), "?")
	if len(reason) <= MaxReasonBytes {
		return reason
	}
	end := MaxReasonBytes
	for !utf8.RuneStart(reason[end]) {
		end--
	}
	return reason[:end]
}

// troubleLocked is what a caller is told of an error of the file. Damage is written
// down, because Open, which reads no rows, might not find it again.
func (c *Catalog) troubleLocked(op string, err error) error {
	err = fault(op, c.config.Path, err)
	if err == nil || agent.KindOf(err) != agent.Corrupt {
		return err
	}
	if _, statErr := c.config.FS.Stat(c.config.Path + markSuffix); !errors.Is(statErr, fs.ErrNotExist) {
		return err
	}
	c.config.Log.Error("the catalog is damaged and will be rebuilt at the next start", "path", c.config.Path, "error", err)
	if markErr := setMark(c.config); markErr != nil {
		c.config.Log.Error("the damage of the catalog could not be written down: remove the catalog before the next start", "path", c.config.Path, "error", markErr)
	}
	return err
}
