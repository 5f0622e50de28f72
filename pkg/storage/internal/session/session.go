// Package session is SQL on one agent's connection, the part that every engine has
// in common: whose SQL may do what, scripts, kept statements, open rows, savepoints,
// the turn as a transaction, limits, and what SQLite's errors mean to the user.
//
// It knows nothing of files, logs, durability or other agents: an engine opens the
// connection, writes its own rows at commit, and decides what a commit is worth.
package session

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// PageBytes is the size of a page of every agent's database.
const PageBytes = 4096

// maxStatementMemory is what one statement may take for sorting and temporary
// tables.
const maxStatementMemory = 128 << 20

// Limits are the options of an agent's connection that bound what its SQL may take.
func Limits() sqlite.Options {
	return sqlite.Options{
		MaxWrittenPages:    storage.MaxTurnBytes / PageBytes,
		MaxStatementMemory: maxStatementMemory,
		MaxValueBytes:      storage.MaxRowBytes,
	}
}

// Config is what a session needs of its engine. The functions are called under the
// session's lock, by whoever called the session; of its methods they may call only
// Interrupt and Break.
type Config struct {
	Agent agent.ID
	Path  string       // of the database, for messages
	Log   *slog.Logger // nil for nothing

	// Create makes the connection of an agent that has none, when a statement or a
	// commit first needs it; it is not called again once it succeeded. Required
	// unless New gets a connection.
	Create func() (*sqlite.Conn, error)

	// WillWrite is called once in the session's life: when a statement has taken the
	// write lock for the first time, or earlier, when the agent's first connection
	// is about to be made for a statement that may write. May be nil.
	WillWrite func()

	// Fault is told of a sync that failed inside SQLite: what is on disk is then
	// unknown, whatever becomes of the statement. May be nil.
	Fault func(error)
}

// Session is the SQL of one agent's open database. Its methods belong to one
// goroutine at a time, the agent's loop, with three exceptions: Interrupt and Break
// may be called from anywhere and do not wait; Close may be called from elsewhere
// and waits for the call under way.
type Session struct {
	cfg Config

	// conn is nil until there is a connection. It is set under mu and read by
	// Interrupt without.
	conn atomic.Pointer[sqlite.Conn]

	// deaf is set while Commit runs statements that are not the agent's: an interrupt
	// that came too late must not fail a commit.
	hearing sync.Mutex // guards deaf and is held to interrupt; nothing waits under it
	deaf    bool

	// broken is why every call fails; the first reason stays. Set by Break and by a
	// failed Commit.
	broken atomic.Pointer[error]

	mu         sync.Mutex // guards what follows
	announced  bool       // WillWrite was called
	statements statements
	cursors    []*cursor // with rows to read, in the order of their statements
	turn       turn
	closed     bool
}

// New begins a session on conn, which is the session's from now on; nil for an
// agent that has no file.
func New(c Config, conn *sqlite.Conn) *Session {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Session{cfg: c}
	if conn != nil {
		s.adoptLocked(conn)
	}
	return s
}

// adoptLocked takes a connection. What the engine did with it is no change of the
// turn.
func (s *Session) adoptLocked(conn *sqlite.Conn) {
	s.turn.rows = conn.TotalChanges()
	s.conn.Store(conn)
}

// Interrupt makes the statement under way fail with kind SQL; it holds until the
// next call of Query or Savepoint. A commit is not stopped. Any goroutine.
func (s *Session) Interrupt() {
	s.hearing.Lock()
	defer s.hearing.Unlock()
	if conn := s.conn.Load(); conn != nil && !s.deaf {
		conn.Interrupt()
	}
}

// setDeaf begins or ends the time in which interrupts are not heard; those from
// before are forgotten.
func (s *Session) setDeaf(deaf bool) {
	s.hearing.Lock()
	defer s.hearing.Unlock()
	s.deaf = deaf
	if conn := s.conn.Load(); conn != nil && deaf {
		conn.ClearInterrupt()
	}
}

// Break makes every later call but Close fail with err, and the reading of open rows
// and a commit under way that has not happened yet. What the turn wrote is dropped at
// Close. The first reason stays. Any goroutine; it does not wait for the call under
// way, which Interrupt stops.
func (s *Session) Break(err error) { s.broken.CompareAndSwap(nil, &err) }

// Usable says why nothing can be done now, if so: the session is closed (kind
// Unavailable) or broken, or the turn was lost and Rollback must come first.
func (s *Session) Usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usableLocked()
}

func (s *Session) usableLocked() error {
	if err := s.overLocked(); err != nil {
		return err
	}
	return s.turn.lost
}

// overLocked says why nothing can be done any more, if so.
func (s *Session) overLocked() error {
	if s.closed {
		return &agent.Error{Op: "use database", Agent: s.cfg.Agent, Kind: agent.Unavailable, Msg: "the database is closed"}
	}
	return s.brokenBy()
}

// Intact says that nothing broke the session: its connection holds what was committed
// and no more. Any goroutine.
func (s *Session) Intact() bool { return s.broken.Load() == nil }

func (s *Session) brokenBy() error {
	if err := s.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Pages is the size of the database as the open transaction has it, in pages of
// PageBytes; 0 without a connection.
func (s *Session) Pages() (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.conn.Load() == nil {
		return 0, nil
	}
	return s.pagesLocked("measure database")
}

// Close drops what the turn wrote and ends every statement; then last closes the
// connection, which is nil if none was made. A second Close does nothing.
func (s *Session) Close(last func(conn *sqlite.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	err := s.rollbackLocked()
	s.closed = true
	s.statements.clear()
	return errors.Join(err, last(s.conn.Load()))
}

// connectLocked gives an agent that has no connection its first one.
func (s *Session) connectLocked() (*sqlite.Conn, error) {
	if conn := s.conn.Load(); conn != nil {
		return conn, nil
	}
	conn, err := s.cfg.Create()
	if err != nil {
		return nil, err
	}
	s.adoptLocked(conn)
	return conn, nil
}

// announceLocked tells the engine, once, that this session writes.
func (s *Session) announceLocked() {
	if !s.announced && s.cfg.WillWrite != nil {
		s.cfg.WillWrite()
	}
	s.announced = true
}

func (s *Session) refuse(kind agent.Kind, format string, args ...any) error {
	return &agent.Error{Op: "query", Agent: s.cfg.Agent, Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

func (s *Session) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	if s.cfg.Fault != nil && SyncFailed(err) {
		s.cfg.Fault(err)
	}
	return Fault(op, s.cfg.Agent, s.cfg.Path, err)
}
