package schedule_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/schedule"
	"agentd/pkg/storage/storagetest"
)

func TestRetry_Validate(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	const (
		attempts = "retry.maxAttempts must be >= 1"
		integer  = "retry.maxAttempts must be an integer"
		base     = "retry.baseDelayMs must be > 0"
		most     = "retry.maxDelayMs must be > 0"
		cross    = "retry.baseDelayMs must be <= retry.maxDelayMs"
	)
	for _, c := range []struct {
		n, base, max *float64
		want         string
	}{
		{nil, nil, nil, ""},
		{ptr(1.0), ptr(0.1), ptr(0.1), ""},
		{ptr(0.0), nil, nil, attempts},
		{ptr(0.5), nil, nil, attempts},
		{ptr(-1.0), nil, nil, attempts},
		{&nan, nil, nil, attempts},
		{&inf, nil, nil, attempts},
		{ptr(2.5), nil, nil, integer},
		{nil, ptr(0.0), nil, base},
		{nil, ptr(-5.0), nil, base},
		{nil, &nan, nil, base},
		{nil, &inf, nil, base},
		{nil, nil, ptr(0.0), most},
		{nil, nil, &inf, most},
		{nil, nil, &nan, most},
		{nil, ptr(5000.0), nil, cross}, // against the default maximum
		{nil, nil, ptr(50.0), cross},   // against the default base
		{nil, ptr(5000.0), ptr(6000.0), ""},
		{nil, ptr(2.0), ptr(1.0), cross},
		{nil, ptr(3000.0), nil, ""},
	} {
		err := schedule.Retry{MaxAttempts: c.n, BaseDelayMS: c.base, MaxDelayMS: c.max}.Validate(schedule.DefaultPolicy)
		got := ""
		if err != nil {
			got = err.Error()
			is(t, agent.KindOf(err), agent.Invalid)
		}
		is(t, got, c.want)
	}
}

func TestRetry_Resolve(t *testing.T) {
	var none *schedule.Retry
	is(t, none.Resolve(schedule.DefaultPolicy), schedule.DefaultPolicy)
	got := (&schedule.Retry{MaxAttempts: ptr(7.0), MaxDelayMS: ptr(250.5)}).Resolve(schedule.DefaultPolicy)
	is(t, got, schedule.Policy{MaxAttempts: 7, BaseDelay: 100 * time.Millisecond, MaxDelay: 250500 * time.Microsecond})
	// Stored by the agent's own SQL: bad values fall back, huge ones are bounded.
	got = (&schedule.Retry{MaxAttempts: ptr(-1.0), BaseDelayMS: ptr(math.NaN()), MaxDelayMS: ptr(1e300)}).Resolve(schedule.DefaultPolicy)
	is(t, got, schedule.Policy{MaxAttempts: 3, BaseDelay: 100 * time.Millisecond, MaxDelay: 365 * 24 * time.Hour})
	is(t, (&schedule.Retry{MaxAttempts: ptr(1e300)}).Resolve(schedule.DefaultPolicy).MaxAttempts, schedule.MaxAttempts)
}

func TestBackoff_FullJitter(t *testing.T) {
	p := schedule.DefaultPolicy
	for _, c := range []struct {
		attempt int
		rnd     float64
		want    time.Duration
	}{
		{1, 0, 0},
		{1, 0.5, 100 * time.Millisecond}, // half of 200
		{1, 0.9999, 199 * time.Millisecond},
		{2, 0.5, 200 * time.Millisecond},
		{4, 0.5, 800 * time.Millisecond},
		{5, 0.5, 1500 * time.Millisecond}, // capped at 3 s
		{5000, 0.5, 1500 * time.Millisecond},
	} {
		is(t, schedule.Backoff(c.attempt, p, c.rnd), c.want)
	}
}

// Whatever a program stores, a stored retry column gives a usable policy.
func FuzzStoredRetry(f *testing.F) {
	for _, s := range []string{"", "null", "{}", `{"maxAttempts":1e999}`, `{"maxAttempts":"3"}`, `[1]`, `{"baseDelayMs":-1,"maxDelayMs":1e308}`} {
		f.Add(s)
	}
	db := storagetest.NewMemory(f)
	b, err := schedule.Open(db)
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := b.Add(schedule.Spec{Type: "delayed", Callback: "run", Payload: json.RawMessage(`1`)}, "x", at(0), schedule.DefaultPolicy); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, stored string) {
		db.T = t
		db.Exec("UPDATE cf_agents_schedules SET retry_options = ?, payload = ?", stored, stored)
		due, err := b.Due(at(0), 1)
		ok(t, err)
		is(t, len(due), 1)
		is(t, due[0].Corrupt, !json.Valid([]byte(stored)))
		p := due[0].Retry.Resolve(schedule.DefaultPolicy)
		if p.MaxAttempts < 1 || p.BaseDelay < 0 || p.MaxDelay < 0 || schedule.Backoff(3, p, 0.99) < 0 {
			t.Fatalf("%q: %+v", stored, p)
		}
		_, err = json.Marshal(due[0].Row)
		ok(t, err)
	})
}
