package bundle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"agentd/pkg/agent"
)

// watching runs Watch on real files. next waits for one change.
func watching(t *testing.T, inputs func() []string) (next func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	changes, done := make(chan struct{}, 16), make(chan error, 1)
	asked := make(chan struct{}, 16)
	go func() {
		done <- Watch(ctx, func() []string {
			select {
			case asked <- struct{}{}:
			default:
			}
			return inputs()
		}, func() { changes <- struct{}{} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	<-asked
	return func() {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatal("no change was reported")
		}
	}
}

// touch repeats a change until it is seen: Watch asked for its inputs, and the
// system may still be about to watch.
func touch(t *testing.T, next func(), change func()) {
	t.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(200 * time.Millisecond) // longer than Settle: else it is never quiet
		defer tick.Stop()
		for {
			change()
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	next()
	close(stop)
	<-stopped
}

func TestWatch_SeesWritesReplacementsAndNewFiles(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir string){
		"write": func(dir string) { _ = os.WriteFile(filepath.Join(dir, "a.ts"), []byte("2"), 0o644) },
		"replace": func(dir string) {
			_ = os.WriteFile(filepath.Join(dir, "a.tmp"), []byte("2"), 0o644)
			_ = os.Rename(filepath.Join(dir, "a.tmp"), filepath.Join(dir, "a.ts"))
		},
		"new source": func(dir string) {
			_ = os.Remove(filepath.Join(dir, "new.ts"))
			_ = os.WriteFile(filepath.Join(dir, "new.ts"), nil, 0o644)
		},
		"missing folder": func(dir string) {
			_ = os.RemoveAll(filepath.Join(dir, "later"))
			_ = os.MkdirAll(filepath.Join(dir, "later", "deep"), 0o755)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, map[string]string{"a.ts": "1"})
			next := watching(t, func() []string {
				return []string{filepath.Join(dir, "a.ts"), filepath.Join(dir, "later", "deep", "b.ts")}
			})
			touch(t, next, func() { change(dir) })
		})
	}
}

func TestWatch_SettlesAndIgnores(t *testing.T) {
	t.Parallel()
	dir := folder(t, map[string]string{"a.ts": "1"})
	file := filepath.Join(dir, "a.ts")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		events, failures := make(chan fsnotify.Event), make(chan error)
		set := &watchSet{add: func(string) error { return nil }, remove: func(string) error { return nil }}
		done := make(chan error)
		var calls atomic.Int64
		go func() {
			done <- watch(ctx, set, events, failures, func() []string { return []string{file} }, func() { calls.Add(1) })
		}()
		expect := func(want int64) {
			t.Helper()
			if synctest.Wait(); calls.Load() != want {
				t.Fatalf("%d calls, want %d", calls.Load(), want)
			}
		}
		for range 5 { // one call for a burst
			events <- fsnotify.Event{Name: file, Op: fsnotify.Write}
			time.Sleep(Settle - time.Millisecond) // fake time
		}
		expect(0)
		time.Sleep(time.Millisecond)
		expect(1)
		for _, ev := range []fsnotify.Event{
			{Name: file, Op: fsnotify.Chmod},
			{Name: filepath.Join(dir, "b.ts"), Op: fsnotify.Write},
			{Name: filepath.Join(dir, "data.db"), Op: fsnotify.Create},
		} {
			events <- ev
		}
		time.Sleep(time.Second)
		expect(1)
		failures <- fsnotify.ErrEventOverflow
		time.Sleep(Settle)
		expect(2)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("end: %v", err)
		}
	})
}

func TestWatch_FailuresAreTyped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set := func(err error) *watchSet {
		return &watchSet{add: func(string) error { return err }, remove: func(string) error { return nil }}
	}
	one := func() []string { return []string{filepath.Join(dir, "a.ts")} }
	failures := make(chan error, 1)
	failures <- errors.New("broken")
	err := watch(t.Context(), set(nil), nil, failures, one, nil)
	if agent.KindOf(err) != agent.Unavailable || !strings.Contains(err.Error(), "inotify") {
		t.Errorf("failure: %v", err)
	}
	if err := watch(t.Context(), set(errors.New("limit")), nil, nil, one, nil); agent.KindOf(err) != agent.Unavailable {
		t.Errorf("refused folder: %v", err)
	}
	many := func() []string {
		var out []string
		for i := range MaxWatched + 1 {
			sub := filepath.Join(dir, "d"+strings.Repeat("x", i%100), "e"+strings.Repeat("y", i/100))
			if err := os.MkdirAll(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			out = append(out, filepath.Join(sub, "a.ts"))
		}
		return out
	}
	if err := watch(t.Context(), set(nil), nil, nil, many, nil); agent.KindOf(err) != agent.TooLarge {
		t.Errorf("too many folders: %v", err)
	}
}
