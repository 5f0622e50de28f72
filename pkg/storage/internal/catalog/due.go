package catalog

import (
	"cmp"
	"context"
	"slices"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

const (
	windowChunk = 256  // rows that are read at once
	maxWindow   = 8192 // rows that stay between two calls of Due
	maxAhead    = 4096 // rows that are passed over to find the next wake behind a full answer
)

// window is the beginning of the rows' index of wakes, less the rows that recent
// records override until the next checkpoint. Without it every Due would walk again
// over the rows of all agents that were woken since. It belongs to Catalog.fileMu.
type window struct {
	rows  []dueRow
	end   place // everything up to here was read
	ended bool  // and nothing is behind
}

func (w *window) reset() { *w = window{end: firstPlace} }

// extend reads one chunk more.
func (w *window) extend(f *file, lasting func(agent.ID) bool) error {
	chunk, err := f.dueAfter(w.end, windowChunk)
	if err != nil {
		return err
	}
	for _, r := range chunk {
		if !lasting(r.id) {
			w.rows = append(w.rows, r)
		}
	}
	if w.ended = len(chunk) < windowChunk; len(chunk) > 0 {
		w.end = placeOf(chunk[len(chunk)-1])
	}
	return nil
}

// shorten keeps the window small.
func (w *window) shorten() {
	if len(w.rows) > maxWindow {
		w.end, w.ended = placeOf(w.rows[maxWindow-1]), false
		w.rows = slices.Clone(w.rows[:maxWindow])
	}
}

func placeOf(r dueRow) place { return place{r.state.key(false), r.id} }

// found is an answer of Due as it grows.
type found struct {
	now   int64
	limit int
	due   []dueEntry
	next  int64
}

type dueEntry struct {
	key   int64
	entry storage.Entry
}

// Due: see storage.Catalog. Behind a full answer (limit agents) next may be too
// early, never too late.
func (c *Catalog) Due(ctx context.Context, now time.Time, limit int) (due []storage.Entry, next time.Time, err error) {
	if limit < 1 {
		return nil, next, &agent.Error{Op: "list due agents", Kind: agent.Invalid, Msg: "limit must be positive"}
	}
	if ctx.Err() != nil {
		return nil, next, agent.FromContext(ctx, "list due agents", agent.ID{})
	}
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	if c.closed.Load() {
		return nil, next, closed("list due agents")
	}
	a := &found{now: now.UnixMilli(), limit: limit, next: noWake}
	before := c.bell.ask()
	// Rows first: an agent that has none here because memory knows it is in memory
	// until fileMu is released, or the bell rings.
	if err := c.dueRows(a); err != nil {
		c.bell.answer(a.now, noWake, before)
		return nil, next, c.troubleLocked("list due agents", err)
	}
	c.at(rowsRead)
	c.dueMemory(a)
	c.at(memoryRead)
	c.bell.answer(a.now, a.next, before)
	return a.entries(), a.nextTime(), nil
}

// dueRows takes the rows that nothing overrides.
func (c *Catalog) dueRows(a *found) error {
	w := &c.window
	lasting := func(id agent.ID) bool { _, lasting := c.partOf(id).overrides(id); return lasting }
	w.rows = slices.DeleteFunc(w.rows, func(r dueRow) bool { return lasting(r.id) })
	defer w.shorten()
	for i := 0; ; i++ {
		for i == len(w.rows) && !w.ended {
			if err := w.extend(c.file, lasting); err != nil {
				return err
			}
		}
		if i == len(w.rows) {
			return nil
		}
		r := &w.rows[i]
		key := r.state.key(false)
		if key <= a.now && len(a.due) == a.limit {
			return c.nextRow(a)
		}
		if c.passedOver(r.id) {
			continue
		}
		if key > a.now {
			a.next = key
			return nil
		}
		a.due = append(a.due, dueEntry{key, r.state.entry(r.id, false, "")})
	}
}

// passedOver says whether a row is not to be answered: memory knows better, or the
// agent is quarantined.
func (c *Catalog) passedOver(id agent.ID) bool {
	p := c.partOf(id)
	over, _ := p.overrides(id)
	return over || p.quarantine(id) != ""
}

// nextRow looks behind a full answer for the earliest later row.
func (c *Catalog) nextRow(a *found) error {
	at := place{key: a.now, id: agent.ID{Namespace: "\U0010ffff"}} // behind every ID
	for range maxAhead / windowChunk {
		rows, err := c.file.dueAfter(at, windowChunk)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if !c.passedOver(r.id) {
				a.next = r.state.key(false)
				return nil
			}
		}
		if len(rows) < windowChunk {
			return nil
		}
		at = placeOf(rows[len(rows)-1])
	}
	a.next = at.key
	return nil
}

// dueMemory adds what memory knows; an agent whose row was taken a moment ago stays
// as it was.
func (c *Catalog) dueMemory(a *found) {
	taken := make(map[agent.ID]bool, len(a.due))
	for _, d := range a.due {
		taken[d.entry.ID] = true
	}
	for _, p := range c.parts {
		p.due(a, taken)
	}
	slices.SortFunc(a.due, func(x, y dueEntry) int {
		if x.key != y.key {
			return cmp.Compare(x.key, y.key)
		}
		return compareIDs(x.entry.ID, y.entry.ID)
	})
	a.due = a.due[:min(a.limit, len(a.due))]
}

// due adds up to limit agents of the shard's memory and its earliest later wake.
func (p *part) due(a *found, taken map[agent.ID]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settleLocked(a.now)
	o, left := &p.order[byTime], a.limit
	o.from(func(*node) bool { return false }, func(n *node) bool {
		if n.key > a.now || left == 0 {
			return false
		}
		if s, live, _ := n.newest(); !taken[n.id] {
			a.due = append(a.due, dueEntry{n.key, s.entry(n.id, live, "")})
			left--
		}
		return true
	})
	o.from(func(n *node) bool { return n.key <= a.now }, func(n *node) bool {
		a.next = min(a.next, n.key)
		return false
	})
}

func (a *found) entries() []storage.Entry {
	list := make([]storage.Entry, len(a.due))
	for i, d := range a.due {
		list[i] = d.entry
	}
	return list
}

func (a *found) nextTime() time.Time {
	if a.next == noWake {
		return time.Time{}
	}
	return time.UnixMilli(a.next)
}
