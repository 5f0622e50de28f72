package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"agentd/pkg/client"
)

type sqlCommand struct {
	onAgent
	Query string   `arg:"" help:"One or more statements; ? stands for an argument."`
	Args  []string `arg:"" optional:"" name:"arg" help:"Values for the ?s, each one JSON value: 5, '\"text\"', null."`
	connection
}

// Run executes the statements and prints the rows of the last: a table on a
// terminal, tab-separated lines otherwise.
func (c *sqlCommand) Run(ctx context.Context, s *session) error {
	args := make([]any, len(c.Args))
	for i, arg := range c.Args {
		value, err := parseScalar(fmt.Sprintf("argument %d", i+1), arg)
		if err != nil {
			return err
		}
		args[i] = value
	}
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		t, err := c.of(cl).Query(ctx, c.Query, args...)
		if err != nil {
			return err
		}
		return s.printRows(t)
	})
}

// parseScalar reads a JSON value that SQLite has a type for. Whole numbers keep all
// their digits.
func parseScalar(what, arg string) (any, error) {
	text, err := parseJSON(what, arg)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	switch v := value.(type) {
	case nil, bool, string:
		return v, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, &usageError{msg: fmt.Sprintf("%s is too large a number: %s", what, shorten(arg))}
		}
		return f, nil
	}
	return nil, &usageError{msg: fmt.Sprintf("%s is an array or an object, for which SQL has no type; pass it as text: %s",
		what, shorten(shellQuote(jsonString(string(text)))))}
}

// rowsJSON is an answer as --json prints it. A blob is base64 text, an infinite
// number the text +Inf or -Inf.
type rowsJSON struct {
	Columns   []string `json:"columns"`
	Rows      [][]any  `json:"rows"`
	Truncated bool     `json:"truncated"`
}

func (s *session) printRows(t *client.Table) error {
	if s.json {
		rows := orEmpty(t.Rows)
		for _, row := range rows {
			for i, value := range row {
				if f, ok := value.(float64); ok && (math.IsInf(f, 0) || math.IsNaN(f)) {
					row[i] = cell(f, "") // JSON has no number for it
				}
			}
		}
		return s.printValue(rowsJSON{Columns: orEmpty(t.Columns), Rows: rows, Truncated: t.Truncated})
	}
	if len(t.Columns) > 0 {
		print := printTabSeparated
		if s.StdoutTTY {
			print = printTable
		}
		if err := print(s.Stdout, t); err != nil {
			return err
		}
	}
	if t.Truncated {
		fmt.Fprintf(s.Stderr, "agentd: these are the first %d rows; there are more: add LIMIT and OFFSET to the query\n", len(t.Rows))
	}
	return nil
}

func printTable(w io.Writer, t *client.Table) error {
	out := newTable(w, t.Columns...)
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for i, value := range row {
			cells[i] = cell(value, "NULL")
		}
		out.row(cells...)
	}
	return out.flush()
}

// printTabSeparated loses nothing: \N is NULL, and tab, line ends and backslash
// inside a text are written as \t, \n, \r and \\.
func printTabSeparated(w io.Writer, t *client.Table) error {
	escape := strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`)
	line := func(cells []string) error {
		_, err := io.WriteString(w, strings.Join(cells, "\t")+"\n")
		return err
	}
	header := make([]string, len(t.Columns))
	for i, name := range t.Columns {
		header[i] = escape.Replace(name)
	}
	if err := line(header); err != nil {
		return err
	}
	for _, row := range t.Rows {
		cells := make([]string, len(row))
		for i, value := range row {
			if value == nil {
				cells[i] = `\N`
				continue
			}
			cells[i] = escape.Replace(cell(value, ""))
		}
		if err := line(cells); err != nil {
			return err
		}
	}
	return nil
}

// cell is the text of one value; blobs are hexadecimal, as SQLite writes them.
func cell(value any, null string) string {
	switch v := value.(type) {
	case nil:
		return null
	case string:
		return v
	case float64:
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(text, ".eIN") {
			text += ".0" // a real number, as SQLite shows it
		}
		return text
	case []byte:
		return "x'" + hex.EncodeToString(v) + "'"
	}
	return fmt.Sprint(value)
}
