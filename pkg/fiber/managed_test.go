package fiber_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"agentd/pkg/agent"
	"agentd/pkg/fiber"
	"agentd/pkg/storage/storagetest"
)

func ptr[T any](v T) *T { return &v }

// accept starts a managed fiber up to running.
func accept(t testing.TB, l *fiber.Ledger, id string, ms int64) {
	t.Helper()
	_, accepted, err := l.StartManaged(fiber.StartOptions{ID: &id, Name: "n"}, at(ms))
	ok(t, err)
	is(t, accepted, true)
	ok(t, l.Start(id, "n", at(ms)))
	running, err := l.MarkRunning(id, at(ms))
	ok(t, err)
	is(t, running, true)
}

func settle(t testing.TB, l *fiber.Ledger, id string, o fiber.Outcome, ms int64) bool {
	t.Helper()
	done, err := l.Settle(id, o, at(ms))
	ok(t, err)
	ok(t, l.Finish(id))
	return done
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	ok(t, err)
	return string(b)
}

func inspect(t testing.TB, l *fiber.Ledger, id string) string {
	t.Helper()
	in, found, err := l.Inspect(id)
	ok(t, err)
	if !found {
		return "none"
	}
	return text(t, in)
}

func TestStartManaged_Lifecycle(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	in, accepted, err := l.StartManaged(fiber.StartOptions{
		Key: ptr("order-1"), Name: "pay", Metadata: json.RawMessage(`{"by":"me"}`), NewID: "gen"}, at(0))
	ok(t, err)
	is(t, accepted, true)
	is(t, text(t, in), `{"fiberId":"gen","name":"pay","idempotencyKey":"order-1","status":"pending","metadata":{"by":"me"},"createdAt":1700000000000}`)
	is(t, inspect(t, l, "gen"), text(t, in)) // the receipt is the row
	is(t, l.Unfinished(), true)

	ok(t, l.Start("gen", "pay", at(0)))
	running, err := l.MarkRunning("gen", at(1))
	ok(t, err)
	is(t, running, true)
	ok(t, l.Stash("gen", json.RawMessage(`{"s":1}`)))
	is(t, settle(t, l, "gen", fiber.Outcome{Status: fiber.StatusCompleted}, 2), true)
	is(t, inspect(t, l, "gen"), `{"fiberId":"gen","name":"pay","idempotencyKey":"order-1","status":"completed","snapshot":{"s":1},`+
		`"metadata":{"by":"me"},"createdAt":1700000000000,"startedAt":1700000000001,"settledAt":1700000000002}`)
	is(t, l.Unfinished(), false)
}

func TestStartManaged_Validates(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	for _, c := range []struct {
		o    fiber.StartOptions
		kind agent.Kind
		text string
	}{
		{fiber.StartOptions{ID: ptr("")}, agent.Invalid, "fiberId must not be blank"},
		{fiber.StartOptions{ID: ptr(" \t")}, agent.Invalid, "fiberId must not be blank"},
		{fiber.StartOptions{Key: ptr(" "), NewID: "a"}, agent.Invalid, "idempotencyKey must not be blank"},
		{fiber.StartOptions{}, agent.Invalid, "ID is empty"},
		{fiber.StartOptions{NewID: "a", Key: ptr(strings.Repeat("k", 257))}, agent.Invalid, "at most 256"},
		{fiber.StartOptions{NewID: "a", Name: strings.Repeat("k", 1025)}, agent.Invalid, "at most 1024"},
		{fiber.StartOptions{NewID: "a", Metadata: json.RawMessage(`[1]`)}, agent.Invalid, "must be a JSON object"},
		{fiber.StartOptions{NewID: "a", Metadata: json.RawMessage(`{"a"`)}, agent.Invalid, "must be a JSON object"},
		{fiber.StartOptions{NewID: "a", Metadata: json.RawMessage(`{"a":"` + strings.Repeat("x", fiber.MaxMetadataBytes) + `"}`)}, agent.TooLarge, "at most 65536"},
	} {
		_, accepted, err := l.StartManaged(c.o, at(0))
		is(t, accepted, false)
		refused(t, err, c.kind, c.text)
	}
	// The SDK's own messages are the whole message.
	_, _, err := l.StartManaged(fiber.StartOptions{ID: ptr("")}, at(0))
	is(t, err.Error(), "fiberId must not be blank")
}

