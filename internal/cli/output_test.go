package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"agentd/internal/bundle"
	"agentd/pkg/agent"
	"agentd/pkg/client"
)

// at returns a session whose clock stands still.
func (d *desk) at(now time.Time) *session {
	s := &session{World: d.World}
	s.Now = func() time.Time { return now }
	return s
}

func TestExitCode(t *testing.T) {
	of := func(kind agent.Kind) error { return fmt.Errorf("call: %w", &agent.Error{Kind: kind, Msg: "m"}) }
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	tests := []struct {
		name string
		ctx  context.Context
		err  error
		want int
	}{
		{"exception", t.Context(), of(agent.Exception), 1},
		{"invalid", t.Context(), of(agent.Invalid), 1},
		{"denied", t.Context(), of(agent.Denied), 1},
		{"compile", t.Context(), of(agent.Compile), 1},
		{"quarantined", t.Context(), of(agent.Quarantined), 1},
		{"plain", t.Context(), errors.New("plain"), 1},
		{"usage", t.Context(), &usageError{msg: "u"}, 2},
		{"unknown class", t.Context(), of(agent.UnknownClass), 3},
		{"unknown method", t.Context(), of(agent.UnknownMethod), 3},
		{"not found", t.Context(), of(agent.NotFound), 3},
		{"unavailable", t.Context(), of(agent.Unavailable), 4},
		{"overloaded", t.Context(), of(agent.Overloaded), 4},
		{"outcome unknown", t.Context(), of(agent.OutcomeUnknown), 4},
		{"deadline", t.Context(), of(agent.Deadline), 5},
		{"own node unavailable", t.Context(), &serverError{of(agent.Unavailable)}, 1},
		{"interrupted", interrupted, of(agent.Canceled), 130},
		{"interrupted, cause", interrupted, context.Cause(interrupted), 130},
		{"failed before the interrupt", interrupted, of(agent.Exception), 1},
		{"cancelled by the server", t.Context(), of(agent.Canceled), 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := exitCode(test.ctx, test.err); got != test.want {
				t.Errorf("exit %d, want %d", got, test.want)
			}
		})
	}
}

func TestFail_ShowsTheAuthorsStack(t *testing.T) {
	err := errors.Join(&agent.Error{
		Op: "call add", Agent: agent.ID{Namespace: "default", Class: "Counter", Name: "a"},
		Kind: agent.Exception, Name: "TypeError", Msg: "x is not a function",
		Stack: "TypeError: x is not a function\n    at add (counter.ts:3:5)\n    at run (counter.ts:9:1)",
	}, nil)
	d := newDesk(t)
	s := d.at(time.Now())
	if code := s.fail(t.Context(), err); code != exitFailed {
		t.Errorf("exit %d", code)
	}
	want := "agentd: call add Counter/a: TypeError: x is not a function\n    at add (counter.ts:3:5)\n    at run (counter.ts:9:1)\n"
	if got := d.err.String(); got != want {
		t.Errorf("stderr\n%s\nwant\n%s", got, want)
	}
	d.err.reset()
	s.json = true
	s.fail(t.Context(), err)
	var out struct {
		Error failure `json:"error"`
	}
	if e := json.Unmarshal([]byte(d.err.String()), &out); e != nil {
		t.Fatal(e)
	}
	if out.Error.Kind != "exception" || out.Error.Agent != "Counter/a" || out.Error.Name != "TypeError" ||
		out.Error.Message != "call add Counter/a: TypeError: x is not a function" || !strings.Contains(out.Error.Stack, "counter.ts:3:5") {
		t.Errorf("JSON %+v", out.Error)
	}
}

func TestPrintJSON(t *testing.T) {
	value := json.RawMessage(`{"b": 12345678901234567890, "a": "<é>"}`)
	for _, test := range []struct {
		name      string
		tty, json bool
		value     json.RawMessage
		want      string
	}{
		{"pipe", false, false, value, `{"b":12345678901234567890,"a":"<é>"}` + "\n"},
		{"terminal", true, false, value, "{\n  \"b\": 12345678901234567890,\n  \"a\": \"<é>\"\n}\n"},
		{"terminal with --json", true, true, value, `{"b":12345678901234567890,"a":"<é>"}` + "\n"},
		{"undefined", false, false, nil, "null\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			d.StdoutTTY = test.tty
			s := d.at(time.Now())
			s.json = test.json
			if err := s.printJSON(test.value); err != nil || d.out.String() != test.want {
				t.Errorf("printed %q, %v; want %q", d.out.String(), err, test.want)
			}
		})
	}
}

