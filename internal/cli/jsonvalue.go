package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// parseJSON checks that an argument is one JSON value. The most common mistake is
// a string whose quotes the shell took away.
func parseJSON(what, arg string) (json.RawMessage, error) {
	trimmed := strings.TrimSpace(arg)
	if trimmed != "" && json.Valid([]byte(trimmed)) {
		return json.RawMessage(trimmed), nil
	}
	if trimmed == "" {
		return nil, &usageError{msg: what + ` is empty; write null, or '""' for an empty string`}
	}
	if strings.ContainsAny(trimmed[:1], `{["`) {
		return nil, &usageError{msg: fmt.Sprintf("%s is not JSON: %s: %v; put single quotes around it so that the shell leaves it alone",
			what, shorten(trimmed), syntaxError(trimmed))}
	}
	return nil, &usageError{msg: fmt.Sprintf("%s is not JSON: %s; for a string write %s", what, shorten(trimmed), shorten(shellQuote(jsonString(trimmed))))}
}

func syntaxError(text string) error {
	var v any
	return json.Unmarshal([]byte(text), &v)
}

// jsonString is text as a JSON string.
func jsonString(text string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(text); err != nil {
		return strconv.Quote(text) // cannot happen: every string has a JSON form
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// shellQuote makes text one word for a POSIX shell.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// shorten keeps an error message on a screen.
func shorten(text string) string {
	const most = 120
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// printJSON prints a value that a server sent, digits and key order untouched:
// for a reader on a terminal, in one line otherwise.
func (s *session) printJSON(value json.RawMessage) error {
	if len(value) == 0 {
		value = json.RawMessage("null") // undefined has no JSON form
	}
	var b bytes.Buffer
	var err error
	if s.StdoutTTY && !s.json {
		err = json.Indent(&b, value, "", "  ")
	} else {
		err = json.Compact(&b, value)
	}
	if err != nil {
		return fmt.Errorf("the server sent a value that is not JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err = s.Stdout.Write(b.Bytes())
	return err
}

// printValue prints one of our own values as a line of JSON.
func (s *session) printValue(v any) error {
	e := json.NewEncoder(s.Stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