func TestStartManaged_Dedupes(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	start := func(id, key *string, name string) (string, error) {
		in, accepted, err := l.StartManaged(fiber.StartOptions{ID: id, Key: key, Name: name, NewID: "gen", Metadata: json.RawMessage(`{"x":1}`)}, at(9))
		return fmt.Sprint(in.FiberID, " ", in.Name, " ", in.Status, " ", accepted), err
	}
	same := func(id, key *string, name, want string) {
		t.Helper()
		got, err := start(id, key, name)
		ok(t, err)
		is(t, got, want)
	}
	same(ptr("a"), ptr("ka"), "first", "a first pending true")
	same(ptr("b"), nil, "second", "b second pending true")
	same(ptr("a"), nil, "other", "a first pending false")       // by ID
	same(nil, ptr("ka"), "other", "a first pending false")      // by key, whatever the name
	same(ptr("a"), ptr("ka"), "other", "a first pending false") // both
	same(ptr("b"), ptr("new"), "other", "b second pending false")

	for _, c := range [][2]string{{"b", "ka"}, {"c", "ka"}} { // key of another row; key known under another ID
		_, err := start(ptr(c[0]), ptr(c[1]), "x")
		refused(t, err, agent.Conflict, "fiberId and idempotencyKey refer to different fibers")
		is(t, err.Error(), "fiberId and idempotencyKey refer to different fibers")
	}
	// Settled rows count until they are deleted.
	_, err := l.Cancel("a", "", at(10))
	ok(t, err)
	same(nil, ptr("ka"), "other", "a first aborted false")
	_, err = l.Delete(fiber.DeleteOptions{})
	ok(t, err)
	same(nil, ptr("ka"), "other", "gen other pending true")
}

func TestSettle_Outcomes(t *testing.T) {
	for _, c := range []struct {
		o    fiber.Outcome
		want string
	}{
		{fiber.Outcome{Status: fiber.StatusCompleted, Message: "ignored"}, `"status":"completed","createdAt"`},
		{fiber.Outcome{Status: fiber.StatusError, Message: "boom"}, `"status":"error","error":"boom","createdAt"`},
		{fiber.Outcome{Status: fiber.StatusAborted, Message: "stop"}, `"status":"aborted","error":"stop","createdAt"`},
		{fiber.Outcome{Status: fiber.StatusError}, `"status":"error","createdAt"`},
	} {
		l := open(t, storagetest.NewMemory(t))
		accept(t, l, "a", 0)
		is(t, settle(t, l, "a", c.o, 3), true)
		if got := inspect(t, l, "a"); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %s", c.o, got)
		}
		is(t, settle(t, l, "a", fiber.Outcome{Status: fiber.StatusCompleted}, 4), false) // once
	}
	l := open(t, storagetest.NewMemory(t))
	_, err := l.Settle("a", fiber.Outcome{Status: fiber.StatusRunning}, at(0))
	refused(t, err, agent.Invalid, "completed, error or aborted")
}

func TestSettle_CancelWins(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	accept(t, l, "a", 0)
	cancelled, err := l.Cancel("a", "enough", at(1))
	ok(t, err)
	is(t, cancelled, true)
	is(t, l.Runs(), 1) // the callback goes on until it notices
	ok(t, l.Stash("a", json.RawMessage(`"late"`)))
	is(t, settle(t, l, "a", fiber.Outcome{Status: fiber.StatusCompleted}, 2), false)
	is(t, inspect(t, l, "a"), `{"fiberId":"a","name":"n","status":"aborted","snapshot":"late","error":"enough",`+
		`"createdAt":1700000000000,"startedAt":1700000000000,"settledAt":1700000000001}`)
	again, err := l.Cancel("a", "again", at(3))
	ok(t, err)
	is(t, again, false)
}

