package engine

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/apply"
	"agentd/pkg/storage/internal/catalog"
	"agentd/pkg/storage/internal/session"
	"agentd/pkg/storage/internal/sqlite"
	"agentd/pkg/storage/record"
)

// database is one agent's open database: SQL over a capture, whose commits become
// records of the agent's shard.
type database struct {
	store    *Store
	id       agent.ID
	shard    int
	proposer Proposer // of the term in which the database was opened
	session  *session.Session
	handle   *apply.Handle // the agent's file
	life     *catalog.Life

	// capture is nil until the first statement of an agent that has no file.
	capture atomic.Pointer[sqlite.Capture]

	// mu guards what follows: the loop takes it for Commit, Wake and Close, and
	// Store.Close for what is left.
	mu     sync.Mutex
	meta   session.Meta    // of the newest commit
	last   *storage.Ticket // of the newest commit of this life
	closed bool
}

var _ storage.DB = (*database)(nil)

func (db *database) Query(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.session.Query(sqlite.Platform, query, args)
}

func (db *database) UserQuery(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.session.Query(sqlite.User, query, args)
}

func (db *database) ReadQuery(query string, args ...storage.Value) (*storage.Rows, error) {
	return db.session.Query(sqlite.Read, query, args)
}

func (db *database) Savepoint(fn func() error) error { return db.session.Savepoint(fn) }

func (db *database) Rollback() error { return db.session.Rollback() }

func (db *database) Interrupt() { db.session.Interrupt() }

func (db *database) Wake() storage.Wake {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.meta.Wake
}

func (db *database) SizeBytes() int64 {
	pages, err := db.session.Pages()
	if err != nil && agent.KindOf(err) != agent.Unavailable {
		db.store.log.Warn("size of a database is unknown", "agent", db.id.Key(), "error", err)
	}
	return pages * record.PageBytes
}

// create makes the connection of an agent that has no file yet.
func (db *database) create() (*sqlite.Conn, error) {
	conn, capture, err := sqlite.OpenCapture(sqlite.CaptureOptions{FD: -1, MaxPages: maxTurnPages}, session.Limits())
	if err != nil {
		return nil, session.Fault("create database", db.id, db.handle.Path(), err)
	}
	db.capture.Store(capture)
	return conn, nil
}

const maxTurnPages = storage.MaxTurnBytes / record.PageBytes

// maxOverlayBytes is what the overlay of one agent may hold when a turn commits;
// beyond it the loop waits until the last commit is in the file.
const maxOverlayBytes = 32 << 20

// Commit ends the turn: SQLite commits into the overlay, and the bytes that changed
// become the agent's next record.
func (db *database) Commit(wake storage.Wake) (*storage.Ticket, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	next := db.nextLocked(wake)
	changed, err := db.session.Commit(!wake.Equal(db.meta.Wake), func(w session.Writer) error {
		if err := db.admitLocked(); err != nil {
			return err
		}
		if next.Seq == 1 {
			if err := w.Exec(session.MetaSchema); err != nil {
				return err
			}
		}
		return session.WriteMeta(w, next)
	})
	if err != nil {
		return nil, err
	}
	if !changed {
		return db.lastLocked(), nil
	}
	ticket, err := db.proposeLocked(next)
	if err != nil {
		db.session.Break(err)
		return nil, err
	}
	return ticket, nil
}

// nextLocked is the meta row of the commit that is about to be made. Its time never
// runs backwards, so that bookmarks of an agent sort.
func (db *database) nextLocked(wake storage.Wake) session.Meta {
	now := db.store.now().Truncate(time.Millisecond)
	if now.Before(db.meta.CommittedAt) {
		now = db.meta.CommittedAt
	}
	next := session.Meta{Key: db.id.Key(), Seq: db.meta.Seq + 1, Wake: wake, CreatedAt: db.meta.CreatedAt, CommittedAt: now}
	if next.Seq == 1 {
		next.CreatedAt = now
	}
	return next
}

