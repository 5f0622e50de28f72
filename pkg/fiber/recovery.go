package fiber

import (
	"encoding/json"
	"fmt"
	"time"

	"agentd/pkg/storage"
)

// Gaps between scans that resolve nothing: the interval doubles up to maxGap.
const (
	maxGap    = 5 * time.Minute
	maxStreak = 20
)

// Interrupted lists the fibers to recover: run rows whose work is not active in this
// instance, in the order in which they were started, then managed fibers that are
// pending or running without a run row. The list is a snapshot and holds no
// snapshots of fibers: Begin reads them one by one.
func (l *Ledger) Interrupted(active func(id string) bool) ([]Recovery, error) {
	var list []Recovery
	add := func(orphan bool) func(row []storage.Value) error {
		return func(row []storage.Value) error {
			r := Recovery{ID: asText(row[0]), Name: asText(row[1]), CreatedAt: whole(row[2]),
				Reason: RecoveryReason, Managed: orphan, Orphan: orphan}
			if !active(r.ID) {
				list = append(list, r)
			}
			return nil
		}
	}
	_, err := l.on(&l.runs, add(false), `SELECT id, name, created_at FROM cf_agents_runs ORDER BY rowid`)
	if err != nil {
		return nil, fmt.Errorf("list interrupted fibers: %w", err)
	}
	if l.open > 0 {
		// Without the other table every open row is an orphan.
		rest := ``
		if l.runs.exists {
			rest = ` AND NOT EXISTS (SELECT 1 FROM cf_agents_runs r WHERE r.id = f.fiber_id)`
		}
		_, err := l.on(&l.fibers, add(true), `SELECT fiber_id, name, created_at FROM cf_agents_fibers f
			WHERE status IN ('pending', 'running')`+rest+` ORDER BY created_at, fiber_id`)
		if err != nil {
			return nil, fmt.Errorf("list interrupted fibers: %w", err)
		}
	}
	return list, nil
}

// Begin prepares one fiber for its hook and returns it with snapshot and ledger
// facts filled in; a pending or running managed fiber becomes interrupted. skip is
// true when there is nothing to do: the row is gone, or the fiber was settled
// meanwhile (its run row is then deleted, which is progress). A managed fiber that
// is interrupted already lost its hook to a crash: it is begun again.
func (l *Ledger) Begin(r Recovery, now time.Time) (filled Recovery, skip bool, err error) {
	in, managed, err := l.Inspect(r.ID)
	if err != nil {
		return r, false, err
	}
	if r.Orphan {
		return l.beginOrphan(r, in, now)
	}
	snapshot, found, err := l.runSnapshot(r.ID)
	if err != nil {
		return r, false, err
	}
	if !found {
		return r, true, nil
	}
	r.Snapshot, r.Corrupt = decodeSnapshot(snapshot)
	if !managed {
		return r, false, nil
	}
	if in.Status.Terminal() && in.Status != StatusInterrupted {
		return r, true, l.Finish(r.ID)
	}
	n, err := l.update(`UPDATE cf_agents_fibers SET status = 'interrupted', snapshot = ?, completed_at = ?
		WHERE fiber_id = ? AND status IN ('pending', 'running')`, orNull(snapshot), now.UnixMilli(), r.ID)
	if err != nil {
		return r, false, err
	}
	l.open = max(0, l.open-n)
	r.fill(in)
	return r, false, nil
}

// beginOrphan gives the fiber a run row, so that a crash during its hook leaves
// something to find.
func (l *Ledger) beginOrphan(r Recovery, in Inspection, now time.Time) (Recovery, bool, error) {
	if in.Status != StatusPending && in.Status != StatusRunning {
		return r, true, nil
	}
	// in.Snapshot leaves out what is not JSON; the copy in the row keeps it.
	var stored string
	_, err := l.on(&l.fibers, func(row []storage.Value) error {
		stored = asText(row[0])
		return nil
	}, `SELECT snapshot FROM cf_agents_fibers WHERE fiber_id = ?`, r.ID)
	if err != nil {
		return r, false, fmt.Errorf("read fiber %q: %w", r.ID, err)
	}
	n, err := l.insert(&l.runs, `INSERT INTO cf_agents_runs (id, name, snapshot, created_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (id) DO NOTHING`, r.ID, r.Name, orNull(stored), r.CreatedAt)
	if err != nil {
		return r, false, fmt.Errorf("recover fiber %q: %w", r.ID, err)
	}
	l.runRows += n
	if _, err := l.update(`UPDATE cf_agents_fibers SET status = 'interrupted', completed_at = ?
		WHERE fiber_id = ?`, now.UnixMilli(), r.ID); err != nil {
		return r, false, err
	}
	l.open = max(0, l.open-1)
	r.Snapshot, r.Corrupt = decodeSnapshot(stored)
	r.fill(in)
	return r, false, nil
}

