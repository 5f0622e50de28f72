package jsagent

import (
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// maxKeyBytes bounds a key, in bytes of UTF-8.
const maxKeyBytes = 2048

const (
	createKV = `CREATE TABLE IF NOT EXISTS agentd_kv (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID`
	getKV    = `SELECT value FROM agentd_kv WHERE key = ?`
	putKV    = `INSERT OR REPLACE INTO agentd_kv (key, value) VALUES (?, ?)`
	deleteKV = `DELETE FROM agentd_kv WHERE key = ?`
)

var kvFuncs = map[string]hostFunc{
	"kvGet":    func(in *instance, call goja.FunctionCall) goja.Value { return in.must(in.kvGet(call.Argument(0))) },
	"kvPut":    (*instance).hostKVPut,
	"kvPutAll": (*instance).hostKVPutAll,
	"kvDelete": (*instance).hostKVDelete,
	"kvList":   (*instance).hostKVList,
}

// must throws an error in the JavaScript that called.
func (in *instance) must(v goja.Value, err error) goja.Value {
	if err != nil {
		in.throw(err)
	}
	return v
}

// keyOf checks a key.
func keyOf(v goja.Value) (string, error) {
	if v == nil || !goja.IsString(v) {
		return "", invalid("", "a storage key must be a string")
	}
	key := v.String()
	switch {
	case key == "":
		return "", invalid("", "a storage key must not be empty")
	case len(key) > maxKeyBytes:
		return "", invalid("", "the storage key has %d bytes; at most %d are allowed", len(key), maxKeyBytes)
	case !utf8.ValidString(key):
		return "", invalid("", "the storage key is not valid Unicode")
	}
	return key, nil
}

// kvGet is the value of a key, undefined if there is none.
func (in *instance) kvGet(v goja.Value) (goja.Value, error) {
	key, err := keyOf(v)
	if err != nil {
		return nil, err
	}
	if !in.tables["agentd_kv"] {
		return goja.Undefined(), nil
	}
	stored, found, err := in.queryOne(getKV, key)
	if err != nil || !found {
		return goja.Undefined(), err
	}
	return in.stored(key, stored)
}

func (in *instance) stored(key string, v storage.Value) (goja.Value, error) {
	b, _ := v.([]byte)
	out, err := decode(in.vm, b)
	if err != nil {
		return nil, &agent.Error{Kind: agent.Corrupt, Msg: fmt.Sprintf("the value of key %.100q cannot be read", key), Err: err}
	}
	return out, nil
}

func (in *instance) kvPut(k, v goja.Value) error {
	if err := in.checkTransaction(); err != nil {
		return err
	}
	key, err := keyOf(k)
	if err != nil {
		return err
	}
	if goja.IsUndefined(v) {
		return invalid("", "put(%.100q) has no value: use delete to remove a key", key)
	}
	b, err := encode(in.vm, v)
	if err != nil {
		return err
	}
	if len(b) > maxValueBytes {
		return &agent.Error{Kind: agent.TooLarge, Msg: fmt.Sprintf("the value of key %.100q has %d bytes; at most %d are allowed", key, len(b), maxValueBytes)}
	}
	if err := in.ensure("agentd_kv", createKV); err != nil {
		return err
	}
	return in.run(putKV, key, b)
}

func (in *instance) hostKVPut(call goja.FunctionCall) goja.Value {
	return in.must(goja.Undefined(), in.kvPut(call.Argument(0), call.Argument(1)))
}

// hostKVPutAll writes all entries or none.
func (in *instance) hostKVPutAll(call goja.FunctionCall) goja.Value {
	entries := call.Argument(1).ToObject(in.vm)
	had := in.tables["agentd_kv"]
	err := in.db().Savepoint(func() error {
		for _, key := range in.list(call.Argument(0)) {
			if err := in.kvPut(key, entries.Get(key.String())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		in.tables["agentd_kv"] = had
	}
	return in.must(goja.Undefined(), err)
}

func (in *instance) kvDelete(v goja.Value) (bool, error) {
	if err := in.checkTransaction(); err != nil {
		return false, err
	}
	key, err := keyOf(v)
	if err != nil || !in.tables["agentd_kv"] {
		return false, err
	}
	rows, err := in.db().Query(deleteKV, key)
	if err != nil {
		return false, err
	}
	if err := rows.Close(); err != nil {
		return false, err
	}
	return rows.Changes() > 0, nil
}

func (in *instance) hostKVDelete(call goja.FunctionCall) goja.Value {
	deleted, err := in.kvDelete(call.Argument(0))
	return in.must(in.vm.ToValue(deleted), err)
}

// listOptions select keys, in order of their UTF-8 bytes.
type listOptions struct {
	prefix, start, startAfter, end string // end is exclusive; empty for no bound
	reverse                        bool
	limit                          int // 0 for no limit
}

// readListOptions checks list()'s options. Those that choose between consistency
// and speed elsewhere (noCache, allowConcurrency) have nothing to choose here:
// every read is consistent and takes the same time.
func (in *instance) readListOptions(v goja.Value) (o listOptions, err error) {
	if goja.IsUndefined(v) || goja.IsNull(v) {
		return o, nil
	}
	src := v.ToObject(in.vm)
	for _, f := range []struct {
		key  string
		into *string
	}{{"prefix", &o.prefix}, {"start", &o.start}, {"startAfter", &o.startAfter}, {"end", &o.end}} {
		if v := src.Get(f.key); v != nil && !goja.IsUndefined(v) && !goja.IsNull(v) {
			if !goja.IsString(v) {
				return o, invalid("", "list(): option %s must be a string", f.key)
			}
			*f.into = v.String()
		}
	}
	if o.start != "" && o.startAfter != "" {
		return o, invalid("", "list(): use start or startAfter, not both")
	}
	if v := src.Get("reverse"); v != nil {
		o.reverse = v.ToBoolean()
	}
	if v := src.Get("limit"); v != nil && !goja.IsUndefined(v) && !goja.IsNull(v) {
		f := v.ToFloat()
		if !(f > 0) || f != math.Trunc(f) {
			return o, invalid("", "list(): limit must be a positive whole number")
		}
		o.limit = int(min(f, math.MaxInt32))
	}
	return o, nil
}

// statement is the SELECT for the options.
func (o listOptions) statement() (query string, args []storage.Value) {
	query = `SELECT key, value FROM agentd_kv WHERE 1`
	bound := func(clause, value string) {
		if value != "" {
			query += clause
			args = append(args, value)
		}
	}
	bound(` AND key >= ?`, o.start)
	bound(` AND key > ?`, o.startAfter)
	bound(` AND key < ?`, o.end)
	bound(` AND key >= ?`, o.prefix)
	if o.prefix != "" {
		query += ` AND substr(CAST(key AS BLOB), 1, ?) = CAST(? AS BLOB)`
		args = append(args, int64(len(o.prefix)), o.prefix)
		bound(` AND key < ?`, afterPrefix(o.prefix))
	}
	if query += ` ORDER BY key`; o.reverse {
		query += ` DESC`
	}
	if o.limit > 0 {
		query += ` LIMIT ?`
		args = append(args, int64(o.limit))
	}
	return query, args
}

// afterPrefix is a string that follows every string with the prefix: the prefix and
// the greatest code points.
func afterPrefix(prefix string) string {
	return prefix + "\U0010FFFF\U0010FFFF\U0010FFFF\U0010FFFF"
}

// kvList gives entries, at most maxRowsBytes of them.
func (in *instance) kvList(o listOptions, fn func(key string, v goja.Value) error) error {
	if !in.tables["agentd_kv"] {
		return nil
	}
	query, args := o.statement()
	rows, err := in.db().Query(query, args...)
	if err != nil {
		return err
	}
	a, err := readAll(rows)
	if err != nil {
		return err
	}
	for _, row := range a.rows {
		key, _ := row[0].(string)
		v, err := in.stored(key, row[1])
		if err != nil {
			return err
		}
		if err := fn(key, v); err != nil {
			return err
		}
	}
	return nil
}

func (in *instance) hostKVList(call goja.FunctionCall) goja.Value {
	o, err := in.readListOptions(call.Argument(0))
	if err != nil {
		in.throw(err)
	}
	var pairs []any
	err = in.kvList(o, func(key string, v goja.Value) error {
		pairs = append(pairs, in.vm.NewArray(key, v))
		return nil
	})
	return in.must(in.vm.NewArray(pairs...), err)
}
