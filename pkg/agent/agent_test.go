package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestParseID(t *testing.T) {
	for text, want := range map[string]ID{
		"Counter/a":       {"default", "Counter", "a"},
		"Room/a/b/c":      {"default", "Room", "a/b/c"},
		"$x_1/имя \u00e9": {"default", "$x_1", "имя \u00e9"},
	} {
		got, err := ParseID("default", text)
		if err != nil || got != want {
			t.Errorf("ParseID(%q) = %v, %v", text, got, err)
		}
	}
	for text, say := range map[string]string{
		"Counter":                       "write Class/name",
		"Counter/":                      "name is empty",
		"/a":                            "is empty",
		"no-dash/a":                     "JavaScript identifier",
		"1st/a":                         "JavaScript identifier",
		"C/" + strings.Repeat("x", 600): "600 bytes; at most 512",
		"C/\xff":                        "not valid UTF-8",
		"C/a\x00b":                      "NUL",
		strings.Repeat("C", 200) + "/a": "at most 128",
	} {
		_, err := ParseID("default", text)
		if KindOf(err) != Invalid || !strings.Contains(err.Error(), say) {
			t.Errorf("ParseID(%.20q) = %v; want kind invalid that says %q", text, err, say)
		}
	}
}

func TestValidateNamespace(t *testing.T) {
	for _, good := range []string{"default", "a", "team-7"} {
		if err := ValidateNamespace(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "-a", "a-", "Team", "a/b", "a_b", strings.Repeat("a", 64)} {
		if err := ValidateNamespace(bad); KindOf(err) != Invalid {
			t.Errorf("namespace %q: %v", bad, err)
		}
	}
}

// Two different IDs never share a key, whatever the name holds.
func FuzzKey_RoundTrip(f *testing.F) {
	f.Add("default", "Counter", "a/b")
	f.Fuzz(func(t *testing.T, namespace, class, name string) {
		id := ID{namespace, class, name}
		if id.Validate() != nil {
			return
		}
		back, err := ParseKey(id.Key())
		if err != nil || back != id {
			t.Fatalf("ParseKey(%q) = %v, %v", id.Key(), back, err)
		}
	})
}

func TestCall_Validate(t *testing.T) {
	id := ID{"default", "Counter", "a"}
	big := json.RawMessage(`"` + strings.Repeat("x", MaxArgsBytes) + `"`)
	for name, test := range map[string]struct {
		call Call
		kind Kind
		say  string
	}{
		"no method":   {Call{Agent: id}, Invalid, "method name is empty"},
		"long method": {Call{Agent: id, Method: strings.Repeat("m", 300)}, Invalid, "300 bytes"},
		"long key":    {Call{Agent: id, Method: "m", Key: strings.Repeat("k", 300)}, Invalid, "300 bytes"},
		"not JSON":    {Call{Agent: id, Method: "m", Args: []json.RawMessage{[]byte("1"), []byte("{")}}, Invalid, "argument 2 is not JSON"},
		"too large":   {Call{Agent: id, Method: "m", Args: []json.RawMessage{big}}, TooLarge, "at most 16777216"},
		"bad agent":   {Call{Method: "m"}, Invalid, "namespace"},
	} {
		err := test.call.Validate()
		if KindOf(err) != test.kind || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKind_NamesRoundTrip(t *testing.T) {
	seen := map[string]bool{}
	for k := Kind(0); k < kindCount; k++ {
		name := k.String()
		if name == "" || seen[name] || ParseKind(name) != k {
			t.Errorf("kind %d has name %q, which parses to %v", k, name, ParseKind(name))
		}
		seen[name] = true
	}
	if ParseKind("from the future") != Internal || Kind(200).String() != "internal" {
		t.Error("an unknown kind must read as internal")
	}
}

func TestKindOf(t *testing.T) {
	inner := &Error{Op: "open database", Kind: Corrupt}
	for _, test := range []struct {
		err  error
		want Kind
	}{
		{fmt.Errorf("call: %w", inner), Corrupt},
		{context.DeadlineExceeded, Deadline},
		{fmt.Errorf("x: %w", context.Canceled), Canceled},
		{errors.New("other"), Internal},
	} {
		if got := KindOf(test.err); got != test.want {
			t.Errorf("KindOf(%v) = %v, want %v", test.err, got, test.want)
		}
	}
}

func TestFromContext_KeepsCause(t *testing.T) {
	cause := &Error{Op: "drain", Kind: Unavailable}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	if err := FromContext(ctx, "call", ID{}); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
}
