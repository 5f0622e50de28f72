package commitlog

import (
	"errors"
	"fmt"
	"path/filepath"

	"agentd/pkg/agent"
)

// replay makes the groups from the log's batches, in order. Damage makes every group
// suspect; a group's next record clears it if its number shows that no record of the
// group was lost, and convicts it otherwise. Who remains suspect at the end is taken
// for damaged. One goroutine has it.
type replay struct {
	groups map[uint32]*suspect
	order  []*suspect
	// unknown, if set, is why groups that no record has named yet are suspect.
	unknown   error
	unknownAt uint64
	report    Report
}

// suspect is a group in recovery.
type suspect struct {
	*Group
	doubt error  // damage that may have hit this group
	lost  error  // damage that did; what follows it is not applied
	where uint64 // the generation that tells about it
}

func newReplay() *replay { return &replay{groups: make(map[uint32]*suspect)} }

func (r *replay) group(id uint32) *suspect {
	g := r.groups[id]
	if g == nil {
		g = &suspect{Group: newGroup(nil, id), doubt: r.unknown, where: r.unknownAt}
		r.groups[id] = g
		r.order = append(r.order, g)
	}
	return g
}

// run replays all segments of a survey and returns where the last one ends.
func (r *replay) run(s *survey) (end int64, chain uint32, err error) {
	if s.lost {
		r.damaged(s.chain[0], 0, 0)
	}
	for i, seg := range s.chain {
		limit := uint64(maxPosition)
		if i+1 < len(s.chain) {
			limit = s.chain[i+1].first
		}
		if limit < seg.first {
			return 0, 0, &agent.Error{Op: opOpen, Kind: agent.Corrupt, Msg: fmt.Sprintf("%s begins before the segment that it follows", s.chain[i+1].path)}
		}
		walk := s.scanner(seg, limit)
		walk.chain, walk.chained = chain, i > 0 && chain != 0
		if end, err = r.segment(seg, walk); err != nil {
			return 0, 0, err
		}
		chain = walk.chain
		if !walk.chained {
			chain = 0
		}
		r.report.Segments++
	}
	r.end()
	return end, chain, nil
}

// segment replays one segment and returns the offset of its end.
func (r *replay) segment(seg *segment, walk *scan) (int64, error) {
	for {
		f, err := walk.next()
		switch {
		case err != nil:
			return 0, &agent.Error{Op: opOpen, Msg: "read " + seg.path, Err: err}
		case f.end():
			if f.torn && walk.limit == maxPosition {
				r.report.Torn = true
			}
			return f.off, nil
		case f.payload == nil:
			r.damaged(seg, f.off, f.lost)
		default:
			r.batch(seg, f)
		}
	}
}

// batch applies a batch's records. One that cannot be read although its checksum is
// right is treated as damage.
func (r *replay) batch(seg *segment, f found) {
	r.report.Batches++
	r.report.Bytes += f.header.size()
	for at := 0; at < len(f.payload); {
		rec, n, err := decodeRecord(f.payload[at:])
		if err != nil {
			r.damaged(seg, f.off, f.header.size())
			return
		}
		r.apply(&rec, location{gen: seg.gen, off: uint32(f.off) + batchHead + uint32(at), size: uint32(n)})
		at += n
	}
}

// damaged makes everybody suspect.
func (r *replay) damaged(seg *segment, off, n int64) {
	what := fmt.Sprintf("%s is damaged from byte %d for %d bytes", filepath.Base(seg.path), off, n)
	if n == 0 {
		what = "segments before " + filepath.Base(seg.path) + " are missing"
	}
	r.report.Damage = append(r.report.Damage, Damage{Path: seg.path, Offset: off, Bytes: n})
	err := errors.New(what)
	for _, g := range r.order {
		if g.doubt == nil && g.lost == nil {
			g.doubt, g.where = err, seg.gen
		}
	}
	r.unknown, r.unknownAt = err, seg.gen
}

