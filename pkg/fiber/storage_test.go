package fiber_test

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/fiber"
	"agentd/pkg/schedule"
	"agentd/pkg/storage"
	"agentd/pkg/storage/reference"
)

var subject = agent.ID{Namespace: "default", Class: "Research", Name: "a"}

// life opens the agent's database in a data folder.
func life(t *testing.T, dir string) storage.DB {
	t.Helper()
	store, err := reference.Open(reference.Config{Dir: dir, Now: func() time.Time { return at(0) }})
	ok(t, err)
	db, err := store.Open(t.Context(), subject)
	ok(t, err)
	t.Cleanup(func() { ok(t, db.Close()); ok(t, store.Close()) })
	return db
}

func commit(t *testing.T, db storage.DB) {
	t.Helper()
	ticket, err := db.Commit(storage.Wake{Resume: true})
	ok(t, err)
	ok(t, ticket.Wait())
}

// With the store that agents have: what a killed process leaves is recovered, and
// what it had not committed is not there.
func TestLedger_KilledProcess(t *testing.T) {
	dir := t.TempDir()
	db := life(t, dir)
	l, err := fiber.Open(db)
	ok(t, err)
	book, err := schedule.Open(db)
	ok(t, err)
	ok(t, l.Start("a", "my-task", at(0)))
	_, accepted, err := l.StartManaged(fiber.StartOptions{ID: ptr("m"), Key: ptr("k"), Name: "job"}, at(0))
	ok(t, err)
	is(t, accepted, true)
	ok(t, l.Start("m", "job", at(0)))
	_, err = l.MarkRunning("m", at(0))
	ok(t, err)
	_, _, err = book.Add(schedule.Spec{Type: schedule.TypeDelayed, Callback: "run", Delay: 2}, "s", at(0), schedule.DefaultPolicy)
	ok(t, err)
	commit(t, db)
	ok(t, l.Stash("a", json.RawMessage(`{"step1":1}`)))
	commit(t, db)
	ok(t, l.Stash("a", json.RawMessage(`"never committed"`)))
	ok(t, l.Finish("m"))
	ok(t, book.Done("s"))

	killed := t.TempDir() // as a kill would leave the folder
	ok(t, os.CopyFS(killed, os.DirFS(dir)))
	db = life(t, killed)
	l, err = fiber.Open(db)
	ok(t, err)
	is(t, l.Runs(), 2)
	is(t, l.NextScan(), at(0))
	lost, err := l.Interrupted(none)
	ok(t, err)
	is(t, ids(lost), "a m")
	for _, r := range lost {
		r, skip, err := l.Begin(r, at(1))
		ok(t, err)
		is(t, skip, false)
		want := map[string]string{"a": `{"step1":1}`, "m": ""}
		is(t, string(r.Snapshot), want[r.ID])
		commit(t, db)
		ok(t, l.Recovered(r, nil, at(2)))
	}
	_, err = l.ScanDone(true, 0, at(2), time.Second)
	ok(t, err)
	commit(t, db)
	is(t, l.Unfinished(), false)
	book, err = schedule.Open(db)
	ok(t, err)
	is(t, book.NextAt(), at(2000))
}

// A savepoint that is rolled back takes tables and rows with it.
func TestLedger_RolledBackSavepointOfTheStore(t *testing.T) {
	db := life(t, t.TempDir())
	l, err := fiber.Open(db)
	ok(t, err)
	failed := db.Savepoint(func() error {
		ok(t, l.Start("a", "n", at(0)))
		return os.ErrInvalid
	})
	is(t, failed, os.ErrInvalid)
	ok(t, l.Finish("a"))
	is(t, l.Runs(), 0)
	ok(t, l.Start("a", "n", at(0)))
	commit(t, db)
	is(t, l.Runs(), 1)
}

// A fiber with one stash, without the wait for the disk.
func BenchmarkLedger_Fiber(b *testing.B) {
	store, err := reference.Open(reference.Config{Dir: b.TempDir(), Now: time.Now})
	ok(b, err)
	db, err := store.Open(b.Context(), subject)
	ok(b, err)
	l, err := fiber.Open(db)
	ok(b, err)
	snapshot := json.RawMessage(`{"step1":"done"}`)
	b.ReportAllocs()
	for b.Loop() {
		ok(b, l.Start("a", "my-task", at(0)))
		ok(b, l.Stash("a", snapshot))
		ok(b, l.Finish("a"))
	}
	ok(b, db.Close())
	ok(b, store.Close())
}
