package commitlog

import (
	"bytes"
	"fmt"
	"sync"

	"agentd/pkg/agent"
)

// location is where a record is: its segment's generation, its offset in the file and
// its size. Size 0 stands for an entry in chunks, which Group.chunks locates.
type location struct {
	gen       uint64
	off, size uint32
}

// Group is one group's entries and stable keys. Its methods may be called from any
// goroutine; changes of one group wait for each other.
type Group struct {
	log    *Log
	id     uint32
	change sync.Mutex // held by a change from its check to its end; taken before Log.mu

	// Guarded by Log.mu. Recovery has them alone, before there is a Log.
	seq     uint64 // of the last record that was put in a batch
	written uint64 // of the last record that is durable
	content
	recent []Entry // the newest entries, up to last; the log's cache counts them
	damage error
	keep   uint64 // if damaged: the oldest generation that tells about it
}

// content is what a group holds: entries first to last, or none if first is last+1.
type content struct {
	first, last uint64
	base        uint64     // of index[0]; above first only during recovery
	index       []location // of entries base to last
	chunks      map[uint64][]location
	bytes       int64      // of records in index
	partial     []location // the chunks so far of an entry that is not complete
	got         int        // bytes in them
	keys        map[string][]byte
}

func newGroup(l *Log, id uint32) *Group {
	return &Group{log: l, id: id, content: newContent()}
}

func newContent() content { return content{first: 1, base: 1, keys: make(map[string][]byte)} }

func (c *content) empty() bool { return c.first > c.last }

// restart empties the group; index is next.
func (c *content) restart(index uint64) {
	c.first, c.base, c.last = index, index, index-1
	c.index, c.chunks, c.bytes, c.partial = nil, nil, 0, nil
}

// put adds an entry, or a chunk of one, as a record says it; the entry counts when
// its last chunk is there. It says whether the entry is complete, and whether the
// record can follow what is there.
func (c *content) put(r *record, at location) (complete, ok bool) {
	if r.whole() {
		c.partial = nil
		return true, c.install(r, at, nil)
	}
	if r.offset == 0 {
		c.partial, c.got = nil, 0
	}
	if int(r.offset) != c.got || r.offset > 0 && len(c.partial) == 0 {
		return false, false
	}
	c.partial, c.got = append(c.partial, at), c.got+len(r.body)
	if c.got < int(r.total) {
		return false, true
	}
	parts := c.partial
	c.partial = nil
	return true, c.install(r, location{}, parts)
}

// install makes an entry the last one.
func (c *content) install(r *record, at location, parts []location) bool {
	switch {
	case r.flags&flagStart != 0:
		partial := c.partial
		c.restart(r.index)
		c.partial = partial
	case r.index < c.first || r.index > c.last+1:
		return false
	default:
		c.truncateBack(r.index)
	}
	c.last++
	c.index = append(c.index, at)
	c.bytes += int64(at.size)
	if parts == nil {
		return true
	}
	if c.chunks == nil {
		c.chunks = make(map[uint64][]location)
	}
	c.chunks[c.last] = parts
	for _, part := range parts {
		c.bytes += int64(part.size)
	}
	return true
}

// truncateBack forgets entries from an index on.
func (c *content) truncateBack(from uint64) {
	if from > c.last {
		return
	}
	from = max(from, c.first)
	keep := max(from, c.base) - c.base
	c.forget(c.index[keep:], c.base+keep)
	c.index, c.last = c.index[:keep], from-1
	c.base = min(c.base, from)
}

// truncateFront forgets entries up to an index.
func (c *content) truncateFront(upto uint64) {
	if upto < c.first {
		return
	}
	upto = min(upto, c.last)
	c.first = upto + 1
	if upto < c.base {
		return
	}
	n := upto + 1 - c.base
	c.forget(c.index[:n], c.base)
	c.index, c.base = c.index[n:], upto+1
	if len(c.index) == 0 {
		c.index = nil
	}
}

