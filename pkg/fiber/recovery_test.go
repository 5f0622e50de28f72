package fiber_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/fiber"
	"agentd/pkg/storage/storagetest"
)

// begin starts the recovery of the only fiber that is lost.
func begin(t testing.TB, l *fiber.Ledger, ms int64) (fiber.Recovery, bool) {
	t.Helper()
	lost, err := l.Interrupted(none)
	ok(t, err)
	is(t, len(lost), 1)
	r, skip, err := l.Begin(lost[0], at(ms))
	ok(t, err)
	return r, skip
}

func TestRecovery_Unmanaged(t *testing.T) {
	for name, snapshot := range map[string]json.RawMessage{"with stash": json.RawMessage(`{"step1":"x"}`), "before any stash": nil} {
		t.Run(name, func(t *testing.T) {
			db := storagetest.NewMemory(t)
			l := open(t, db)
			ok(t, l.Start("a", "my-task", at(0)))
			db.Commit()
			ok(t, l.Stash("a", snapshot))
			db.Commit()

			l = open(t, db)
			is(t, l.Runs(), 1)
			is(t, l.NextScan(), at(0)) // due since it was started
			r, skip := begin(t, l, 9)
			is(t, skip, false)
			want := "null"
			if snapshot != nil {
				want = string(snapshot)
			}
			is(t, text(t, r), `{"id":"a","name":"my-task","snapshot":`+want+`,"createdAt":1700000000000,"recoveryReason":"interrupted"}`)
			ok(t, l.Recovered(r, &fiber.Result{Status: "nonsense"}, at(9))) // ignored
			next, err := l.ScanDone(true, 0, at(9), time.Second)
			ok(t, err)
			is(t, next, time.Time{})
			is(t, l.Runs(), 0)
			db.Commit()
			is(t, open(t, db).Unfinished(), false)
		})
	}
}

// An uncommitted stash, start or finish does not survive its turn.
func TestRecovery_SeesCommittedStateOnly(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	ok(t, l.Start("a", "n", at(0)))
	ok(t, l.Stash("a", json.RawMessage(`1`)))
	db.Commit()
	ok(t, l.Stash("a", json.RawMessage(`2`)))
	ok(t, l.Start("b", "n", at(0)))
	ok(t, l.Finish("a"))
	db.Crash()
	r, _ := begin(t, open(t, db), 0)
	is(t, r.ID, "a")
	is(t, string(r.Snapshot), "1")
}

func TestRecovery_ActiveIsSkippedAndOrderIsThatOfStart(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	for _, id := range []string{"z", "outer", "a", "inner"} {
		ok(t, l.Start(id, "n", at(0)))
	}
	lost, err := l.Interrupted(func(id string) bool { return id == "a" })
	ok(t, err)
	is(t, ids(lost), "z outer inner")
}

func TestRecovery_CorruptSnapshotIsNull(t *testing.T) {
	for stored, corrupt := range map[string]bool{`{"a"`: true, ``: false, `x`: true, `1`: false} {
		db := storagetest.NewMemory(t)
		l := open(t, db)
		ok(t, l.Start("a", "n", at(0)))
		db.Exec(`UPDATE cf_agents_runs SET snapshot = ?`, stored)
		r, skip := begin(t, l, 0)
		is(t, skip, false)
		is(t, r.Corrupt, corrupt)
		if corrupt {
			is(t, string(r.Snapshot), "")
		}
	}
}

func TestRecovery_RowGoneMeanwhile(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	ok(t, l.Start("a", "n", at(0)))
	lost, err := l.Interrupted(none)
	ok(t, err)
	ok(t, l.Finish("a")) // by the hook of another fiber
	_, skip, err := l.Begin(lost[0], at(0))
	ok(t, err)
	is(t, skip, true)
}

func TestRecovery_ManagedGetsLedgerFacts(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	_, _, err := l.StartManaged(fiber.StartOptions{ID: ptr("m"), Key: ptr("k"), Name: "n", Metadata: json.RawMessage(`{"a":1}`)}, at(0))
	ok(t, err)
	ok(t, l.Start("m", "n", at(0)))
	_, err = l.MarkRunning("m", at(0))
	ok(t, err)
	ok(t, l.Stash("m", json.RawMessage(`[1]`)))
	db.Commit()

	l = open(t, db)
	r, skip := begin(t, l, 5)
	is(t, skip, false)
	is(t, text(t, r), `{"id":"m","name":"n","status":"interrupted","idempotencyKey":"k","metadata":{"a":1},"snapshot":[1],"createdAt":1700000000000,"recoveryReason":"interrupted"}`)
	is(t, inspect(t, l, "m"), `{"fiberId":"m","name":"n","idempotencyKey":"k","status":"interrupted","snapshot":[1],"metadata":{"a":1},"createdAt":1700000000000,"startedAt":1700000000000,"settledAt":1700000000005}`)

	ok(t, l.Recovered(r, &fiber.Result{Status: fiber.StatusCompleted, Snapshot: json.RawMessage(`2`)}, at(6)))
	is(t, l.Unfinished(), false)
	is(t, strings.Contains(inspect(t, l, "m"), `"status":"completed","snapshot":2`), true)
}

