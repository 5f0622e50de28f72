package commitlog

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
)

// restore reads the folder and makes the groups. It changes nothing on disk but
// files that an interrupted preparation left.
func (l *Log) restore() error {
	c := l.config
	s, err := surveyFolder(c.FS, c.Dir, c.LogID)
	if err != nil {
		if s != nil {
			s.close()
		}
		return wrap(err)
	}
	r := newReplay()
	var end int64
	if len(s.chain) > 0 {
		if end, l.batches.chain, err = r.run(s); err != nil {
			s.close()
			return err
		}
	}
	for _, path := range s.fresh {
		if err := c.FS.Remove(path); err != nil {
			s.close()
			return wrap(err)
		}
	}
	if l.id = s.id; l.id == [16]byte{} {
		l.id = c.newID()
	}
	l.adoptGroups(r)
	l.adoptSegments(s, end)
	return l.checkCarry()
}

func wrap(err error) error {
	if agent.KindOf(err) != agent.Internal {
		return err
	}
	e := &agent.Error{Op: opOpen, Err: err}
	var at *fs.PathError
	switch {
	case !errors.As(err, &at):
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		e.Kind, e.Msg = agent.Denied, at.Path+" cannot be read and written: change its owner or mode"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e.Kind, e.Msg = agent.StorageFull, "no space for the log at "+at.Path+": free some"
	}
	return e
}

func (l *Log) adoptGroups(r *replay) {
	for _, g := range r.order {
		g.Group.log = l
		l.addLocked(g.Group)
		l.entries += len(g.index)
		l.carry += int64(g.stateSize())
	}
	if r.unknown != nil {
		l.unknown = &agent.Error{Op: opOpen, Kind: agent.Corrupt, Err: r.unknown,
			Msg: "the log may have lost everything of this group; restore it from another replica or a backup"}
	}
	for _, d := range r.report.Damage {
		l.config.Log.Error("commit log is damaged", "path", d.Path, "offset", d.Offset, "bytes", d.Bytes, "groups", r.report.Damaged)
	}
}

// checkCarry makes sure that all groups' state fits in the segments to come.
func (l *Log) checkCarry() error {
	if l.carry > l.config.maxCarry() {
		return &agent.Error{Op: opOpen, Kind: agent.Invalid, Msg: "the groups of this log need larger segments; raise SegmentBytes"}
	}
	return nil
}

// adoptSegments sorts the files into those of the log and spare ones.
func (l *Log) adoptSegments(s *survey, end int64) {
	set := &l.segments
	set.live = make(map[uint64]*segment)
	set.nextGen, set.nextSlot, set.low = s.nextGen, s.nextSlot, s.low
	needed := make(map[*segment]bool)
	for _, seg := range s.chain {
		set.live[seg.gen], needed[seg] = seg, true
		set.active = seg
	}
	if set.active != nil {
		set.active.end = end
		set.durable = set.active.position(end)
	}
	for _, seg := range s.all() {
		set.bytes += seg.size
		switch {
		case needed[seg]:
		case seg.size >= l.config.SegmentBytes && seg.size <= MaxSegmentBytes && seg.size%blockBytes == 0:
			set.spares = append(set.spares, seg)
		default:
			set.useless = append(set.useless, seg)
		}
	}
}

// begin makes the log ready for writing. What recovery accepted becomes durable
// first: after a kill of the process the last batch may be in the page cache only,
// and nothing that rests on it may be acknowledged before it.
func (l *Log) begin() error {
	if len(l.segments.spares) == 0 {
		if err := l.firstSpare(); err != nil && l.segments.active == nil {
			return fullError(err)
		}
	}
	l.look()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.segments.active == nil {
		l.rollLocked()
		if l.err == nil && len(l.segments.spares) == 0 {
			l.mu.Unlock()
			err := l.firstSpare()
			l.mu.Lock()
			if err != nil {
				return fullError(err)
			}
		}
		return l.err
	}
	seg := l.segments.active
	l.mu.Unlock()
	err := seg.read.Sync()
	if err == nil {
		err = l.openWrite(seg)
	}
	l.mu.Lock()
	if err != nil {
		return &agent.Error{Op: opOpen, Msg: "make the end of the log durable", Err: err}
	}
	// A batch of its own over what a crash cut short, so that it cannot come back.
	l.markLocked(nil)
	return l.err
}

// firstSpare prepares a segment before the log is used.
func (l *Log) firstSpare() error {
	slot := l.segments.nextSlot
	l.segments.nextSlot++
	return l.prepareOne(slot)
}
