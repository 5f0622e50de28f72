package wake

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// shelf is a catalog and a host in memory: agents with wakes, and what waking them
// does.
type shelf struct {
	mu      sync.Mutex
	wakes   map[agent.ID]storage.Wake
	live    map[agent.ID]bool
	changed chan struct{}
	log     []string // name@seconds of each wake
	begun   time.Time
	running int
	peak    int
	scans   int
	broken  error // of Due
	wake    func(ctx context.Context, id agent.ID) error
}

func newShelf() *shelf {
	s := &shelf{wakes: map[agent.ID]storage.Wake{}, live: map[agent.ID]bool{}, changed: make(chan struct{}, 1), begun: time.Now()}
	s.wake = func(_ context.Context, id agent.ID) error { s.set(id, storage.Wake{}); return nil }
	return s
}

func (s *shelf) set(id agent.ID, w storage.Wake) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w == (storage.Wake{}) {
		delete(s.wakes, id)
	} else {
		s.wakes[id] = w
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *shelf) Due(_ context.Context, now time.Time, limit int) (due []storage.Entry, next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scans++; s.broken != nil {
		return nil, time.Time{}, s.broken
	}
	for id, w := range s.wakes {
		switch {
		case !w.At.IsZero() && !w.At.After(now), w.Resume && !s.live[id]:
			due = append(due, storage.Entry{ID: id, Wake: w})
		case !w.At.IsZero() && (next.IsZero() || w.At.Before(next)):
			next = w.At
		}
	}
	sort.Slice(due, func(i, j int) bool {
		if !due[i].Wake.At.Equal(due[j].Wake.At) {
			return due[i].Wake.At.Before(due[j].Wake.At)
		}
		return due[i].ID.Name < due[j].ID.Name
	})
	return due[:min(limit, len(due))], next, nil
}

func (s *shelf) Changed() <-chan struct{} { return s.changed }

func (s *shelf) Wake(ctx context.Context, id agent.ID) error {
	s.mu.Lock()
	s.log = append(s.log, fmt.Sprintf("%s@%v", id.Name, time.Since(s.begun).Round(time.Second)))
	s.running++
	s.peak = max(s.peak, s.running)
	s.mu.Unlock()
	err := s.wake(ctx, id)
	s.mu.Lock()
	s.running--
	s.mu.Unlock()
	return err
}

func (s *shelf) history() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(s.log)
}

func (s *shelf) get(field func(*shelf) int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return field(s)
}

func name(n int) agent.ID {
	return agent.ID{Namespace: "default", Class: "C", Name: fmt.Sprintf("%04d", n)}
}

func named(n string) agent.ID { return agent.ID{Namespace: "default", Class: "C", Name: n} }

// inBubble runs a waker in fake time; all its goroutines must have ended with it.
func inBubble(t *testing.T, cfg Config, prepare func(*shelf), test func(t *testing.T, s *shelf)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		prepare(s)
		cfg.Host, cfg.Catalog = s, s
		if cfg.Rand == nil {
			cfg.Rand = func() float64 { return 0 }
		}
		w := New(cfg)
		w.Start()
		defer w.Close()
		synctest.Wait()
		test(t, s)
	})
}

// pass lets fake time go by and everything that is due in it finish.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestWaker_WakesWhenDueAndNotBefore(t *testing.T) {
	inBubble(t, Config{}, func(s *shelf) {
		s.wakes[named("now")] = storage.Wake{At: time.Now()}
		s.wakes[named("hour")] = storage.Wake{At: time.Now().Add(time.Hour)}
	}, func(t *testing.T, s *shelf) {
		if got := s.history(); got != "[now@0s]" {
			t.Fatal(got)
		}
		pass(30 * time.Minute)
		s.set(named("sooner"), storage.Wake{At: time.Now().Add(time.Minute)})
		pass(2 * time.Hour)
		if got := s.history(); got != "[now@0s sooner@31m0s hour@1h0m0s]" {
			t.Fatal(got)
		}
	})
}

