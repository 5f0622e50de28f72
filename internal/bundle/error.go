package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"

	"agentd/pkg/agent"
)

// MaxMessages is how many messages an Error keeps; Dropped counts the rest.
const MaxMessages = 25

// maxLineRunes is how much of a source line is shown; minified code has lines of
// megabytes.
const maxLineRunes = 160

// Message is one complaint about a source file.
type Message struct {
	File     string // relative to the project's folder; "" when it concerns no file
	Line     int    // from 1; 0 when it concerns the whole file
	Column   int    // from 1, in characters; 0 without a line
	Text     string
	LineText string // the offending line; may be cut around the column
	Hint     string // what to do; may be ""

	caret int // characters of LineText before the column
}

// String is "file:line:column: text", the line with a caret under the column, and
// the hint.
func (m Message) String() string {
	var b strings.Builder
	switch {
	case m.File != "" && m.Line > 0:
		fmt.Fprintf(&b, "%s:%d:%d: ", m.File, m.Line, m.Column)
	case m.File != "":
		b.WriteString(m.File + ": ")
	}
	b.WriteString(m.Text)
	if m.Line > 0 && strings.TrimSpace(m.LineText) != "" {
		gutter := fmt.Sprintf("%5d | ", m.Line)
		b.WriteString("\n" + gutter + m.LineText)
		b.WriteString("\n" + strings.Repeat(" ", len(gutter)-2) + "| " + m.indent() + "^")
	}
	if m.Hint != "" {
		b.WriteString("\n  " + strings.ReplaceAll(m.Hint, "\n", "\n  "))
	}
	return b.String()
}

// indent is as wide as what stands before the column: tabs stay tabs.
func (m Message) indent() string {
	var b strings.Builder
	n := m.caret
	for _, r := range m.LineText {
		if n == 0 {
			break
		}
		n--
		if r == '\t' {
			b.WriteRune(r)
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// Error is why there is no bundle. Messages is never empty.
type Error struct {
	Kind     agent.Kind
	Messages []Message
	Dropped  int      // messages beyond MaxMessages
	Inputs   []string // absolute paths of the files read so far, for Watch
}

func (e *Error) Error() string {
	parts := make([]string, 0, len(e.Messages)+1)
	for _, m := range e.Messages {
		parts = append(parts, m.String())
	}
	if e.Dropped > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", e.Dropped))
	}
	return strings.Join(parts, "\n")
}

// Unwrap lets agent.KindOf see the kind.
func (e *Error) Unwrap() error {
	return &agent.Error{Op: "bundle", Kind: e.Kind, Msg: e.Error()}
}

func invalid(text string) *Error {
	return &Error{Kind: agent.Invalid, Messages: []Message{{Text: text}}}
}

// broken is an error of kind Compile, cut to MaxMessages.
func broken(messages []Message) *Error {
	e := &Error{Kind: agent.Compile, Messages: messages}
	if n := len(messages) - MaxMessages; n > 0 {
		e.Messages, e.Dropped = messages[:MaxMessages], n
	}
	return e
}

func withInputs(err error, inputs []string) error {
	var e *Error
	if errors.As(err, &e) && len(e.Inputs) == 0 {
		e.Inputs = inputs
	}
	return err
}

// reason drops the path that the message names already.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// place sets line, column and the visible part of the line. column is in bytes
// from 0.
func (m *Message) place(line, column int, text string) {
	column = max(0, min(column, len(text)))
	before := utf8.RuneCountInString(text[:column])
	m.Line, m.Column, m.LineText, m.caret = line, before+1, text, before
	runes := []rune(text)
	if len(runes) <= maxLineRunes {
		return
	}
	start := max(0, min(before-maxLineRunes/2, len(runes)-maxLineRunes))
	m.LineText, m.caret = string(runes[start:start+maxLineRunes]), before-start
}
