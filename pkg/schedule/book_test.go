package schedule_test

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/schedule"
	"agentd/pkg/storage"
	"agentd/pkg/storage/storagetest"
)

var _ schedule.DB = storage.DB(nil)

// tester is what testing.TB and rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

const epoch = 1_700_000_000

// at is a time n milliseconds after some start.
func at(n int64) time.Time { return time.UnixMilli(epoch*1000 + n) }

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
	if err == nil || agent.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		t.Fatalf("error %v: %v; want %v with %q", agent.KindOf(err), err, kind, text)
	}
}

func open(t tester, db *storagetest.Memory) *schedule.Book {
	t.Helper()
	b, err := schedule.Open(db)
	ok(t, err)
	return b
}

func ptr[T any](v T) *T { return &v }

func text(t tester, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	ok(t, err)
	return string(b)
}

// delayed adds a schedule that is due after some seconds.
func delayed(t tester, b *schedule.Book, id string, seconds float64) schedule.Schedule {
	t.Helper()
	s, created, err := b.Add(schedule.Spec{Type: schedule.TypeDelayed, Callback: "run", Delay: seconds}, id, at(0), schedule.DefaultPolicy)
	ok(t, err)
	is(t, created, true)
	return s
}

func names(due []schedule.Due) string {
	var all []string
	for _, d := range due {
		all = append(all, d.ID)
	}
	return strings.Join(all, " ")
}

func TestBook_AgentWithoutSchedulesPaysOneQueryAndNoTable(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	is(t, db.Queries, 1)
	is(t, b.NextAt(), time.Time{})
	_, found, err := b.Get("x")
	ok(t, err)
	is(t, found, false)
	list, err := b.List(schedule.Criteria{})
	ok(t, err)
	is(t, text(t, list), "[]")
	cancelled, err := b.Cancel("x")
	ok(t, err)
	is(t, cancelled, false)
	due, err := b.Due(at(0), 10)
	ok(t, err)
	is(t, len(due), 0)
	ok(t, b.Done("x"))
	is(t, len(db.Strings("SELECT name FROM sqlite_schema")), 0)
	is(t, db.Queries, 1)
}

func TestBook_PublicColumnsAndCheck(t *testing.T) {
	db := storagetest.NewMemory(t)
	delayed(t, open(t, db), "a", 1)
	is(t, strings.Join(db.Strings("SELECT name FROM pragma_table_info('cf_agents_schedules')"), " "),
		"id callback payload type time delayInSeconds cron intervalSeconds running created_at execution_started_at retry_options owner_path owner_path_key")
	for _, kind := range []string{"scheduled", "delayed", "cron", "interval"} {
		db.Exec("INSERT INTO cf_agents_schedules (id, type) VALUES (?, ?)", kind, kind)
	}
	rows, err := db.Query("INSERT INTO cf_agents_schedules (id, type) VALUES ('x', 'other')")
	if err == nil {
		_, err = rows.Each(nil)
	}
	if err == nil {
		t.Fatal("the table takes any type")
	}
}

