package fiber

import (
	"encoding/json"
	"fmt"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Ledger is the record of one agent's fibers. It belongs to the agent's loop: no
// method may be called from elsewhere. Times are kept in whole milliseconds. Every
// method but Runs, Unfinished and NextScan runs SQL and may fail as storage does.
//
// What it caches is right as long as all writes go through it. After a savepoint
// that was rolled back, and after the agent's own SQL changed these tables or
// deleted everything, call Reload.
type Ledger struct {
	db     DB
	runs   table // cf_agents_runs
	fibers table // cf_agents_fibers
	scan   table // agentd_fiber_scan

	runRows int64     // rows of cf_agents_runs
	open    int64     // rows of cf_agents_fibers that are pending or running
	streak  int64     // scans in a row that resolved nothing
	next    time.Time // zero for no scan
}

// Open reads what an earlier life left. An agent that never used fibers pays one
// query here and has no tables.
func Open(db DB) (*Ledger, error) {
	l := &Ledger{
		db:     db,
		runs:   table{name: "cf_agents_runs", create: createRuns},
		fibers: table{name: "cf_agents_fibers", create: createFibers},
		scan:   table{name: "agentd_fiber_scan", create: createScan},
	}
	if err := l.Reload(); err != nil {
		return nil, fmt.Errorf("open fiber ledger: %w", err)
	}
	// Rows that no scan has seen yet are due since the oldest of them was written.
	if l.next.IsZero() && l.Unfinished() {
		oldest, err := l.oldest()
		if err != nil {
			return nil, fmt.Errorf("open fiber ledger: %w", err)
		}
		l.next = oldest
	}
	return l, nil
}

// Reload reads the cached facts again. Without tables it costs one query, otherwise
// up to four.
func (l *Ledger) Reload() error {
	if err := l.look(); err != nil {
		return err
	}
	l.runRows, l.open, l.streak = 0, 0, 0
	if err := l.count(&l.runs, &l.runRows, `SELECT count(*) FROM cf_agents_runs`); err != nil {
		return err
	}
	if err := l.count(&l.fibers, &l.open, `SELECT count(*) FROM cf_agents_fibers WHERE status IN ('pending', 'running')`); err != nil {
		return err
	}
	if !l.Unfinished() {
		l.next = time.Time{}
		return nil
	}
	_, err := l.on(&l.scan, func(row []storage.Value) error {
		l.streak, l.next = whole(row[0]), time.UnixMilli(whole(row[1]))
		return nil
	}, `SELECT streak, next_ms FROM agentd_fiber_scan`)
	return err
}

// Runs is how many run rows there are: fibers under way and fibers to recover.
// Without a query.
func (l *Ledger) Runs() int { return int(l.runRows) }

// Unfinished says whether a scan may find something: run rows, or managed fibers
// that are pending or running. Without a query.
func (l *Ledger) Unfinished() bool { return l.runRows > 0 || l.open > 0 }

// Start writes the run row of a fiber, managed or not, before its work begins.
// Errors: Invalid (empty or oversized id or name), Conflict (the ID is in use),
// Overloaded (MaxUnfinished rows).
func (l *Ledger) Start(id, name string, now time.Time) error {
	if err := checkIDAndName("start fiber", id, name); err != nil {
		return err
	}
	if l.runRows >= MaxUnfinished {
		return refusal("start fiber", agent.Overloaded,
			"this agent has %d unfinished fibers, the most that is allowed; wait until some have ended", l.runRows)
	}
	n, err := l.insert(&l.runs, `INSERT INTO cf_agents_runs (id, name, snapshot, created_at) VALUES (?, ?, NULL, ?)
		ON CONFLICT (id) DO NOTHING`, id, name, now.UnixMilli())
	if err != nil {
		return fmt.Errorf("start fiber %q: %w", id, err)
	}
	if n == 0 {
		return refusal("start fiber", agent.Conflict, "a fiber with ID %q is already under way", id)
	}
	l.runRows += n
	return nil
}

// Stash replaces the fiber's snapshot; nil clears it. A fiber that is unknown or
// finished is not an error: nothing is written. A managed fiber's ledger row gets
// the snapshot too, whatever its status. Errors: Invalid (not JSON), TooLarge.
func (l *Ledger) Stash(id string, snapshot json.RawMessage) error {
	value, err := snapshotValue("stash", snapshot)
	if err != nil {
		return err
	}
	_, err = l.on(&l.runs, nil, `UPDATE cf_agents_runs SET snapshot = ? WHERE id = ?`, value, id)
	if err == nil {
		_, err = l.on(&l.fibers, nil, `UPDATE cf_agents_fibers SET snapshot = ? WHERE fiber_id = ?`, value, id)
	}
	if err != nil {
		return fmt.Errorf("stash of fiber %q: %w", id, err)
	}
	return nil
}

// Finish deletes the run row: the work ended, well or badly, and will not be
// recovered. It belongs into the turn of the fiber's last effects. An unknown ID
// is not an error.
func (l *Ledger) Finish(id string) error {
	n, err := l.on(&l.runs, nil, `DELETE FROM cf_agents_runs WHERE id = ?`, id)
	if err != nil {
		return fmt.Errorf("finish fiber %q: %w", id, err)
	}
	l.runRows = max(0, l.runRows-n)
	return nil
}

func (l *Ledger) count(t *table, into *int64, text string) error {
	_, err := l.on(t, func(row []storage.Value) error {
		*into = whole(row[0])
		return nil
	}, text)
	return err
}

// oldest is when the first unfinished fiber was written.
func (l *Ledger) oldest() (time.Time, error) {
	var runs, open int64
	if err := l.count(&l.runs, &runs, `SELECT min(created_at) FROM cf_agents_runs`); err != nil {
		return time.Time{}, err
	}
	if err := l.count(&l.fibers, &open, `SELECT min(created_at) FROM cf_agents_fibers WHERE status IN ('pending', 'running')`); err != nil {
		return time.Time{}, err
	}
	if runs == 0 || (open != 0 && open < runs) {
		runs = open
	}
	return time.UnixMilli(runs), nil
}

func checkIDAndName(op, id, name string) error {
	switch {
	case id == "":
		return refusal(op, agent.Invalid, "the fiber's ID is empty")
	case len(id) > MaxIDBytes:
		return refusal(op, agent.Invalid, "the fiber's ID has %d bytes; at most %d are allowed", len(id), MaxIDBytes)
	case len(name) > MaxNameBytes:
		return refusal(op, agent.Invalid, "the fiber's name has %d bytes; at most %d are allowed", len(name), MaxNameBytes)
	}
	return nil
}

// snapshotValue is what goes into a snapshot column: JSON text or NULL.
func snapshotValue(op string, snapshot json.RawMessage) (storage.Value, error) {
	switch {
	case snapshot == nil:
		return nil, nil
	case len(snapshot) > MaxSnapshotBytes:
		return nil, refusal(op, agent.TooLarge, "the snapshot has %d bytes as JSON; at most %d are allowed: keep large data in a table or a file and stash where it is",
			len(snapshot), MaxSnapshotBytes)
	case !json.Valid(snapshot):
		return nil, refusal(op, agent.Invalid, "the snapshot is not JSON: %.60q", snapshot)
	}
	return string(snapshot), nil
}

func refusal(op string, kind agent.Kind, format string, args ...any) error {
	return &agent.Error{Op: op, Kind: kind, Msg: fmt.Sprintf(format, args...)}
}
