package schedule

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// maxTime is the largest time in seconds since 1970 that a JavaScript date can hold.
const maxTime = 8_640_000_000_000

// Book is the record of one agent's schedules. It belongs to the agent's loop: no
// method may be called from elsewhere. Every method but NextAt runs SQL and may fail
// as storage does.
//
// What it caches is right as long as all writes go through it. After a savepoint
// that was rolled back, and after the agent's own SQL changed the table or deleted
// everything, call Reload.
type Book struct {
	db     DB
	exists bool      // the table
	rows   int64     // in the table
	next   time.Time // of the earliest one-shot; zero for none
}

// Open reads what an earlier life left. An agent that never scheduled anything pays
// one query here and has no table.
func Open(db DB) (*Book, error) {
	b := &Book{db: db}
	if err := b.Reload(); err != nil {
		return nil, fmt.Errorf("open schedules: %w", err)
	}
	return b, nil
}

// Reload reads the cached facts again. Without the table it costs one query,
// otherwise three.
func (b *Book) Reload() error {
	if err := b.look(); err != nil {
		return err
	}
	b.rows = 0
	_, err := b.query(func(row []storage.Value) error {
		b.rows = whole(row[0])
		return nil
	}, `SELECT count(*) FROM cf_agents_schedules`)
	if err != nil {
		return err
	}
	return b.findNext()
}

// Add writes a schedule under a fresh id. With Idempotent set and a row of the same
// type, callback and payload present, that row is returned unchanged, with its own
// time and retry options, and created is false. Retry options are checked against
// defaults, those of the class. Errors: Invalid, TooLarge, Conflict (the id is in
// use), Overloaded (MaxSchedules rows).
func (b *Book) Add(s Spec, id string, now time.Time, defaults Policy) (sched Schedule, created bool, err error) {
	at, err := s.check(id, now, defaults)
	if err != nil {
		return Schedule{}, false, err
	}
	var payload storage.Value
	if s.Payload != nil {
		payload = string(s.Payload)
	}
	if s.Idempotent != nil && *s.Idempotent {
		same, found, err := b.one(`SELECT `+columns+` FROM cf_agents_schedules
			WHERE type = ? AND callback = ? AND payload IS ? AND owner_path_key IS NULL
			ORDER BY rowid LIMIT 1`, string(s.Type), s.Callback, payload)
		if err != nil || found {
			return same, false, err
		}
	}
	if b.rows >= MaxSchedules {
		return Schedule{}, false, refusal(agent.Overloaded, "this agent has %d schedules, the most that is allowed; cancel some or keep the plan in a table of your own", b.rows)
	}

	sched = Schedule{ID: id, Callback: s.Callback, Payload: s.Payload, Retry: s.Retry, Type: s.Type, Time: at}
	var delay, retry storage.Value
	if s.Type == TypeDelayed {
		sched.DelayInSeconds, delay = &s.Delay, s.Delay
	}
	if s.Retry != nil {
		text, err := json.Marshal(s.Retry)
		if err != nil {
			return Schedule{}, false, fmt.Errorf("schedule %s: %w", s.Callback, err)
		}
		retry = string(text)
	}
	if err := b.insert(id, s.Callback, payload, string(s.Type), at, delay, retry, now.Unix()); err != nil {
		return Schedule{}, false, err
	}
	if t := time.Unix(at, 0); b.next.IsZero() || t.Before(b.next) {
		b.next = t
	}
	return sched, true, nil
}

// insert takes the values of the columns that Add sets.
func (b *Book) insert(values ...storage.Value) error {
	if !b.exists {
		if err := b.ensure(); err != nil {
			return fmt.Errorf("create schedules: %w", err)
		}
	}
	const text = `INSERT INTO cf_agents_schedules (id, callback, payload, type, time, delayInSeconds, retry_options, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`
	n, err := query(b.db, nil, text, values...)
	if err != nil && b.look() == nil && !b.exists {
		if err := b.ensure(); err != nil {
			return fmt.Errorf("create schedules: %w", err)
		}
		n, err = query(b.db, nil, text, values...)
	}
	if err != nil {
		return fmt.Errorf("schedule %v: %w", values[1], err)
	}
	if n == 0 {
		return refusal(agent.Conflict, "a schedule with ID %q exists already", values[0])
	}
	b.rows += n
	return nil
}