func TestMarkRunning_OnlyPending(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	_, _, err := l.StartManaged(fiber.StartOptions{NewID: "a"}, at(0))
	ok(t, err)
	_, err = l.Cancel("a", "", at(0))
	ok(t, err)
	running, err := l.MarkRunning("a", at(0))
	ok(t, err)
	is(t, running, false)
}

func TestRefuse_SettlesAsError(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	ok(t, l.Start("a", "unmanaged", at(0)))
	_, _, err := l.StartManaged(fiber.StartOptions{ID: ptr("a"), Name: "n"}, at(0))
	ok(t, err)
	failure := l.Start("a", "n", at(0)) // the ID is in use as a run
	refused(t, failure, agent.Conflict, "under way")
	done, err := l.Refuse("a", "in use", at(1))
	ok(t, err)
	is(t, done, true)
	in, _, _ := l.Inspect("a")
	is(t, in.Status, fiber.StatusError)
	is(t, in.Error, "in use")
	done, err = l.Refuse("a", "again", at(1))
	ok(t, err)
	is(t, done, false)
}

func TestCancelByKey(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	_, _, err := l.StartManaged(fiber.StartOptions{NewID: "a", Key: ptr("k")}, at(0))
	ok(t, err)
	for _, c := range []struct {
		key  string
		id   string
		done bool
	}{{"other", "", false}, {"", "", false}, {"k", "a", true}, {"k", "a", false}} {
		id, done, err := l.CancelByKey(c.key, "r", at(1))
		ok(t, err)
		is(t, id, c.id)
		is(t, done, c.done)
	}
	in, found, err := l.InspectByKey("k")
	ok(t, err)
	is(t, found, true)
	is(t, in.Error, "r")
}

func TestMessage_IsCutBetweenCharacters(t *testing.T) {
	for _, long := range []string{strings.Repeat("é", fiber.MaxErrorBytes), "x" + strings.Repeat("é", fiber.MaxErrorBytes), strings.Repeat("\xff", fiber.MaxErrorBytes*2)} {
		l := open(t, storagetest.NewMemory(t))
		accept(t, l, "a", 0)
		settle(t, l, "a", fiber.Outcome{Status: fiber.StatusError, Message: long}, 1)
		in, _, err := l.Inspect("a")
		ok(t, err)
		if n := len(in.Error); n > fiber.MaxErrorBytes || n < fiber.MaxErrorBytes-4 {
			t.Errorf("%d bytes kept", n)
		}
		is(t, utf8.ValidString(in.Error), utf8.ValidString(long))
	}
}

// interrupt loses a managed fiber and gives it to a hook.
func interrupt(t testing.TB, l *fiber.Ledger, id string, ms int64) {
	t.Helper()
	accept(t, l, id, ms)
	ok(t, l.Stash(id, json.RawMessage(`"kept"`)))
	r, skip, err := l.Begin(fiber.Recovery{ID: id}, at(ms))
	ok(t, err)
	is(t, skip, false)
	ok(t, l.Recovered(r, nil, at(ms)))
}

