package jsagent

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// maxRowsBytes bounds the rows that one statement may bring into memory.
const maxRowsBytes = 32 << 20

var sqlFuncs = map[string]hostFunc{
	"sqlRows":      (*instance).hostSQLRows,
	"sqlExec":      (*instance).hostSQLExec,
	"databaseSize": (*instance).hostDatabaseSize,
}

// answer is a statement's rows, read to the end: another statement may run while
// the caller looks at them.
type answer struct {
	columns []string
	rows    [][]storage.Value
	written int64
}

// hostSQLRows is the sql tag: rows as objects; errors are SqlError.
func (in *instance) hostSQLRows(call goja.FunctionCall) goja.Value {
	query := call.Argument(0).String()
	a, err := in.query(query, in.list(call.Argument(1)))
	if err != nil {
		in.throwSQL(query, err)
	}
	out := make([]any, len(a.rows))
	for i, row := range a.rows {
		o := in.vm.NewObject()
		for k, name := range a.columns {
			if err := o.Set(name, in.fromSQL(row[k])); err != nil {
				in.throw(err)
			}
		}
		out[i] = o
	}
	return in.vm.NewArray(out...)
}

// hostSQLExec is storage.sql.exec: the data of a cursor.
func (in *instance) hostSQLExec(call goja.FunctionCall) goja.Value {
	a, err := in.query(call.Argument(0).String(), in.list(call.Argument(1)))
	if err != nil {
		in.throw(err)
	}
	rows := make([]any, len(a.rows))
	for i, row := range a.rows {
		values := make([]any, len(row))
		for k, v := range row {
			values[k] = in.fromSQL(v)
		}
		rows[i] = in.vm.NewArray(values...)
	}
	columns := make([]any, len(a.columns))
	for k, name := range a.columns {
		columns[k] = name
	}
	data := in.vm.NewObject()
	for _, f := range []struct {
		key   string
		value any
	}{{"columns", in.vm.NewArray(columns...)}, {"rows", in.vm.NewArray(rows...)}, {"written", a.written}} {
		if err := data.Set(f.key, f.value); err != nil {
			in.throw(err)
		}
	}
	return data
}

func (in *instance) hostDatabaseSize(goja.FunctionCall) goja.Value {
	return in.vm.ToValue(in.db().SizeBytes())
}

// list is the elements of an array that the glue made.
func (in *instance) list(v goja.Value) []goja.Value {
	var values []goja.Value
	if err := in.vm.ExportTo(v, &values); err != nil {
		in.throw(err)
	}
	return values
}

// query runs a statement of the agent's own.
func (in *instance) query(query string, bindings []goja.Value) (answer, error) {
	if err := in.checkTransaction(); err != nil {
		return answer{}, err
	}
	args := make([]storage.Value, len(bindings))
	for i, v := range bindings {
		arg, err := toSQL(v)
		if err != nil {
			return answer{}, invalid("", "parameter %d of the statement %s: use a string, number, boolean, null or ArrayBuffer", i+1, err)
		}
		args[i] = arg
	}
	rows, err := in.db().UserQuery(query, args...)
	if err != nil {
		return answer{}, err
	}
	a, err := readAll(rows)
	if err == nil && touchesOurs(query) {
		err = in.reload()
	}
	return a, err
}

// touchesOurs says whether a statement may have changed rows that are cached.
func touchesOurs(query string) bool {
	if !strings.Contains(query, "cf_agents_") && !strings.Contains(strings.ToLower(query), "cf_agents_") {
		return false
	}
	text := strings.TrimLeft(query, " \t\r\n(")
	return len(text) < 6 || !strings.EqualFold(text[:6], "select") || strings.Contains(text, ";")
}

func readAll(rows *storage.Rows) (answer, error) {
	a := answer{columns: rows.Columns}
	size := 0
	_, err := rows.Each(func(row []storage.Value) error {
		for _, v := range row {
			size += sizeOf(v)
		}
		if size > maxRowsBytes {
			return &agent.Error{Kind: agent.TooLarge, Msg: fmt.Sprintf("the statement's rows have more than %d bytes: add LIMIT", maxRowsBytes)}
		}
		a.rows = append(a.rows, append([]storage.Value(nil), row...))
		return nil
	})
	if err == nil && rows.Changes != nil {
		a.written = rows.Changes()
	}
	return a, err
}

