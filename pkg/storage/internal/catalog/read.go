package catalog

import (
	"context"
	"fmt"
	"slices"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

const maxListed = 1000

// Get: see storage.Catalog.
func (c *Catalog) Get(ctx context.Context, id agent.ID) (storage.Entry, error) {
	if err := id.Validate(); err != nil {
		return storage.Entry{}, err
	}
	if err := ctx.Err(); err != nil {
		return storage.Entry{}, agent.FromContext(ctx, "find agent", id)
	}
	e, ok, err := c.Entry(id)
	if err == nil && !ok {
		err = notFound(id)
	}
	if err != nil {
		return storage.Entry{}, err
	}
	return e, nil
}

// Entry is what is known of an agent. ok is false if it has never committed.
func (c *Catalog) Entry(id agent.ID) (e storage.Entry, ok bool, err error) {
	e, _, ok, err = c.Find(id)
	return e, ok, err
}

// Waits says that the last commit of a database that was closed is not applied yet.
// What Entry says of any other agent that is not open is in the agent's file.
func (c *Catalog) Waits(id agent.ID) bool {
	p := c.partOf(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.agents[id]
	return n != nil && n.life != nil
}

// Find is Entry with the time of the agent's last commit.
func (c *Catalog) Find(id agent.ID) (e storage.Entry, at time.Time, ok bool, err error) {
	if c.closed.Load() {
		return e, at, false, closed("find agent")
	}
	p := c.partOf(id)
	if e, ms, ok := p.look(id); ok {
		return e, time.UnixMilli(ms), e.Seq > 0, nil
	}
	s, found, err := c.row("find agent", id)
	if err != nil || !found {
		return e, at, false, err
	}
	return s.entry(id, false, p.quarantine(id)), time.UnixMilli(s.at), true, nil
}

// List merges the rows, which memory may override, with the agents in memory that
// have none.
func (c *Catalog) List(ctx context.Context, namespace, class string, after agent.ID, limit int) ([]storage.Entry, error) {
	if err := agent.ValidateNamespace(namespace); err != nil {
		return nil, err
	}
	if limit < 1 || limit > maxListed {
		return nil, &agent.Error{Op: "list agents", Kind: agent.Invalid, Msg: fmt.Sprintf("limit is %d; it must be 1 to %d", limit, maxListed)}
	}
	if err := ctx.Err(); err != nil {
		return nil, agent.FromContext(ctx, "list agents", agent.ID{})
	}
	after.Namespace = namespace
	if class != "" {
		switch {
		case after.Class > class:
			return nil, nil
		case after.Class < class:
			after.Class, after.Name = class, ""
		}
	}
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	if c.closed.Load() {
		return nil, closed("list agents")
	}
	var list []storage.Entry
	for _, p := range c.parts {
		list = p.listRowless(list, after, class, limit)
	}
	born := len(list)
	err := c.file.eachName(namespace, after.Class, after.Name, class != "", func(id agent.ID, s *state) bool {
		if e, ok := c.newest(id, s); ok {
			list = append(list, e)
		}
		return len(list)-born < limit
	})
	if err != nil {
		return nil, c.troubleLocked("list agents", err)
	}
	slices.SortStableFunc(list, func(a, b storage.Entry) int { return compareIDs(a.ID, b.ID) })
	list = slices.CompactFunc(list, func(a, b storage.Entry) bool { return a.ID == b.ID })
	return list[:min(limit, len(list))], nil
}

// newest is the entry of an agent with a row. ok is false if it is deleted.
func (c *Catalog) newest(id agent.ID, row *state) (e storage.Entry, ok bool) {
	p := c.partOf(id)
	if e, _, ok := p.look(id); ok {
		return e, e.Seq > 0
	}
	return row.entry(id, false, p.quarantine(id)), true
}

// listRowless appends up to limit agents behind after that may have no row.
func (p *part) listRowless(list []storage.Entry, after agent.ID, class string, limit int) []storage.Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order[byName].from(func(n *node) bool { return compareIDs(n.id, after) <= 0 }, func(n *node) bool {
		if n.id.Namespace != after.Namespace || (class != "" && n.id.Class != class) {
			return false
		}
		if s, live, ok := n.newest(); ok && s.seq > 0 {
			list = append(list, s.entry(n.id, live, p.quarantined[n.id]))
			limit--
		}
		return limit > 0
	})
	return list
}