func TestWaker_ResumesUnfinishedWorkAtStart(t *testing.T) {
	inBubble(t, Config{Concurrency: 8}, func(s *shelf) {
		for n := range 100 {
			s.wakes[name(n)] = storage.Wake{Resume: true}
		}
		s.wake = func(_ context.Context, id agent.ID) error {
			time.Sleep(time.Millisecond)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.live[id] = true
			return nil
		}
	}, func(t *testing.T, s *shelf) {
		pass(time.Second)
		if n, peak := len(s.log), s.peak; n != 100 || peak != 8 {
			t.Fatalf("%d woken within a second, %d at once", n, peak)
		}
	})
}

func TestWaker_FailuresBackOff(t *testing.T) {
	inBubble(t, Config{}, func(s *shelf) {
		s.wakes[named("bad")] = storage.Wake{At: time.Now()}
		s.wake = func(context.Context, agent.ID) error { return errors.New("no") }
	}, func(t *testing.T, s *shelf) {
		pass(70 * time.Second)
		if got := s.history(); got != "[bad@0s bad@2s bad@6s bad@14s bad@30s bad@1m2s]" {
			t.Fatal(got)
		}
		pass(20 * time.Hour)
		before := s.get(func(s *shelf) int { return len(s.log) })
		pass(1025 * time.Second)
		if after := s.get(func(s *shelf) int { return len(s.log) }); after != before+1 {
			t.Fatalf("%d tries within the longest gap", after-before)
		}
	})
}

func TestWaker_JitterIsAtMostAQuarter(t *testing.T) {
	inBubble(t, Config{Rand: func() float64 { return 0.999999 }}, func(s *shelf) {
		s.wakes[named("bad")] = storage.Wake{At: time.Now()}
		s.wake = func(context.Context, agent.ID) error { return errors.New("no") }
	}, func(t *testing.T, s *shelf) {
		pass(2499 * time.Millisecond)
		if n := s.get(func(s *shelf) int { return len(s.log) }); n != 1 {
			t.Fatalf("%d tries before the gap with jitter is over", n)
		}
		pass(2 * time.Millisecond)
		if n := s.get(func(s *shelf) int { return len(s.log) }); n != 2 {
			t.Fatalf("%d tries after it", n)
		}
	})
}

func TestWaker_StreakEndsWithASuccess(t *testing.T) {
	inBubble(t, Config{}, func(s *shelf) {
		s.wakes[named("a")] = storage.Wake{At: time.Now()}
		tries := 0
		s.wake = func(_ context.Context, id agent.ID) error {
			tries++
			if tries == 4 { // at 14 s
				s.set(id, storage.Wake{At: time.Now().Add(5 * time.Minute)})
				return nil
			}
			return errors.New("no")
		}
	}, func(t *testing.T, s *shelf) {
		pass(5*time.Minute + 18*time.Second)
		if got := s.history(); got != "[a@0s a@2s a@6s a@14s a@5m14s a@5m16s]" {
			t.Fatal(got)
		}
	})
}

func TestWaker_StillDueDoesNotSpin(t *testing.T) {
	for _, w := range []storage.Wake{{At: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)}, {Resume: true}} {
		inBubble(t, Config{}, func(s *shelf) {
			s.wakes[named("stuck")] = w
			s.wake = func(context.Context, agent.ID) error { return nil }
		}, func(t *testing.T, s *shelf) {
			pass(31 * time.Second)
			if got := s.history(); got != "[stuck@0s stuck@2s stuck@6s stuck@14s stuck@30s]" {
				t.Fatal(got)
			}
		})
	}
}

