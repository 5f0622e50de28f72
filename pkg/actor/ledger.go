package actor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// The ledger's table. An outcome over partBytes takes several rows, since a row
// may not be larger than storage.MaxRowBytes. Rows are written in order of time,
// so the oldest have the lowest numbers and no index on created_at is needed.
const (
	ledgerSchema = `CREATE TABLE IF NOT EXISTS agentd_calls (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, part INTEGER NOT NULL, hash BLOB NOT NULL,
  outcome BLOB NOT NULL, created_at INTEGER NOT NULL, UNIQUE (key, part))`
	ledgerSelect = `SELECT hash, outcome, created_at FROM agentd_calls WHERE key = ? ORDER BY part`
	ledgerInsert = `INSERT INTO agentd_calls (key, part, hash, outcome, created_at) VALUES (?, ?, ?, ?, ?)`
	ledgerDelete = `DELETE FROM agentd_calls WHERE key = ?`
	ledgerPurge  = `DELETE FROM agentd_calls WHERE created_at <= ? AND id IN (SELECT id FROM agentd_calls ORDER BY id LIMIT 32)`

	partBytes  = 1 << 20
	purgeRows  = 32 // as in ledgerPurge
	purgeEvery = time.Minute

	// keyLife is how long an outcome is kept.
	keyLife = 24 * time.Hour
)

// ledger remembers the outcomes of calls with an idempotency key, in the agent's
// own database and in the transaction of their effects. The loop owns it.
type ledger struct {
	open  map[string]*letter // calls with a key that are under way
	ready bool               // the table exists
	purge time.Time          // not before
}

// lookup finds the stored outcome of l's key. A key that was used for another
// call is an error of kind Conflict.
func (g *ledger) lookup(db storage.DB, l *letter, now time.Time) (out outcome, found bool, err error) {
	if !g.ready {
		if _, err := exec(db, ledgerSchema); err != nil {
			return outcome{}, false, err
		}
		g.ready = true
	}
	rows, err := db.Query(ledgerSelect, l.call.Key)
	if err != nil {
		return outcome{}, false, err
	}
	defer rows.Close() // only read: its error is that of Next
	var stored []byte
	var row [3]storage.Value
	for {
		if err := rows.Next(row[:]); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return outcome{}, false, err
		}
		hash, part, created := asBytes(row[0]), asBytes(row[1]), asInt(row[2])
		if created <= now.Add(-keyLife).UnixMilli() {
			continue
		}
		if !bytes.Equal(hash, l.keyed.hash[:]) {
			return outcome{}, false, errKeyReused(l)
		}
		found = true
		stored = append(stored, part...)
	}
	if !found {
		return outcome{}, false, nil
	}
	out, err = decodeOutcome(l.call.Agent, stored)
	return out, true, err
}

// enter notes that the call is under way and that its outcome is to be recorded.
func (g *ledger) enter(l *letter) {
	if g.open == nil {
		g.open = make(map[string]*letter)
	}
	g.open[l.call.Key] = l
}

// record writes the outcomes of the calls that were answered in this turn.
func (g *ledger) record(db storage.DB, outputs []output, now time.Time) error {
	if len(g.open) == 0 {
		return nil
	}
	for k := range outputs {
		l := outputs[k].letter
		if l == nil || l.keyed == nil || g.open[l.call.Key] != l {
			continue
		}
		delete(g.open, l.call.Key)
		if err := g.write(db, l, now); err != nil {
			return err
		}
	}
	return nil
}

func (g *ledger) write(db storage.DB, l *letter, now time.Time) error {
	if !lasting(l.outcome.err) {
		return nil
	}
	stored, err := encodeOutcome(l.outcome)
	if err != nil {
		return &agent.Error{Op: l.label(), Agent: l.call.Agent, Kind: agent.Unserializable, Msg: "the result is not JSON", Err: err}
	}
	if _, err := exec(db, ledgerDelete, l.call.Key); err != nil { // an expired one
		return err
	}
	for part := 0; part == 0 || len(stored) > 0; part++ {
		n := min(len(stored), partBytes)
		if _, err := exec(db, ledgerInsert, l.call.Key, part, l.keyed.hash[:], stored[:n], now.UnixMilli()); err != nil {
			return err
		}
		stored = stored[n:]
	}
	if now.Before(g.purge) {
		return nil
	}
	removed, err := exec(db, ledgerPurge, now.Add(-keyLife).UnixMilli())
	if err == nil && removed < purgeRows {
		g.purge = now.Add(purgeEvery)
	}
	return err
}

// lasting says whether a retry must get this outcome again: the method ran, with
// whatever effects, and came to its end.
func lasting(err error) bool {
	if err == nil {
		return true
	}
	switch agent.KindOf(err) {
	case agent.Exception, agent.SQL, agent.Unserializable, agent.TooLarge:
		return true
	}
	return false
}

// storedOutcome is an outcome in JSON. A result without value is undefined.
type storedOutcome struct {
	Value json.RawMessage `json:"value,omitempty"`
	Error *storedError    `json:"error,omitempty"`
}

type storedError struct {
	Kind  string `json:"kind"`
	Op    string `json:"op,omitempty"`
	Msg   string `json:"msg,omitempty"`
	Name  string `json:"name,omitempty"`
	Stack string `json:"stack,omitempty"`
}

func encodeOutcome(out outcome) ([]byte, error) {
	var s storedOutcome
	var e *agent.Error
	switch {
	case out.err == nil:
		s.Value = out.result.Value
	case errors.As(out.err, &e):
		s.Error = &storedError{Kind: e.Kind.String(), Op: e.Op, Msg: e.Msg, Name: e.Name, Stack: e.Stack}
		if e.Msg == "" && e.Err != nil {
			s.Error.Msg = e.Err.Error()
		}
	default:
		s.Error = &storedError{Kind: agent.KindOf(out.err).String(), Msg: out.err.Error()}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(s)
	return b.Bytes(), err
}

func decodeOutcome(id agent.ID, stored []byte) (outcome, error) {
	var s storedOutcome
	if err := json.Unmarshal(stored, &s); err != nil {
		return outcome{}, &agent.Error{Op: "read the stored outcome of a call to", Agent: id, Kind: agent.Corrupt,
			Msg: "it is damaged; use a new idempotency key", Err: err}
	}
	if s.Error == nil {
		return outcome{result: agent.Result{Value: s.Value}}, nil
	}
	return outcome{err: &agent.Error{Op: s.Error.Op, Agent: id, Kind: agent.ParseKind(s.Error.Kind),
		Msg: s.Error.Msg, Name: s.Error.Name, Stack: s.Error.Stack}}, nil
}

// exec runs a statement to its end and says how many rows it changed.
func exec(db storage.DB, query string, args ...storage.Value) (changed int64, err error) {
	rows, err := db.Query(query, args...)
	if err != nil {
		return 0, err
	}
	if err := rows.Close(); err != nil {
		return 0, err
	}
	return rows.Changes(), nil
}

func asBytes(v storage.Value) []byte {
	switch v := v.(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}

func asInt(v storage.Value) int64 {
	n, _ := v.(int64) // anything else is not ours and counts as expired
	return n
}

func errKeyReused(l *letter) error {
	return &agent.Error{Op: l.label(), Agent: l.call.Agent, Kind: agent.Conflict,
		Msg: fmt.Sprintf("the idempotency key %.80q was used for another call within 24 h; a key belongs to one method with one set of arguments", l.call.Key)}
}