func TestResolve_Results(t *testing.T) {
	for _, c := range []struct {
		name, result, want string
	}{
		{"completed keeps the snapshot", `{"status":"completed"}`, `"status":"completed","snapshot":"kept","createdAt"`},
		{"completed replaces both", `{"status":"completed","snapshot":1,"metadata":{"m":1}}`, `"status":"completed","snapshot":1,"metadata":{"m":1},"createdAt"`},
		{"null is a snapshot", `{"status":"completed","snapshot":null}`, `"status":"completed","snapshot":null,"createdAt"`},
		{"null is no metadata", `{"status":"completed","metadata":null}`, `"status":"completed","snapshot":"kept","createdAt"`},
		{"error with message", `{"status":"error","error":"e","reason":"no"}`, `"status":"error","snapshot":"kept","error":"e","createdAt"`},
		{"metadata only for completed", `{"status":"error","metadata":{"m":1}}`, `"status":"error","snapshot":"kept","createdAt"`},
		{"aborted with reason", `{"status":"aborted","error":"no","reason":"r","snapshot":2}`, `"status":"aborted","snapshot":2,"error":"r","createdAt"`},
		{"interrupted with reason", `{"status":"interrupted","reason":"r"}`, `"status":"interrupted","snapshot":"kept","error":"r","createdAt"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := open(t, storagetest.NewMemory(t))
			interrupt(t, l, "a", 0)
			var r fiber.Result
			ok(t, json.Unmarshal([]byte(c.result), &r))
			done, err := l.Resolve("a", r, at(7))
			ok(t, err)
			is(t, done, true)
			got := inspect(t, l, "a")
			if !strings.Contains(got, c.want) || !strings.Contains(got, `"settledAt":1700000000007`) {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestResolve_OnlyInterrupted(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	accept(t, l, "running", 0)
	accept(t, l, "done", 0)
	settle(t, l, "done", fiber.Outcome{Status: fiber.StatusCompleted}, 0)
	for _, id := range []string{"running", "done", "unknown"} {
		for _, r := range []fiber.Result{{Status: fiber.StatusError}, {Status: fiber.StatusCompleted, Metadata: json.RawMessage(`{}`)}} {
			done, err := l.Resolve(id, r, at(1))
			ok(t, err)
			is(t, done, false)
		}
	}
	_, err := l.Resolve("done", fiber.Result{Status: "finished"}, at(1))
	refused(t, err, agent.Invalid, `not "finished"`)
	_, err = l.Resolve("done", fiber.Result{Status: "completed", Snapshot: json.RawMessage("{")}, at(1))
	refused(t, err, agent.Invalid, "not JSON")
	_, err = l.Resolve("done", fiber.Result{Status: "completed", Metadata: json.RawMessage("1")}, at(1))
	refused(t, err, agent.Invalid, "JSON object")
}

func TestList_OrderFiltersAndLimits(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	for i := range 120 {
		id := fmt.Sprintf("f%03d", i)
		_, _, err := l.StartManaged(fiber.StartOptions{ID: &id, Name: fmt.Sprint("n", i%2)}, at(int64(i/2)))
		ok(t, err)
		if i%3 == 0 {
			_, err := l.Cancel(id, "", at(200))
			ok(t, err)
		}
	}
	list := func(o fiber.ListOptions) []fiber.Inspection {
		t.Helper()
		list, err := l.List(o)
		ok(t, err)
		return list
	}
	for _, c := range []struct{ limit, want int }{{0, 50}, {-3, 1}, {1, 1}, {100, 100}, {1000, 100}} {
		is(t, len(list(fiber.ListOptions{Limit: c.limit})), c.want)
	}
	is(t, statuses(list(fiber.ListOptions{Limit: 4})), "f119:pending f118:pending f117:aborted f116:pending") // same time: by ID
	is(t, statuses(list(fiber.ListOptions{Limit: 3, Name: "n0"})), "f118:pending f116:pending f114:aborted")
	is(t, statuses(list(fiber.ListOptions{Limit: 2, Statuses: []fiber.Status{"aborted"}})), "f117:aborted f114:aborted")
	is(t, statuses(list(fiber.ListOptions{Limit: 3, Statuses: []fiber.Status{"aborted", "pending", "aborted"}})), "f119:pending f118:pending f117:aborted")
	is(t, len(list(fiber.ListOptions{Statuses: []fiber.Status{"other"}})), 0)
	is(t, len(list(fiber.ListOptions{Name: "nobody"})), 0)
}

func TestList_BoundsItsSize(t *testing.T) {
	l := open(t, storagetest.NewMemory(t))
	big := json.RawMessage(`"` + strings.Repeat("x", fiber.MaxSnapshotBytes-2) + `"`)
	for i := range 9 {
		accept(t, l, fmt.Sprint("f", i), int64(i))
		ok(t, l.Stash(fmt.Sprint("f", i), big))
	}
	_, err := l.List(fiber.ListOptions{})
	refused(t, err, agent.TooLarge, "list fewer with limit")
	list, err := l.List(fiber.ListOptions{Limit: 8})
	ok(t, err)
	is(t, len(list), 8)
}

func TestDelete(t *testing.T) {
	setup := func(t *testing.T) (*storagetest.Memory, *fiber.Ledger) {
		db := storagetest.NewMemory(t)
		l := open(t, db)
		for i, o := range []fiber.Outcome{{Status: fiber.StatusCompleted}, {Status: fiber.StatusError}, {Status: fiber.StatusAborted}} {
			id := string(o.Status)
			accept(t, l, id, 0)
			settle(t, l, id, o, int64(10-i)) // the last one settled first
		}
		interrupt(t, l, "interrupted", 5)
		accept(t, l, "running", 0)
		_, _, err := l.StartManaged(fiber.StartOptions{ID: ptr("pending")}, at(0))
		ok(t, err)
		return db, l
	}
	for _, c := range []struct {
		name string
		o    fiber.DeleteOptions
		n    int
		left string
	}{
		{"default statuses", fiber.DeleteOptions{}, 3, "interrupted pending running"},
		{"oldest first", fiber.DeleteOptions{Limit: 2}, 2, "completed interrupted pending running"},
		{"limit is at least one", fiber.DeleteOptions{Limit: -1}, 1, "completed error interrupted pending running"},
		{"settled strictly before", fiber.DeleteOptions{SettledBefore: at(9).UnixMilli()}, 1, "completed error interrupted pending running"},
		{"interrupted on demand", fiber.DeleteOptions{Statuses: []fiber.Status{"interrupted"}}, 1, "aborted completed error pending running"},
		{"never what is open", fiber.DeleteOptions{Statuses: []fiber.Status{"pending", "running"}}, 0, "aborted completed error interrupted pending running"},
		{"mixed", fiber.DeleteOptions{Statuses: []fiber.Status{"running", "error"}}, 1, "aborted completed interrupted pending running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, l := setup(t)
			n, err := l.Delete(c.o)
			ok(t, err)
			is(t, n, c.n)
			is(t, strings.Join(db.Strings("SELECT fiber_id FROM cf_agents_fibers ORDER BY 1"), " "), c.left)
		})
	}
}

func TestDelete_OldestFirstWithinAStatus(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	for id, settled := range map[string]int64{"young": 30, "old": 10, "middle": 20} {
		accept(t, l, id, 0)
		settle(t, l, id, fiber.Outcome{Status: fiber.StatusCompleted}, settled)
	}
	for _, left := range []string{"middle young", "young", ""} {
		_, err := l.Delete(fiber.DeleteOptions{Limit: 1})
		ok(t, err)
		is(t, strings.Join(db.Strings("SELECT fiber_id FROM cf_agents_fibers ORDER BY 1"), " "), left)
	}
}

// A cancelled fiber may still be under way when its record is deleted; lost after
// that, it must not come back as an unmanaged one.
func TestDelete_TakesTheRunRow(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	accept(t, l, "a", 0)
	_, err := l.Cancel("a", "", at(1))
	ok(t, err)
	n, err := l.Delete(fiber.DeleteOptions{})
	ok(t, err)
	is(t, n, 1)
	is(t, l.Runs(), 0)
	lost, err := open(t, db).Interrupted(none)
	ok(t, err)
	is(t, len(lost), 0)
}

// What the agent's own SQL wrote into the public table must not break reading it.
func TestInspect_ToleratesForeignValues(t *testing.T) {
	db := storagetest.NewMemory(t)
	l := open(t, db)
	accept(t, l, "a", 0)
	db.Exec(`UPDATE cf_agents_fibers SET snapshot = '{broken', metadata_json = '[1]', error_message = x'6869', started_at = 'soon', completed_at = 1.5`)
	is(t, inspect(t, l, "a"), `{"fiberId":"a","name":"n","status":"running","error":"hi","createdAt":1700000000000,"settledAt":1}`)
}