func TestWaker_ShortIntervalsAreNotPunished(t *testing.T) {
	inBubble(t, Config{}, func(s *shelf) {
		s.wakes[named("tick")] = storage.Wake{At: time.Now()}
		s.wake = func(_ context.Context, id agent.ID) error {
			s.set(id, storage.Wake{At: time.Now().Add(time.Second)})
			return nil
		}
	}, func(t *testing.T, s *shelf) {
		pass(60*time.Second + time.Millisecond)
		if n := s.get(func(s *shelf) int { return len(s.log) }); n != 61 {
			t.Fatalf("%d wakes in a minute", n)
		}
	})
}

func TestWaker_QuarantinedIsDropped(t *testing.T) {
	inBubble(t, Config{}, func(s *shelf) {
		s.wakes[named("q")] = storage.Wake{At: time.Now()}
		s.wake = func(_ context.Context, id agent.ID) error {
			s.set(id, storage.Wake{}) // the catalog leaves quarantined agents out
			return &agent.Error{Kind: agent.Quarantined}
		}
	}, func(t *testing.T, s *shelf) {
		pass(time.Minute)
		// Lifted: it is due again and is woken at once, without a gap of old failures.
		s.set(named("q"), storage.Wake{At: time.Now()})
		synctest.Wait()
		if got := s.history(); got != "[q@0s q@1m0s]" {
			t.Fatal(got)
		}
	})
}

func TestWaker_QuarantineThatTheCatalogDoesNotKnowDoesNotSpin(t *testing.T) {
	inBubble(t, Config{}, func(s *shelf) {
		s.wakes[named("q")] = storage.Wake{At: time.Now()}
		s.wake = func(context.Context, agent.ID) error { return &agent.Error{Kind: agent.Quarantined} }
	}, func(t *testing.T, s *shelf) {
		pass(time.Minute)
		if n := s.get(func(s *shelf) int { return len(s.log) }); n > 40 {
			t.Fatalf("%d tries in a minute", n)
		}
	})
}

func TestWaker_InFlightIsNotRepeatedAndLongOnesGiveTheirPlace(t *testing.T) {
	inBubble(t, Config{Concurrency: 2}, func(s *shelf) {
		for n := range 4 {
			s.wakes[name(n)] = storage.Wake{At: time.Now().Add(time.Duration(n) * time.Millisecond)}
		}
		s.wake = func(ctx context.Context, id agent.ID) error {
			if id.Name < "0003" {
				time.Sleep(10 * time.Minute) // still due all the time
			}
			s.set(id, storage.Wake{})
			return nil
		}
	}, func(t *testing.T, s *shelf) {
		pass(5 * time.Minute)
		if got := s.history(); got != "[0000@0s 0001@0s 0002@2s 0003@2s]" {
			t.Fatal(got)
		}
	})
}

func TestWaker_FailingAgentsDoNotHideOthers(t *testing.T) {
	inBubble(t, Config{Concurrency: 2}, func(s *shelf) {
		for n := range 500 {
			s.wakes[name(n)] = storage.Wake{At: time.Now()}
		}
		s.wakes[named("good")] = storage.Wake{At: time.Now().Add(time.Millisecond)}
		s.wake = func(_ context.Context, id agent.ID) error {
			if id.Name != "good" {
				return errors.New("no")
			}
			s.set(id, storage.Wake{})
			return nil
		}
	}, func(t *testing.T, s *shelf) {
		pass(100 * time.Millisecond)
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, waiting := s.wakes[named("good")]; waiting {
			t.Fatal("an agent behind 500 failing ones was not woken")
		}
		if len(s.log) != 501 {
			t.Fatalf("%d wakes", len(s.log))
		}
	})
}

func TestWaker_HangingWakeTimesOutAndIsTriedAgain(t *testing.T) {
	inBubble(t, Config{Timeout: time.Minute}, func(s *shelf) {
		s.wakes[named("h")] = storage.Wake{At: time.Now()}
		s.wake = func(ctx context.Context, _ agent.ID) error {
			<-ctx.Done()
			return agent.FromContext(ctx, "wake", agent.ID{})
		}
	}, func(t *testing.T, s *shelf) {
		pass(2 * time.Minute)
		if got := s.history(); got != "[h@0s h@1m2s]" {
			t.Fatal(got)
		}
	})
}

