package storagetest

import (
	"context"
	"database/sql"
	"io"
	"testing"

	_ "github.com/mattn/go-sqlite3"

	"agentd/pkg/storage"
)

// Memory is one SQLite database in memory with turns, for tests of packages that
// keep rows in an agent's database: what was not committed is lost by Crash. Fields
// and methods belong to the test's goroutine.
type Memory struct {
	T       testing.TB // whom failures concern; a fuzz target replaces it
	Queries int        // how many were run

	conn *sql.Conn
}

// NewMemory opens an empty database that is closed with the test.
func NewMemory(t testing.TB) *Memory {
	t.Helper()
	db, err := sql.Open("sqlite3", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); db.Close() })
	d := &Memory{T: t, conn: conn}
	d.Exec("BEGIN")
	return d
}

// Query is that of storage.DB.
func (d *Memory) Query(query string, args ...storage.Value) (*storage.Rows, error) {
	d.Queries++
	rows, err := d.conn.QueryContext(context.Background(), query, args...)
	if err != nil {
		return nil, err
	}
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var changes int64
	next := func(dst []storage.Value) error {
		if !rows.Next() {
			if err := rows.Err(); err != nil {
				return err
			}
			rows.Close()
			if err := d.conn.QueryRowContext(context.Background(), "SELECT changes()").Scan(&changes); err != nil {
				return err
			}
			return io.EOF
		}
		into := make([]any, len(dst))
		for i := range dst {
			into[i] = &dst[i]
		}
		return rows.Scan(into...)
	}
	return &storage.Rows{Columns: columns, NextFunc: next, CloseFunc: rows.Close, Changes: func() int64 { return changes }}, nil
}

// Exec runs one statement that must succeed.
func (d *Memory) Exec(query string, args ...any) {
	d.T.Helper()
	if _, err := d.conn.ExecContext(context.Background(), query, args...); err != nil {
		d.T.Fatalf("%s: %v", query, err)
	}
}

// Commit ends a turn and begins the next.
func (d *Memory) Commit() { d.T.Helper(); d.Exec("COMMIT"); d.Exec("BEGIN") }

// Crash loses what the turn wrote.
func (d *Memory) Crash() { d.T.Helper(); d.Exec("ROLLBACK"); d.Exec("BEGIN") }

// Strings reads one column.
func (d *Memory) Strings(query string, args ...any) []string {
	d.T.Helper()
	rows, err := d.conn.QueryContext(context.Background(), query, args...)
	if err != nil {
		d.T.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var s sql.NullString
		if err := rows.Scan(&s); err != nil {
			d.T.Fatal(err)
		}
		if !s.Valid {
			s.String = "NULL"
		}
		all = append(all, s.String)
	}
	return all
}
