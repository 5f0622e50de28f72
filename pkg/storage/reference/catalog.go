package reference

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/session"
)

const maxListed = 1000

// catalog answers who exists and who is due: rows of a file for hibernated agents,
// and above them the lives of those that are open. One writer applies notes in
// order, many in one transaction and one sync.
//
// Lock order: fileMu, then mu. A life is removed under both, when its row has been
// written, so whoever holds fileMu sees each agent in at least one of the two.
type catalog struct {
	log  *slog.Logger
	disk func(syncOp, *os.File) error
	fail func(error)

	fileMu sync.Mutex // guards file; SQLite runs under it, syncs do not
	file   *catalogFile
	wal    *os.File // the writer's descriptor of the file's log
	room   int64    // bytes of the log that are allocated

	mu          sync.Mutex // guards what follows; no I/O under it
	lives       map[agent.ID]*life
	quarantined map[agent.ID]string // few by nature
	damaged     map[agent.ID]string // found at start
	count       int                 // agents that have committed
	notes       []note              // bounded: Store.take refuses to open while there are many
	closed      bool
	askedAt     time.Time // the newest clock that Due was asked with, and its answer
	next        time.Time

	work    chan struct{} // buffer of one: notes is not empty, or closed
	stopped chan struct{} // the writer has ended
	changed chan struct{} // see storage.Catalog
}

var _ storage.Catalog = (*catalog)(nil)

// newCatalog takes over an opened file and starts the writer.
func newCatalog(file *catalogFile, c Config, fail func(error)) (*catalog, error) {
	cat := &catalog{log: c.Log, disk: c.disk, fail: fail, file: file,
		lives: make(map[agent.ID]*life), quarantined: make(map[agent.ID]string), damaged: make(map[agent.ID]string),
		work: make(chan struct{}, 1), stopped: make(chan struct{}), changed: make(chan struct{}, 1)}
	n, err := file.number(`SELECT count(*) FROM agents WHERE seq>0`)
	if err != nil {
		return nil, err
	}
	cat.count = int(n)
	err = file.each(`SELECT `+rowColumns+` FROM agents INDEXED BY agents_quarantined WHERE quarantine<>'' OR damage<>''`, nil,
		func(row []any) (bool, error) {
			e, err := entryOf(row)
			if err == nil {
				into := cat.quarantined
				if row[rowWidth-1] == int64(1) {
					into = cat.damaged
				}
				into[e.ID] = e.Quarantine
			}
			return true, err
		})
	if err != nil {
		return nil, err
	}
	// SQLite makes its log with the first write; the folder is synced before that.
	if cat.wal, err = os.OpenFile(file.path+"-wal", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, folderError(file.path, err)
	}
	info, err := cat.wal.Stat()
	if err != nil {
		return nil, errors.Join(folderError(file.path, err), cat.wal.Close())
	}
	cat.room = info.Size()
	go cat.write()
	return cat, nil
}

// close applies what is noted and closes the file.
func (c *catalog) close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	signal(c.work)
	<-c.stopped
	c.fileMu.Lock()
	defer c.fileMu.Unlock()
	return errors.Join(c.wal.Close(), c.file.close())
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// addNote gives a change to the writer.
func (c *catalog) addNote(n note) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addNoteLocked(n)
}

func (c *catalog) addNoteLocked(n note) error {
	if c.closed {
		return &agent.Error{Op: "write catalog", Agent: n.id, Kind: agent.Unavailable, Msg: "the store is closed"}
	}
	c.notes = append(c.notes, n)
	signal(c.work)
	return nil
}

// wait gives a note to the writer and waits until it is durable.
func (c *catalog) wait(ctx context.Context, n note) error {
	n.done = make(chan error, 1)
	if err := c.addNote(n); err != nil {
		return err
	}
	select {
	case err := <-n.done:
		return err
	case <-ctx.Done():
		return agent.FromContext(ctx, "write catalog", n.id)
	}
}

// write is the writer's goroutine; it ends when the catalog is closed and nothing
// is left.
func (c *catalog) write() {
	defer close(c.stopped)
	for range c.work {
		for {
			c.mu.Lock()
			batch, closed := c.notes, c.closed
			c.notes = nil
			c.mu.Unlock()
			if len(batch) == 0 {
				if closed {
					return
				}
				break
			}
			c.apply(batch)
		}
	}
}

// apply writes a batch, makes it durable if anybody waits for that, and tells them.
func (c *catalog) apply(batch []note) {
	durable := slices.ContainsFunc(batch, func(n note) bool { return n.kind.durable() })
	missing := make([]bool, len(batch))
	c.fileMu.Lock()
	err := c.file.transaction(func() error {
		for i, n := range batch {
			found, err := c.applyOne(n)
			if err != nil {
				return err
			}
			missing[i] = !found
		}
		return nil
	})
	if err == nil {
		c.forget(batch)
		c.room = fillAhead(c.wal, walHeaderBytes+int64(c.file.conn.WALFrames())*walFrameBytes, c.room)
	}
	if err == nil && c.file.conn.WALFrames() >= catalogCheckpointFrames {
		if err = catalogFault(c.file.conn.Checkpoint()); err != nil {
			c.fail(err)
		}
	}
	c.fileMu.Unlock()
	if err != nil {
		err = catalogTrouble(c.file.path, err)
		c.log.Error("the catalog cannot be written", "error", err)
		c.again(batch)
	} else if durable {
		if err = c.disk(syncCatalog, c.wal); err != nil {
			c.fail(err)
			err = session.OutcomeUnknown(c.file.path, err)
		}
	}
	for i, n := range batch {
		c.tell(n, missing[i], err)
	}
}