func TestPrintRows(t *testing.T) {
	rows := &client.Table{
		Columns: []string{"id", "text", "raw"},
		Rows: [][]any{
			{int64(9007199254740993), "tab\there\nline\\", []byte{0xca, 0xfe}},
			{nil, "\x1b[31mred", nil},
		},
		Truncated: true,
	}
	for _, test := range []struct {
		name      string
		tty, json bool
		want      string
	}{
		{"pipe", false, false, "id\ttext\traw\n9007199254740993\ttab\\there\\nline\\\\\tx'cafe'\n\\N\t\x1b[31mred\t\\N\n"},
		{"terminal", true, false, "id                text            raw\n9007199254740993  tab here line\\  x'cafe'\nNULL              \uFFFD[31mred        NULL\n"},
		{"json", true, true, `{"columns":["id","text","raw"],"rows":[[9007199254740993,"tab\there\nline\\","yv4="],[null,"\u001b[31mred",null]],"truncated":true}` + "\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDesk(t)
			d.StdoutTTY = test.tty
			s := d.at(time.Now())
			s.json = test.json
			if err := s.printRows(rows); err != nil || d.out.String() != test.want {
				t.Errorf("printed %q, %v\nwant    %q", d.out.String(), err, test.want)
			}
			if told := strings.Contains(d.err.String(), "first 2 rows"); told == test.json {
				t.Errorf("stderr %q", d.err.String())
			}
		})
	}
	t.Run("empty as JSON", func(t *testing.T) {
		d := newDesk(t)
		s := d.at(time.Now())
		s.json = true
		if err := s.printRows(&client.Table{}); err != nil || d.out.String() != `{"columns":[],"rows":[],"truncated":false}`+"\n" {
			t.Errorf("printed %q, %v", d.out.String(), err)
		}
	})
}

func TestRelative(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "now", 400 * time.Millisecond: "now", -90 * time.Second: "1m ago", 59 * time.Second: "in 59s",
		47 * time.Hour: "in 47h", -72 * time.Hour: "3d ago", 365 * 24 * time.Hour: "in 365d",
	} {
		if got := relative(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0 B", 1023: "1023 B", 12595: "12.3 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB", 5 << 40: "5.0 TiB", 5 << 50: "5120.0 TiB"} {
		if got := size(bytes); got != want {
			t.Errorf("%d: %q, want %q", bytes, got, want)
		}
	}
}

func TestPrintAgent(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	d := newDesk(t)
	info := &client.AgentInfo{Namespace: "default", Class: "Counter", Name: "a", Exists: true, Live: true, Phase: "live",
		Seq: 7, SizeBytes: 12595, CreatedAt: now.Add(-2 * time.Hour), StartedAt: now.Add(-time.Minute), Turns: 9, Resets: 1, LastReset: "cpu_limit"}
	if err := d.at(now).printAgent(info); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"agent           Counter/a\n", "phase           live\n", "size            12.3 KiB\n", "next wake       -\n",
		now.Add(-2*time.Hour).Format(time.RFC3339) + " (2h ago)\n", "last reset      cpu_limit\n"} {
		if !strings.Contains(d.out.String(), want) {
			t.Errorf("%q is not in\n%s", want, d.out.String())
		}
	}
}

func TestAgentRows(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	infos := []client.AgentInfo{{Namespace: "default", Class: "Counter", Name: "a\nb", Live: true, SizeBytes: 10}, {Class: "Counter", Name: "c"}}
	print := func(d *desk, rows agentRows, infos ...client.AgentInfo) string {
		d.out.reset()
		for _, info := range infos {
			if err := rows.add(info); err != nil {
				t.Fatal(err)
			}
		}
		if err := rows.end(); err != nil {
			t.Fatal(err)
		}
		return d.out.String()
	}
	d := newDesk(t)
	s := d.at(now)
	if got, want := print(d, &agentTable{s: s, t: newTable(&d.out, agentHeader...)}, infos...),
		"AGENT        LIVE  SIZE  CREATED  NEXT WAKE\nCounter/a b  yes   10 B  -        -\nCounter/c    no    0 B   -        -\n"; got != want {
		t.Errorf("table\n%s\nwant\n%s", got, want)
	}
	if got := print(d, &agentArray{s: s}); got != "[]\n" {
		t.Errorf("no agents as JSON: %q", got)
	}
	var list []client.AgentInfo
	if err := json.Unmarshal([]byte(print(d, &agentArray{s: s}, infos...)), &list); err != nil || len(list) != 2 || list[0].Name != "a\nb" {
		t.Errorf("JSON %v, %v", list, err)
	}
}

func TestPrintDeployed(t *testing.T) {
	d := newDesk(t)
	classes := []client.ClassInfo{{Class: "Silent", Version: 1}, {Class: "Counter", Version: 3, Methods: []string{"get", "increment"}}}
	if err := d.at(time.Now()).printDeployed(classes, 12595, connectionFlags("127.0.0.1:7700", "test")); err != nil {
		t.Fatal(err)
	}
	want := "Silent v1 deployed (12.3 KiB) no public methods\n" +
		"Counter v3 deployed (12.3 KiB) methods: get, increment\n" +
		"try: agentd call --addr 127.0.0.1:7700 -n test Counter/test get\n"
	if got := d.out.String(); got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
}

func TestFail_CompileErrorKeepsItsCaret(t *testing.T) {
	d := newDesk(t)
	err := &bundle.Error{Kind: agent.Compile, Messages: []bundle.Message{{File: "a.ts", Line: 2, Column: 3, Text: "unexpected }", LineText: "  }"}}}
	if code := d.at(time.Now()).fail(t.Context(), err); code != exitFailed || !strings.HasPrefix(d.err.String(), "agentd: a.ts:2:3: unexpected }\n") {
		t.Errorf("exit %d, %q", code, d.err.String())
	}
}