func TestRecovery_ManagedWithoutMetadataGetsNull(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	accept(t, l, "m", 0)
	r, _ := begin(t, l, 0)
	is(t, strings.Contains(text(t, r), `"metadata":null`), true)
}

func TestRecovery_ManagedHookWithoutResultStaysInterrupted(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	interrupt(t, l, "m", 0)
	is(t, l.Runs(), 0)
	done, err := l.Resolve("m", fiber.Result{Status: fiber.StatusCompleted}, at(1))
	ok(t, err)
	is(t, done, true)
}

// The SDK would drop the row: its ledger status says interrupted, which it takes for
// settled. The hook has not returned, so it is owed another run.
func TestRecovery_CrashDuringManagedHookRunsItAgain(t *testing.T) {
	for _, orphan := range []bool{false, true} {
		t.Run(fmt.Sprint("orphan ", orphan), func(t *testing.T) {
			db := storagetest.NewMemory(t)
			l := open(t, db)
			accept(t, l, "m", 0)
			ok(t, l.Stash("m", json.RawMessage(`"s"`)))
			if orphan {
				ok(t, l.Finish("m"))
			}
			for range 3 {
				db.Commit()
				l = open(t, db)
				r, skip := begin(t, l, 1)
				is(t, skip, false)
				is(t, string(r.Snapshot), `"s"`)
				is(t, r.Status, fiber.StatusInterrupted)
			}
			r, _ := begin(t, l, 1)
			ok(t, l.Recovered(r, nil, at(2)))
			is(t, open(t, db).Unfinished(), false)
		})
	}
}

func TestRecovery_SettledFiberIsDroppedWithoutHook(t *testing.T) {
	for _, status := range []fiber.Status{fiber.StatusCompleted, fiber.StatusAborted, fiber.StatusError} {
		db := storagetest.NewMemory(t)
		l := open(t, db)
		accept(t, l, "m", 0)
		if status == fiber.StatusAborted { // cancelled after the restart, before the scan
			l = open(t, db)
			_, err := l.Cancel("m", "", at(0))
			ok(t, err)
		} else {
			_, err := l.Settle("m", fiber.Outcome{Status: status}, at(0))
			ok(t, err)
		}
		_, skip := begin(t, l, 1)
		is(t, skip, true)
		is(t, l.Unfinished(), false)
		in, _, _ := l.Inspect("m")
		is(t, in.Status, status)
	}
}

func TestRecovery_Orphans(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	for _, id := range []string{"pending", "running", "settled", "active", "ran"} {
		accept(t, l, id, 0)
		if id != "ran" {
			ok(t, l.Finish(id))
		}
	}
	db.Exec(`UPDATE cf_agents_fibers SET status = 'pending', snapshot = '{"a":' WHERE fiber_id = 'pending'`)
	_, err := l.Cancel("settled", "", at(0))
	ok(t, err)
	lost, err := l.Interrupted(func(id string) bool { return id == "active" })
	ok(t, err)
	is(t, ids(lost), "ran pending running") // run rows first
	is(t, lost[1].Orphan, true)
	is(t, lost[0].Orphan, false)

	r, skip, err := l.Begin(lost[1], at(1))
	ok(t, err)
	is(t, skip, false)
	is(t, r.Managed && r.Corrupt, true)
	dropped, err := l.Failed(r, "boom", at(2), 0)
	ok(t, err)
	is(t, dropped, true)
	in, _, _ := l.Inspect("pending")
	is(t, in.Status, fiber.StatusError)
	is(t, in.Error, "boom")

	_, err = l.Cancel("running", "", at(3)) // settled between the list and its turn
	ok(t, err)
	_, skip, err = l.Begin(lost[2], at(4))
	ok(t, err)
	is(t, skip, true)
}

func TestRecovery_OrphanWithoutAnyRunTable(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	_, _, err := l.StartManaged(fiber.StartOptions{ID: ptr("m"), Name: "n"}, at(3))
	ok(t, err)
	db.Commit()
	l = open(t, db)
	is(t, l.NextScan(), at(3))
	is(t, l.Unfinished(), true)
	r, skip := begin(t, l, 4)
	is(t, skip, false)
	ok(t, l.Recovered(r, nil, at(4)))
	is(t, l.Unfinished(), false)
}

func TestFailed_ManagedBecomesError(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	accept(t, l, "m", 0)
	r, _ := begin(t, l, 0)
	dropped, err := l.Failed(r, "hook threw", at(1), 0)
	ok(t, err)
	is(t, dropped, true)
	is(t, l.Unfinished(), false)
	in, _, _ := l.Inspect("m")
	is(t, in.Status, fiber.StatusError)
	is(t, in.Error, "hook threw")
}

