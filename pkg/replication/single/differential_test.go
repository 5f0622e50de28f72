package single

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/reference"
)

// TestDifferential runs the same random turns on this engine and on the reference:
// every answer, every error's kind and the whole content at the end are the same,
// also after databases and stores were closed and opened again.
func TestDifferential(t *testing.T) {
	dirs := t.TempDir()
	world := 0
	rapid.Check(t, func(t *rapid.T) {
		world++
		p := &pair{T: t, dir: fmt.Sprintf("%s/%d", dirs, world)}
		p.openStores()
		defer p.closeStores()
		p.open()
		p.both(`CREATE TABLE a(id INTEGER PRIMARY KEY, n INTEGER, s TEXT, b BLOB);
			CREATE TABLE w(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID;
			CREATE TABLE parent(id INTEGER PRIMARY KEY); CREATE TABLE child(p REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED);
			CREATE TABLE log(what TEXT); CREATE TRIGGER a_in AFTER INSERT ON a BEGIN INSERT INTO log VALUES('in ' || new.id); END;
			CREATE VIRTUAL TABLE f USING fts5(t)`)
		p.commit()
		for range rapid.IntRange(5, 40).Draw(t, "turns") {
			p.turn()
		}
		p.compare()
		p.closeStores()
		p.openStores()
		p.open()
		p.compare()
	})
}

// pair is one agent in both engines.
type pair struct {
	*rapid.T
	dir    string
	stores [2]storage.Store // the reference first
	dbs    [2]storage.DB
	tables int
}

var pairAgent = agent.ID{Namespace: "default", Class: "Pair", Name: "a"}

func (p *pair) openStores() {
	p.Helper()
	ref, err := reference.Open(reference.Config{Dir: p.dir + "/reference", Now: time.Now})
	if err != nil {
		p.Fatal(err)
	}
	engine, err := Open(context.Background(), Config{Dir: p.dir + "/engine", Now: time.Now, SegmentBytes: 1 << 20})
	if err != nil {
		p.Fatal(err)
	}
	p.stores = [2]storage.Store{ref, engine}
}

func (p *pair) closeStores() {
	for i, s := range p.stores {
		if err := s.Close(); err != nil {
			p.Errorf("close store %d: %v", i, err)
		}
	}
}

func (p *pair) open() {
	for i, s := range p.stores {
		db, err := s.Open(context.Background(), pairAgent)
		if err != nil {
			p.Fatalf("open in store %d: %v", i, err)
		}
		p.dbs[i] = db
	}
}

func (p *pair) reopen() {
	for i, db := range p.dbs {
		if err := db.Close(); err != nil {
			p.Fatalf("close in store %d: %v", i, err)
		}
	}
	p.open()
}

// same compares what the two engines did.
func (p *pair) same(what string, got [2]any, errs [2]error) error {
	p.Helper()
	if k := [2]agent.Kind{agent.KindOf(errs[0]), agent.KindOf(errs[1])}; (errs[0] == nil) != (errs[1] == nil) || k[0] != k[1] {
		p.Fatalf("%.200s: the reference says %v, the engine %v", what, errs[0], errs[1])
	}
	if !reflect.DeepEqual(got[0], got[1]) {
		p.Fatalf("%.200s: the reference gives %.300v, the engine %.300v", what, got[0], got[1])
	}
	return errs[0]
}

// both runs SQL in both; the error is the reference's.
func (p *pair) both(sql string, args ...any) error {
	p.Helper()
	var got [2]any
	var errs [2]error
	for i, db := range p.dbs {
		got[i], errs[i] = everything(db, sql, args...)
	}
	return p.same(sql, got, errs)
}

// everything is all rows and the number of changes.
func everything(db storage.DB, sql string, args ...any) (any, error) {
	rows, err := db.Query(sql, args...)
	if err != nil {
		return nil, err
	}
	var all [][]storage.Value
	changes, err := rows.Each(func(row []storage.Value) error {
		all = append(all, append([]storage.Value(nil), row...))
		return nil
	})
	return []any{all, changes}, err
}

func (p *pair) commit() {
	p.Helper()
	wake := storage.Wake{At: time.UnixMilli(int64(p.number("wake", 3)) * 1000), Resume: p.number("resume", 2) == 1}
	var got [2]any
	var errs [2]error
	for i, db := range p.dbs {
		ticket, err := db.Commit(wake)
		if err == nil && ticket.Seq() > 0 && p.tables%3 == 0 {
			err = ticket.Wait()
		}
		if errs[i] = err; err == nil {
			got[i] = ticket.Seq()
		}
	}
	if p.same("commit", got, errs) != nil {
		p.reopen()
	}
}

func (p *pair) number(what string, n int) int { return rapid.IntRange(0, n-1).Draw(p.T, what) }

