package engine

import "sync/atomic"

// Stats is what an operator may want to see. Counters count since Open.
type Stats struct {
	Open        int    // databases
	Records     uint64 // proposed
	RecordBytes uint64
	WindowBytes int64  // of records on their way to the disk
	Applied     uint64 // records in agents' files
	QueueBytes  int64  // of committed entries that are not applied yet
	Recent      int    // agents that changed since the last checkpoint
	Checkpoints uint64
	Stuck       bool // agents' files cannot grow: the disk is full
}

// counters are for Stats.
type counters struct{ records, bytes atomic.Uint64 }

// Stats may be called at any time.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	open := len(s.open)
	s.mu.Unlock()
	a := s.applier.Stats()
	return Stats{Open: open, Records: s.counters.records.Load(), RecordBytes: s.counters.bytes.Load(),
		WindowBytes: s.window.size(), Applied: a.Records, QueueBytes: a.QueueBytes, Recent: s.catalog.RecentLen(),
		Checkpoints: a.Checkpoints, Stuck: a.Stuck}
}
