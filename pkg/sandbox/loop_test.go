package sandbox

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dop251/goja"
)

// testLoop is a Scheduler with a clock of its own: time moves only when nothing
// else can happen.
type testLoop struct {
	now    time.Time
	posts  chan func()
	timers []*testTimer
	gone   atomic.Bool
}

type testTimer struct {
	at time.Time
	fn func()
}

func newTestLoop() *testLoop {
	return &testLoop{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), posts: make(chan func(), 100_000)}
}

func (l *testLoop) Now() time.Time { return l.now }

func (l *testLoop) Post(fn func()) bool {
	if l.gone.Load() {
		return false
	}
	l.posts <- fn
	return true
}

func (l *testLoop) AfterFunc(d time.Duration, fn func()) func() bool {
	t := &testTimer{at: l.now.Add(d), fn: fn}
	l.timers = append(l.timers, t)
	return func() bool {
		n := len(l.timers)
		l.timers = slices.DeleteFunc(l.timers, func(o *testTimer) bool { return o == t })
		return len(l.timers) < n
	}
}

// next runs one event; false when there is none. waiting says that an operation is
// under way that will post.
func (l *testLoop) next(waiting bool) bool {
	select {
	case fn := <-l.posts:
		fn()
		return true
	default:
	}
	if waiting {
		patience := time.Minute // only a failure waits that long
		if len(l.timers) > 0 {
			patience = 20 * time.Millisecond
		}
		select {
		case fn := <-l.posts:
			fn()
			return true
		case <-time.After(patience):
		}
	}
	if len(l.timers) == 0 {
		return false
	}
	first := slices.MinFunc(l.timers, func(a, b *testTimer) int { return a.at.Compare(b.at) })
	l.timers = slices.DeleteFunc(l.timers, func(o *testTimer) bool { return o == first })
	if first.at.After(l.now) {
		l.now = first.at
	}
	first.fn()
	return true
}

// world is an isolate with everything that it reported.
type world struct {
	*Isolate
	t           testing.TB
	loop        *testLoop
	console     []string
	unhandled   []error
	interrupted error
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, loop: newTestLoop()}
	cfg := Config{
		Scheduler:   w.loop,
		Rand:        rand.NewChaCha8([32]byte{1}),
		Console:     func(level Level, message string) { w.console = append(w.console, level.String()+" "+message) },
		Unhandled:   func(err error) { w.unhandled = append(w.unhandled, err) },
		Interrupted: func(cause error) { w.interrupted = cause },
	}
	if change != nil {
		change(&cfg)
	}
	i, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Isolate = i
	t.Cleanup(func() {
		i.Close()
		w.loop.gone.Store(true)
		i.Wait()
	})
	return w
}

// eval runs the body of an async function and gives its result as JSON, or the
// error as text.
func (w *world) eval(body string) string {
	w.t.Helper()
	p, err := Compile("test.js", []byte("(async function () {"+body+"\n})()"), nil)
	if err != nil {
		return "compile: " + err.Error()
	}
	v, err := w.Run(p)
	if err != nil {
		return "error: " + w.Error(err).Error()
	}
	result := ""
	w.Await(v, func(v goja.Value) {
		raw, err := w.ToJSON(v)
		if err != nil {
			result = "error: " + err.Error()
			return
		}
		result = string(bytes.TrimSpace(raw))
		if raw == nil {
			result = "undefined"
		}
	}, func(reason goja.Value) { result = "error: " + w.ReasonError(reason).Error() })
	for result == "" && w.loop.next(w.operations > 0) {
	}
	if result == "" {
		if err := w.stopped(); err != nil {
			return "stopped: " + err.Error()
		}
		return "never settled"
	}
	return result
}

type evalCase struct{ name, code, want string }

// check runs cases, each in an isolate of its own. A want that ends in "…" is a prefix.
func check(t *testing.T, change func(*Config), cases []evalCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, change)
			got := w.eval(c.code)
			if prefix, ok := strings.CutSuffix(c.want, "…"); ok {
				if !strings.HasPrefix(got, prefix) {
					t.Fatalf("got  %.300s\nwant %s…", got, prefix)
				}
			} else if got != c.want {
				t.Fatalf("got  %.300s\nwant %s", got, c.want)
			}
		})
	}
}
