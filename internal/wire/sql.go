package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// blobKey marks a blob in JSON: {"$base64": "…"}.
const blobKey = "$base64"

// QueryCall reads SQL with its parameters.
func QueryCall(req *agentdv1.QueryRequest) (agent.Call, error) {
	switch sql := req.GetSql(); {
	case strings.TrimSpace(sql) == "":
		return agent.Call{}, invalid("the SQL is empty")
	case len(sql) > MaxStatementBytes:
		return agent.Call{}, &agent.Error{Op: "validate request", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("the SQL has %d bytes; at most %d are allowed: pass values as parameters", len(sql), MaxStatementBytes)}
	case len(req.GetArgs()) > MaxSQLArgs:
		return agent.Call{}, invalid("%d SQL parameters; at most %d are allowed", len(req.GetArgs()), MaxSQLArgs)
	}
	rows, err := Limit("max_rows", req.GetMaxRows(), DefaultQueryRows, MaxQueryRows)
	if err != nil {
		return agent.Call{}, err
	}
	args := make([]any, len(req.GetArgs()))
	for i, v := range req.GetArgs() {
		if args[i], err = jsonValue(v); err != nil {
			return agent.Call{}, invalid("SQL parameter %d %s", i+1, err)
		}
	}
	return platformCall(req.GetAgent(), agent.MethodSQLQuery, struct {
		Query   string `json:"query"`
		Args    []any  `json:"args"`
		MaxRows int    `json:"maxRows"`
	}{req.GetSql(), args, rows})
}

func jsonValue(v *agentdv1.SqlValue) (any, error) {
	switch k := v.GetKind().(type) {
	case *agentdv1.SqlValue_Integer:
		return k.Integer, nil
	case *agentdv1.SqlValue_Real:
		if math.IsNaN(k.Real) || math.IsInf(k.Real, 0) {
			return nil, fmt.Errorf("is %v; a number must be finite", k.Real)
		}
		return realNumber(k.Real), nil
	case *agentdv1.SqlValue_Text:
		return k.Text, nil
	case *agentdv1.SqlValue_Blob:
		return map[string]string{blobKey: base64.StdEncoding.EncodeToString(k.Blob)}, nil
	}
	return nil, nil
}

// realNumber keeps the point of a whole REAL, so that 1.0 does not become INTEGER.
func realNumber(f float64) json.RawMessage {
	text := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(text, ".e") {
		text += ".0"
	}
	return json.RawMessage(text)
}

// QueryResponse reads the result of sql.query.
func QueryResponse(result agent.Result) (*agentdv1.QueryResponse, error) {
	var table struct {
		Columns   []string `json:"columns"`
		Rows      [][]any  `json:"rows"`
		Truncated bool     `json:"truncated"`
	}
	if err := decodeResult(agent.MethodSQLQuery, result, &table); err != nil {
		return nil, err
	}
	out := &agentdv1.QueryResponse{Columns: table.Columns, Truncated: table.Truncated, Rows: make([]*agentdv1.SqlRow, len(table.Rows))}
	for i, row := range table.Rows {
		cells := make([]*agentdv1.SqlValue, len(row))
		for j, cell := range row {
			value, err := sqlValue(cell)
			if err != nil {
				return nil, badResult(agent.MethodSQLQuery, fmt.Errorf("row %d, column %d: %w", i+1, j+1, err))
			}
			cells[j] = value
		}
		out.Rows[i] = &agentdv1.SqlRow{Cells: cells}
	}
	return out, nil
}

func sqlValue(cell any) (*agentdv1.SqlValue, error) {
	switch v := cell.(type) {
	case nil:
		return &agentdv1.SqlValue{}, nil
	case string:
		return SQLText(v), nil
	case bool:
		if v {
			return SQLInteger(1), nil
		}
		return SQLInteger(0), nil
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return SQLInteger(n), nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, fmt.Errorf("number %.40s is out of range", v)
		}
		return SQLReal(f), nil
	case map[string]any:
		text, ok := v[blobKey].(string)
		if !ok || len(v) != 1 {
			break
		}
		blob, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("blob: %w", err)
		}
		return SQLBlob(blob), nil
	}
	return nil, fmt.Errorf("a cell cannot be a JSON %T", cell)
}

// SQLInteger is an INTEGER on the wire.
func SQLInteger(n int64) *agentdv1.SqlValue {
	return &agentdv1.SqlValue{Kind: &agentdv1.SqlValue_Integer{Integer: n}}
}

// SQLReal is a REAL on the wire.
func SQLReal(f float64) *agentdv1.SqlValue {
	return &agentdv1.SqlValue{Kind: &agentdv1.SqlValue_Real{Real: f}}
}

// SQLText is TEXT on the wire; s must be valid UTF-8.
func SQLText(s string) *agentdv1.SqlValue {
	return &agentdv1.SqlValue{Kind: &agentdv1.SqlValue_Text{Text: s}}
}

// SQLBlob is a BLOB on the wire.
func SQLBlob(b []byte) *agentdv1.SqlValue {
	return &agentdv1.SqlValue{Kind: &agentdv1.SqlValue_Blob{Blob: b}}
}

// Cell is a value from the wire as Go: nil, int64, float64, string or []byte.
func Cell(v *agentdv1.SqlValue) any {
	switch k := v.GetKind().(type) {
	case *agentdv1.SqlValue_Integer:
		return k.Integer
	case *agentdv1.SqlValue_Real:
		return k.Real
	case *agentdv1.SqlValue_Text:
		return k.Text
	case *agentdv1.SqlValue_Blob:
		return k.Blob
	}
	return nil
}

// decodeResult reads what a platform method returned. The agent's side is ours, so
// a result that does not fit is a defect: kind Internal.
func decodeResult(method string, result agent.Result, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(result.Value))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		return badResult(method, err)
	}
	return nil
}

func badResult(method string, err error) error {
	return &agent.Error{Op: method, Kind: agent.Internal, Msg: "the platform method gave a result of the wrong form", Err: err}
}
