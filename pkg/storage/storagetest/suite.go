// Package storagetest is the contract of storage.Store as tests: every engine runs
// the same suite. It is imported by tests only.
package storagetest

import (
	"context"
	"errors"
	"io"
	"testing"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Engine is how the suite opens the engine under test: the same folder again gives
// the same data.
type Engine struct {
	Open func(dir string) (storage.Store, error)
}

// Run runs the whole suite.
func Run(t *testing.T, engine Engine) {
	t.Run("Query", func(t *testing.T) { testQuery(t, engine) })
	t.Run("User", func(t *testing.T) { testUser(t, engine) })
	t.Run("Turn", func(t *testing.T) { testTurn(t, engine) })
	t.Run("Store", func(t *testing.T) { testStore(t, engine) })
	t.Run("Catalog", func(t *testing.T) { testCatalog(t, engine) })
}

// world is one store in a folder of its own.
type world struct {
	*testing.T
	engine Engine
	dir    string
	store  storage.Store
}

func newWorld(t *testing.T, engine Engine) *world {
	t.Helper()
	w := &world{T: t, engine: engine, dir: t.TempDir()}
	w.start()
	t.Cleanup(func() { w.must(w.store.Close()) })
	return w
}

func (w *world) start() {
	w.Helper()
	store, err := w.engine.Open(w.dir)
	w.must(err)
	w.store = store
}

func (w *world) restart() {
	w.Helper()
	w.must(w.store.Close())
	w.start()
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) wantKind(err error, kind agent.Kind) {
	w.Helper()
	var e *agent.Error
	if !errors.As(err, &e) || e.Kind != kind {
		w.Fatalf("error %v (kind %v), want kind %v", err, agent.KindOf(err), kind)
	}
}

func name(n string) agent.ID { return agent.ID{Namespace: "default", Class: "Thing", Name: n} }

func (w *world) open(id agent.ID) storage.DB {
	w.Helper()
	db, err := w.store.Open(context.Background(), id)
	w.must(err)
	w.Cleanup(func() { w.must(db.Close()) })
	return db
}

type query func(string, ...storage.Value) (*storage.Rows, error)

// all runs SQL and reads every row.
func (w *world) all(q query, sql string, args ...storage.Value) [][]storage.Value {
	w.Helper()
	rows, err := collect(q, sql, args...)
	if err != nil {
		w.Fatalf("%.80s: %v", sql, err)
	}
	return rows
}

func collect(q query, sql string, args ...storage.Value) (all [][]storage.Value, err error) {
	rows, err := q(sql, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for {
		row := make([]storage.Value, len(rows.Columns))
		switch err := rows.Next(row); {
		case err == io.EOF:
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, row)
	}
}

// one is the single value of a query.
func (w *world) one(q query, sql string, args ...storage.Value) storage.Value {
	w.Helper()
	rows := w.all(q, sql, args...)
	if len(rows) != 1 || len(rows[0]) != 1 {
		w.Fatalf("%s gives %v, want one value", sql, rows)
	}
	return rows[0][0]
}

func (w *world) commit(db storage.DB, wake storage.Wake) *storage.Ticket {
	w.Helper()
	ticket, err := db.Commit(wake)
	w.must(err)
	return ticket
}

// durable commits and waits.
func (w *world) durable(db storage.DB, wake storage.Wake) *storage.Ticket {
	w.Helper()
	ticket := w.commit(db, wake)
	w.must(ticket.Wait())
	return ticket
}
