package fiber_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/fiber"
	"agentd/pkg/storage"
	"agentd/pkg/storage/storagetest"
)

var _ fiber.DB = storage.DB(nil)

// tester is what testing.TB and rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// at is a time n milliseconds after some start.
func at(n int64) time.Time { return time.UnixMilli(1_700_000_000_000 + n) }

func open(t tester, db *storagetest.Memory) *fiber.Ledger {
	t.Helper()
	l, err := fiber.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func ok(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is[T comparable](t tester, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func refused(t tester, err error, kind agent.Kind, text string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want kind %v with %q", kind, text)
	}
	if agent.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v: %v; want %v with %q", agent.KindOf(err), err, kind, text)
	}
}

func none(string) bool { return false }

func ids(list []fiber.Recovery) string {
	var ids []string
	for _, r := range list {
		ids = append(ids, r.ID)
	}
	return strings.Join(ids, " ")
}

func TestLedger_AgentWithoutFibersPaysOneQueryAndNoTable(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	is(t, db.Queries, 1)
	is(t, l.Runs(), 0)
	is(t, l.Unfinished(), false)
	is(t, l.NextScan(), time.Time{})

	// Everything that does not start a fiber works without tables.
	ok(t, l.Stash("x", nil))
	ok(t, l.Finish("x"))
	cancelled, err := l.Cancel("x", "", at(0))
	ok(t, err)
	is(t, cancelled, false)
	resolved, err := l.Resolve("x", fiber.Result{Status: fiber.StatusCompleted}, at(0))
	ok(t, err)
	is(t, resolved, false)
	n, err := l.Delete(fiber.DeleteOptions{})
	ok(t, err)
	is(t, n, 0)
	list, err := l.List(fiber.ListOptions{})
	ok(t, err)
	is(t, len(list), 0)
	_, found, err := l.Inspect("x")
	ok(t, err)
	is(t, found, false)
	lost, err := l.Interrupted(none)
	ok(t, err)
	is(t, len(lost), 0)
	_, err = l.ScanDone(false, 0, at(0), time.Second)
	ok(t, err)
	is(t, len(db.Strings("SELECT name FROM sqlite_schema")), 0)
}

func TestLedger_PublicColumns(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	ok(t, l.Start("a", "n", at(0)))
	_, _, err := l.StartManaged(fiber.StartOptions{NewID: "m", Name: "n"}, at(0))
	ok(t, err)
	for table, want := range map[string]string{
		"cf_agents_runs":   "id name snapshot created_at",
		"cf_agents_fibers": "fiber_id idempotency_key name status snapshot metadata_json error_message created_at started_at completed_at",
	} {
		got := strings.Join(db.Strings("SELECT name FROM pragma_table_info(?)", table), " ")
		is(t, got, want)
	}
}

func TestLedger_UnmanagedOnlyMakesNoManagedTable(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	ok(t, l.Start("a", "n", at(0)))
	ok(t, l.Stash("a", json.RawMessage(`1`)))
	ok(t, l.Finish("a"))
	is(t, strings.Join(db.Strings("SELECT name FROM sqlite_schema WHERE type = 'table'"), " "), "cf_agents_runs")
}

func TestLedger_RunRowLives(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	ok(t, l.Start("a", "task", at(5)))
	is(t, l.Runs(), 1)
	row := func() string {
		return strings.Join(db.Strings("SELECT id || '|' || name || '|' || ifnull(snapshot, 'null') || '|' || created_at FROM cf_agents_runs"), ",")
	}
	is(t, row(), "a|task|null|1700000000005")
	ok(t, l.Stash("a", json.RawMessage(`{"step1":1}`)))
	is(t, row(), `a|task|{"step1":1}|1700000000005`)
	ok(t, l.Stash("a", json.RawMessage(`{"step2":2}`))) // replaced, not merged
	is(t, row(), `a|task|{"step2":2}|1700000000005`)
	ok(t, l.Stash("a", nil))
	is(t, row(), "a|task|null|1700000000005")
	ok(t, l.Finish("a"))
	is(t, row(), "")
	is(t, l.Runs(), 0)
	ok(t, l.Finish("a"))
	is(t, l.Runs(), 0)
	ok(t, l.Stash("a", json.RawMessage(`3`))) // after completion: no effect, no error
	is(t, row(), "")
}

func TestLedger_TwoFibersNeverMixStashes(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	ok(t, l.Start("a", "same", at(0)))
	ok(t, l.Start("b", "same", at(0)))
	for i := range 50 {
		ok(t, l.Stash("a", json.RawMessage(fmt.Sprintf(`{"a":%d}`, i))))
		ok(t, l.Stash("b", json.RawMessage(fmt.Sprintf(`{"b":%d}`, i))))
		db.Commit()
		if i%10 == 0 {
			l = open(t, db)
		}
	}
	lost, err := l.Interrupted(none)
	ok(t, err)
	is(t, ids(lost), "a b")
	for _, r := range lost {
		r, skip, err := l.Begin(r, at(1))
		ok(t, err)
		is(t, skip, false)
		is(t, string(r.Snapshot), fmt.Sprintf(`{%q:49}`, r.ID))
	}
}

func TestLedger_Refuses(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	ok(t, l.Start("a", "n", at(0)))
	refused(t, l.Start("a", "n", at(0)), agent.Conflict, "already under way")
	is(t, l.Runs(), 1)
	refused(t, l.Start("", "n", at(0)), agent.Invalid, "empty")
	refused(t, l.Start(strings.Repeat("x", fiber.MaxIDBytes+1), "n", at(0)), agent.Invalid, "at most 256")
	refused(t, l.Start("b", strings.Repeat("x", fiber.MaxNameBytes+1), at(0)), agent.Invalid, "at most 1024")
	refused(t, l.Stash("a", json.RawMessage(`{`)), agent.Invalid, "not JSON")
	refused(t, l.Stash("a", json.RawMessage("")), agent.Invalid, "not JSON")
	big := json.RawMessage(`"` + strings.Repeat("x", fiber.MaxSnapshotBytes-2) + `"`)
	ok(t, l.Stash("a", big))
	refused(t, l.Stash("a", append(big, ' ')), agent.TooLarge, "at most 2000000")
}

func TestLedger_BoundsUnfinishedFibers(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	ok(t, l.Start("first", "n", at(0)))
	db.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < ?)
		INSERT INTO cf_agents_runs SELECT 'f' || i, 'n', NULL, 0 FROM n`, fiber.MaxUnfinished-1)
	ok(t, l.Reload())
	is(t, l.Runs(), fiber.MaxUnfinished)
	refused(t, l.Start("more", "n", at(0)), agent.Overloaded, "wait until some have ended")
	ok(t, l.Finish("first"))
	ok(t, l.Start("more", "n", at(0)))
}

// The biggest row that the limits allow fits into storage's limit.
func TestLedger_LimitsFitIntoARow(t *testing.T) {
	sum := fiber.MaxSnapshotBytes + fiber.MaxMetadataBytes + 2*fiber.MaxIDBytes + fiber.MaxNameBytes + fiber.MaxErrorBytes + 256
	if sum > storage.MaxRowBytes {
		t.Fatalf("a row may have %d bytes, the columns %d", storage.MaxRowBytes, sum)
	}
}

func TestLedger_ReloadAfterRolledBackSavepoint(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	db.Exec("SAVEPOINT s")
	ok(t, l.Start("a", "n", at(0)))
	_, _, err := l.StartManaged(fiber.StartOptions{NewID: "m", Name: "n"}, at(0))
	ok(t, err)
	db.Exec("ROLLBACK TO s")
	ok(t, l.Reload())
	is(t, l.Runs(), 0)
	is(t, l.Unfinished(), false)
	ok(t, l.Start("a", "n", at(0)))
	is(t, l.Runs(), 1)
}

// Nobody is obliged to call Reload for the Ledger to go on working.
func TestLedger_SurvivesTablesTakenAway(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	start := func() {
		t.Helper()
		ok(t, l.Start("a", "n", at(0)))
		_, accepted, err := l.StartManaged(fiber.StartOptions{NewID: "m", Name: "n"}, at(0))
		ok(t, err)
		is(t, accepted, true)
		_, err = l.ScanDone(false, 1, at(0), time.Second)
		ok(t, err)
	}
	start()
	for _, table := range []string{"cf_agents_runs", "cf_agents_fibers", "agentd_fiber_scan"} {
		db.Exec("DROP TABLE " + table)
	}
	lost, err := l.Interrupted(none)
	ok(t, err)
	is(t, len(lost), 0)
	is(t, l.Unfinished(), false)
	start()
	is(t, l.Runs(), 1)
	db.Exec("DROP TABLE cf_agents_runs")
	start2 := l.Start("a", "n", at(0))
	ok(t, start2)
	is(t, l.Runs(), 1)
}

func TestLedger_ReportsFailingStatements(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	ok(t, l.Start("a", "n", at(0)))
	db.Exec("CREATE TRIGGER no BEFORE DELETE ON cf_agents_runs BEGIN SELECT RAISE(ABORT, 'no'); END")
	err := l.Finish("a")
	if err == nil || !strings.Contains(err.Error(), `finish fiber "a"`) {
		t.Fatalf("error %v", err)
	}
	is(t, l.Runs(), 1)
}

// A failing read of rows is an error, not an end.
func TestLedger_BrokenRows(t *testing.T) {
	broken := errors.New("broken disk")
	db := brokenDB{storagetest.NewMemory(t), broken}
	_, err := fiber.Open(db)
	if !errors.Is(err, broken) {
		t.Fatalf("error %v", err)
	}
}

type brokenDB struct {
	*storagetest.Memory
	err error
}

func (d brokenDB) Query(query string, args ...storage.Value) (*storage.Rows, error) {
	rows, err := d.Memory.Query(query, args...)
	if err == nil {
		rows.NextFunc = func([]storage.Value) error { return d.err }
	}
	return rows, err
}

func statuses(list []fiber.Inspection) string {
	var all []string
	for _, in := range list {
		all = append(all, in.FiberID+":"+string(in.Status))
	}
	return strings.Join(all, " ")
}

func TestStatus_Terminal(t *testing.T) {
	var terminal, open []fiber.Status
	for _, s := range []fiber.Status{"pending", "running", "completed", "aborted", "interrupted", "error", "other"} {
		if s.Terminal() {
			terminal = append(terminal, s)
		} else {
			open = append(open, s)
		}
	}
	if !slices.Equal(terminal, []fiber.Status{"completed", "aborted", "interrupted", "error"}) {
		t.Fatal(terminal, open)
	}
	is(t, fiber.Status("other").Valid(), false)
	is(t, fiber.StatusPending.Valid(), true)
}
