package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"agentd/pkg/agent"
)

// writeBatch is how many rows are written, or dropped from memory, in one hold of
// fileMu: readers wait for about a millisecond.
const writeBatch = 256

// Write makes the rows what the cuts say and then forgets the cuts: one transaction,
// durable when Write returns nil. After an error the rows are those of the last
// checkpoint, and the next cuts hold these too; after an error of a sync (kind
// Internal) nothing more can be written before a restart. A cut is good for one
// Write.
//
// Readers go on meanwhile, on the same connection: what they see of a transaction
// that is not committed, memory overrides.
func (c *Catalog) Write(ctx context.Context, cuts []any) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	w := &writing{c: c}
	err := w.take(cuts)
	if err == nil && len(w.cuts) > 0 {
		err = w.run(ctx)
	}
	w.giveBack()
	return err
}

// writing is one call of Write; it belongs to its goroutine.
type writing struct {
	c     *Catalog
	cuts  []*cut
	rows  []frozenNode
	delta int64 // rows added less rows removed
}

type frozenNode struct {
	n   *node
	cut *cut
}

// take claims the cuts.
func (w *writing) take(cuts []any) error {
	for _, any := range cuts {
		cut, ok := any.(*cut)
		switch {
		case !ok:
			return defect("write catalog", fmt.Sprintf("%T is no cut", any))
		case cut.err != nil:
			return cut.err
		}
		claimed, idle := cut.claim()
		if !claimed {
			return defect("write catalog", fmt.Sprintf("the cut of shard %d at %d is not its last, or is being written", cut.shard, cut.index))
		}
		if idle {
			continue
		}
		w.cuts = append(w.cuts, cut)
		for _, n := range cut.nodes {
			w.rows = append(w.rows, frozenNode{n, cut})
		}
	}
	// In the table's order, so that each page is touched once.
	slices.SortFunc(w.rows, func(a, b frozenNode) int { return compareIDs(a.n.id, b.n.id) })
	return nil
}

// claim takes the cut for one Write. idle: it changes nothing and is done with.
func (c *cut) claim() (ok, idle bool) {
	p := c.part
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut != c || c.writing {
		return false, false
	}
	if len(c.nodes) == 0 && len(c.judged) == 0 && c.index == p.appliedAt {
		p.cut = nil
		return true, true
	}
	c.writing = true
	return true, false
}

// giveBack lets a later cut take over what was not written.
func (w *writing) giveBack() {
	for _, cut := range w.cuts {
		cut.part.mu.Lock()
		cut.writing = false
		cut.part.mu.Unlock()
	}
}

func (w *writing) run(ctx context.Context) error {
	err := w.hold(w.c.file.begin)
	if err != nil {
		return err
	}
	if err = w.transaction(ctx); err != nil {
		return errors.Join(err, w.hold(w.c.file.rollback))
	}
	if err = w.c.file.sync(w.c.file.log); err != nil {
		return err
	}
	w.drop()
	if err := w.fold(); err != nil {
		// The rows are durable in the log; begin tries again.
		w.c.config.Log.Error("the log of the catalog could not be written back", "path", w.c.config.Path, "error", err)
	}
	return nil
}

// hold runs fn with the file.
func (w *writing) hold(fn func() error) error {
	w.c.at(betweenHolds)
	w.c.fileMu.Lock()
	defer w.c.fileMu.Unlock()
	if w.c.closed.Load() {
		return closed("write catalog")
	}
	return w.c.troubleLocked("write catalog", fn())
}

func (w *writing) transaction(ctx context.Context) error {
	for batch := range slices.Chunk(w.rows, writeBatch) {
		if ctx.Err() != nil {
			return agent.FromContext(ctx, "write catalog", agent.ID{})
		}
		if err := w.hold(func() error { return w.writeRows(batch) }); err != nil {
			return err
		}
	}
	return w.hold(func() error {
		if err := w.writeCuts(); err != nil {
			return err
		}
		f := w.c.file
		if err := f.setAgents(f.agents + w.delta); err != nil {
			return err
		}
		if err := f.conn.Exec("COMMIT"); err != nil {
			return err
		}
		f.agents += w.delta
		return nil
	})
}

func (w *writing) writeRows(batch []frozenNode) error {
	f := w.c.file
	if err := f.open(); err != nil {
		return err
	}
	for _, x := range batch {
		s, rowless, ok := x.read()
		if !ok {
			return defect("write catalog", "a cut has lost an agent")
		}
		if s.seq == 0 {
			n, err := f.exec(deleteRow, x.n.id.Namespace, x.n.id.Class, x.n.id.Name)
			if err != nil {
				return err
			}
			w.delta -= n
			continue
		}
		added, err := f.put(x.n.id, &s, rowless)
		if err != nil {
			return err
		}
		if added {
			w.delta++
		}
	}
	return nil
}

func (x frozenNode) read() (s state, rowless, ok bool) {
	x.cut.part.mu.Lock()
	defer x.cut.part.mu.Unlock()
	s, ok = x.n.frozen(x.cut.gen)
	return s, x.n.rowless, ok
}

// writeCuts writes what is not rows of agents.
func (w *writing) writeCuts() error {
	f := w.c.file
	if err := f.open(); err != nil {
		return err
	}
	for _, cut := range w.cuts {
		if err := f.setApplied(cut.shard, cut.index); err != nil {
			return err
		}
		for id, reason := range cut.judged {
			if err := f.setQuarantine(id, reason); err != nil {
				return err
			}
		}
	}
	return nil
}

// drop forgets what the rows say now.
func (w *writing) drop() {
	for batch := range slices.Chunk(w.rows, writeBatch) {
		w.c.fileMu.Lock()
		w.c.window.reset()
		for _, x := range batch {
			x.cut.part.written(x.cut.gen, x.n)
		}
		w.c.fileMu.Unlock()
	}
	expected := int64(0)
	for _, cut := range w.cuts {
		expected += int64(cut.net)
		cut.part.mu.Lock()
		cut.part.cut, cut.part.appliedAt = nil, cut.index
		cut.part.mu.Unlock()
	}
	// The rows know how many there are. Records can only mislead after a rebuild, when
	// the log repeats what files held already.
	if w.delta != expected {
		w.c.sum.applied.Add(w.delta - expected)
	}
}

// fold writes a long log back; the file is synced without holding up readers.
func (w *writing) fold() error {
	f := w.c.file
	if f.conn.WALFrames() < f.foldAt {
		return nil
	}
	if err := w.hold(f.foldMain); err != nil {
		return err
	}
	if err := f.sync(f.main); err != nil {
		return err
	}
	return w.hold(f.emptyLog)
}
