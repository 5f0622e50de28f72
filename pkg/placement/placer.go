package placement

import (
	"context"
	"sync"
	"time"
)

// Placer is the agreed table as the rest of a node sees it, and the ways to change
// it. Local is one for a node alone; one over a raft group takes its place in a
// cluster. All methods may be called from any goroutine.
type Placer interface {
	// Table is the newest state that this node knows.
	Table() *Table

	// Watch gives a channel that is closed when Table changes next. Ask for it
	// before Table, so that no change falls in between.
	Watch() <-chan struct{}

	// Propose makes a change and returns when this node's table has it. Errors have
	// the kinds of Table.Apply, and: Unavailable (no leader, nothing happened),
	// OutcomeUnknown (look at the table; commands can be repeated), Canceled and
	// Deadline.
	Propose(ctx context.Context, cmd Command) ([]ClassVersion, error)

	// Deploy stores a bundle, at most MaxBundleBytes, where no single lost disk can
	// lose it, and makes it the newest version of its classes. Deploying the same
	// code again changes nothing.
	Deploy(ctx context.Context, at time.Time, namespace string, b Bundle, classes []DeployedClass) ([]ClassVersion, error)

	// Rollback makes an older version of a class its newest again.
	Rollback(ctx context.Context, at time.Time, r Rollback) ([]ClassVersion, error)

	// Bundle is the code of a hash in Table.Bundles, fetched from another node if
	// this one has not got it yet.
	Bundle(ctx context.Context, hash string) (Bundle, error)
}

// Latest holds the newest table of a node for its readers. The zero value holds a
// cluster that is not formed. All methods may be called from any goroutine.
type Latest struct {
	mu      sync.Mutex // guards both; held for a moment only
	table   *Table
	changed chan struct{} // closed by the next Set; nil until someone watches
}

// Table is what was set last.
func (l *Latest) Table() *Table {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.table == nil {
		l.table = new(Table)
	}
	return l.table
}

// Watch gives a channel that is closed when Table changes next.
func (l *Latest) Watch() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// Set shows a new table and wakes everyone who watches. The same table again wakes
// nobody.
func (l *Latest) Set(t *Table) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t == l.table {
		return
	}
	l.table = t
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}