func TestAdd_Types(t *testing.T) {
	for _, c := range []struct {
		name string
		spec schedule.Spec
		now  int64
		want string
	}{
		{"delay", schedule.Spec{Type: "delayed", Callback: "run", Delay: 5, Payload: json.RawMessage(`{"a":1}`)}, 0,
			`{"id":"x","callback":"run","payload":{"a":1},"type":"delayed","time":1700000005,"delayInSeconds":5}`},
		{"delay is floored with the clock", schedule.Spec{Type: "delayed", Callback: "run", Delay: 1.3}, 800,
			`{"id":"x","callback":"run","payload":null,"type":"delayed","time":1700000002,"delayInSeconds":1.3}`},
		{"no delay", schedule.Spec{Type: "delayed", Callback: "run"}, 999,
			`{"id":"x","callback":"run","payload":null,"type":"delayed","time":1700000000,"delayInSeconds":0}`},
		{"negative delay", schedule.Spec{Type: "delayed", Callback: "run", Delay: -10}, 0,
			`{"id":"x","callback":"run","payload":null,"type":"delayed","time":1699999990,"delayInSeconds":-10}`},
		{"date", schedule.Spec{Type: "scheduled", Callback: "run", At: at(1999), Payload: json.RawMessage(`null`)}, 0,
			`{"id":"x","callback":"run","payload":null,"type":"scheduled","time":1700000001}`},
		{"past date", schedule.Spec{Type: "scheduled", Callback: "run", At: time.UnixMilli(-1)}, 0,
			`{"id":"x","callback":"run","payload":null,"type":"scheduled","time":-1}`},
		{"retry", schedule.Spec{Type: "delayed", Callback: "run", Retry: &schedule.Retry{MaxAttempts: ptr(5.0), BaseDelayMS: ptr(0.5)}}, 0,
			`{"id":"x","callback":"run","payload":null,"retry":{"maxAttempts":5,"baseDelayMs":0.5},"type":"delayed","time":1700000000,"delayInSeconds":0}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			db := storagetest.NewMemory(t)
			b := open(t, db)
			s, created, err := b.Add(c.spec, "x", at(c.now), schedule.DefaultPolicy)
			ok(t, err)
			is(t, created, true)
			is(t, text(t, s), c.want)
			stored, found, err := open(t, db).Get("x")
			ok(t, err)
			is(t, found, true)
			is(t, text(t, stored), c.want)
			is(t, b.NextAt().Unix(), s.Time)
		})
	}
}

func TestAdd_Refuses(t *testing.T) {
	b := open(t, storagetest.NewMemory(t))
	good := schedule.Spec{Type: "delayed", Callback: "run"}
	for _, c := range []struct {
		change func(*schedule.Spec)
		kind   agent.Kind
		text   string
	}{
		{func(s *schedule.Spec) { s.Type = "cron" }, agent.Invalid, "cron schedules are not available yet"},
		{func(s *schedule.Spec) { s.Type = "interval" }, agent.Invalid, "interval schedules are not available yet"},
		{func(s *schedule.Spec) { s.Type = "" }, agent.Invalid, `no schedule type ""`},
		{func(s *schedule.Spec) { s.Callback = "" }, agent.Invalid, "Callback must be a string"},
		{func(s *schedule.Spec) { s.Callback = strings.Repeat("x", 1025) }, agent.Invalid, "at most 1024"},
		{func(s *schedule.Spec) { s.Payload = json.RawMessage(`{`) }, agent.Invalid, "not JSON"},
		{func(s *schedule.Spec) { s.Payload = json.RawMessage(strings.Repeat(" ", 2_000_001)) }, agent.TooLarge, "at most 2000000"},
		{func(s *schedule.Spec) { s.Delay = math.NaN() }, agent.Invalid, "not one that a date can hold"},
		{func(s *schedule.Spec) { s.Delay = math.Inf(1) }, agent.Invalid, "not one that a date can hold"},
		{func(s *schedule.Spec) { s.Delay = 1e13 }, agent.Invalid, "not one that a date can hold"},
		{func(s *schedule.Spec) { s.Type = "scheduled" }, agent.Invalid, "not one that a date can hold"},
		{func(s *schedule.Spec) { s.Retry = &schedule.Retry{MaxAttempts: ptr(0.0)} }, agent.Invalid, "retry.maxAttempts must be >= 1"},
	} {
		s := good
		c.change(&s)
		_, created, err := b.Add(s, "x", at(0), schedule.DefaultPolicy)
		is(t, created, false)
		refused(t, err, c.kind, c.text)
	}
	_, _, err := b.Add(good, "", at(0), schedule.DefaultPolicy)
	refused(t, err, agent.Invalid, "1 to 256 bytes")
	delayed(t, b, "x", 0)
	_, _, err = b.Add(good, "x", at(0), schedule.DefaultPolicy)
	refused(t, err, agent.Conflict, "exists already")
}

func TestAdd_BoundsTheNumber(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	delayed(t, b, "first", 0)
	db.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < ?)
		INSERT INTO cf_agents_schedules (id, callback, type, time) SELECT 's' || i, 'run', 'delayed', 0 FROM n`, schedule.MaxSchedules-1)
	ok(t, b.Reload())
	_, _, err := b.Add(schedule.Spec{Type: "delayed", Callback: "run"}, "more", at(0), schedule.DefaultPolicy)
	refused(t, err, agent.Overloaded, "100000 schedules")
	_, err = b.List(schedule.Criteria{})
	refused(t, err, agent.TooLarge, "ask for fewer")
	due, err := b.Due(at(0), 1<<30)
	ok(t, err)
	is(t, len(due), schedule.MaxDue)
	ok(t, b.Done("first"))
	delayed(t, b, "more", 0)
}

func TestAdd_Idempotent(t *testing.T) {
	base := schedule.Spec{Type: "delayed", Callback: "run", Payload: json.RawMessage(`{"a":1}`), Delay: 9, Idempotent: ptr(true),
		Retry: &schedule.Retry{MaxAttempts: ptr(2.0)}}
	for _, c := range []struct {
		name    string
		change  func(*schedule.Spec)
		created bool
	}{
		{"same", func(*schedule.Spec) {}, false},
		{"another time", func(s *schedule.Spec) { s.Delay = 99 }, false},
		{"another retry is ignored", func(s *schedule.Spec) { s.Retry = nil }, false},
		{"another payload", func(s *schedule.Spec) { s.Payload = json.RawMessage(`{"a":2}`) }, true},
		{"no payload", func(s *schedule.Spec) { s.Payload = nil }, true},
		{"another callback", func(s *schedule.Spec) { s.Callback = "other" }, true},
		{"another type", func(s *schedule.Spec) { s.Type, s.At = "scheduled", at(9000) }, true},
		{"not asked for", func(s *schedule.Spec) { s.Idempotent = nil }, true},
		{"declined", func(s *schedule.Spec) { s.Idempotent = ptr(false) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, storagetest.NewMemory(t))
			first, created, err := b.Add(base, "first", at(0), schedule.DefaultPolicy)
			ok(t, err)
			is(t, created, true)
			s := base
			c.change(&s)
			second, created, err := b.Add(s, "second", at(0), schedule.DefaultPolicy)
			ok(t, err)
			is(t, created, c.created)
			if !created {
				is(t, text(t, second), text(t, first))
			}
		})
	}
	b := open(t, storagetest.NewMemory(t))
	for _, created := range []bool{true, false} { // payloads that are absent are equal
		_, got, err := b.Add(schedule.Spec{Type: "delayed", Callback: "run", Idempotent: ptr(true)}, fmt.Sprint(created), at(0), schedule.DefaultPolicy)
		ok(t, err)
		is(t, got, created)
	}
}

func TestList_Criteria(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	delayed(t, b, "d9", 9)
	delayed(t, b, "d3", 3)
	_, _, err := b.Add(schedule.Spec{Type: "scheduled", Callback: "run", At: at(5000)}, "s5", at(0), schedule.DefaultPolicy)
	ok(t, err)
	for _, c := range []struct {
		c    schedule.Criteria
		want string
	}{
		{schedule.Criteria{}, "d3 s5 d9"}, // earliest first
		{schedule.Criteria{ID: "d9"}, "d9"},
		{schedule.Criteria{ID: "no"}, ""},
		{schedule.Criteria{Type: "delayed"}, "d3 d9"},
		{schedule.Criteria{Type: "cron"}, ""},
		{schedule.Criteria{Start: at(5000)}, "s5 d9"}, // inclusive
		{schedule.Criteria{End: at(5000)}, "d3 s5"},
		{schedule.Criteria{Start: at(3999), End: at(5999)}, "d3 s5"}, // whole seconds
		{schedule.Criteria{Start: at(4000), End: at(4999)}, ""},
		{schedule.Criteria{Type: "delayed", Start: at(4000)}, "d9"},
	} {
		list, err := b.List(c.c)
		ok(t, err)
		var got []string
		for _, s := range list {
			got = append(got, s.ID)
		}
		is(t, strings.Join(got, " "), c.want)
	}
}

func TestDue_OrderAndSecond(t *testing.T) {
	b := open(t, storagetest.NewMemory(t))
	for _, s := range []struct {
		id    string
		delay float64
	}{{"late", 8}, {"first", 2}, {"tie1", 5}, {"tie2", 5}, {"future", 9}} {
		delayed(t, b, s.id, s.delay)
	}
	for _, c := range []struct {
		now   int64
		limit int
		want  string
	}{
		{1999, 10, ""},
		{2000, 10, "first"},
		{8000, 10, "first tie1 tie2 late"},
		{8999, 2, "first tie1"},
		{8999, 0, "first"},
	} {
		due, err := b.Due(at(c.now), c.limit)
		ok(t, err)
		is(t, names(due), c.want)
	}
}

// A wake-up at NextAt finds the schedule due: no wake-up is wasted, none too late.
func TestNextAt_IsWhenItIsDue(t *testing.T) {
	b := open(t, storagetest.NewMemory(t))
	delayed(t, b, "a", 0.7)
	due, err := b.Due(b.NextAt().Add(-time.Millisecond), 1)
	ok(t, err)
	is(t, len(due), 0)
	due, err = b.Due(b.NextAt(), 1)
	ok(t, err)
	is(t, len(due), 1)
}

func TestNextAt_FollowsEveryChange(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	next := func(seconds int64) {
		t.Helper()
		want := time.Time{}
		if seconds > 0 {
			want = time.Unix(epoch+seconds, 0)
		}
		is(t, b.NextAt(), want)
		is(t, open(t, db).NextAt(), want) // and after a restart
	}
	next(0)
	delayed(t, b, "a5", 5)
	next(5)
	delayed(t, b, "b9", 9)
	next(5)
	delayed(t, b, "c3", 3)
	next(3)
	cancelled, err := b.Cancel("b9")
	ok(t, err)
	is(t, cancelled, true)
	next(3)
	ok(t, b.Done("c3"))
	next(5)
	ok(t, b.Done("c3"))
	next(5)
	cancelled, err = b.Cancel("a5")
	ok(t, err)
	is(t, cancelled, true)
	next(0)
	cancelled, err = b.Cancel("a5")
	ok(t, err)
	is(t, cancelled, false)
}

func TestNextAt_ReloadAfterRolledBackSavepoint(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	delayed(t, b, "a", 5)
	db.Exec("SAVEPOINT s")
	ok(t, b.Done("a"))
	is(t, b.NextAt(), time.Time{})
	db.Exec("ROLLBACK TO s")
	ok(t, b.Reload())
	is(t, b.NextAt().Unix(), int64(epoch+5))
}

// A program that deletes rows itself costs one wake-up, not an endless series.
func TestDue_RowsTakenAwayByOwnSQL(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	delayed(t, b, "a", 1)
	delayed(t, b, "b", 9)
	db.Exec("DELETE FROM cf_agents_schedules WHERE id = 'a'")
	due, err := b.Due(at(2000), 10)
	ok(t, err)
	is(t, len(due), 0)
	is(t, b.NextAt().Unix(), int64(epoch+9))
	db.Exec("DROP TABLE cf_agents_schedules")
	due, err = b.Due(at(10_000), 10)
	ok(t, err)
	is(t, len(due), 0)
	is(t, b.NextAt(), time.Time{})
	delayed(t, b, "c", 2)
	db.Exec("DROP TABLE cf_agents_schedules")
	delayed(t, b, "c", 3)
	_, found, err := b.Get("c")
	ok(t, err)
	is(t, found, true)
}

// Rows of kinds that do not run yet must not wake the agent.
func TestDue_LeavesOtherKindsAlone(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	delayed(t, b, "a", 5)
	db.Exec("INSERT INTO cf_agents_schedules (id, type, time) VALUES ('c', 'cron', 1), ('i', 'interval', 1), ('n', 'delayed', NULL)")
	ok(t, b.Reload())
	is(t, b.NextAt().Unix(), int64(epoch+5))
	due, err := b.Due(at(5000), 10)
	ok(t, err)
	is(t, names(due), "a")
}

func TestDue_RawRowForTheCallback(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	_, _, err := b.Add(schedule.Spec{Type: "delayed", Callback: "run", Delay: 1.5, Payload: json.RawMessage(`{"a": 1}`),
		Retry: &schedule.Retry{MaxAttempts: ptr(2.0)}}, "x", at(0), schedule.DefaultPolicy)
	ok(t, err)
	due, err := b.Due(at(2000), 10)
	ok(t, err)
	is(t, string(due[0].Payload), `{"a": 1}`)
	is(t, text(t, due[0].Row), `{"id":"x","callback":"run","payload":"{\"a\": 1}","type":"delayed","time":1700000001,"delayInSeconds":1.5,"cron":null,`+
		`"intervalSeconds":null,"running":0,"created_at":1700000000,"execution_started_at":null,"retry_options":"{\"maxAttempts\":2}","owner_path":null,"owner_path_key":null}`)
}

func TestDue_CorruptPayload(t *testing.T) {
	for stored, corrupt := range map[any]bool{`{"a"`: true, "": true, nil: false, `1`: false} {
		db := storagetest.NewMemory(t)
		b := open(t, db)
		delayed(t, b, "x", 0)
		db.Exec("UPDATE cf_agents_schedules SET payload = ?, retry_options = '[oops'", stored)
		due, err := b.Due(at(0), 10)
		ok(t, err)
		is(t, due[0].Corrupt, corrupt)
		is(t, due[0].Retry, nil)
		if corrupt {
			is(t, due[0].Payload == nil, true)
		}
		ok(t, b.Done("x"))
		is(t, b.NextAt(), time.Time{})
	}
}

func TestDue_BoundsPayloads(t *testing.T) {
	b := open(t, storagetest.NewMemory(t))
	big := json.RawMessage(`"` + strings.Repeat("x", schedule.MaxPayloadBytes-2) + `"`)
	for i := range 10 {
		_, _, err := b.Add(schedule.Spec{Type: "delayed", Callback: "run", Payload: big}, fmt.Sprint(i), at(0), schedule.DefaultPolicy)
		ok(t, err)
	}
	due, err := b.Due(at(0), 100)
	ok(t, err)
	is(t, len(due), schedule.MaxListBytes/schedule.MaxPayloadBytes)
	for _, d := range due {
		ok(t, b.Done(d.ID))
	}
	due, err = b.Due(at(0), 100)
	ok(t, err)
	is(t, len(due), 2)
}

// The biggest row that the limits allow fits into storage's limit.
func TestBook_LimitsFitIntoARow(t *testing.T) {
	if sum := schedule.MaxPayloadBytes + schedule.MaxIDBytes + schedule.MaxCallbackBytes + 1024; sum > storage.MaxRowBytes {
		t.Fatalf("a row may have %d bytes, the columns %d", storage.MaxRowBytes, sum)
	}
}

func TestBook_CrashKeepsWhatWasCommitted(t *testing.T) {
	db := storagetest.NewMemory(t)
	b := open(t, db)
	delayed(t, b, "kept", 5)
	db.Commit()
	delayed(t, b, "lost", 1)
	ok(t, b.Done("kept"))
	db.Crash()
	b = open(t, db)
	is(t, b.NextAt().Unix(), int64(epoch+5))
	due, err := b.Due(at(5000), 10)
	ok(t, err)
	is(t, names(due), "kept")
}