// sizeOf estimates what a column costs in memory.
func sizeOf(v storage.Value) int {
	switch v := v.(type) {
	case string:
		return 32 + len(v)
	case []byte:
		return 64 + len(v)
	}
	return 16
}

// throwSQL raises the SDK's SqlError with the query and its cause.
func (in *instance) throwSQL(query string, err error) {
	cause := in.errorValue(err)
	known := &agent.Error{Kind: agent.SQL}
	errors.As(err, &known)
	kind := known.Kind
	if kind == agent.Invalid {
		kind = agent.SQL
	}
	o := in.iso.ErrorValue(&agent.Error{Kind: kind, Name: "SqlError", Msg: "SQL query failed: " + cause.Get("message").String(), Err: err})
	class := in.partNow("sdk").Get("exports").ToObject(in.vm).Get("SqlError").ToObject(in.vm)
	if err := o.SetPrototype(class.Get("prototype").ToObject(in.vm)); err != nil {
		panic(err)
	}
	o.DefineDataProperty("query", in.vm.ToValue(query), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_TRUE)
	o.DefineDataProperty("cause", cause, goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_FALSE)
	panic(o)
}

// maxExact is the greatest integer up to which every integer is a JavaScript number.
const maxExact = 1 << 53

// toSQL converts a bound parameter. Whole numbers become integers, as programs
// expect of ids and counts.
func toSQL(v goja.Value) (storage.Value, error) {
	if v == nil || goja.IsUndefined(v) || goja.IsNull(v) {
		return nil, nil
	}
	if b, ok := bytesOf(v); ok {
		return append([]byte{}, b...), nil
	}
	if o, ok := v.(*goja.Object); ok {
		if _, ok := goja.AssertFunction(o); ok {
			return nil, errors.New("is a function")
		}
		return nil, errors.New("is an object")
	}
	switch x := v.Export().(type) {
	case string:
		return v.String(), nil
	case bool:
		if x {
			return int64(1), nil
		}
		return int64(0), nil
	case int64:
		return x, nil
	case float64:
		if x == math.Trunc(x) && math.Abs(x) <= maxExact {
			return int64(x), nil
		}
		return x, nil
	case *big.Int:
		if x.IsInt64() {
			return x.Int64(), nil
		}
		return nil, errors.New("is a bigint of more than 64 bits")
	}
	return nil, errors.New("is a symbol")
}

var bufferType = reflect.TypeFor[goja.ArrayBuffer]()

// bytesOf is the content of an ArrayBuffer or a view of one, not copied.
func bytesOf(v goja.Value) ([]byte, bool) {
	o, ok := v.(*goja.Object)
	if !ok {
		return nil, false
	}
	if o.ExportType() == bufferType {
		return o.Export().(goja.ArrayBuffer).Bytes(), true
	}
	if viewName(o) == "" {
		return nil, false
	}
	buffer, ok := o.Get("buffer").Export().(goja.ArrayBuffer)
	from, n := o.Get("byteOffset").ToInteger(), o.Get("byteLength").ToInteger()
	if !ok || buffer.Detached() || from < 0 || n < 0 || from+n > int64(len(buffer.Bytes())) {
		return nil, false
	}
	return buffer.Bytes()[from : from+n], true
}

// viewNames are the views of an ArrayBuffer.
var viewNames = []string{"Uint8Array", "Int8Array", "Uint8ClampedArray", "Uint16Array", "Int16Array", "Uint32Array", "Int32Array",
	"Float32Array", "Float64Array", "BigInt64Array", "BigUint64Array", "DataView"}

// viewName is the class of a view, or "". Only real views have a native buffer.
func viewName(o *goja.Object) string {
	switch o.ExportType().Kind() {
	case reflect.Slice, reflect.Struct, reflect.Interface, reflect.Pointer:
	default:
		return ""
	}
	tag := o.GetSymbol(goja.SymToStringTag)
	if tag == nil || !slices.Contains(viewNames, tag.String()) {
		return ""
	}
	buffer, ok := o.Get("buffer").(*goja.Object)
	if !ok || buffer.ExportType() != bufferType {
		return ""
	}
	return tag.String()
}

// fromSQL converts a column. Integers past 2^53 lose their last digits, as in
// Durable Objects: CAST them AS TEXT to keep them.
func (in *instance) fromSQL(v storage.Value) goja.Value {
	switch v := v.(type) {
	case nil:
		return goja.Null()
	case []byte:
		return in.vm.ToValue(in.vm.NewArrayBuffer(v))
	}
	return in.vm.ToValue(v)
}
