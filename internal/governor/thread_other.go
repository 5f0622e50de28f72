//go:build !linux

package governor

// threadID is not used outside Linux: priorities of threads cannot be set, so long
// turns compete as equals and the longest one is stopped first.
type threadID struct{}

func currentThread() threadID { return threadID{} }

func (threadID) lowerPriority() error { return nil }

func (threadID) restorePriority() {}

func (threadID) pageFaults() uint64 { return 0 }
