package fiber

import (
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Resolve applies a result to an interrupted fiber. It reports false for any other.
// Errors: Invalid and TooLarge for a bad result.
func (l *Ledger) Resolve(id string, r Result, now time.Time) (bool, error) {
	snapshot, err := r.check()
	if err != nil {
		return false, err
	}
	if r.Status == StatusCompleted && r.Metadata != nil {
		n, err := l.update(`UPDATE cf_agents_fibers SET status = ?, snapshot = COALESCE(?, snapshot), metadata_json = ?, error_message = ?, completed_at = ?
			WHERE fiber_id = ? AND status = 'interrupted'`,
			string(r.Status), snapshot, orNull(string(object(string(r.Metadata)))), r.message(), now.UnixMilli(), id)
		return n > 0, err
	}
	n, err := l.update(`UPDATE cf_agents_fibers SET status = ?, snapshot = COALESCE(?, snapshot), error_message = ?, completed_at = ?
		WHERE fiber_id = ? AND status = 'interrupted'`,
		string(r.Status), snapshot, r.message(), now.UnixMilli(), id)
	return n > 0, err
}

// check returns the snapshot as a column value.
func (r Result) check() (storage.Value, error) {
	if !r.Status.Terminal() {
		return nil, refusal("resolve fiber", agent.Invalid, "the status of a result must be completed, error, aborted or interrupted, not %q", r.Status)
	}
	if r.Status == StatusCompleted {
		if err := checkMetadata("resolve fiber", r.Metadata); err != nil {
			return nil, err
		}
	}
	return snapshotValue("resolve fiber", r.Snapshot)
}

func (r Result) message() storage.Value {
	switch r.Status {
	case StatusError:
		return message(r.Error)
	case StatusAborted, StatusInterrupted:
		return message(r.Reason)
	}
	return nil
}
