package reload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// world is a folder with one file and a clock that the test moves. Parse upper-cases
// and refuses what begins with "bad".
type world struct {
	path   string
	now    atomic.Int64
	parsed atomic.Int64
	mu     sync.Mutex
	heard  []error
}

func open(t *testing.T, text string, age time.Duration) (*world, *Value[string]) {
	t.Helper()
	w := &world{path: filepath.Join(t.TempDir(), "f")}
	w.write(t, text)
	info, err := os.Stat(w.path)
	if err != nil {
		t.Fatal(err)
	}
	w.now.Store(info.ModTime().Add(age).UnixNano())
	v, err := Open(w.config())
	if err != nil {
		t.Fatal(err)
	}
	return w, v
}

func (w *world) config() Config[string] {
	return Config[string]{
		Paths: []string{w.path}, Limit: 100,
		Now: func() time.Time { return time.Unix(0, w.now.Load()) },
		Parse: func(c [][]byte) (string, error) {
			w.parsed.Add(1)
			if strings.HasPrefix(string(c[0]), "bad") {
				return "", errors.New(string(c[0]))
			}
			return strings.ToUpper(string(c[0])), nil
		},
		Report: func(err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.heard = append(w.heard, err)
		},
	}
}

func (w *world) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(w.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) pass(d time.Duration) { w.now.Add(int64(d)) }

func (w *world) want(t *testing.T, v *Value[string], text string, parsed, heard int) {
	t.Helper()
	if got := v.Get(); got != text || int(w.parsed.Load()) != parsed || len(w.heard) != heard {
		t.Errorf("value %q, parsed %d times, heard %v; want %q, %d, %d", got, w.parsed.Load(), w.heard, text, parsed, heard)
	}
}

func TestValue_FollowsTheFile(t *testing.T) {
	w, v := open(t, "one", time.Hour)
	w.write(t, "two")
	w.want(t, v, "ONE", 1, 0) // not a second has passed
	w.pass(Interval)
	w.want(t, v, "TWO", 2, 0)
	w.pass(Interval)
	w.want(t, v, "TWO", 2, 0)
}

// Two changes within one tick of the file system's clock have the same time, and
// here the same size.
func TestValue_SeesAChangeThatItsTimeHides(t *testing.T) {
	w, v := open(t, "one", 0)
	info, err := os.Stat(w.path)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "two")
	if err := os.Chtimes(w.path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	w.pass(Interval)
	w.want(t, v, "TWO", 2, 0)
	w.pass(Interval)
	w.want(t, v, "TWO", 2, 0)
}

func TestValue_KeepsTheOldOneAndReportsOnceAMinute(t *testing.T) {
	w, v := open(t, "one", time.Hour)
	for name, spoil := range map[string]func(){
		"unparsable": func() { w.write(t, "bad "+time.Unix(0, w.now.Load()).String()) },
		"too large":  func() { w.write(t, strings.Repeat("x", 101)) },
		"gone":       func() { _ = os.Remove(w.path) },
		"a pipe": func() {
			if err := errors.Join(os.Remove(w.path), syscall.Mkfifo(w.path, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		heard := len(w.heard)
		spoil()
		for range 30 {
			w.pass(Interval)
			if v.Get() != "ONE" {
				t.Fatalf("%s: the value is %q", name, v.Get())
			}
		}
		if n := len(w.heard) - heard; n != 1 {
			t.Errorf("%s: heard %d reports in 30 s", name, n)
		}
		for range 60 {
			w.pass(Interval)
			v.Get()
		}
		if n := len(w.heard) - heard; n != 2 {
			t.Errorf("%s: heard %d reports in 90 s", name, n)
		}
		_ = os.Remove(w.path)
		w.write(t, "one")
		w.pass(Interval)
		v.Get()
	}
}

// A young file is read every second, and a bad one all the same reported once.
func TestValue_ReportsAYoungFileOnce(t *testing.T) {
	w, v := open(t, "one", -time.Hour) // the file's clock is ahead
	w.write(t, "bad")
	for range 30 {
		w.pass(Interval)
		v.Get()
	}
	w.want(t, v, "ONE", 2, 1)
}

func TestValue_LooksAfterTheClockWentBack(t *testing.T) {
	w, v := open(t, "one", 48*time.Hour)
	w.pass(-24 * time.Hour)
	w.write(t, "two")
	w.want(t, v, "TWO", 2, 0)
}

func TestOpen_FailsWithoutAUsableFile(t *testing.T) {
	w := &world{path: filepath.Join(t.TempDir(), "f")}
	if _, err := Open(w.config()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	w.write(t, "bad")
	if _, err := Open(w.config()); err == nil {
		t.Error("a bad file opens")
	}
}

func TestValue_IsWholeUnderConcurrentUse(t *testing.T) {
	w, v := open(t, "a", time.Hour)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				if got := v.Get(); got != strings.Repeat("A", len(got)) {
					t.Errorf("value %q", got)
				}
				w.pass(Interval / 3)
			}
		})
	}
	for i := range 50 {
		temp := w.path + ".new"
		if err := errors.Join(os.WriteFile(temp, []byte(strings.Repeat("a", 1+i)), 0o600), os.Rename(temp, w.path)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	w.pass(Interval)
	if got := v.Get(); len(got) != 50 {
		t.Errorf("the last value is %q", got)
	}
}
