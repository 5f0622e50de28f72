package raftgroup

import (
	"testing"

	"agentd/internal/disk"
	"agentd/pkg/storage/commitlog"
)

// A snapshot truncates the log while it grows: what was added since raft looked at
// its end must stay.
func TestStore_TruncationAfterASnapshotKeepsWhatIsNew(t *testing.T) {
	l, err := commitlog.Open(commitlog.Config{Dir: t.TempDir(), FS: disk.OS{}, SegmentBytes: commitlog.MinSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing to keep
	g, err := l.Group(0)
	if err != nil {
		t.Fatal(err)
	}
	add := func(from, to uint64) {
		t.Helper()
		for i := from; i <= to; i++ {
			if err := g.Append([]commitlog.Entry{{Index: i, Term: 1}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &store{log: g, fail: func(err error) { t.Error(err) }}
	add(1, 11)
	if err := s.DeleteRange(1, 10); err != nil || g.First() != 11 || g.Last() != 11 {
		t.Errorf("after a snapshot of 10: %v, %d to %d", err, g.First(), g.Last())
	}
	add(12, 20)
	if err := s.DeleteRange(15, 20); err != nil || g.First() != 11 || g.Last() != 14 {
		t.Errorf("after a conflict at 15: %v, %d to %d", err, g.First(), g.Last())
	}
}
