package fiber

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Delete forgets settled fibers, those settled first, and returns how many. Their
// run rows go with them: a cancelled fiber that is still under way must not turn
// into an unmanaged one to be recovered.
func (l *Ledger) Delete(o DeleteOptions) (int, error) {
	statuses := o.Statuses
	if len(statuses) == 0 {
		statuses = []Status{StatusCompleted, StatusAborted, StatusError}
	}
	limit := clamp(o.Limit, DefaultDeleteLimit, MaxDeleteLimit)
	before := storage.Value(nil)
	if o.SettledBefore != 0 {
		before = o.SettledBefore
	}
	var found []position
	for _, status := range unique(statuses) {
		if !status.Terminal() {
			continue
		}
		some, err := l.positions(`SELECT fiber_id, COALESCE(completed_at, 0), created_at FROM cf_agents_fibers
			WHERE status = ? AND (? IS NULL OR completed_at < ?)
			ORDER BY completed_at, created_at LIMIT ?`, string(status), before, before, limit)
		if err != nil {
			return 0, err
		}
		found = append(found, some...)
	}
	slices.SortStableFunc(found, func(a, b position) int {
		return cmp.Or(cmp.Compare(a.major, b.major), cmp.Compare(a.minor, b.minor))
	})
	found = found[:min(len(found), limit)]
	for _, p := range found {
		if _, err := l.update(`DELETE FROM cf_agents_fibers WHERE fiber_id = ?`, p.id); err != nil {
			return 0, err
		}
		if err := l.Finish(p.id); err != nil {
			return 0, err
		}
	}
	return len(found), nil
}

// List returns managed fibers, newest first. More than MaxListBytes is an error of
// kind TooLarge.
func (l *Ledger) List(o ListOptions) ([]Inspection, error) {
	statuses := o.Statuses
	if len(statuses) == 0 {
		statuses = []Status{StatusPending, StatusRunning, StatusCompleted, StatusAborted, StatusInterrupted, StatusError}
	}
	limit := clamp(o.Limit, DefaultListLimit, MaxListLimit)
	var found []position
	for _, status := range unique(statuses) {
		some, err := l.positions(`SELECT fiber_id, created_at, 0 FROM cf_agents_fibers
			WHERE status = ? AND (? IS NULL OR name = ?)
			ORDER BY created_at DESC, fiber_id DESC LIMIT ?`, string(status), orNull(o.Name), orNull(o.Name), limit)
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	slices.SortFunc(found, func(a, b position) int {
		return cmp.Or(cmp.Compare(b.major, a.major), cmp.Compare(b.id, a.id))
	})
	found = found[:min(len(found), limit)]
	list := make([]Inspection, 0, len(found))
	size := 0
	for _, p := range found {
		in, ok, err := l.Inspect(p.id)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if size += len(in.Snapshot) + len(in.Metadata); size > MaxListBytes {
			return nil, refusal("list fibers", agent.TooLarge, "the first %d of %d fibers hold more than %d bytes; list fewer with limit",
				len(list)+1, len(found), MaxListBytes)
		}
		list = append(list, in)
	}
	return list, nil
}

// Inspect returns the managed fiber of an ID; found is false if there is none.
func (l *Ledger) Inspect(id string) (in Inspection, found bool, err error) {
	return l.one(`SELECT `+fiberColumns+` FROM cf_agents_fibers WHERE fiber_id = ?`, id)
}

// InspectByKey returns the managed fiber of an idempotency key; no fiber has the
// empty one.
func (l *Ledger) InspectByKey(key string) (in Inspection, found bool, err error) {
	if key == "" {
		return Inspection{}, false, nil
	}
	return l.one(`SELECT `+fiberColumns+` FROM cf_agents_fibers WHERE idempotency_key = ?`, key)
}

func (l *Ledger) one(text string, arg string) (in Inspection, found bool, err error) {
	_, err = l.on(&l.fibers, func(row []storage.Value) error {
		in, found = inspection(row), true
		return nil
	}, text, arg)
	if err != nil {
		return Inspection{}, false, fmt.Errorf("read fiber %q: %w", arg, err)
	}
	return in, found, nil
}

// position is a fiber's place in an order, without its data.
type position struct {
	id           string
	major, minor int64
}

func (l *Ledger) positions(text string, args ...storage.Value) ([]position, error) {
	var found []position
	_, err := l.on(&l.fibers, func(row []storage.Value) error {
		found = append(found, position{id: asText(row[0]), major: whole(row[1]), minor: whole(row[2])})
		return nil
	}, text, args...)
	if err != nil {
		return nil, fmt.Errorf("list fibers: %w", err)
	}
	return found, nil
}

// inspection reads a row of fiberColumns. Columns that hold no JSON, because the
// agent's own SQL wrote them, are left out.
func inspection(row []storage.Value) Inspection {
	in := Inspection{
		FiberID:        asText(row[0]),
		IdempotencyKey: asText(row[1]),
		Name:           asText(row[2]),
		Status:         Status(asText(row[3])),
		Metadata:       object(asText(row[5])),
		Error:          asText(row[6]),
		CreatedAt:      whole(row[7]),
		StartedAt:      whole(row[8]),
		SettledAt:      whole(row[9]),
	}
	if snapshot := asText(row[4]); json.Valid([]byte(snapshot)) {
		in.Snapshot = json.RawMessage(snapshot)
	}
	return in
}

func clamp(n, zero, most int) int {
	if n == 0 {
		return zero
	}
	return min(max(n, 1), most)
}

func unique(statuses []Status) []Status {
	statuses = slices.Clone(statuses)
	slices.Sort(statuses)
	return slices.Compact(statuses)
}
