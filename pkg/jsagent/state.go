package jsagent

import (
	"fmt"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Topics of Loop.Publish.
const (
	TopicState     = "state"     // data is the new state as JSON
	TopicBroadcast = "broadcast" // data is what broadcast() was given
)

// maxStateBytes leaves room for the key in a row.
const maxStateBytes = storage.MaxRowBytes - 4096

const (
	createState = `CREATE TABLE IF NOT EXISTS cf_agents_state (id TEXT PRIMARY KEY NOT NULL, state TEXT)`
	readState   = `SELECT state FROM cf_agents_state WHERE id = 'cf_state_row_id'`
	writeState  = `INSERT OR REPLACE INTO cf_agents_state (id, state) VALUES ('cf_state_row_id', ?)`
	dropState   = `DELETE FROM cf_agents_state WHERE id = 'cf_state_row_id'`
)

var stateFuncs = map[string]hostFunc{
	"stateRead":   (*instance).hostStateRead,
	"stateWrite":  (*instance).hostStateWrite,
	"stateDelete": (*instance).hostStateDelete,
	"broadcast":   (*instance).hostBroadcast,
}

// hostStateRead gives the row's text, null for a row without one, undefined for no
// row.
func (in *instance) hostStateRead(goja.FunctionCall) goja.Value {
	if !in.tables["cf_agents_state"] {
		return goja.Undefined()
	}
	v, found, err := in.queryOne(readState)
	if err != nil {
		in.throw(err)
	}
	if !found {
		return goja.Undefined()
	}
	return in.fromSQL(v)
}

// hostStateWrite persists a state before anything remembers it, so that a value
// without a JSON form changes nothing.
func (in *instance) hostStateWrite(call goja.FunctionCall) goja.Value {
	raw, err := in.iso.ToJSON(call.Argument(0))
	switch {
	case err != nil:
		in.throw(in.jsonError("the state", err))
	case raw == nil:
		in.throw(&agent.Error{Kind: agent.Unserializable, Name: "TypeError", Msg: "the state has no JSON form: it is undefined"})
	case len(raw) > maxStateBytes:
		in.throw(&agent.Error{Kind: agent.TooLarge, Msg: fmt.Sprintf("the state has %d bytes as JSON; at most %d are allowed: keep large data in SQL or files", len(raw), maxStateBytes)})
	}
	if err := in.ensure("cf_agents_state", createState); err != nil {
		in.throw(err)
	}
	if err := in.run(writeState, string(raw)); err != nil {
		in.throw(err)
	}
	in.loop.Publish(TopicState, raw)
	return goja.Undefined()
}

func (in *instance) hostStateDelete(goja.FunctionCall) goja.Value {
	if err := in.run(dropState); err != nil {
		in.throw(err)
	}
	return goja.Undefined()
}

// hostBroadcast publishes a message. Until agents have sockets nobody receives it.
func (in *instance) hostBroadcast(call goja.FunctionCall) goja.Value {
	v := call.Argument(0)
	if data, ok := bytesOf(v); ok {
		in.loop.Publish(TopicBroadcast, append([]byte(nil), data...))
	} else {
		in.loop.Publish(TopicBroadcast, []byte(v.String()))
	}
	return goja.Undefined()
}

// openRows finds out which tables of ours exist and reads the alarm.
func (in *instance) openRows() error {
	in.tables = make(map[string]bool, 4)
	rows, err := in.db().Query(`SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('cf_agents_state', 'agentd_kv', 'agentd_alarm')`)
	if err != nil {
		return err
	}
	_, err = rows.Each(func(row []storage.Value) error {
		name, _ := row[0].(string)
		in.tables[name] = true
		return nil
	})
	if err != nil {
		return err
	}
	return in.readAlarm()
}

// ensure creates one of our tables before its first write: an agent that only reads
// has no file.
func (in *instance) ensure(table, create string) error {
	if in.tables[table] {
		return nil
	}
	if err := in.run(create); err != nil {
		return err
	}
	in.tables[table] = true
	return nil
}

// run executes a statement of ours whose rows do not matter.
func (in *instance) run(query string, args ...storage.Value) error {
	rows, err := in.db().Query(query, args...)
	if err != nil {
		return err
	}
	return rows.Close()
}

// queryOne reads the first column of the first row.
func (in *instance) queryOne(query string, args ...storage.Value) (v storage.Value, found bool, err error) {
	rows, err := in.db().Query(query, args...)
	if err != nil {
		return nil, false, err
	}
	_, err = rows.Each(func(row []storage.Value) error {
		if !found {
			v, found = row[0], true
		}
		return nil
	})
	return v, found, err
}