func (r *replay) apply(rec *record, at location) {
	switch rec.kind {
	case kindCarry:
		r.carry(rec)
		return
	case kindClosed:
		for b := rec.body; len(b) > 0; b = b[seqBytes:] {
			r.confirm(le.Uint32(b), le.Uint64(b[4:]))
		}
		return
	}
	g := r.group(rec.group)
	switch rec.kind {
	case kindState:
		g.adopt(rec)
		return
	case kindKey:
		g.keys[string(rec.key)] = append([]byte(nil), rec.body...)
		return
	case kindReset:
		g.content = newContent()
		g.seq, g.doubt, g.lost = rec.seq, nil, nil
		return
	}
	if !g.follows(rec.seq, at.gen) {
		return
	}
	switch rec.kind {
	case kindEntry:
		complete, ok := g.put(rec, at)
		if !ok && (complete || rec.whole()) {
			g.convict(fmt.Errorf("entry %d does not follow entry %d", rec.index, g.last), at.gen)
		}
		if complete {
			r.report.Entries++
		}
	case kindTruncateBack:
		if !g.empty() {
			g.truncateBack(rec.index)
		}
	case kindTruncateFront:
		g.truncateFront(rec.index)
	case kindSet:
		g.keys[string(rec.key)] = append([]byte(nil), rec.body...)
	}
}

// carry begins the naming of every group that has ever had a record.
func (r *replay) carry(rec *record) {
	r.unknown = nil
	if rec.flags&flagDamaged != 0 {
		r.unknown = errEarlier
	}
	for _, g := range r.order {
		if g.seq == 0 {
			g.doubt = r.unknown
		}
	}
}

var errEarlier = errors.New("the log was damaged before")

// follows says whether a group's record is the one after its last. If so, nothing of
// the group was lost before it.
func (g *suspect) follows(seq, gen uint64) bool {
	next := seq == g.seq+1
	g.seq = seq
	if g.lost != nil {
		return false
	}
	if next {
		g.doubt = nil
		return true
	}
	g.convict(fmt.Errorf("records before number %d are missing", seq), gen)
	return false
}

// convict makes a group damaged, by what made it suspect if something did.
func (g *suspect) convict(why error, gen uint64) {
	if g.doubt != nil {
		why = g.doubt
	} else {
		g.where = gen
	}
	g.lost, g.doubt = why, nil
}

// confirm is evidence that a group's last record before here has a number.
func (r *replay) confirm(id uint32, seq uint64) {
	g := r.group(id)
	if g.lost == nil && g.seq == seq {
		g.doubt = nil
	} else if g.lost == nil {
		g.convict(fmt.Errorf("records up to number %d are missing", seq), g.where)
	}
}

// adopt takes what a segment's beginning says of a group. If records were lost it
// replaces them, but for entries: those must have been forgotten since.
func (g *suspect) adopt(rec *record) {
	first, last := rec.index, rec.term
	if first == 0 || first > last+1 || last > maxIndex {
		g.convict(fmt.Errorf("its numbers %d to %d make no sense", first, last), g.where)
		return
	}
	if g.lost != nil || g.seq != rec.seq || g.last != last {
		g.content = newContent()
		g.first, g.last, g.base = first, last, last+1
		g.seq = rec.seq
	}
	g.truncateFront(first - 1)
	g.doubt, g.lost = nil, nil
	if rec.flags&flagDamaged != 0 {
		g.lost, g.where = errEarlier, uint64(rec.at)
	}
}

// end decides about every group.
func (r *replay) end() {
	for _, g := range r.order {
		g.partial = nil
		g.written = g.seq
		if g.lost == nil {
			g.lost = g.doubt
		}
		if g.lost == nil && !g.empty() && g.base > g.first {
			g.lost = fmt.Errorf("entries %d to %d are missing", g.first, g.base-1)
		}
		if g.lost == nil {
			continue
		}
		g.damage, g.keep = damageError(g.id, g.last, g.lost), g.where
		if gen, ok := g.oldest(); ok {
			g.keep = min(max(g.keep, 1), gen)
		}
		r.report.Damaged = append(r.report.Damaged, g.id)
	}
	r.report.Groups = len(r.order)
	r.report.Unknown = r.unknown != nil
}

func damageError(id uint32, last uint64, why error) error {
	return &agent.Error{Op: opOpen, Kind: agent.Corrupt, Err: why,
		Msg: fmt.Sprintf("group %d may have lost what came after entry %d; restore it from another replica or a backup", id, last)}
}
