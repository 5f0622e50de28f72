package session

import "agentd/pkg/storage/internal/sqlite"

// Bounds of the prepared statements that a session keeps.
const (
	maxStatements     = 32
	maxStatementBytes = 128 << 10 // of SQLite's memory, all together
)

type statementKey struct {
	mode  sqlite.Mode
	query string
}

// statement is a prepared statement and its place in the cache.
type statement struct {
	*sqlite.Stmt
	key  statementKey
	keep bool   // it may go to the cache: it is all that its key's query holds
	kept bool   // it is in the cache
	busy bool   // it is running
	used uint64 // when it ended last, by the cache's clock
}

// newStatement is a statement that is about to run.
func newStatement(key statementKey, stmt *sqlite.Stmt, keep bool) *statement {
	return &statement{Stmt: stmt, key: key, keep: keep, busy: true}
}

// statements keeps prepared statements, the least recently used going first. It is
// guarded by the session's lock.
type statements struct {
	kept  map[statementKey]*statement
	bytes int
	clock uint64
}

// take gives a statement of the cache to run; nil if there is none, or if it is
// running already.
func (s *statements) take(key statementKey) *statement {
	st := s.kept[key]
	if st == nil || st.busy {
		return nil
	}
	st.busy = true
	return st
}

// give takes a statement that has ended and was released: it is kept for the next
// time, or finalized.
func (s *statements) give(st *statement) {
	st.busy = false
	s.clock++
	st.used = s.clock
	if st.kept {
		return
	}
	if !st.keep || s.kept[st.key] != nil || st.Memory > maxStatementBytes/2 || len(st.key.query) > maxStatementBytes/8 {
		st.Finalize()
		return
	}
	if s.kept == nil {
		s.kept = make(map[statementKey]*statement)
	}
	st.kept = true
	s.kept[st.key] = st
	s.bytes += st.Memory
	for len(s.kept) > maxStatements || s.bytes > maxStatementBytes {
		s.evict()
	}
}

// evict finalizes the statement that has not run for the longest time. Those that
// are running stay; there is another, for give has just put one in.
func (s *statements) evict() {
	var oldest *statement
	for _, st := range s.kept {
		if !st.busy && (oldest == nil || st.used < oldest.used) {
			oldest = st
		}
	}
	delete(s.kept, oldest.key)
	s.bytes -= oldest.Memory
	oldest.Finalize()
}

// clear finalizes everything; what is running is finalized when it ends.
func (s *statements) clear() {
	for _, st := range s.kept {
		st.kept, st.keep = false, false
		if !st.busy {
			st.Finalize()
		}
	}
	clear(s.kept)
	s.bytes = 0
}
