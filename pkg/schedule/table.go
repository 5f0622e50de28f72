package schedule

import (
	"agentd/pkg/storage"
)

// The table has the columns and checks that programs written for the SDK know; the
// index is ours and serves NextAt and Due.
var create = []string{
	`CREATE TABLE IF NOT EXISTS cf_agents_schedules (
		id TEXT PRIMARY KEY NOT NULL DEFAULT (randomblob(9)),
		callback TEXT,
		payload TEXT,
		type TEXT NOT NULL CHECK(type IN ('scheduled', 'delayed', 'cron', 'interval')),
		time INTEGER,
		delayInSeconds INTEGER,
		cron TEXT,
		intervalSeconds INTEGER,
		running INTEGER DEFAULT 0,
		created_at INTEGER DEFAULT (unixepoch()),
		execution_started_at INTEGER,
		retry_options TEXT,
		owner_path TEXT,
		owner_path_key TEXT
	)`,
	`CREATE INDEX IF NOT EXISTS idx_schedules_time ON cf_agents_schedules(time)`,
}

const columns = `id, callback, payload, type, time, delayInSeconds, cron, intervalSeconds, running, created_at, execution_started_at, retry_options, owner_path, owner_path_key`

// query runs one statement, gives each row to fn (nil to ignore them) and returns
// how many rows were changed. The values given to fn are kept by the next row.
func query(db DB, fn func(row []storage.Value) error, text string, args ...storage.Value) (changes int64, err error) {
	rows, err := db.Query(text, args...)
	if err != nil {
		return 0, err
	}
	return rows.Each(fn)
}

// query runs one statement on the table; without the table there are no rows. What
// is known of the table may be wrong when the agent's own SQL dropped it or a
// savepoint took its creation back: a failure takes a fresh look.
func (b *Book) query(fn func(row []storage.Value) error, text string, args ...storage.Value) (int64, error) {
	if !b.exists {
		return 0, nil
	}
	n, err := query(b.db, fn, text, args...)
	if err != nil && b.look() == nil && !b.exists {
		return 0, nil
	}
	return n, err
}

// ensure creates the table.
func (b *Book) ensure() error {
	for _, statement := range create {
		if _, err := query(b.db, nil, statement); err != nil {
			return err
		}
	}
	b.exists = true
	return nil
}

// look finds out whether the table exists.
func (b *Book) look() error {
	exists := false
	_, err := query(b.db, func([]storage.Value) error {
		exists = true
		return nil
	}, `SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'cf_agents_schedules'`)
	if err == nil {
		b.exists = exists
	}
	return err
}

// decode reads a row of columns.
func decode(v []storage.Value) Row {
	return Row{
		ID:                 str(v[0]),
		Callback:           str(v[1]),
		Payload:            optional(v[2], str),
		Type:               Type(str(v[3])),
		Time:               whole(v[4]),
		DelayInSeconds:     optional(v[5], number),
		Cron:               optional(v[6], str),
		IntervalSeconds:    optional(v[7], number),
		Running:            whole(v[8]),
		CreatedAt:          whole(v[9]),
		ExecutionStartedAt: optional(v[10], whole),
		RetryOptions:       optional(v[11], str),
		OwnerPath:          optional(v[12], str),
		OwnerPathKey:       optional(v[13], str),
	}
}

func optional[T any](v storage.Value, read func(storage.Value) T) *T {
	if v == nil {
		return nil
	}
	t := read(v)
	return &t
}

// str reads a column that should be text. Programs may write anything into the
// public table; what has no text form is the empty string.
func str(v storage.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func whole(v storage.Value) int64 { return int64(number(v)) }

// number reads a column that should be a number, 0 for anything else. The times in
// use are exact in a float64.
func number(v storage.Value) float64 {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case float64:
		return v
	}
	return 0
}
