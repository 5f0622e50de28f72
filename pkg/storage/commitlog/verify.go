package commitlog

import (
	"agentd/internal/disk"
)

// Report is what a check of a log found.
type Report struct {
	Segments, Groups int
	Batches, Entries int
	Bytes            int64    // of sound batches
	Torn             bool     // the last write was cut short by a crash; nothing acknowledged was in it
	Damage           []Damage // in the order of the log
	Damaged          []uint32 // groups that lost something, or may have
	Unknown          bool     // groups that no record names may have been lost too
}

// Damage is a range of a file that cannot be read. Bytes 0 means that segments before
// the file are missing.
type Damage struct {
	Path          string
	Offset, Bytes int64
}

// OK says that all that was ever acknowledged is there.
func (r Report) OK() bool { return len(r.Damage) == 0 && len(r.Damaged) == 0 && !r.Unknown }

// Verify reads every batch of the log in a folder that no Log has open, and changes
// nothing. Its error is one that Open would have; damage is in the Report.
func Verify(fs disk.FS, dir string) (Report, error) {
	s, err := surveyFolder(fs, dir, [16]byte{})
	if s != nil {
		defer s.close()
	}
	if err != nil {
		return Report{}, wrap(err)
	}
	r := newReplay()
	if len(s.chain) > 0 {
		_, _, err = r.run(s)
	}
	return r.report, err
}

// Verify reads every batch that is durable now and that groups need, while the log is
// in use. It reports damage, batches and bytes; which groups it concerns is known
// when the log is opened again.
func (l *Log) Verify() (Report, error) {
	l.mu.Lock()
	var pinned []*segment
	for gen := l.segments.low; gen <= l.segments.active.gen; gen++ {
		if seg := l.segments.live[gen]; seg != nil {
			seg.pins++
			pinned = append(pinned, seg)
		}
	}
	end := l.segments.durable
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.unpinLocked(pinned)
	}()
	s := &survey{id: l.id, fs: l.config.FS}
	var report Report
	for i, seg := range pinned {
		limit := end
		if i+1 < len(pinned) {
			limit = pinned[i+1].first
		}
		if err := report.check(s.scanner(seg, limit), seg); err != nil {
			return report, err
		}
	}
	return report, nil
}

// check adds one segment to a report.
func (r *Report) check(walk *scan, seg *segment) error {
	r.Segments++
	for {
		f, err := walk.next()
		switch {
		case err != nil:
			return wrap(err)
		case f.end():
			return nil
		case f.payload == nil:
			r.Damage = append(r.Damage, Damage{Path: seg.path, Offset: f.off, Bytes: f.lost})
		default:
			r.Batches++
			r.Bytes += f.header.size()
		}
	}
}