func (r *Recovery) fill(in Inspection) {
	r.Managed = true
	r.Status = StatusInterrupted
	r.IdempotencyKey = in.IdempotencyKey
	r.Metadata = in.Metadata
	if r.Metadata == nil {
		r.Metadata = json.RawMessage("null")
	}
}

// Recovered ends a recovery whose hook returned: the result (nil for none) is
// applied to a managed fiber that is still interrupted, ignored for an unmanaged
// one, and the run row is deleted. A result that cannot be applied (kinds Invalid
// and TooLarge) changes nothing: end the recovery with Failed then.
func (l *Ledger) Recovered(r Recovery, result *Result, now time.Time) error {
	if r.Managed && result != nil {
		if _, err := l.Resolve(r.ID, *result, now); err != nil {
			return err
		}
	}
	return l.Finish(r.ID)
}

// Failed ends a recovery whose hook threw. A managed fiber that is still interrupted
// becomes error and its run row is deleted; an unmanaged row stays for the next scan
// unless it is older than maxAge (0 or less keeps it for ever). dropped says that no
// further try will come.
func (l *Ledger) Failed(r Recovery, reason string, now time.Time, maxAge time.Duration) (dropped bool, err error) {
	if r.Managed {
		_, err := l.Resolve(r.ID, Result{Status: StatusError, Error: reason}, now)
		if err != nil {
			return false, err
		}
		return true, l.Finish(r.ID)
	}
	if maxAge <= 0 || now.UnixMilli()-r.CreatedAt <= maxAge.Milliseconds() {
		return false, nil
	}
	return true, l.Finish(r.ID)
}

// ScanDone ends a scan: progress says that it resolved at least one fiber, pending
// how many it leaves to recover (hook failed, or not reached). It returns when to
// scan again, zero for never: min(5 min, interval·2^streak) from now, where streak
// counts the scans in a row without progress. The streak is kept in the database,
// because an agent may be unloaded between scans.
func (l *Ledger) ScanDone(progress bool, pending int, now time.Time, interval time.Duration) (next time.Time, err error) {
	if pending <= 0 {
		l.next, l.streak = time.Time{}, 0
		if _, err := l.on(&l.scan, nil, `DELETE FROM agentd_fiber_scan`); err != nil {
			return time.Time{}, fmt.Errorf("end fiber scan: %w", err)
		}
		return time.Time{}, nil
	}
	streak := int64(0)
	if !progress {
		streak = min(l.streak+1, maxStreak)
	}
	// Whole milliseconds, rounded up: a wake that comes early would find nothing due.
	at := now.Add(gap(interval, streak) + time.Millisecond - 1).UnixMilli()
	if _, err := l.insert(&l.scan, `INSERT INTO agentd_fiber_scan (one, streak, next_ms) VALUES (1, ?, ?)
		ON CONFLICT (one) DO UPDATE SET streak = excluded.streak, next_ms = excluded.next_ms`, streak, at); err != nil {
		return time.Time{}, fmt.Errorf("end fiber scan: %w", err)
	}
	l.streak, l.next = streak, time.UnixMilli(at)
	return l.next, nil
}

// NextScan is when the platform must scan again, zero when no scan left anything to
// recover. After Open with rows that no scan has seen it lies in the past. Without a
// query.
func (l *Ledger) NextScan() time.Time { return l.next }

// gap is at least a millisecond, so that a careless interval cannot spin.
func gap(interval time.Duration, streak int64) time.Duration {
	gap := max(interval, time.Millisecond)
	for range streak {
		if gap >= maxGap {
			break
		}
		gap *= 2
	}
	return min(gap, maxGap)
}

func (l *Ledger) runSnapshot(id string) (snapshot string, found bool, err error) {
	_, err = l.on(&l.runs, func(row []storage.Value) error {
		snapshot, found = asText(row[0]), true
		return nil
	}, `SELECT snapshot FROM cf_agents_runs WHERE id = ?`, id)
	if err != nil {
		return "", false, fmt.Errorf("read fiber %q: %w", id, err)
	}
	return snapshot, found, nil
}

// decodeSnapshot reads a snapshot column; an empty one is null.
func decodeSnapshot(stored string) (snapshot json.RawMessage, corrupt bool) {
	switch {
	case stored == "":
		return nil, false
	case !json.Valid([]byte(stored)):
		return nil, true
	}
	return json.RawMessage(stored), false
}
