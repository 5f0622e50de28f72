package storagetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

func testStore(t *testing.T, engine Engine) {
	ctx := context.Background()
	t.Run("OneOpenAtATime", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		_, err := w.store.Open(ctx, name("a"))
		w.wantKind(err, agent.InUse)
		w.wantKind(w.store.Delete(ctx, name("a")), agent.InUse)
		w.must(db.Close())
		w.must(db.Close())
		_, err = db.Query("SELECT 1")
		w.wantKind(err, agent.Unavailable)
		_, err = db.Commit(storage.Wake{})
		w.wantKind(err, agent.Unavailable)
		db.Interrupt()
		w.open(name("a"))
	})
	t.Run("BadIDs", func(t *testing.T) {
		w := newWorld(t, engine)
		_, err := w.store.Open(ctx, agent.ID{})
		w.wantKind(err, agent.Invalid)
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		_, err = w.store.Open(cancelled, name("a"))
		w.wantKind(err, agent.Canceled)
		w.open(name("a"))
	})
	t.Run("NothingCommittedNothingThere", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a)")
		w.must(db.Rollback())
		if _, err := w.store.Catalog().Get(ctx, name("a")); agent.KindOf(err) != agent.NotFound {
			t.Errorf("get: %v", err)
		}
		w.must(db.Close())
		w.wantCount(0)
		w.restart()
		w.wantCount(0)
		db = w.open(name("a"))
		if got := w.one(db.Query, "SELECT count(*) FROM sqlite_schema WHERE name='t'"); got != int64(0) {
			t.Error("an uncommitted table is there")
		}
	})
	t.Run("StrangeNames", func(t *testing.T) {
		w := newWorld(t, engine)
		ids := []agent.ID{name("../../etc/passwd"), name("a/b"), name("é\n"), name("A"), name("a"),
			{Namespace: "other", Class: "Thing", Name: "a"}, {Namespace: "default", Class: "thing", Name: "a"}}
		for i, id := range ids {
			db := w.open(id)
			w.all(db.Query, "CREATE TABLE t(a)")
			w.all(db.Query, "INSERT INTO t VALUES(?)", i)
			w.durable(db, storage.Wake{})
			w.must(db.Close())
		}
		w.restart()
		for i, id := range ids {
			if got := w.one(w.open(id).Query, "SELECT a FROM t"); got != int64(i) {
				t.Errorf("%q holds %v, want %d", id.Key(), got, i)
			}
		}
	})
	t.Run("Delete", func(t *testing.T) {
		w := newWorld(t, engine)
		w.must(w.store.Delete(ctx, name("never")))
		for range 2 {
			db := w.open(name("a"))
			w.all(db.Query, "CREATE TABLE t(a)") // fails if the former life is still there
			if seq := w.durable(db, storage.Wake{Resume: true}).Seq(); seq != 1 {
				t.Errorf("first commit is %d", seq)
			}
			w.must(db.Close())
			w.wantCount(1)
			w.must(w.store.Delete(ctx, name("a")))
			w.wantCount(0)
			if due := w.due(time.UnixMilli(1)); len(due) != 0 {
				t.Errorf("a deleted agent is due: %v", due)
			}
		}
		w.restart()
		w.wantCount(0)
	})
	t.Run("CloseEndsEverything", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.open(name("a"))
		w.all(db.Query, "CREATE TABLE t(a)")
		ticket := w.commit(db, storage.Wake{})
		w.must(w.store.Close())
		if settled, err := ticket.Settled(); !settled || err != nil {
			t.Errorf("ticket: %v %v", settled, err)
		}
		_, err := db.Query("SELECT 1")
		w.wantKind(err, agent.Unavailable)
		_, err = w.store.Open(ctx, name("a"))
		w.wantKind(err, agent.Unavailable)
		_, err = w.store.Catalog().Get(ctx, name("b"))
		w.wantKind(err, agent.Unavailable)
		w.wantKind(w.store.Catalog().SetQuarantine(ctx, name("a"), "x"), agent.Unavailable)
		w.must(w.store.Close())
		w.start()
		w.all(w.open(name("a")).Query, "SELECT * FROM t")
	})
	t.Run("FolderInUse", func(t *testing.T) {
		w := newWorld(t, engine)
		_, err := w.engine.Open(w.dir)
		w.wantKind(err, agent.InUse)
	})
}

