package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// table prints aligned columns. Errors of the stream surface in flush.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, header ...string) *table {
	t := &table{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	if len(header) > 0 {
		t.row(header...)
	}
	return t
}

// row adds one line. Cells cannot break the layout: they are cleaned.
func (t *table) row(cells ...string) {
	clean := make([]string, len(cells))
	for i, cell := range cells {
		clean[i] = printable(cell)
	}
	fmt.Fprintln(t.w, strings.Join(clean, "\t"))
}

func (t *table) flush() error { return t.w.Flush() }

// printable replaces what would move the cursor or colour the terminal: names and
// cells come from agents.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case r < ' ', r >= 0x7f && r < 0xa0:
			return '\uFFFD'
		}
		return r
	}, text)
}

// when shows a time in the user's zone and how far it is from now; "-" if unset.
func (s *session) when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.RFC3339) + " (" + relative(t.Sub(s.Now())) + ")"
}

// relative is a distance in time in its largest unit, rounded down.
func relative(d time.Duration) string {
	ago := d < 0
	if ago {
		d = -d
	}
	var amount string
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		amount = fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		amount = fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		amount = fmt.Sprintf("%dh", d/time.Hour)
	default:
		amount = fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	if ago {
		return amount + " ago"
	}
	return "in " + amount
}

// size shows bytes in binary units with one decimal.
func size(bytes int64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	value := float64(bytes)
	unit := 0
	for value /= 1024; value >= 1024 && unit < 3; unit++ {
		value /= 1024
	}
	return fmt.Sprintf("%.1f %s", value, []string{"KiB", "MiB", "GiB", "TiB"}[unit])
}
