package reference

import "agentd/pkg/storage/internal/sqlite"

// Bounds of the prepared statements that a database keeps.
const (
	maxStatements     = 32
	maxStatementBytes = 128 << 10 // of SQLite's memory, all together
)

type statementKey struct {
	mode  sqlite.Mode
	query string
}

type keptStatement struct {
	stmt *sqlite.Stmt
	used uint64
}

// statements keeps prepared statements that are not running, the least recently
// used going first. It belongs to the database's goroutine.
type statements struct {
	kept  map[statementKey]keptStatement
	bytes int
	clock uint64
}

// take removes a statement from the cache; nil if it is not there.
func (s *statements) take(key statementKey) *sqlite.Stmt {
	k, ok := s.kept[key]
	if !ok {
		return nil
	}
	delete(s.kept, key)
	s.bytes -= k.stmt.Memory
	return k.stmt
}

// put keeps a released statement, or finalizes it.
func (s *statements) put(key statementKey, stmt *sqlite.Stmt) {
	if _, twice := s.kept[key]; twice || stmt.Memory > maxStatementBytes/2 || len(key.query) > maxStatementBytes/8 {
		stmt.Finalize()
		return
	}
	if s.kept == nil {
		s.kept = make(map[statementKey]keptStatement)
	}
	s.clock++
	s.kept[key] = keptStatement{stmt, s.clock}
	s.bytes += stmt.Memory
	for len(s.kept) > maxStatements || s.bytes > maxStatementBytes {
		s.evict()
	}
}

func (s *statements) evict() {
	var oldest statementKey
	used := s.clock + 1
	for key, k := range s.kept {
		if k.used < used {
			oldest, used = key, k.used
		}
	}
	s.take(oldest).Finalize()
}

// clear finalizes everything.
func (s *statements) clear() {
	for _, k := range s.kept {
		k.stmt.Finalize()
	}
	clear(s.kept)
	s.bytes = 0
}
