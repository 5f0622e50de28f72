package reference

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/session"
	"agentd/pkg/storage/internal/sqlite"
)

// Store is the reference engine: one SQLite file per agent in WAL mode, synced by
// shared workers.
type Store struct {
	log      *slog.Logger
	now      func() time.Time
	maxOpen  int
	folder   *folder
	catalog  *catalog
	syncer   *syncer
	template []byte
	closing  chan struct{} // holds one for each database that writes its log back for good

	failOnce sync.Once
	failure  chan struct{} // closed by fail; err is valid then
	err      error

	mu     sync.Mutex // guards what follows; no I/O under it
	open   map[agent.ID]*database
	taken  map[agent.ID]bool // being opened, closed or deleted
	closed bool
	free   *sync.Cond // something left open or taken
}

var _ storage.Store = (*Store)(nil)

// maxClosing is how many agents write their logs back for hibernation at once. A
// file system joins that many syncs into one commit of its journal.
const maxClosing = 8

// Open takes the data folder and reads what a crash left. Errors: InUse (another
// process has it), Denied, Invalid (not a data folder, or a newer one), StorageFull.
func Open(c Config) (*Store, error) {
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	f, err := openFolder(c)
	if err != nil {
		return nil, err
	}
	s := &Store{log: c.Log, now: c.Now, maxOpen: c.MaxOpen, folder: f, failure: make(chan struct{}),
		closing: make(chan struct{}, maxClosing), open: make(map[agent.ID]*database), taken: make(map[agent.ID]bool)}
	s.free = sync.NewCond(&s.mu)
	if err := s.start(c); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return s, nil
}

func (s *Store) start(c Config) error {
	var err error
	if s.template, err = newTemplate(s.folder.dir); err != nil {
		return session.Fault("open store", agent.ID{}, s.folder.dir, err)
	}
	file, err := recoverCatalog(s.folder, c.Log)
	if err != nil {
		return err
	}
	if s.catalog, err = newCatalog(file, c, s.fail); err != nil {
		return errors.Join(catalogTrouble(file.path, err), file.close())
	}
	if err := s.folder.syncDir(s.folder.dir); err != nil { // the catalog's log is new
		return errors.Join(err, s.catalog.close())
	}
	s.syncer = newSyncer(s.folder, c.MaxOpen, s.fail, s.Err)
	return nil
}

// fail ends all promises; the first reason stays.
func (s *Store) fail(err error) {
	s.failOnce.Do(func() {
		s.err = &agent.Error{Op: "sync", Kind: agent.Internal, Err: err,
			Msg: "the disk did not confirm a write, so nothing more is acknowledged: check the disk and restart agentd"}
		close(s.failure)
		s.log.Error("the store failed", "error", s.err)
	})
}

// Failed is closed when durability can no longer be promised.
func (s *Store) Failed() <-chan struct{} { return s.failure }

// Err says why; nil while all is well.
func (s *Store) Err() error {
	select {
	case <-s.failure:
		return s.err
	default:
		return nil
	}
}

// Catalog lists the agents of this store.
func (s *Store) Catalog() storage.Catalog { return s.catalog }

// take reserves an agent for the caller.
func (s *Store) take(op string, id agent.ID, opening bool) error {
	if err := id.Validate(); err != nil {
		return err
	}
	if err := s.Err(); err != nil {
		return err
	}
	crowded := opening && s.catalog.crowded(4*s.maxOpen)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case crowded:
		return &agent.Error{Op: op, Agent: id, Kind: agent.Overloaded, Msg: "the catalog cannot be written as fast as agents come and go: retry later, or look for a full or slow disk"}
	case s.closed:
		return &agent.Error{Op: op, Agent: id, Kind: agent.Unavailable, Msg: "the store is closed"}
	case s.taken[id]:
		return &agent.Error{Op: op, Agent: id, Kind: agent.InUse, Msg: "its database is open or being opened, closed or deleted"}
	case opening && len(s.taken) >= s.maxOpen:
		return &agent.Error{Op: op, Agent: id, Kind: agent.Overloaded,
			Msg: fmt.Sprintf("%d databases are open, the most allowed: retry later, or raise the limit of open databases or of file descriptors", s.maxOpen)}
	}
	s.taken[id] = true
	return nil
}

func (s *Store) leave(id agent.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, id)
	delete(s.open, id)
	s.free.Broadcast()
}

// Open opens an agent's database; see storage.Store.
func (s *Store) Open(ctx context.Context, id agent.ID) (storage.DB, error) {
	const op = "open database"
	if ctx.Err() != nil {
		return nil, agent.FromContext(ctx, op, id)
	}
	if err := s.take(op, id, true); err != nil {
		return nil, err
	}
	db, err := s.openFile(op, id)
	if err != nil {
		s.leave(id)
		return nil, err
	}
	s.mu.Lock()
	s.open[id] = db
	s.mu.Unlock()
	return db, nil
}

