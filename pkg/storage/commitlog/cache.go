package commitlog

// cache bounds the recent entries that groups keep in memory: the oldest of all
// groups goes first. Guarded by Log.mu.
type cache struct {
	limit, bytes int64
	queue        []cached // from head on, oldest first
	head         int
}

// cached stands for a group's recent entries up to an index. Entries may be gone by
// other ways; then it stands for nothing.
type cached struct {
	group *Group
	upto  uint64
}

// entryOverhead is what an entry costs in memory beside its bytes.
const entryOverhead = 128

func cost(e *Entry) int64 { return int64(e.size()) + entryOverhead }

// add keeps an entry that has become the group's last.
func (c *cache) add(g *Group, e Entry) {
	if cost(&e) > c.limit {
		c.drop(g.recent) // what is kept ends with the last entry, or there is nothing
		g.recent = nil
		return
	}
	g.recent = append(g.recent, e)
	c.bytes += cost(&e)
	c.queue = append(c.queue, cached{g, e.Index})
	// Entries that were truncated leave their place in the queue behind, hence its own bound.
	for c.bytes > c.limit || int64(len(c.queue)-c.head)*entryOverhead > 2*c.limit {
		old := c.queue[c.head]
		c.queue[c.head] = cached{}
		c.head++
		c.cutFront(old.group, old.upto)
	}
	if c.head > len(c.queue)/2 {
		c.queue = c.queue[:copy(c.queue, c.queue[c.head:])]
		c.head = 0
	}
}

// firstRecent is the index of g.recent[0].
func firstRecent(g *Group) uint64 { return g.last + 1 - uint64(len(g.recent)) }

// find is an entry that is still kept.
func (c *cache) find(g *Group, index uint64) (Entry, bool) {
	if first := firstRecent(g); index >= first && index <= g.last {
		return g.recent[index-first], true
	}
	return Entry{}, false
}

// cutFront drops a group's recent entries up to an index.
func (c *cache) cutFront(g *Group, upto uint64) {
	first := firstRecent(g)
	if upto < first {
		return
	}
	n := min(int(upto-first)+1, len(g.recent))
	c.drop(g.recent[:n])
	g.recent = g.recent[n:]
}

// cutBack drops a group's recent entries from an index on. The group itself is
// truncated after it.
func (c *cache) cutBack(g *Group, from uint64) {
	n := 0
	if first := firstRecent(g); from > first {
		n = min(int(from-first), len(g.recent))
	}
	c.drop(g.recent[n:])
	g.recent = g.recent[:n]
}

// drop also clears, for the memory behind a slice lives as long as its last part.
func (c *cache) drop(gone []Entry) {
	for i := range gone {
		c.bytes -= cost(&gone[i])
	}
	clear(gone)
}
