// Package engine keeps agents' databases by one log: what a transaction changed is
// captured as bytes, ordered and made durable with the records of all other agents
// of its shard, and written to the agent's file afterwards.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/apply"
	"agentd/pkg/storage/internal/catalog"
	"agentd/pkg/storage/internal/folder"
	"agentd/pkg/storage/internal/session"
	"agentd/pkg/storage/internal/sqlite"
)

// Names inside the data folder.
const (
	agentsName  = "agents"
	catalogName = "catalog.db"
)

// FormatName is the file that every data folder has.
const FormatName = folder.FormatName

// Store is the engine. It serves the agents of the shards that it leads; see Lead.
type Store struct {
	log     *slog.Logger
	now     func() time.Time
	fs      disk.FS
	maxOpen int
	shardOf func(agent.ID) int
	folder  *folder.Folder
	files   *apply.Files
	applier *apply.Applier
	catalog *catalog.Catalog
	shards  []shard
	window  window
	full    full
	failure failure
	redo    redo
	counters

	life     context.Context // ends when Close begins to cut off what still waits
	end      context.CancelFunc
	flushing atomic.Bool // a checkpoint for the catalog's sake is under way
	wg       sync.WaitGroup

	mu     sync.Mutex // guards what follows; no I/O under it
	open   map[agent.ID]*database
	taken  map[agent.ID]bool // being opened, open, or being deleted
	waits  map[agent.ID][]chan struct{}
	parked map[agent.ID]*parked
	closed bool
	free   *sync.Cond // something left open or taken
}

var _ storage.Store = (*Store)(nil)

// linger is how long a committed record may wait to be written to its agent's file.
const linger = 20 * time.Millisecond

// maxWindowBytes bounds the records on their way to the disk.
const maxWindowBytes = 256 << 20