// check returns the time of the schedule in seconds since 1970.
func (s Spec) check(id string, now time.Time, defaults Policy) (at int64, err error) {
	switch {
	case id == "" || len(id) > MaxIDBytes:
		return 0, refusal(agent.Invalid, "a schedule's ID has 1 to %d bytes, not %d", MaxIDBytes, len(id))
	case s.Callback == "":
		return 0, invalid("Callback must be a string")
	case len(s.Callback) > MaxCallbackBytes:
		return 0, refusal(agent.Invalid, "the callback's name has %d bytes; at most %d are allowed", len(s.Callback), MaxCallbackBytes)
	case len(s.Payload) > MaxPayloadBytes:
		return 0, refusal(agent.TooLarge, "the payload has %d bytes as JSON; at most %d are allowed: keep large data in a table or a file and pass where it is",
			len(s.Payload), MaxPayloadBytes)
	case s.Payload != nil && !json.Valid(s.Payload):
		return 0, refusal(agent.Invalid, "the payload is not JSON: %.60q", s.Payload)
	}
	if s.Retry != nil {
		if err := s.Retry.Validate(defaults); err != nil {
			return 0, err
		}
	}
	var seconds float64
	switch s.Type {
	case TypeDelayed:
		seconds = math.Floor((float64(now.UnixMilli()) + s.Delay*1000) / 1000)
	case TypeScheduled:
		seconds = float64(s.At.Unix())
	case TypeCron:
		return 0, refusal(agent.Invalid, "cron schedules are not available yet: give %s a delay in seconds or a date, and schedule the next run in the callback", s.Callback)
	case TypeInterval:
		return 0, refusal(agent.Invalid, "interval schedules are not available yet: give %s a delay in seconds, and schedule the next run in the callback", s.Callback)
	default:
		return 0, refusal(agent.Invalid, "there is no schedule type %q", s.Type)
	}
	if math.IsNaN(seconds) || math.Abs(seconds) > maxTime || (s.Type == TypeScheduled && s.At.IsZero()) {
		return 0, refusal(agent.Invalid, "the time for %s is not one that a date can hold", s.Callback)
	}
	return int64(seconds), nil
}

// Get returns the schedule of an ID; found is false if there is none.
func (b *Book) Get(id string) (s Schedule, found bool, err error) {
	return b.one(`SELECT `+columns+` FROM cf_agents_schedules WHERE id = ?`, id)
}

// List returns the schedules that match, earliest first. More than MaxListed
// schedules or MaxListBytes of payload are an error of kind TooLarge.
func (b *Book) List(c Criteria) ([]Schedule, error) {
	text := `SELECT ` + columns + ` FROM cf_agents_schedules WHERE 1`
	var args []storage.Value
	where := func(condition string, value storage.Value) {
		text += ` AND ` + condition
		args = append(args, value)
	}
	if c.ID != "" {
		where(`id = ?`, c.ID)
	}
	if c.Type != "" {
		where(`type = ?`, string(c.Type))
	}
	if !c.Start.IsZero() {
		where(`time >= ?`, c.Start.Unix())
	}
	if !c.End.IsZero() {
		where(`time <= ?`, c.End.Unix())
	}
	text += ` ORDER BY time, rowid`
	list, size := []Schedule{}, 0
	_, err := b.query(func(row []storage.Value) error {
		s := decode(row).schedule()
		if size += len(s.Payload); len(list) == MaxListed || size > MaxListBytes {
			return refusal(agent.TooLarge, "more than %d schedules or %d bytes of payload match; ask for fewer by type or time", MaxListed, MaxListBytes)
		}
		list = append(list, s)
		return nil
	}, text, args...)
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	return list, nil
}