// applyOne changes the row of one note; found is false if a quarantine names nobody.
func (c *catalog) applyOne(n note) (found bool, err error) {
	switch n.kind {
	case noteMark:
		return true, c.file.put(n.entry, true)
	case noteFinal:
		if n.entry.Seq == 0 {
			return true, c.file.remove(n.id)
		}
		return true, c.file.put(n.entry, false)
	case noteRemove:
		return true, c.file.remove(n.id)
	case noteDoom:
		_, err := c.file.exec(`UPDATE agents SET dirty=1 WHERE namespace=? AND class=? AND name=?`, n.id.Namespace, n.id.Class, n.id.Name)
		return true, err
	case noteQuarantine:
		return c.file.setQuarantine(n.id, n.text)
	}
	return true, nil
}

// forget lets go of lives whose rows are right again. The caller holds fileMu.
func (c *catalog) forget(batch []note) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range batch {
		if n.kind == noteFinal && !n.life.open && c.lives[n.id] == n.life {
			delete(c.lives, n.id)
		}
	}
}

// again keeps the final rows of a batch that could not be written for the next one;
// until then their lives stay, and Due and Get read those.
func (c *catalog) again(batch []note) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	var finals []note
	for _, n := range batch {
		if n.kind == noteFinal && c.lives[n.id] == n.life {
			finals = append(finals, n)
		}
	}
	c.notes = append(finals, c.notes...)
}

// tell reports a note's fate to whoever waits.
func (c *catalog) tell(n note, missing bool, err error) {
	if err == nil && missing {
		err = notFound(n.id)
	}
	switch n.kind {
	case noteMark:
		n.life.err = err
		close(n.life.marked)
	case noteQuarantine:
		if err == nil {
			c.quarantine(n.id, n.text)
		}
	}
	if n.done != nil {
		n.done <- err
	}
}

func (c *catalog) quarantine(id agent.ID, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why != "" {
		c.quarantined[id] = why
		return
	}
	delete(c.quarantined, id)
	delete(c.damaged, id)
	signal(c.changed)
}

func notFound(id agent.ID) error {
	return &agent.Error{Op: "find agent", Agent: id, Kind: agent.NotFound, Msg: "no such agent has stored anything"}
}

// crowded says whether so many rows wait to be written that no agent should open.
func (c *catalog) crowded(limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.notes) >= limit
}

// open begins a life. The agent's file said entry.
func (c *catalog) open(entry storage.Entry) *life {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &life{entry: entry, open: true, stale: c.lives[entry.ID] != nil}
	c.lives[entry.ID] = l
	delete(c.damaged, entry.ID)
	return l
}

// mark asks, once per life, for the durable note that the agent's row is not to be
// believed while it lives. It does not wait.
func (c *catalog) mark(l *life) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.asked {
		return
	}
	l.asked, l.marked = true, make(chan struct{})
	if err := c.addNoteLocked(note{kind: noteMark, id: l.entry.ID, life: l, entry: l.entry}); err != nil {
		l.err = err
		close(l.marked)
	}
}

// awaitMark waits for it.
func (c *catalog) awaitMark(l *life) error {
	c.mark(l)
	<-l.marked
	return l.err
}

// committed notes a commit of a live agent, whose database has size bytes now.
func (c *catalog) committed(l *life, m session.Meta, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.entry.Seq == 0 {
		c.count++
		l.entry.CreatedAt = m.CreatedAt
	}
	l.entry.Seq, l.entry.Wake, l.entry.SizeBytes = m.Seq, m.Wake, size
	if at := m.Wake.At; !at.IsZero() && (c.next.IsZero() || at.Before(c.next)) {
		signal(c.changed)
	}
}

// released ends a life; its row follows.
func (c *catalog) released(l *life, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.open = false
	l.entry.SizeBytes = size
	if !l.asked && !l.stale { // nothing was written: the row is right as it is
		delete(c.lives, l.entry.ID)
	} else if err := c.addNoteLocked(note{kind: noteFinal, id: l.entry.ID, life: l, entry: l.entry}); err != nil {
		c.log.Error("the catalog did not learn how an agent ended", "agent", l.entry.ID.Key(), "error", err)
	}
	if l.entry.Wake.Resume {
		signal(c.changed)
	}
}

// removed takes a deleted agent out of the numbers.
func (c *catalog) removed(id agent.ID, existed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.quarantined, id)
	delete(c.damaged, id)
	if existed {
		c.count--
	}
}

func (c *catalog) Changed() <-chan struct{} { return c.changed }

func (c *catalog) Count(context.Context) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count, nil
}

func (c *catalog) SetQuarantine(ctx context.Context, id agent.ID, reason string) error {
	if err := id.Validate(); err != nil {
		return err
	}
	c.mu.Lock()
	l := c.lives[id]
	unborn := l != nil && l.entry.Seq == 0
	c.mu.Unlock()
	if unborn {
		return notFound(id)
	}
	return c.wait(ctx, note{kind: noteQuarantine, id: id, text: reason})
}
