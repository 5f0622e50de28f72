package fiber

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

const fiberColumns = `fiber_id, idempotency_key, name, status, snapshot, metadata_json, error_message, created_at, started_at, completed_at`

// StartManaged accepts a managed fiber: it returns the row of the same ID or the same
// key, whatever its status (accepted false; the rest of o is ignored), or writes a
// new one with status pending. The caller then calls Start and MarkRunning in the
// same turn. Errors: Invalid and TooLarge for bad options, Conflict when ID and key
// belong to different fibers.
func (l *Ledger) StartManaged(o StartOptions, now time.Time) (in Inspection, accepted bool, err error) {
	id, key, err := o.check()
	if err != nil {
		return Inspection{}, false, err
	}
	byID, foundID, err := l.Inspect(id)
	if err != nil {
		return Inspection{}, false, err
	}
	byKey, foundKey, err := l.InspectByKey(key)
	if err != nil {
		return Inspection{}, false, err
	}
	switch {
	case foundKey && byKey.FiberID != id && (o.ID != nil || foundID):
		return Inspection{}, false, &agent.Error{Kind: agent.Conflict, Msg: "fiberId and idempotencyKey refer to different fibers"}
	case foundID:
		return byID, false, nil
	case foundKey:
		return byKey, false, nil
	}

	in = Inspection{FiberID: id, Name: o.Name, IdempotencyKey: key, Status: StatusPending,
		Metadata: object(string(o.Metadata)), CreatedAt: now.UnixMilli()}
	_, err = l.insert(&l.fibers, `INSERT INTO cf_agents_fibers (`+fiberColumns+`) VALUES (?, ?, ?, 'pending', NULL, ?, NULL, ?, NULL, NULL)`,
		id, orNull(key), o.Name, orNull(string(in.Metadata)), in.CreatedAt)
	if err != nil {
		return Inspection{}, false, fmt.Errorf("start fiber %q: %w", id, err)
	}
	l.open++
	return in, true, nil
}

// check returns the ID and the key to use.
func (o StartOptions) check() (id, key string, err error) {
	id = o.NewID
	if o.ID != nil {
		id = *o.ID
		if strings.TrimSpace(id) == "" {
			return "", "", &agent.Error{Kind: agent.Invalid, Msg: "fiberId must not be blank"}
		}
	}
	if o.Key != nil {
		key = *o.Key
		if strings.TrimSpace(key) == "" {
			return "", "", &agent.Error{Kind: agent.Invalid, Msg: "idempotencyKey must not be blank"}
		}
	}
	if err := checkIDAndName("start fiber", id, o.Name); err != nil {
		return "", "", err
	}
	if len(key) > MaxIDBytes {
		return "", "", refusal("start fiber", agent.Invalid, "the idempotency key has %d bytes; at most %d are allowed", len(key), MaxIDBytes)
	}
	return id, key, checkMetadata("start fiber", o.Metadata)
}

func checkMetadata(op string, metadata json.RawMessage) error {
	switch {
	case len(metadata) == 0 || string(metadata) == "null":
		return nil
	case len(metadata) > MaxMetadataBytes:
		return refusal(op, agent.TooLarge, "the metadata has %d bytes as JSON; at most %d are allowed", len(metadata), MaxMetadataBytes)
	case object(string(metadata)) == nil:
		return refusal(op, agent.Invalid, "metadata must be a JSON object, not %.60q", metadata)
	}
	return nil
}

// MarkRunning flips a pending fiber to running. Any other status is left alone and
// reported as false: a fiber cancelled before it ran must not be run.
func (l *Ledger) MarkRunning(id string, now time.Time) (bool, error) {
	n, err := l.update(`UPDATE cf_agents_fibers SET status = 'running', started_at = ?
		WHERE fiber_id = ? AND status = 'pending'`, now.UnixMilli(), id)
	return n > 0, err
}

// Settle records how a running fiber ended. It reports false and changes nothing
// when the status is not running any more: a cancel wins. Finish is a second call,
// in the same turn.
func (l *Ledger) Settle(id string, o Outcome, now time.Time) (bool, error) {
	switch o.Status {
	case StatusCompleted:
		o.Message = ""
	case StatusError, StatusAborted:
	default:
		return false, refusal("settle fiber", agent.Invalid, "a run ends as completed, error or aborted, not as %q", o.Status)
	}
	n, err := l.update(`UPDATE cf_agents_fibers SET status = ?, error_message = ?, completed_at = ?
		WHERE fiber_id = ? AND status = 'running'`, string(o.Status), message(o.Message), now.UnixMilli(), id)
	l.open = max(0, l.open-n)
	return n > 0, err
}

// Refuse records that an accepted fiber could not be started: pending or running
// becomes error with the reason. Any other status is left alone and reported as
// false.
func (l *Ledger) Refuse(id, reason string, now time.Time) (bool, error) {
	return l.end(id, StatusError, reason, now)
}

// Cancel settles a pending or running fiber as aborted. It reports false for one
// that is unknown or settled. An empty reason is none. The run row stays until
// Finish, or until the next scan drops it without calling the hook.
func (l *Ledger) Cancel(id, reason string, now time.Time) (bool, error) {
	return l.end(id, StatusAborted, reason, now)
}

// CancelByKey is Cancel for the fiber of an idempotency key; id is empty when there
// is none.
func (l *Ledger) CancelByKey(key, reason string, now time.Time) (id string, cancelled bool, err error) {
	in, found, err := l.InspectByKey(key)
	if err != nil || !found {
		return "", false, err
	}
	cancelled, err = l.Cancel(in.FiberID, reason, now)
	return in.FiberID, cancelled, err
}

func (l *Ledger) end(id string, status Status, reason string, now time.Time) (bool, error) {
	n, err := l.update(`UPDATE cf_agents_fibers SET status = ?, error_message = ?, completed_at = ?
		WHERE fiber_id = ? AND status IN ('pending', 'running')`, string(status), message(reason), now.UnixMilli(), id)
	l.open = max(0, l.open-n)
	return n > 0, err
}

// update changes existing rows; without the table there are none.
func (l *Ledger) update(text string, args ...storage.Value) (int64, error) {
	n, err := l.on(&l.fibers, nil, text, args...)
	if err != nil {
		return 0, fmt.Errorf("update fiber: %w", err)
	}
	return n, nil
}

// object returns s as JSON if it is an object, otherwise nil.
func object(s string) json.RawMessage {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "{") || !json.Valid([]byte(s)) {
		return nil
	}
	return json.RawMessage(s)
}

// message is an error_message column: cut to MaxErrorBytes between two characters.
func message(s string) storage.Value {
	if len(s) > MaxErrorBytes {
		end := MaxErrorBytes
		for end > MaxErrorBytes-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	return orNull(s)
}