// admitLocked waits for room, or says why there is none. It runs inside the
// transaction: what it refuses is rolled back.
func (db *database) admitLocked() error {
	s := db.store
	if err := s.Err(); err != nil {
		return outcomeUnknown(db.id, err)
	}
	if err := s.room(db.id); err != nil {
		return err
	}
	if err := s.window.await(s.life); err != nil {
		return closing("commit", db.id)
	}
	if capture := db.capture.Load(); capture != nil && db.last != nil && capture.PendingBytes() > maxOverlayBytes {
		if err := s.awaitFile(s.life, "commit", db.id, db.meta.Seq); err != nil {
			return err
		}
	}
	return nil
}

// lastLocked is the ticket of the last commit, which may be of an earlier life.
func (db *database) lastLocked() *storage.Ticket {
	if db.last == nil {
		db.last = storage.NewTicketAt(db.meta.Seq, db.meta.CommittedAt)
		db.last.Settle(nil)
	}
	return db.last
}

// scratch holds buffers for deltas on their way from C into a record.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// proposeLocked takes the delta of the transaction that was just committed.
func (db *database) proposeLocked(next session.Meta) (*storage.Ticket, error) {
	buf := scratch.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= maxScratchBytes {
			scratch.Put(buf)
		}
	}()
	delta, pages, seq, ok := db.capture.Load().Take((*buf)[:0])
	*buf = delta
	if !ok || seq != next.Seq {
		return nil, &agent.Error{Op: "commit", Agent: db.id, Kind: agent.Internal,
			Msg: fmt.Sprintf("the transaction was captured as commit %d (%t), expected %d", seq, ok, next.Seq)}
	}
	rec := record.Append(nil, &record.Record{Kind: record.Commit, Agent: db.id, Base: db.meta.Seq, Seq: next.Seq,
		At: next.CommittedAt, CreatedAt: next.CreatedAt, Wake: next.Wake, Pages: pages, Delta: delta})
	ticket := storage.NewTicketAt(next.Seq, next.CommittedAt)
	if err := db.store.propose(db, rec, ticket); err != nil {
		return nil, err
	}
	db.meta, db.last = next, ticket
	db.life.Committed(next.Seq, next.Wake, int64(pages)*record.PageBytes, next.CreatedAt, next.CommittedAt)
	return ticket, nil
}

// maxScratchBytes is what a pooled buffer may keep.
const maxScratchBytes = 256 << 10

// Close drops an open turn, waits until the last commit is durable and gives the
// database back. The overlay goes: who opens the agent next waits until its file
// holds everything.
func (db *database) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	var lost error
	if db.last != nil {
		lost = db.last.Wait()
	}
	kept := false
	err := db.session.Close(func(conn *sqlite.Conn) error {
		if conn == nil {
			return nil
		}
		if kept = lost == nil && db.session.Intact() && db.store.park(db, conn); kept {
			return nil
		}
		return session.Fault("close database", db.id, db.handle.Path(), conn.Close(false))
	})
	err = errors.Join(err, lost)
	if lost != nil {
		db.life.Broken()
	}
	db.life.Closed()
	if !kept {
		db.handle.Release()
	}
	db.store.leave(db.id)
	return err
}

// closing is the answer of a store that is being closed.
func closing(op string, id agent.ID) error {
	return &agent.Error{Op: op, Agent: id, Kind: agent.Unavailable, Msg: "the store is closed"}
}

func outcomeUnknown(id agent.ID, err error) error {
	return &agent.Error{Op: "commit", Agent: id, Kind: agent.OutcomeUnknown, Err: err,
		Msg: "the log did not confirm a write; whether the commit survives shows after a restart"}
}

// settle is what the shard's group says of a record: it ends the record's stay in
// the window and the ticket. A commit that failed breaks the database: what SQLite
// has in the overlay will never be written.
func (db *database) settle(size int, ticket *storage.Ticket) func(error) {
	return func(err error) {
		db.store.window.leave(size)
		if err != nil {
			lost := &agent.Error{Op: "commit", Agent: db.id, Kind: agent.KindOf(err), Err: err, Msg: "the commit was not confirmed"}
			db.session.Break(lost)
			err = lost
		}
		ticket.Settle(err)
	}
}