// Open takes the data folder and opens its files and catalog. The store serves
// nobody until it is given shards to lead. Errors: InUse (another process has the
// folder), Denied, Invalid (not a data folder, or a newer one), StorageFull, Corrupt.
func Open(c Config) (*Store, error) {
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	if err := sqlite.SelfTest(); err != nil {
		return nil, &agent.Error{Op: "open store", Kind: agent.Internal, Err: err,
			Msg: "this SQLite does not commit as the storage engine needs it; run the binary as it was released"}
	}
	s := &Store{log: c.Log, now: c.Now, fs: c.FS, maxOpen: c.MaxOpen, shardOf: c.ShardOf, shards: make([]shard, c.Shards),
		window: window{limit: maxWindowBytes}, full: full{ask: c.Room, tell: c.Stuck, log: c.Log, stop: make(chan struct{})}, failure: failure{ch: make(chan struct{})},
		open: make(map[agent.ID]*database), taken: make(map[agent.ID]bool), waits: make(map[agent.ID][]chan struct{}), parked: make(map[agent.ID]*parked)}
	s.life, s.end = context.WithCancel(context.Background())
	s.free = sync.NewCond(&s.mu)
	if s.folder, err = folder.Open(c.Dir, folder.Engine, (*os.File).Sync); err != nil {
		return nil, err
	}
	if err := s.start(c); err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

func (s *Store) start(c Config) error {
	var err error
	if s.files, err = apply.OpenFiles(c.FS, filepath.Join(s.folder.Dir, agentsName), c.MaxOpen/4+64); err != nil {
		return err
	}
	if s.catalog, err = s.openCatalog(c); err != nil {
		return err
	}
	s.applier = apply.New(apply.Config{Files: s.files, FS: c.FS, Dir: s.folder.Dir, Catalog: s.catalog, Workers: c.Workers,
		Shards: c.Shards, ShardOf: c.ShardOf, Linger: linger, Rebuilt: s.redo.rebuilt, Log: c.Log, Applied: s.applied, Done: s.done, Stuck: s.full.stuck, Unstuck: s.full.unstuck, Failed: s.Fail})
	return nil
}

// ID tells this data folder from every other, for its whole life.
func (s *Store) ID() string { return s.folder.ID }

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
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return closing(op, id)
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

// Open opens an agent's database; see storage.Store. Kind Unavailable: this node
// does not own the agent's shard.
func (s *Store) Open(ctx context.Context, id agent.ID) (storage.DB, error) {
	const op = "open database"
	if ctx.Err() != nil {
		return nil, agent.FromContext(ctx, op, id)
	}
	if err := s.take(op, id, true); err != nil {
		return nil, err
	}
	db, err := s.connect(ctx, op, id)
	if err != nil {
		s.leave(id)
		return nil, err
	}
	s.mu.Lock()
	s.open[id] = db
	s.mu.Unlock()
	if capture := db.capture.Load(); capture != nil && capture.PendingBytes() > 0 {
		// It was parked: the applier may have come between the two maps.
		if held, err := s.applier.Holds(id, db.meta.Seq); held && err == nil {
			capture.Applied(db.meta.Seq, db.handle.FD())
		}
	}
	if _, _, err := s.owner(op, id); err != nil { // lost while the database was being opened
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// connect opens the agent's file once it holds everything that was committed.
func (s *Store) connect(ctx context.Context, op string, id agent.ID) (*database, error) {
	proposer, n, err := s.owner(op, id)
	if err != nil {
		return nil, err
	}
	entry, known, err := s.catalog.Entry(id)
	if err != nil {
		return nil, err
	}
	db := &database{store: s, id: id, shard: n, proposer: proposer}
	var conn *sqlite.Conn
	if p := s.unpark(id); p != nil {
		conn, db.handle, db.meta = p.conn, p.handle, p.meta
		db.capture.Store(p.capture)
	} else if conn, err = db.attachWhenApplied(ctx, op, entry.Seq, known); err != nil {
		return nil, err
	}
	handle := db.handle
	db.session = session.New(session.Config{Agent: id, Path: handle.Path(), Log: s.log, Create: db.create}, conn)
	entry.ID = id
	db.life = s.catalog.Open(entry)
	return db, nil
}

// attachWhenApplied acquires the agent's file once it holds everything that was
// committed; the connection is nil for an agent that has none.
func (db *database) attachWhenApplied(ctx context.Context, op string, seq uint64, known bool) (*sqlite.Conn, error) {
	s := db.store
	if known && s.catalog.Waits(db.id) {
		if err := s.awaitFile(ctx, op, db.id, seq); err != nil {
			return nil, err
		}
	}
	var err error
	if db.handle, err = s.files.Acquire(db.id); err != nil {
		return nil, err
	}
	if !known && db.handle.FD() < 0 {
		return nil, nil
	}
	conn, err := db.attach(op, seq)
	if err != nil {
		db.handle.Release()
	}
	return conn, err
}

// attach opens the agent's existing file, which must be the one that the catalog
// knows.
func (db *database) attach(op string, seq uint64) (*sqlite.Conn, error) {
	path := db.handle.Path()
	switch {
	case db.handle.FD() < 0:
		return nil, session.Damaged(op, db.id, path, fmt.Errorf("it is missing, but the agent has committed %d times", seq))
	case seq == 0:
		return nil, session.Damaged(op, db.id, path, errors.New("the catalog does not know it"))
	}
	conn, capture, err := sqlite.OpenCapture(sqlite.CaptureOptions{FD: db.handle.FD(), Pages: db.handle.Pages(), Seq: seq, MaxPages: maxTurnPages}, session.Limits())
	if err != nil {
		return nil, session.Fault(op, db.id, path, err)
	}
	meta, err := session.ReadMeta(conn)
	switch {
	case err != nil:
		err = session.Fault(op, db.id, path, asDamage(err))
	case meta.Key != db.id.Key():
		err = &agent.Error{Op: op, Agent: db.id, Kind: agent.Corrupt,
			Msg: fmt.Sprintf("database file %s belongs to the agent %s: move it back to its place", path, meta.Key)}
	case meta.Seq != seq:
		err = session.Damaged(op, db.id, path, fmt.Errorf("it holds commit %d, the catalog knows %d", meta.Seq, seq))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close(false))
	}
	db.meta = meta
	db.capture.Store(capture)
	return conn, nil
}

// asDamage: a file without the table that every one of ours has is damaged.
func asDamage(err error) error {
	var cause *sqlite.Error
	if errors.As(err, &cause) && cause.Code.Primary() == sqlite.Generic {
		return &sqlite.Error{Code: sqlite.Corrupt, Msg: cause.Msg}
	}
	return err
}

// applied is called by the applier: the agent's file holds commit seq now.
func (s *Store) applied(id agent.ID, seq uint64, fd int) {
	s.mu.Lock()
	db, p := s.open[id], s.parked[id]
	if p != nil && seq >= p.meta.Seq {
		delete(s.parked, id)
	}
	s.mu.Unlock()
	if p != nil {
		p.capture.Applied(seq, fd)
		if seq >= p.meta.Seq {
			if err := p.close(); err != nil {
				s.log.Warn("a database cannot be closed", "agent", id.Key(), "error", err)
			}
		}
	}
	if db == nil {
		return
	}
	if capture := db.capture.Load(); capture != nil {
		capture.Applied(seq, fd)
	}
}

// openOf lists the open databases of a shard.
func (s *Store) openOf(shard int) []*database {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*database
	for _, db := range s.open {
		if db.shard == shard {
			list = append(list, db)
		}
	}
	return list
}

// propose gives a commit's record to the agent's shard.
func (s *Store) propose(db *database, rec []byte, ticket *storage.Ticket) error {
	s.counters.records.Add(1)
	s.counters.bytes.Add(uint64(len(rec)))
	s.window.enter(len(rec))
	if err := db.proposer.Propose(rec, db.settle(len(rec), ticket)); err != nil {
		s.window.leave(len(rec))
		return err
	}
	return nil
}

// CloseDatabases refuses further calls and closes what is open, which waits for the
// shards' groups: they must still run. Closing twice is harmless.
func (s *Store) CloseDatabases() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	var errs []error
	for db := s.anyOpen(); db != nil; db = s.anyOpen() {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

// Close ends the store: databases, then the applier, the catalog and the files. The
// shards' groups must have been stopped after CloseDatabases.
func (s *Store) Close() error {
	err := s.CloseDatabases()
	s.dropParked(func(agent.ID) bool { return true })
	s.end()
	s.wg.Wait()
	return errors.Join(err, s.release())
}

// release gives back what start took, in reverse.
func (s *Store) release() error {
	s.end()
	var errs []error
	if s.applier != nil {
		errs = append(errs, s.applier.Close())
	}
	if s.catalog != nil {
		errs = append(errs, s.catalog.Close())
	}
	if s.files != nil {
		errs = append(errs, s.files.Close())
	}
	return errors.Join(append(errs, s.folder.Close())...)
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
