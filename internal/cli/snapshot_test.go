package cli

import (
	"os"
	"testing"
	"time"
)

func TestSnapshot(t *testing.T) {
	d := newDesk(t)
	built := time.Now()
	touch := func(path string, at time.Time) {
		t.Helper()
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	file := d.write(t, "a.ts", "one")
	missing := d.Dir + "/b.ts"
	take := func(modified time.Time) snapshot {
		touch(file, modified)
		return takeSnapshot([]string{file, missing}, built, built.Add(time.Millisecond))
	}
	if take(built.Add(-time.Hour)).stale() {
		t.Error("nothing has changed")
	}
	if take(built.Add(time.Hour)).stale() {
		t.Error("a file from the future would be built for ever")
	}
	if !take(built).stale() {
		t.Error("a file that changed during the build counts as read")
	}
	s := take(built.Add(-time.Hour))
	touch(file, built.Add(-time.Minute))
	if !s.stale() {
		t.Error("a changed file goes unnoticed")
	}
	s = take(built.Add(-time.Hour))
	d.write(t, "b.ts", "now here")
	if !s.stale() {
		t.Error("a file that appeared goes unnoticed")
	}
	s = take(built.Add(-time.Hour))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if !s.stale() {
		t.Error("a file that vanished goes unnoticed")
	}
}