func TestFailed_UnmanagedIsKeptUntilTooOld(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		age, maxAge time.Duration
		dropped     bool
	}{
		{day, day, false}, // exactly as old is not older
		{day + time.Millisecond, day, true},
		{1000 * day, 0, false},
		{time.Second, time.Millisecond, true},
	} {
		l := open(t, storagetest.NewMemory(t))
		ok(t, l.Start("a", "n", at(0)))
		r, _ := begin(t, l, 0)
		dropped, err := l.Failed(r, "x", at(0).Add(c.age), c.maxAge)
		ok(t, err)
		is(t, dropped, c.dropped)
		is(t, l.Runs() == 0, c.dropped)
	}
}

// A result that cannot be applied changes nothing; the recovery ends as a failure.
func TestRecovered_RefusesBadResult(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	accept(t, l, "m", 0)
	r, _ := begin(t, l, 0)
	err := l.Recovered(r, &fiber.Result{Status: "finished"}, at(0))
	refused(t, err, agent.Invalid, "finished")
	is(t, l.Runs(), 1)
	_, err = l.Failed(r, err.Error(), at(0), 0)
	ok(t, err)
	is(t, l.Unfinished(), false)
}

func TestScanDone_BacksOffAcrossRestarts(t *testing.T) {
	db := storagetest.NewMemory(t)
	now := at(0)
	ok(t, open(t, db).Start("poison", "n", now))
	interval := 2 * time.Second
	for _, want := range []time.Duration{4, 8, 16, 32, 64, 128, 256, 300, 300} {
		db.Commit()
		l := open(t, db) // unloaded between scans
		next, err := l.ScanDone(false, 1, now, interval)
		ok(t, err)
		is(t, next, now.Add(want*time.Second))
		is(t, l.NextScan(), next)
		db.Commit()
		is(t, open(t, db).NextScan(), next)
		now = next
	}
	// Progress with work left: the plain interval again, and the count from zero.
	l := open(t, db)
	next, err := l.ScanDone(true, 1, now, interval)
	ok(t, err)
	is(t, next, now.Add(interval))
	next, err = open(t, db).ScanDone(false, 1, now, interval)
	ok(t, err)
	is(t, next, now.Add(2*interval))
	// Nothing left: never, and nothing remains.
	l = open(t, db)
	next, err = l.ScanDone(false, 0, now, interval)
	ok(t, err)
	is(t, next, time.Time{})
	is(t, l.NextScan(), time.Time{})
	is(t, len(db.Strings("SELECT * FROM agentd_fiber_scan")), 0)
	// The count begins anew, in this life too.
	next, err = l.ScanDone(false, 1, now, interval)
	ok(t, err)
	is(t, next, now.Add(2*interval))
}

func TestScanDone_Gap(t *testing.T) {
	for _, c := range []struct {
		interval time.Duration
		scans    int
		want     time.Duration
	}{
		{30 * time.Second, 1, time.Minute},
		{30 * time.Second, 100, 5 * time.Minute},
		{time.Hour, 1, 5 * time.Minute},
		{0, 1, 2 * time.Millisecond},
		{-time.Hour, 1, 2 * time.Millisecond},
		{time.Millisecond, 50, 5 * time.Minute},
		{1500 * time.Microsecond, 1, 3 * time.Millisecond},
		{1<<63 - 1, 30, 5 * time.Minute},
	} {
		l := open(t, storagetest.NewMemory(t))
		var next time.Time
		for range c.scans {
			var err error
			next, err = l.ScanDone(false, 1, at(0), c.interval)
			ok(t, err)
		}
		is(t, next.Sub(at(0)), c.want)
	}
}

// A wake is kept in whole milliseconds: it must not come before the scan is due.
func TestScanDone_RoundsUp(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	now := at(0).Add(300 * time.Microsecond)
	next, err := l.ScanDone(true, 1, now, time.Second)
	ok(t, err)
	is(t, next, at(1001))
}

// The table of the back-off is out of reach for programs.
func TestScanDone_TableIsPrivate(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	_, err := l.ScanDone(false, 1, at(0), time.Second)
	ok(t, err)
	for _, name := range db.Strings("SELECT name FROM sqlite_schema WHERE type = 'table'") {
		is(t, strings.HasPrefix(name, "agentd_"), true)
	}
}

func FuzzBegin_AnyStoredSnapshot(f *testing.F) {
	for _, s := range []string{"", "null", `{"a":1}`, `{"a"`, "\x00", "\xff\xfe", "[[[[", "1e999"} {
		f.Add(s)
	}
	db := storagetest.NewMemory(f)
	l := open(f, db)
	if err := l.Start("a", "n", at(0)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, stored string) {
		db.T = t
		db.Exec(`UPDATE cf_agents_runs SET snapshot = ?`, stored)
		r, skip := begin(t, l, 0)
		is(t, skip, false)
		is(t, r.Snapshot != nil, json.Valid([]byte(stored)))
		is(t, r.Corrupt, stored != "" && !json.Valid([]byte(stored)))
		if _, err := json.Marshal(r); err != nil {
			t.Fatal(err)
		}
	})
}