// forget takes entries from index on out of the sums.
func (c *content) forget(gone []location, index uint64) {
	for i, at := range gone {
		c.bytes -= int64(at.size)
		if at.size > 0 {
			continue
		}
		for _, part := range c.chunks[index+uint64(i)] {
			c.bytes -= int64(part.size)
		}
		delete(c.chunks, index+uint64(i))
	}
}

// oldest is the generation of the oldest record that is needed; false if none is.
func (c *content) oldest() (uint64, bool) {
	switch {
	case len(c.index) > 0 && c.index[0].size > 0:
		return c.index[0].gen, true
	case len(c.index) > 0:
		return c.chunks[c.base][0].gen, true
	case len(c.partial) > 0:
		return c.partial[0].gen, true
	}
	return 0, false
}

// First is the index of the oldest entry; 0 if there is none.
func (g *Group) First() uint64 {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if g.empty() {
		return 0
	}
	return g.first
}

// Last is the index of the newest durable entry; 0 if there is none.
func (g *Group) Last() uint64 {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if g.empty() {
		return 0
	}
	return g.last
}

// Damage is nil, or an error of kind Corrupt that says what may be lost. A damaged
// group refuses changes and must not be served: entries after the damage are missing,
// stable keys may be old ones. Reset makes it usable, and empty.
func (g *Group) Damage() error {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	return g.damage
}

// Lookup is a stable key's value as of the last Set that has returned. The value must
// not be changed.
func (g *Group) Lookup(key string) ([]byte, bool) {
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	value, ok := g.keys[key]
	return value, ok
}

// Append adds entries and returns when they are durable. The first index must be
// Last()+1, or anything if the group is empty; an index from First() to Last() first
// forgets the entries from there on. Indexes ascend by one. Data and Extensions must
// not be changed afterwards: the cache keeps them.
//
// Errors: Invalid for indexes that do not fit, TooLarge for an entry over
// MaxEntryBytes, StorageFull if no segment can be had (some of the first entries may
// have been added), Corrupt for a damaged group, OutcomeUnknown once the log failed.
func (g *Group) Append(entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	g.change.Lock()
	defer g.change.Unlock()
	l := g.log
	l.mu.Lock()
	var wait *outcome
	err := g.checkLocked(entries)
	var flags uint8
	if g.empty() {
		flags = flagStart
	}
	for i := 0; err == nil && i < len(entries); i++ {
		var o *outcome
		if o, err = l.putEntryLocked(g, &entries[i], flags); o != nil {
			wait = o
		}
		flags = 0
	}
	return l.settleLocked(wait, err)
}

// checkLocked says whether entries can follow what the group has.
func (g *Group) checkLocked(entries []Entry) error {
	if g.damage != nil {
		return g.damage
	}
	const op = "append to commit log"
	if g.log.entries > maxEntries+maxEntries/8 {
		return &agent.Error{Op: op, Kind: agent.StorageFull, Msg: "the log's index is full; it has room again after the next checkpoint"}
	}
	at := entries[0].Index
	if at == 0 || at > maxIndex-uint64(len(entries)) || !g.empty() && (at < g.first || at > g.last+1) {
		return &agent.Error{Op: op, Kind: agent.Invalid,
			Msg: fmt.Sprintf("group %d has entries %d to %d; entry %d cannot follow", g.id, g.first, g.last, at)}
	}
	for i := range entries {
		if entries[i].Index != at+uint64(i) {
			return &agent.Error{Op: op, Kind: agent.Invalid, Msg: fmt.Sprintf("group %d: entry %d after entry %d", g.id, entries[i].Index, at+uint64(i)-1)}
		}
		if entries[i].size() > MaxEntryBytes {
			return &agent.Error{Op: op, Kind: agent.TooLarge, Msg: fmt.Sprintf("an entry has at most 80 MiB, not %d bytes", entries[i].size())}
		}
	}
	return nil
}