func testCatalog(t *testing.T, engine Engine) {
	ctx := context.Background()
	at := func(ms int64) time.Time { return time.UnixMilli(ms) }

	t.Run("Entries", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.make(name("a"), storage.Wake{At: at(5000), Resume: true})
		check := func(live bool) {
			t.Helper()
			e, err := w.store.Catalog().Get(ctx, name("a"))
			w.must(err)
			if e.ID != name("a") || e.Seq != 1 || !e.Wake.Equal(storage.Wake{At: at(5000), Resume: true}) || e.Live != live || e.CreatedAt.IsZero() {
				t.Errorf("entry %+v", e)
			}
			if e.SizeBytes == 0 || (live && e.SizeBytes != db.SizeBytes()) {
				t.Errorf("live %v: the size is given as %d", live, e.SizeBytes)
			}
		}
		check(true)
		w.must(db.Close())
		check(false)
		w.restart()
		check(false)
		_, err := w.store.Catalog().Get(ctx, name("b"))
		w.wantKind(err, agent.NotFound)
	})

	t.Run("SizeOfALiveAgentFollowsItsCommits", func(t *testing.T) {
		w := newWorld(t, engine)
		db := w.make(name("a"), storage.Wake{})
		before := db.SizeBytes()
		w.all(db.Query, "CREATE TABLE blobs(b); INSERT INTO blobs VALUES(zeroblob(1000000))")
		w.commit(db, storage.Wake{})
		page, err := w.store.Catalog().List(ctx, "default", "", agent.ID{}, 10)
		w.must(err)
		if len(page) != 1 || page[0].SizeBytes < before+1_000_000 || page[0].SizeBytes != db.SizeBytes() {
			t.Errorf("catalog %+v; the database has %d bytes, and had %d", page, db.SizeBytes(), before)
		}
	})

	t.Run("ListIsOrderedAndPaged", func(t *testing.T) {
		w := newWorld(t, engine)
		var want []agent.ID
		for _, class := range []string{"A", "B", "a"} {
			for i := range 5 {
				id := agent.ID{Namespace: "default", Class: class, Name: fmt.Sprintf("n%d", i)}
				want = append(want, id)
				db := w.make(id, storage.Wake{})
				if i%2 == 0 {
					w.must(db.Close())
				}
			}
		}
		w.make(agent.ID{Namespace: "other", Class: "A", Name: "x"}, storage.Wake{})
		w.open(name("unborn"))
		for _, class := range []string{"", "B"} {
			var got []agent.ID
			after := agent.ID{}
			for {
				page, err := w.store.Catalog().List(ctx, "default", class, after, 4)
				w.must(err)
				if len(page) == 0 {
					break
				}
				for _, e := range page {
					got = append(got, e.ID)
				}
				after = page[len(page)-1].ID
			}
			wantHere := want
			if class == "B" {
				wantHere = want[5:10]
			}
			if !slices.Equal(got, wantHere) {
				t.Errorf("class %q: %v, want %v", class, got, wantHere)
			}
		}
		w.wantCount(16)
		for _, limit := range []int{0, 1001} {
			_, err := w.store.Catalog().List(ctx, "default", "", agent.ID{}, limit)
			w.wantKind(err, agent.Invalid)
		}
	})

	t.Run("Due", func(t *testing.T) {
		w := newWorld(t, engine)
		live := w.make(name("live"), storage.Wake{At: at(3000)})
		w.must(w.make(name("asleep"), storage.Wake{At: at(2000)}).Close())
		w.must(w.make(name("later"), storage.Wake{At: at(9000)}).Close())
		w.must(w.make(name("never"), storage.Wake{}).Close())
		working := w.make(name("working"), storage.Wake{Resume: true, At: at(8000)})
		w.wantDue(at(1000), at(2000))
		w.wantDue(at(3000), at(8000), "asleep", "live")
		w.wantDue(at(9000), time.Time{}, "asleep", "live", "working", "later")
		w.must(working.Close()) // unfinished work without an instance
		w.wantDue(at(1000), at(2000), "working")
		w.must(w.store.Catalog().SetQuarantine(ctx, name("working"), "broke"))
		w.wantDue(at(1000), at(2000))
		w.durable(live, storage.Wake{}) // the alarm is gone
		w.wantDue(at(3000), at(9000), "asleep")
		w.must(live.Close())
		w.restart()
		w.wantDue(at(3000), at(9000), "asleep")
		if e, err := w.store.Catalog().Get(ctx, name("working")); err != nil || e.Quarantine != "broke" {
			t.Errorf("quarantine after restart: %+v %v", e, err)
		}
		w.must(w.store.Catalog().SetQuarantine(ctx, name("working"), ""))
		w.wantDue(at(1000), at(2000), "working")
		w.wantKind(w.store.Catalog().SetQuarantine(ctx, name("nobody"), "x"), agent.NotFound)
		due, _, err := w.store.Catalog().Due(ctx, at(9000), 1)
		if err != nil || len(due) != 1 || due[0].ID != name("working") {
			t.Errorf("limit of one: %v %v", due, err)
		}
	})

	t.Run("Changed", func(t *testing.T) {
		w := newWorld(t, engine)
		changed := w.store.Catalog().Changed()
		expect := func(what string, want bool) {
			t.Helper()
			select {
			case <-changed:
				if !want {
					t.Errorf("%s: signalled for nothing", what)
				}
			default:
				if want {
					t.Errorf("%s: no signal", what)
				}
			}
		}
		a := w.make(name("a"), storage.Wake{At: at(5000)})
		expect("first wake", true)
		w.due(at(1000))
		w.durable(a, storage.Wake{At: at(6000)})
		expect("later than the earliest known", false)
		w.durable(a, storage.Wake{At: at(4000)})
		expect("earlier", true)
		w.due(at(1000))
		b := w.make(name("b"), storage.Wake{At: at(4500)})
		expect("another agent, later than the earliest", false)
		w.durable(b, storage.Wake{At: at(3500), Resume: true})
		expect("another agent, earlier", true)
		w.due(at(1000))
		w.must(b.Close())
		expect("unfinished work lost its instance", true)
		w.must(a.Close())
		w.must(w.store.Catalog().SetQuarantine(ctx, name("b"), "x"))
		w.due(at(1000))
		w.must(w.store.Catalog().SetQuarantine(ctx, name("b"), ""))
		expect("a quarantine was lifted", true)
	})

	t.Run("ReopenedAtOnce", func(t *testing.T) {
		w := newWorld(t, engine)
		for i := range int64(50) {
			db := w.open(name("a"))
			if got := db.Wake(); i > 0 && !got.Equal(storage.Wake{At: at(1000 + i - 1)}) {
				t.Fatalf("life %d begins with wake %v", i, got)
			}
			w.durable(db, storage.Wake{At: at(1000 + i)})
			w.must(db.Close())
			w.must(w.open(name("a")).Close()) // a life that writes nothing
			if due := w.due(at(1000 + i)); len(due) != 1 {
				t.Fatalf("life %d: due %v", i, due)
			}
		}
	})
}

// make opens an agent that has committed once.
func (w *world) make(id agent.ID, wake storage.Wake) storage.DB {
	w.Helper()
	db := w.open(id)
	w.all(db.Query, "CREATE TABLE t(a)")
	w.durable(db, wake)
	return db
}

func (w *world) wantCount(want int) {
	w.Helper()
	if n, err := w.store.Catalog().Count(context.Background()); err != nil || n != want {
		w.Errorf("count %d (%v), want %d", n, err, want)
	}
}

func (w *world) due(now time.Time) []storage.Entry {
	w.Helper()
	due, _, err := w.store.Catalog().Due(context.Background(), now, 100)
	w.must(err)
	return due
}

func (w *world) wantDue(now, wantNext time.Time, want ...string) {
	w.Helper()
	due, next, err := w.store.Catalog().Due(context.Background(), now, 100)
	w.must(err)
	var got []string
	for _, e := range due {
		got = append(got, e.ID.Name)
	}
	if !slices.Equal(got, want) || !next.Equal(wantNext) {
		w.Errorf("at %d due are %v, next %v; want %v, next %v", now.UnixMilli(), got, next, want, wantNext)
	}
}
