package commitlog

import (
	"fmt"

	"agentd/pkg/agent"
)

// Get is the entry at an index: from memory if it is recent, else from disk, where
// the kernel reads ahead for those who ask in order. Its bytes must not be changed.
// Errors: ErrNotFound outside of First() to Last(); Corrupt if the group is damaged and
// does not have it, or if its bytes on disk have changed.
func (g *Group) Get(index uint64) (Entry, error) {
	l := g.log
	l.mu.Lock()
	if e, ok := l.cache.find(g, index); ok {
		l.mu.Unlock()
		return e, nil
	}
	if index < max(g.first, g.base) || index > g.last || g.empty() {
		err := g.damage
		l.mu.Unlock()
		if err == nil {
			err = ErrNotFound
		}
		return Entry{}, err
	}
	at := g.index[index-g.base]
	parts := g.chunks[index]
	if at.size > 0 {
		parts = []location{at}
	}
	pinned := make([]*segment, len(parts))
	for i, part := range parts {
		pinned[i] = l.segments.live[part.gen]
		pinned[i].pins++
	}
	l.mu.Unlock()
	e, err := g.read(index, parts, pinned)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unpinLocked(pinned)
	return e, err
}

// unpinLocked ends reads; a segment that is not needed any more becomes free.
func (l *Log) unpinLocked(pinned []*segment) {
	for _, seg := range pinned {
		seg.pins--
	}
	if len(l.segments.retired) > 0 {
		l.segments.release()
		l.room.Broadcast()
	}
}

// read puts an entry together from its records.
func (g *Group) read(index uint64, parts []location, from []*segment) (Entry, error) {
	var e Entry
	var ext int
	for i, at := range parts {
		buf := make([]byte, at.size)
		if _, err := from[i].read.ReadAt(buf, int64(at.off)); err != nil {
			return Entry{}, &agent.Error{Op: "read commit log", Err: fmt.Errorf("entry %d of group %d: %w", index, g.id, err)}
		}
		r, n, err := decodeRecord(buf)
		if err != nil || n != len(buf) || r.kind != kindEntry || r.group != g.id || r.index != index || int(r.offset) != len(e.Data) {
			return Entry{}, &agent.Error{Op: "read commit log", Kind: agent.Corrupt,
				Msg: fmt.Sprintf("%s is damaged at byte %d: entry %d of group %d cannot be read; get it from another replica or a backup", from[i].path, at.off, index, g.id)}
		}
		if i == 0 {
			e, ext = Entry{Index: r.index, Term: r.term, Type: r.typ, AppendedAt: fromNanos(r.at), Data: r.body}, int(r.ext)
			if len(parts) > 1 {
				e.Data = append(make([]byte, 0, r.total), r.body...)
			}
			continue
		}
		e.Data = append(e.Data, r.body...)
	}
	if data := len(e.Data) - ext; ext > 0 {
		e.Data, e.Extensions = e.Data[:data:data], e.Data[data:]
	}
	return e, nil
}