// Cancel deletes a schedule; it reports false when there is none.
func (b *Book) Cancel(id string) (bool, error) {
	removed, last := int64(0), time.Time{}
	_, err := b.query(func(row []storage.Value) error {
		removed, last = removed+1, time.Unix(whole(row[0]), 0)
		return nil
	}, `DELETE FROM cf_agents_schedules WHERE id = ? RETURNING time`, id)
	if err != nil {
		return false, fmt.Errorf("cancel schedule %q: %w", id, err)
	}
	if removed == 0 {
		return false, nil
	}
	b.rows = max(0, b.rows-removed)
	if last.After(b.next) {
		return true, nil
	}
	return true, b.findNext()
}

// Due returns up to limit schedules (1..MaxDue) whose second has come, earliest
// first, then in the order in which they were added. It stops early at MaxListBytes
// of payload. A schedule stays due until Done or Cancel.
func (b *Book) Due(now time.Time, limit int) ([]Due, error) {
	limit = min(max(limit, 1), MaxDue)
	if b.next.IsZero() || b.next.Unix() > now.Unix() {
		return nil, nil
	}
	var due []Due
	size := 0
	_, err := b.query(func(values []storage.Value) error {
		row := decode(values)
		d := Due{Schedule: row.schedule(), Row: row}
		if size += len(d.Payload); size > MaxListBytes && len(due) > 0 {
			return io.EOF
		}
		due = append(due, d)
		return nil
	}, `SELECT `+columns+` FROM cf_agents_schedules
		WHERE time <= ? AND type IN ('scheduled', 'delayed') ORDER BY time, rowid LIMIT ?`, now.Unix(), limit)
	if err != nil {
		return nil, fmt.Errorf("find due schedules: %w", err)
	}
	if len(due) == 0 {
		// The agent's own SQL took what was due: do not wake for it again.
		return nil, b.findNext()
	}
	return due, nil
}

// Done deletes a one-shot schedule after its run, also when the run failed. It
// belongs into the turn of the run's last effects. An unknown ID is not an error.
func (b *Book) Done(id string) error {
	_, err := b.Cancel(id)
	return err
}

// NextAt is when the platform must wake the agent for its earliest schedule, zero
// when there is none. It may lie in the past. Without a query.
func (b *Book) NextAt() time.Time { return b.next }

// findNext reads the earliest time again.
func (b *Book) findNext() error {
	b.next = time.Time{}
	_, err := b.query(func(row []storage.Value) error {
		b.next = time.Unix(whole(row[0]), 0)
		return nil
	}, `SELECT time FROM cf_agents_schedules
		WHERE time IS NOT NULL AND type IN ('scheduled', 'delayed') ORDER BY time LIMIT 1`)
	if err != nil {
		return fmt.Errorf("find next schedule: %w", err)
	}
	return nil
}

func (b *Book) one(text string, args ...storage.Value) (s Schedule, found bool, err error) {
	_, err = b.query(func(row []storage.Value) error {
		s, found = decode(row).schedule(), true
		return nil
	}, text, args...)
	if err != nil {
		return Schedule{}, false, fmt.Errorf("read schedule: %w", err)
	}
	return s, found, nil
}

// schedule is the row as programs see it.
func (r Row) schedule() Schedule {
	s := Schedule{ID: r.ID, Callback: r.Callback, Type: r.Type, Time: r.Time}
	if r.Payload != nil {
		if s.Corrupt = !json.Valid([]byte(*r.Payload)); !s.Corrupt {
			s.Payload = json.RawMessage(*r.Payload)
		}
	}
	if r.Type == TypeDelayed {
		s.DelayInSeconds = r.DelayInSeconds
	}
	if r.RetryOptions != nil {
		s.Retry = decodeRetry(*r.RetryOptions)
	}
	return s
}

func refusal(kind agent.Kind, format string, args ...any) error {
	return &agent.Error{Op: "schedule", Kind: kind, Msg: fmt.Sprintf(format, args...)}
}
