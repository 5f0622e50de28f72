package fiber_test

import (
	"context"
	"database/sql"
	"io"
	"testing"

	_ "github.com/mattn/go-sqlite3"

	"agentd/pkg/storage"
)

// database is one SQLite database in memory behind the DB interface, with turns:
// what was not committed is lost by crash.
type database struct {
	t       testing.TB
	conn    *sql.Conn
	queries int
}

func newDatabase(t testing.TB) *database {
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
	d := &database{t: t, conn: conn}
	d.exec("BEGIN")
	return d
}

func (d *database) Query(query string, args ...storage.Value) (*storage.Rows, error) {
	d.queries++
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

func (d *database) exec(query string, args ...any) {
	d.t.Helper()
	if _, err := d.conn.ExecContext(context.Background(), query, args...); err != nil {
		d.t.Fatalf("%s: %v", query, err)
	}
}

// commit ends a turn and begins the next.
func (d *database) commit() { d.t.Helper(); d.exec("COMMIT"); d.exec("BEGIN") }

// crash loses what the turn wrote.
func (d *database) crash() { d.t.Helper(); d.exec("ROLLBACK"); d.exec("BEGIN") }

// strings reads one column.
func (d *database) strings(query string, args ...any) []string {
	d.t.Helper()
	rows, err := d.conn.QueryContext(context.Background(), query, args...)
	if err != nil {
		d.t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var s sql.NullString
		if err := rows.Scan(&s); err != nil {
			d.t.Fatal(err)
		}
		if !s.Valid {
			s.String = "NULL"
		}
		all = append(all, s.String)
	}
	return all
}
