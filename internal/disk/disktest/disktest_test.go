package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"agentd/internal/disk"

	"golang.org/x/sys/unix"
)

// states runs every crash at a point and returns what was left, each state once.
func states(t *testing.T, rec *Recorder, point int) []string {
	t.Helper()
	into, w := filepath.Join(t.TempDir(), "crash"), rec.At(point)
	var all []string
	if !Every(10_000, func(choose Chooser) bool {
		if err := w.Crash(choose, into); err != nil {
			t.Fatal(err)
		}
		all = append(all, describe(t, into))
		return true
	}) {
		t.Fatal("more states than expected")
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// describe is each file with its size and the first byte of each sector.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var parts []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if d.IsDir() {
			parts = append(parts, rel+"/")
			return nil
		}
		data, err := os.ReadFile(path)
		text := fmt.Sprintf("%s:%d:", rel, len(data))
		for at := 0; at < len(data); at += sectorBytes {
			text += string(max(data[at], '.'))
		}
		parts = append(parts, text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(parts, " ")
}

func newRecorder(t *testing.T) (*Recorder, string) {
	t.Helper()
	dir := t.TempDir()
	rec, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return rec, dir
}

func open(t *testing.T, rec disk.FS, path string, flags int) disk.File {
	t.Helper()
	f, err := rec.Open(path, flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f disk.File, off int64, text string) {
	t.Helper()
	var data []byte
	for _, c := range []byte(text) {
		data = append(data, bytes.Repeat([]byte{c}, sectorBytes)...)
	}
	_, err := f.WriteAt(data, off*sectorBytes)
	must(t, err)
}

func equal(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("crash left\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCrash_TearsUnsyncedWritesBySector(t *testing.T) {
	rec, dir := newRecorder(t)
	f := open(t, rec, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	write(t, f, 0, "aa")
	must(t, f.Sync())
	must(t, rec.SyncDir(dir))
	write(t, f, 0, "bb")
	equal(t, states(t, rec, rec.Len()), "f:1024:aa", "f:1024:ab", "f:1024:ba", "f:1024:bb")
	write(t, f, 1, "c")
	equal(t, states(t, rec, rec.Len()), "f:1024:aa", "f:1024:ab", "f:1024:ac", "f:1024:ba", "f:1024:bb", "f:1024:bc")
	must(t, f.Sync())
	equal(t, states(t, rec, rec.Len()), "f:1024:bc")
}

func TestCrash_KeepsWritesWithDsync(t *testing.T) {
	rec, dir := newRecorder(t)
	f := open(t, rec, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	must(t, rec.SyncDir(dir))
	write(t, f, 0, "ab")
	d := open(t, rec, filepath.Join(dir, "f"), os.O_RDWR|unix.O_DSYNC)
	write(t, d, 1, "b") // the same bytes again, now durable, and the size with them
	equal(t, states(t, rec, rec.Len()), "f:1024:.b", "f:1024:ab")
	// One operation before its end the write may be torn like any other.
	write(t, d, 2, "c")
	equal(t, states(t, rec, rec.Len()-1), "f:1024:.b", "f:1024:ab", "f:1536:.b.", "f:1536:.bc", "f:1536:ab.", "f:1536:abc")
}

func TestCrash_SyncCoversOnlyWhatWasThereWhenItBegan(t *testing.T) {
	rec, dir := newRecorder(t)
	f := open(t, rec, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	must(t, rec.SyncDir(dir))
	write(t, f, 0, "a")
	rec.Intercept(func(op Op) error {
		if op.Kind == Sync {
			rec.Intercept(nil)
			write(t, f, 0, "b")
		}
		return nil
	})
	must(t, f.Sync())
	equal(t, states(t, rec, rec.Len()), "f:512:a", "f:512:b")
}

func TestCrash_SizesAndCuts(t *testing.T) {
	rec, dir := newRecorder(t)
	f := open(t, rec, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	write(t, f, 0, "ab")
	must(t, f.Sync())
	must(t, rec.SyncDir(dir))
	must(t, f.Truncate(512))
	must(t, f.Truncate(1024))
	// Zeros come only with the cut.
	equal(t, states(t, rec, rec.Len()), "f:1024:ab", "f:512:a", "f:1024:a.")
}

func TestCrash_NamesHappenInOrder(t *testing.T) {
	rec, dir := newRecorder(t)
	path := func(name string) string { return filepath.Join(dir, name) }
	a := open(t, rec, path("a"), os.O_RDWR|os.O_CREATE)
	write(t, a, 0, "1")
	must(t, a.Sync())
	equal(t, states(t, rec, rec.Len()), "", "a:512:1")
	must(t, rec.Rename(path("a"), path("b")))
	must(t, rec.MkdirAll(path("d/e")))
	equal(t, states(t, rec, rec.Len()), "", "a:512:1", "b:512:1", "b:512:1 d/", "b:512:1 d/ d/e/")
	must(t, rec.SyncFS(dir))
	must(t, rec.Remove(path("b")))
	equal(t, states(t, rec, rec.Len()), "b:512:1 d/ d/e/", "d/ d/e/")
	must(t, rec.SyncDir(dir))
	equal(t, states(t, rec, rec.Len()), "d/ d/e/")
}

func TestKill_LosesNothing(t *testing.T) {
	rec, dir := newRecorder(t)
	f := open(t, rec, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	write(t, f, 0, "a")
	point := rec.Len()
	write(t, f, 0, "b")
	into := filepath.Join(t.TempDir(), "kill")
	for at, want := range map[int]string{0: "", 1: "f:0:", point: "f:512:a", rec.Len(): "f:512:b"} {
		must(t, rec.Kill(at, into))
		if got := describe(t, into); got != want {
			t.Errorf("killed at %d: %q, want %q", at, got, want)
		}
	}
}

func TestRecorder_TakesWhatIsThereAsDurable(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "d", "f"), []byte("x"), 0o600))
	rec, err := New(dir)
	must(t, err)
	f := open(t, rec, filepath.Join(dir, "d", "f"), os.O_RDWR)
	write(t, f, 0, "y")
	equal(t, states(t, rec, 0), "d/ d/f:1:x")
	equal(t, states(t, rec, rec.Len()), "d/ d/f:1:x", "d/ d/f:1:y", "d/ d/f:512:x", "d/ d/f:512:y")
	if _, err := rec.Open(filepath.Join(dir, "..", "other"), os.O_RDWR|os.O_CREATE); err == nil {
		t.Error("opened a file outside of the folder")
	}
}

func TestSetSpace_RunsOutAndComesBack(t *testing.T) {
	rec, dir := newRecorder(t)
	rec.SetSpace(2 * blockBytes)
	f := open(t, rec, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	two := make([]byte, 2*blockBytes)
	_, err := f.WriteAt(two, 0)
	must(t, err)
	if _, err = f.WriteAt(two, blockBytes); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("write over the end: %v", err)
	}
	_, err = f.WriteAt(two, 0) // what it has already costs nothing
	must(t, err)
	rec.SetSpace(3 * blockBytes)
	_, err = f.WriteAt(two, blockBytes)
	must(t, err)
	if free, _ := rec.Free(dir); free != 0 || rec.Used() != 3*blockBytes {
		t.Errorf("free %d, used %d", free, rec.Used())
	}
	must(t, rec.Remove(filepath.Join(dir, "f")))
	if rec.Used() != 0 {
		t.Errorf("used %d after the removal", rec.Used())
	}
}

func TestNth_FailsOneOperation(t *testing.T) {
	rec, dir := newRecorder(t)
	f := open(t, rec, filepath.Join(dir, "f"), os.O_RDWR|os.O_CREATE)
	rec.Intercept(Nth(Write, "f", 2, unix.EIO, false))
	for i, want := range []error{nil, unix.EIO, nil} {
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, want) {
			t.Errorf("write %d: %v", i+1, err)
		}
	}
	rec.Intercept(Nth(Sync, "", 1, unix.EIO, true))
	if first, second := f.Sync(), f.Sync(); first == nil || second == nil {
		t.Error("a sticky fault went away")
	}
}

func TestRandom_RepeatsBySeed(t *testing.T) {
	a, b := Random(7), Random(7)
	for range 100 {
		if a(5) != b(5) {
			t.Fatal("one seed, two histories")
		}
	}
}
