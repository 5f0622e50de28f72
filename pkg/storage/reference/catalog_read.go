package reference

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Get asks the agent's life, and the file for one that hibernates.
func (c *catalog) Get(ctx context.Context, id agent.ID) (storage.Entry, error) {
	if err := id.Validate(); err != nil {
		return storage.Entry{}, err
	}
	if err := ctx.Err(); err != nil {
		return storage.Entry{}, agent.FromContext(ctx, "find agent", id)
	}
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	if e, ok := c.living(id); ok {
		if e.Seq == 0 {
			return storage.Entry{}, notFound(id)
		}
		return e, nil
	}
	if err := c.readable(); err != nil {
		return storage.Entry{}, err
	}
	e, found, err := c.file.get(id)
	if err != nil {
		return storage.Entry{}, catalogTrouble(c.file.path, err)
	}
	if !found || e.Seq == 0 {
		return storage.Entry{}, notFound(id)
	}
	return e, nil
}

// readable says whether the file is open. The caller holds fileMu.
func (c *catalog) readable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return &agent.Error{Op: "read catalog", Kind: agent.Unavailable, Msg: "the store is closed"}
	}
	return nil
}

// living is the entry of an agent that has a life.
func (c *catalog) living(id agent.ID) (storage.Entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lives[id]
	if l == nil {
		return storage.Entry{}, false
	}
	return c.entryLocked(l), true
}

func (c *catalog) entryLocked(l *life) storage.Entry {
	e := l.entry
	e.Live = l.open
	e.Quarantine = c.quarantined[e.ID]
	if e.Quarantine == "" {
		e.Quarantine = c.damaged[e.ID]
	}
	return e
}

// livingAll copies the entries of all lives: at most Config.MaxOpen and the few
// whose rows are being written.
func (c *catalog) livingAll() map[agent.ID]storage.Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[agent.ID]storage.Entry, len(c.lives))
	for id, l := range c.lives {
		all[id] = c.entryLocked(l)
	}
	return all
}

// List walks the rows; every agent that ever committed has one, and a life knows
// better.
func (c *catalog) List(ctx context.Context, namespace, class string, after agent.ID, limit int) ([]storage.Entry, error) {
	if err := agent.ValidateNamespace(namespace); err != nil {
		return nil, err
	}
	if limit < 1 || limit > maxListed {
		return nil, &agent.Error{Op: "list agents", Kind: agent.Invalid, Msg: fmt.Sprintf("limit is %d; it must be 1 to %d", limit, maxListed)}
	}
	if err := ctx.Err(); err != nil {
		return nil, agent.FromContext(ctx, "list agents", agent.ID{})
	}
	sql := `SELECT ` + rowColumns + ` FROM agents WHERE namespace=? AND (class,name)>(?,?)`
	args := []any{namespace, after.Class, after.Name}
	if class != "" {
		sql = `SELECT ` + rowColumns + ` FROM agents WHERE namespace=? AND class=? AND (class,name)>(?,?)`
		args = []any{namespace, class, after.Class, after.Name}
	}
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	if err := c.readable(); err != nil {
		return nil, err
	}
	var list []storage.Entry
	err := c.file.each(sql+` ORDER BY class, name`, args, func(row []any) (bool, error) {
		e, err := entryOf(row)
		if err != nil {
			return false, err
		}
		if live, ok := c.living(e.ID); ok {
			e = live
		}
		if e.Seq > 0 {
			list = append(list, e)
		}
		return len(list) < limit, nil
	})
	return list, catalogTrouble(c.file.path, err)
}

const dueFrom = ` FROM agents INDEXED BY agents_due WHERE due_at IS NOT NULL AND dirty=0 AND quarantine='' AND damage=''`

// Due merges the index of hibernated agents with the lives.
func (c *catalog) Due(ctx context.Context, now time.Time, limit int) (due []storage.Entry, next time.Time, err error) {
	if limit < 1 {
		return nil, time.Time{}, &agent.Error{Op: "list due agents", Kind: agent.Invalid, Msg: "limit must be positive"}
	}
	if ctx.Err() != nil {
		return nil, time.Time{}, agent.FromContext(ctx, "list due agents", agent.ID{})
	}
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	if err := c.readable(); err != nil {
		return nil, time.Time{}, err
	}
	// First the lives and the answer's clock: a commit from here on sees it, and
	// signals if its wake is earlier.
	lives := c.livingAll()
	c.asking(now)
	due, next, err = c.dueRows(now, limit, lives)
	if err != nil {
		return nil, time.Time{}, catalogTrouble(c.file.path, err)
	}
	for e := range maps.Values(lives) {
		switch {
		case e.Seq == 0 || e.Quarantine != "":
		case dueNow(e, now):
			due = append(due, e)
		default:
			next = earlier(next, e.Wake.At)
		}
	}
	slices.SortFunc(due, func(a, b storage.Entry) int { return dueAt(a).Compare(dueAt(b)) })
	if len(due) > limit {
		due = due[:limit]
	}
	c.answered(now, next)
	return due, next, nil
}

// dueRows reads the rows that no life overrides.
func (c *catalog) dueRows(now time.Time, limit int, lives map[agent.ID]storage.Entry) (due []storage.Entry, next time.Time, err error) {
	ms := now.UnixMilli()
	err = c.file.each(`SELECT `+rowColumns+dueFrom+` AND due_at<=? ORDER BY due_at`, []any{ms}, func(row []any) (bool, error) {
		e, err := entryOf(row)
		if err != nil {
			return false, err
		}
		if _, living := lives[e.ID]; !living {
			due = append(due, e)
		}
		return len(due) < limit, nil
	})
	if err != nil {
		return nil, next, err
	}
	err = c.file.each(`SELECT `+rowColumns+dueFrom+` AND due_at>? ORDER BY due_at`, []any{ms}, func(row []any) (bool, error) {
		e, err := entryOf(row)
		if err != nil {
			return false, err
		}
		if _, living := lives[e.ID]; living {
			return true, nil
		}
		next = e.Wake.At
		return false, nil
	})
	return due, next, err
}

// dueNow: the wake has come, or unfinished work has no instance.
func dueNow(e storage.Entry, now time.Time) bool {
	if e.Wake.Resume && !e.Live {
		return true
	}
	return !e.Wake.At.IsZero() && e.Wake.At.UnixMilli() <= now.UnixMilli()
}

// dueAt orders due agents: unfinished work first.
func dueAt(e storage.Entry) time.Time {
	if e.Wake.Resume && !e.Live {
		return time.Time{}
	}
	return e.Wake.At
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// asking forgets the last answer while a new one is computed, so that every commit
// with a wake signals meanwhile.
func (c *catalog) asking(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !now.Before(c.askedAt) {
		c.next = time.Time{}
	}
}

// answered remembers until when nobody needs to ask again. An answer for an older
// clock than the last says nothing about the newest asker.
func (c *catalog) answered(now, next time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !now.Before(c.askedAt) {
		c.askedAt, c.next = now, next
	}
}