func (s *Store) openFile(op string, id agent.ID) (*database, error) {
	path := s.folder.agentPath(id)
	db := &database{store: s, id: id, path: path, log: newCommitLog(path)}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err != nil:
		return nil, folderError(path, err)
	case info.Size() == 0:
		// What a creation that was cut short leaves, unless the agent had committed.
		if err := s.refuseEmpty(op, id, path); err != nil {
			return nil, err
		}
	default:
		if err := s.connect(op, db, info.Size()); err != nil {
			return nil, err
		}
	}
	size := int64(0)
	if info != nil {
		size = info.Size()
	}
	db.begin(size)
	return db, nil
}

// connect opens an existing file and checks that it is this agent's.
func (s *Store) connect(op string, db *database, size int64) error {
	if size%session.PageBytes != 0 {
		return session.Damaged(op, db.id, db.path, fmt.Errorf("its size of %d bytes is no multiple of %d", size, session.PageBytes))
	}
	conn, m, err := openConn(db.path)
	if err != nil {
		return session.Fault(op, db.id, db.path, asDamage(err))
	}
	switch {
	case m.Seq == 0:
		err = s.refuseEmpty(op, db.id, db.path)
		db.log.born = true // its creation was never synced
	case m.Key != db.id.Key():
		err = &agent.Error{Op: op, Agent: db.id, Kind: agent.Corrupt,
			Msg: fmt.Sprintf("database file %s belongs to the agent %s: move it back to its place", db.path, m.Key)}
	}
	if err != nil {
		return errors.Join(err, conn.Close(false))
	}
	db.meta, db.conn = m, conn
	return nil
}

// asDamage: a file without the table that every one of ours has is damaged.
func asDamage(err error) error {
	var cause *sqlite.Error
	if errors.As(err, &cause) && cause.Code.Primary() == sqlite.Generic {
		return &sqlite.Error{Code: sqlite.Corrupt, Msg: cause.Msg}
	}
	return err
}

// refuseEmpty: a file without any commit is damaged if the catalog has seen some.
func (s *Store) refuseEmpty(op string, id agent.ID, path string) error {
	e, err := s.catalog.Get(context.Background(), id)
	if agent.KindOf(err) == agent.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return session.Damaged(op, id, path, fmt.Errorf("it is empty, but the agent has committed %d times", e.Seq))
}

// release gives a closed database's agent back.
func (s *Store) release(db *database, size int64) {
	s.catalog.released(db.life, size)
	s.leave(db.id)
}

// Delete removes an agent; see storage.Store. A crash in between leaves a row that
// says "read the file", and a file that is whole or gone.
func (s *Store) Delete(ctx context.Context, id agent.ID) error {
	const op = "delete agent"
	if ctx.Err() != nil {
		return agent.FromContext(ctx, op, id)
	}
	if err := s.take(op, id, false); err != nil {
		return err
	}
	defer s.leave(id)
	// From here on the work is finished whatever happens to ctx: half of it would
	// confuse the next Open.
	ctx = context.WithoutCancel(ctx)
	_, err := s.catalog.Get(ctx, id)
	existed := err == nil
	if err != nil && agent.KindOf(err) != agent.NotFound {
		return err
	}
	path := s.folder.agentPath(id)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) && !existed {
		return nil
	}
	if err := s.catalog.wait(ctx, note{kind: noteDoom, id: id}); err != nil {
		return err
	}
	if err := removeDatabase(path); err != nil {
		return folderError(path, err)
	}
	if err := s.folder.syncFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.fail(err)
		return session.OutcomeUnknown(path, err)
	}
	if err := s.catalog.wait(ctx, note{kind: noteRemove, id: id}); err != nil {
		return err
	}
	s.catalog.removed(id, existed)
	return nil
}

// Close closes what is open, waits for the disk and gives the folder back. The
// loops of open databases should have ended; calls that come later fail with kind
// Unavailable. Closing twice is harmless.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	var errs []error
	for db := s.anyOpen(); db != nil; db = s.anyOpen() {
		errs = append(errs, db.Close())
	}
	s.syncer.close()
	errs = append(errs, s.catalog.close(), s.folder.close())
	return errors.Join(errs...)
}

// anyOpen waits until a database is open or none is under way; nil for none.
func (s *Store) anyOpen() *database {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for _, db := range s.open {
			return db
		}
		if len(s.taken) == 0 {
			return nil
		}
		s.free.Wait()
	}
}