// TruncateFront forgets entries up to an index, clipped to Last(). It does not wait
// for the disk unless nothing is left: a crash may bring entries back, but never
// forgets others. What is left empty is durably so, and may begin at any index.
func (g *Group) TruncateFront(upto uint64) error {
	g.change.Lock()
	defer g.change.Unlock()
	l := g.log
	l.mu.Lock()
	if upto = min(upto, g.last); g.empty() || upto < g.first {
		defer l.mu.Unlock()
		return l.usableLocked()
	}
	if g.damage != nil {
		defer l.mu.Unlock()
		return g.damage
	}
	all := upto == g.last
	wait, err := l.putLocked(g, truncateBytes, urgency{wait: all, small: true}, effect{kind: kindTruncateFront},
		func(b []byte) []byte { return appendTruncate(b, kindTruncateFront, g.id, g.seq, upto) })
	if agent.KindOf(err) == agent.StorageFull && !all {
		err = nil // the next segment's beginning will say it
	}
	if err == nil {
		before := len(g.index)
		l.cache.cutFront(g, upto)
		g.truncateFront(upto)
		l.entries += len(g.index) - before
		l.considerRollLocked()
	}
	if !all {
		wait = nil
	}
	return l.settleLocked(wait, err)
}

// TruncateBack forgets entries from an index on, and returns when that is durable.
// Errors are those of Append.
func (g *Group) TruncateBack(from uint64) error {
	g.change.Lock()
	defer g.change.Unlock()
	l := g.log
	l.mu.Lock()
	if g.damage != nil || g.empty() || from > g.last {
		defer l.mu.Unlock()
		if g.damage != nil {
			return g.damage
		}
		return l.usableLocked()
	}
	from = max(from, g.first)
	wait, err := l.putLocked(g, truncateBytes, urgency{wait: true, small: true}, effect{kind: kindTruncateBack, entry: Entry{Index: from}},
		func(b []byte) []byte { return appendTruncate(b, kindTruncateBack, g.id, g.seq, from) })
	return l.settleLocked(wait, err)
}

// Set stores a stable key, and returns when it is durable. The value is copied.
// Errors: TooLarge for keys over MaxKeyBytes, values over MaxValueBytes, more than
// MaxKeys keys, or when all groups' state would take more than a quarter of a
// segment; otherwise those of Append.
func (g *Group) Set(key string, value []byte) error {
	g.change.Lock()
	defer g.change.Unlock()
	l := g.log
	l.mu.Lock()
	old, have := g.keys[key]
	more := int64(keySize(key, value))
	if have {
		more -= int64(keySize(key, old))
	}
	if err := g.checkKeyLocked(key, value, have, more); err != nil {
		l.mu.Unlock()
		return err
	}
	value = bytes.Clone(value)
	wait, err := l.putLocked(g, keySize(key, value), urgency{wait: true, small: true}, effect{kind: kindSet, key: key, entry: Entry{Data: value}},
		func(b []byte) []byte { return appendKey(b, kindSet, g.id, g.seq, key, value) })
	if err != nil {
		l.carry -= more
	}
	return l.settleLocked(wait, err)
}

func (g *Group) checkKeyLocked(key string, value []byte, have bool, more int64) error {
	msg := ""
	switch {
	case g.damage != nil:
		return g.damage
	case len(key) > MaxKeyBytes:
		msg = "a stable key has at most 128 bytes"
	case len(value) > MaxValueBytes || keySize(key, value) > g.log.config.maxBatch()-batchHead:
		msg = "a stable value has at most 64 KiB, and fits in a quarter of a segment"
	case !have && len(g.keys) >= MaxKeys:
		msg = "a group has at most 64 stable keys"
	default:
		return g.log.carryMoreLocked(more)
	}
	return &agent.Error{Op: "set stable key", Kind: agent.TooLarge, Msg: msg}
}

// Reset forgets everything in the group, its stable keys and its damage, and returns
// when that is durable. It is how a damaged group is filled again from elsewhere.
// Errors are those of Append.
func (g *Group) Reset() error {
	g.change.Lock()
	defer g.change.Unlock()
	l := g.log
	l.mu.Lock()
	wait, err := l.putLocked(g, recordHead, urgency{wait: true, small: true}, effect{kind: kindReset},
		func(b []byte) []byte { return appendReset(b, g.id, g.seq) })
	return l.settleLocked(wait, err)
}