func TestWaker_SurvivesABrokenCatalog(t *testing.T) {
	inBubble(t, Config{}, func(s *shelf) {
		s.broken = errors.New("the catalog is away")
		s.wakes[named("a")] = storage.Wake{At: time.Now()}
	}, func(t *testing.T, s *shelf) {
		pass(10*time.Second + time.Millisecond)
		if n := s.get(func(s *shelf) int { return s.scans }); n != 11 {
			t.Errorf("%d questions in 10 s", n)
		}
		s.mu.Lock()
		s.broken = nil
		s.mu.Unlock()
		pass(time.Second)
		if got := s.history(); got != "[a@11s]" {
			t.Fatal(got)
		}
	})
}

func TestWaker_SleepsWhenThereIsNothing(t *testing.T) {
	inBubble(t, Config{}, func(*shelf) {}, func(t *testing.T, s *shelf) {
		pass(time.Hour)
		if n := s.get(func(s *shelf) int { return s.scans }); n > 61 {
			t.Fatalf("%d scans in an hour without agents", n)
		}
	})
}

func TestWaker_CloseCancelsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		s.wakes[named("a")] = storage.Wake{At: time.Now()}
		ended := false
		s.wake = func(ctx context.Context, _ agent.ID) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended = true
			return ctx.Err()
		}
		w := New(Config{Host: s, Catalog: s})
		w.Start()
		synctest.Wait()
		if w.InFlight() != 1 {
			t.Errorf("%d in flight", w.InFlight())
		}
		w.Close()
		if !ended {
			t.Error("Close did not wait for the wake under way")
		}
		w.Close()
		New(Config{Host: s, Catalog: s}).Close() // never started
	})
}

func TestWaker_FullPlaces(t *testing.T) {
	inBubble(t, Config{Concurrency: 4, MaxInFlight: 6}, func(s *shelf) {
		for n := range 20 {
			s.wakes[name(n)] = storage.Wake{Resume: true}
		}
		s.wake = func(_ context.Context, id agent.ID) error {
			time.Sleep(time.Minute)
			s.set(id, storage.Wake{})
			return nil
		}
	}, func(t *testing.T, s *shelf) {
		pass(30 * time.Second)
		if n := s.get(func(s *shelf) int { return s.running }); n != 6 {
			t.Fatalf("%d in flight, limit 6", n)
		}
		pass(10 * time.Minute)
		if n := len(s.wakes); n != 0 || s.peak != 6 {
			t.Fatalf("%d left, %d at once", n, s.peak)
		}
	})
}

func TestWaker_LongOnesDoNotHideOthers(t *testing.T) {
	inBubble(t, Config{Concurrency: 2}, func(s *shelf) {
		for n := range 20 {
			s.wakes[name(n)] = storage.Wake{Resume: true}
		}
		s.wake = func(_ context.Context, id agent.ID) error {
			time.Sleep(10 * time.Minute)
			s.set(id, storage.Wake{})
			return nil
		}
	}, func(t *testing.T, s *shelf) {
		pass(19 * time.Second)
		if n := s.get(func(s *shelf) int { return s.running }); n != 20 {
			t.Fatalf("%d of 20 are under way", n)
		}
	})
}

func BenchmarkWaker(b *testing.B) {
	s := newShelf()
	done := make(chan struct{}, b.N+1)
	at := time.Now()
	for n := range b.N {
		s.wakes[name(n)] = storage.Wake{At: at}
	}
	s.wake = func(_ context.Context, id agent.ID) error {
		s.mu.Lock()
		delete(s.wakes, id)
		s.mu.Unlock()
		done <- struct{}{}
		return nil
	}
	b.ReportAllocs()
	w := New(Config{Host: s, Catalog: s})
	w.Start()
	for range b.N {
		<-done
	}
	w.Close()
}
