package catalog

import (
	"context"
	"fmt"

	"agentd/pkg/agent"
)

// maxProblems is how many findings a report holds.
const maxProblems = 100

// Report is what Verify found.
type Report struct {
	Agents      int      // rows of agents
	Quarantined int      // quarantines in rows
	Applied     []uint64 // log index per shard that the rows stand for
	Problems    []string // empty if the file is sound; at most 100
}

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Verify reads the whole file: SQLite's own check of pages and indexes, every row
// against its checksum and shard, the number of agents. It reports what is wrong; an
// error means that it could not look. Reads of rows and checkpoints wait meanwhile
// (about two seconds for a million agents); commits do not.
func (c *Catalog) Verify(ctx context.Context) (Report, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	if c.closed.Load() {
		return Report{}, closed("verify catalog")
	}
	r := Report{Applied: make([]uint64, len(c.parts))}
	defer c.interruptOn(ctx)()
	for _, step := range []func(*Report) error{c.verifyPages, c.verifyRows, c.verifyRest} {
		err := step(&r)
		if ctx.Err() != nil {
			return Report{}, agent.FromContext(ctx, "verify catalog", agent.ID{})
		}
		if err = fault("verify catalog", c.config.Path, err); agent.KindOf(err) == agent.Corrupt {
			r.problem("%v", err)
		} else if err != nil {
			return Report{}, err
		}
	}
	return r, nil
}

// interruptOn stops statements when ctx ends, until the returned function is called.
func (c *Catalog) interruptOn(ctx context.Context) (end func()) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.file.conn.Interrupt()
		close(interrupted)
	})
	return func() {
		if !stop() {
			<-interrupted
			c.file.conn.ClearInterrupt()
		}
	}
}

func (c *Catalog) verifyPages(r *Report) error {
	return c.file.each(fmt.Sprintf("PRAGMA integrity_check(%d)", maxProblems), nil, func(row []any) (bool, error) {
		if row[0] != "ok" {
			r.problem("%v", row[0])
		}
		return true, nil
	})
}

func (c *Catalog) verifyRows(r *Report) error {
	return c.file.each(`SELECT `+rowColumns+` FROM agents`, nil, func(row []any) (bool, error) {
		r.Agents++
		id, _, err := c.file.decode(row)
		if err == nil {
			err = id.Validate()
		}
		if err != nil {
			r.problem("row of %q, %q, %q: %v", row[0], row[1], row[2], err)
		} else if shard := c.config.ShardOf(id); shard < 0 || shard >= len(c.parts) {
			r.problem("row of %s: it belongs to shard %d", id.Key(), shard)
		}
		return true, nil
	})
}

func (c *Catalog) verifyRest(r *Report) error {
	agents, err := c.file.number(`SELECT value FROM facts WHERE name='agents'`)
	if err != nil {
		return err
	}
	if agents != int64(r.Agents) {
		r.problem("there are %d rows of agents, and %d are noted", r.Agents, agents)
	}
	if err := c.file.eachApplied(func(shard int, index uint64) { r.Applied[shard] = index }); err != nil {
		return err
	}
	return c.file.eachQuarantine(func(agent.ID, string) { r.Quarantined++ })
}
