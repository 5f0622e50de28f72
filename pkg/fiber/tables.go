package fiber

import (
	"agentd/pkg/storage"
)

// The public tables have the columns, types and index names that programs written
// for the SDK know. The last one is ours: an agent's own SQL cannot reach it.
var (
	createRuns = []string{
		`CREATE TABLE IF NOT EXISTS cf_agents_runs (
			id TEXT PRIMARY KEY NOT NULL,
			name TEXT NOT NULL,
			snapshot TEXT,
			created_at INTEGER NOT NULL
		)`,
	}
	createFibers = []string{
		`CREATE TABLE IF NOT EXISTS cf_agents_fibers (
			fiber_id TEXT PRIMARY KEY,
			idempotency_key TEXT UNIQUE,
			name TEXT NOT NULL,
			status TEXT NOT NULL,
			snapshot TEXT,
			metadata_json TEXT,
			error_message TEXT,
			created_at INTEGER NOT NULL,
			started_at INTEGER,
			completed_at INTEGER
		)`,
		`CREATE INDEX IF NOT EXISTS idx_fibers_status_created
			ON cf_agents_fibers(status, created_at, fiber_id)`,
		`CREATE INDEX IF NOT EXISTS idx_fibers_status_completed
			ON cf_agents_fibers(status, completed_at, created_at)`,
	}
	createScan = []string{
		`CREATE TABLE IF NOT EXISTS agentd_fiber_scan (
			one INTEGER PRIMARY KEY CHECK (one = 1),
			streak INTEGER NOT NULL,
			next_ms INTEGER NOT NULL
		)`,
	}
)

// table is one of the Ledger's tables and whether it is known to exist.
type table struct {
	name   string
	create []string
	exists bool
}

// query runs one statement, gives each row to fn (nil to ignore them) and returns
// how many rows were changed. The values given to fn are kept by the next row.
func query(db DB, fn func(row []storage.Value) error, text string, args ...storage.Value) (changes int64, err error) {
	rows, err := db.Query(text, args...)
	if err != nil {
		return 0, err
	}
	return rows.Each(fn)
}

// on runs one statement on a table; without the table there are no rows. What is
// known of the table may be wrong when the agent's own SQL dropped it or a savepoint
// took its creation back: a failure takes a fresh look.
func (l *Ledger) on(t *table, fn func(row []storage.Value) error, text string, args ...storage.Value) (int64, error) {
	if !t.exists {
		return 0, nil
	}
	n, err := query(l.db, fn, text, args...)
	if err != nil && l.look() == nil && !t.exists {
		return 0, nil
	}
	return n, err
}

// insert runs one statement on a table that is created first if need be.
func (l *Ledger) insert(t *table, text string, args ...storage.Value) (int64, error) {
	if t.exists {
		n, err := query(l.db, nil, text, args...)
		if err == nil || l.look() != nil || t.exists {
			return n, err
		}
	}
	if err := l.create(t); err != nil {
		return 0, err
	}
	return query(l.db, nil, text, args...)
}

func (l *Ledger) create(t *table) error {
	for _, statement := range t.create {
		if _, err := query(l.db, nil, statement); err != nil {
			return err
		}
	}
	t.exists = true
	return nil
}

// look finds out which tables exist; what does not has no rows.
func (l *Ledger) look() error {
	found := make(map[string]bool, 3)
	_, err := query(l.db, func(row []storage.Value) error {
		found[asText(row[0])] = true
		return nil
	}, `SELECT name FROM sqlite_schema WHERE type = 'table'
		AND name IN ('cf_agents_runs', 'cf_agents_fibers', 'agentd_fiber_scan')`)
	if err != nil {
		return err
	}
	for _, t := range []*table{&l.runs, &l.fibers, &l.scan} {
		t.exists = found[t.name]
	}
	if !l.runs.exists {
		l.runRows = 0
	}
	if !l.fibers.exists {
		l.open = 0
	}
	return nil
}

// asText reads a column that should be text. Programs may write anything into the
// public tables; what has no text form is the empty string.
func asText(v storage.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

// whole reads a column that should be a whole number, 0 for anything else.
func whole(v storage.Value) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case float64:
		return int64(v)
	}
	return 0
}

// orNull stores an empty string as NULL.
func orNull(s string) storage.Value {
	if s == "" {
		return nil
	}
	return s
}
