package engine

import (
	"agentd/pkg/agent"
	"agentd/pkg/storage/internal/apply"
	"agentd/pkg/storage/internal/session"
	"agentd/pkg/storage/internal/sqlite"
)

// parked is a database that was closed while its last commits could not be written
// to its file, because the disk is full: its overlay is the only place to read them
// from. It waits for the next Open, or for its file. New data is refused meanwhile,
// so there are at most as many as were open when the disk became full.
type parked struct {
	conn    *sqlite.Conn
	capture *sqlite.Capture
	handle  *apply.Handle
	meta    session.Meta
}

func (p *parked) close() error {
	err := p.conn.Close(false)
	p.handle.Release()
	return err
}

// park keeps a closed database's connection; false if there is no need to. Nobody
// else has the agent: it is taken.
func (s *Store) park(db *database, conn *sqlite.Conn) bool {
	if _, cause := s.full.now(); cause == nil {
		return false
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.parked[db.id] = &parked{conn: conn, capture: db.capture.Load(), handle: db.handle, meta: db.meta}
	s.mu.Unlock()
	// The applier may have come before it was parked: then nobody else will look.
	if held, err := s.applier.Holds(db.id, db.meta.Seq); held || err != nil {
		return s.unpark(db.id) == nil // if it is gone, applied has it
	}
	return true
}

// unpark gives a parked database to the caller, who has taken the agent; nil if there
// is none.
func (s *Store) unpark(id agent.ID) *parked {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parked[id]
	delete(s.parked, id)
	return p
}

// dropParked closes those that match.
func (s *Store) dropParked(match func(agent.ID) bool) {
	var drop []*parked
	s.mu.Lock()
	for id, p := range s.parked {
		if match(id) {
			drop = append(drop, p)
			delete(s.parked, id)
		}
	}
	s.mu.Unlock()
	for _, p := range drop {
		if err := p.close(); err != nil {
			s.log.Warn("a database cannot be closed", "error", err)
		}
	}
}