// bytes is a value of random size and content; the same seed gives the same bytes.
func (p *pair) bytes(most int) []byte {
	b := make([]byte, p.number("size", most))
	r := rand.New(rand.NewPCG(uint64(p.number("seed", 1<<20)), 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// turn is some statements and the end of a transaction.
func (p *pair) turn() {
	for range 1 + p.number("statements", 6) {
		p.statement()
	}
	switch p.number("end", 8) {
	case 0:
		p.rollback()
	case 1:
		p.commit()
		p.reopen()
	case 2:
		p.reopen() // drops the turn
	default:
		p.commit()
	}
}

func (p *pair) rollback() {
	var errs [2]error
	for i, db := range p.dbs {
		errs[i] = db.Rollback()
	}
	_ = p.same("rollback", [2]any{}, errs)
}

var errTakeBack = errors.New("take it back")

func (p *pair) statement() {
	id := p.number("id", 200)
	switch p.number("statement", 16) {
	case 0, 1, 2:
		_ = p.both("INSERT OR REPLACE INTO a VALUES(?,?,?,?)", id, p.number("n", 1000), strings.Repeat("text ", p.number("words", 60)), p.bytes(9000))
	case 3:
		_ = p.both("INSERT INTO a(id, n) VALUES(?,?)", id, 1) // may fail
	case 4:
		_ = p.both("UPDATE a SET n = n + 1, s = s || 'x' WHERE id % 7 = ?", p.number("mod", 7))
	case 5:
		_ = p.both("DELETE FROM a WHERE id BETWEEN ? AND ?", id, id+p.number("span", 60))
	case 6:
		_ = p.both("INSERT INTO w VALUES(?,?) ON CONFLICT(k) DO UPDATE SET v = excluded.v", fmt.Sprint("key", id%40), p.bytes(300))
	case 7:
		p.tables++
		_ = p.both(fmt.Sprintf("CREATE TABLE extra%d(x, y); CREATE INDEX extra%d_x ON extra%d(x); INSERT INTO extra%d SELECT id, s FROM a", p.tables, p.tables, p.tables, p.tables))
	case 8:
		_ = p.both(fmt.Sprintf("DROP TABLE IF EXISTS extra%d", 1+p.number("table", p.tables+1)))
	case 9:
		_ = p.both(fmt.Sprintf("ALTER TABLE a ADD COLUMN c%d DEFAULT %d", p.number("column", 4), id)) // may exist
	case 10:
		_ = p.both("INSERT INTO f VALUES(?)", strings.Repeat(fmt.Sprintf("word%d ", id), 1+p.number("words", 40)))
	case 11:
		_ = p.both("SELECT count(*) FROM f WHERE f MATCH ?", fmt.Sprintf("word%d", id))
	case 12:
		_ = p.both("INSERT INTO child VALUES(?)", id) // the commit fails unless the parent comes
		if p.number("parent", 4) > 0 {
			_ = p.both("INSERT OR IGNORE INTO parent VALUES(?)", id)
		}
	case 13:
		p.savepoint(3)
	case 14:
		_ = p.both("DELETE FROM log; DELETE FROM w WHERE k > ?", fmt.Sprint("key", id%40))
	case 15:
		_ = p.both("SELECT id, n, length(s), length(b) FROM a ORDER BY id LIMIT 20 OFFSET ?", id)
	}
}

// savepoint runs statements in both that are kept or taken back. The two databases
// take turns inside, so the statements are drawn once and run by nested calls.
func (p *pair) savepoint(depth int) {
	back := p.number("back", 2) == 1
	var errs [2]error
	errs[0] = p.dbs[0].Savepoint(func() error {
		errs[1] = p.dbs[1].Savepoint(func() error {
			for range 1 + p.number("inside", 3) {
				if depth > 0 && p.number("deeper", 4) == 0 {
					p.savepoint(depth - 1)
				} else {
					p.statement()
				}
			}
			if back {
				return errTakeBack
			}
			return nil
		})
		return errs[1]
	})
	_ = p.same("savepoint", [2]any{}, errs)
}

// compare holds the whole content of the two against each other.
func (p *pair) compare() {
	p.Helper()
	var dumps [2]any
	var errs [2]error
	for i, db := range p.dbs {
		dumps[i], errs[i] = dump(db)
	}
	if err := p.same("dump", dumps, errs); err != nil {
		p.Fatal(err)
	}
	got, err := everything(p.dbs[1], "PRAGMA integrity_check")
	if want := []any{[][]storage.Value{{"ok"}}, int64(0)}; err != nil || !reflect.DeepEqual(got, want) {
		p.Fatalf("integrity_check: %v, %v", got, err)
	}
}

// dump is the schema and every row of every table but the engine's own.
func dump(db storage.DB) (any, error) {
	schema, err := everything(db, "SELECT name, sql FROM sqlite_schema WHERE name <> 'agentd_meta' AND name NOT LIKE 'sqlite_autoindex_agentd%' ORDER BY name")
	if err != nil {
		return nil, err
	}
	all := map[string]any{"schema": schema}
	tables, err := everything(db, "SELECT name FROM sqlite_schema WHERE type='table' AND name <> 'agentd_meta' AND sql NOT LIKE 'CREATE VIRTUAL%'")
	if err != nil {
		return nil, err
	}
	for _, row := range tables.([]any)[0].([][]storage.Value) {
		name := row[0].(string)
		if all[name], err = everything(db, fmt.Sprintf("SELECT * FROM %q ORDER BY 1", name)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// TestDifferential_LargeTurn compares a transaction near the limit of 64 MiB.
func TestDifferential_LargeTurn(t *testing.T) {
	if testing.Short() {
		t.Skip("writes some 300 MiB")
	}
	dir := t.TempDir()
	once := false
	rapid.Check(t, func(t *rapid.T) {
		if once { // there is nothing random in it
			return
		}
		once = true
		p := &pair{T: t, dir: dir}
		p.openStores()
		defer p.closeStores()
		p.open()
		_ = p.both("CREATE TABLE big(id INTEGER PRIMARY KEY, b BLOB)")
		for i := range 55 {
			b := make([]byte, 1<<20)
			r := rand.New(rand.NewPCG(uint64(i), 2))
			for k := range b {
				b[k] = byte(r.Uint32())
			}
			_ = p.both("INSERT INTO big VALUES(?,?)", i, b)
		}
		p.commit()
		p.compare()
		p.reopen()
		p.compare()
	})
}
