package storage

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"agentd/pkg/agent"
)

func TestBookmark_RoundTripsAndSorts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, 1<<62)
		a, b := ms.Draw(t, "a"), ms.Draw(t, "b")
		m, n := rapid.Uint64().Draw(t, "m"), rapid.Uint64().Draw(t, "n")
		x, y := Bookmark(time.UnixMilli(a), m), Bookmark(time.UnixMilli(b), n)
		if (x < y) != (a < b || a == b && m < n) {
			t.Fatalf("%s and %s sort wrongly", x, y)
		}
		at, seq, err := ParseBookmark(x)
		if err != nil || at.UnixMilli() != a || seq != m {
			t.Fatalf("%s is read as %v, %d, %v", x, at, seq, err)
		}
	})
}

func TestParseBookmark_RefusesOtherForms(t *testing.T) {
	if got := Bookmark(time.Time{}, 1); got != "0000000000000000-0000000000000001" {
		t.Error(got)
	}
	for _, s := range []string{"", "now", "0000000000000000_0000000000000001", "0000000000000000-000000000000000A",
		"-000000000000001-0000000000000001", "8000000000000000-0000000000000001", "0000000000000000-0000000000000001 ",
		"000000000000000-00000000000000001", "+000000000000001-0000000000000001"} {
		if _, _, err := ParseBookmark(s); agent.KindOf(err) != agent.Invalid {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzParseBookmark(f *testing.F) {
	f.Add(Bookmark(time.UnixMilli(1_700_000_043_210), 7))
	f.Fuzz(func(t *testing.T, s string) {
		if at, seq, err := ParseBookmark(s); err == nil && Bookmark(at, seq) != s {
			t.Fatalf("%q is read as %v, %d", s, at, seq)
		}
	})
}
