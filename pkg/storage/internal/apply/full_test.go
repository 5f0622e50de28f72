package apply

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"agentd/internal/disk/disktest"
	"agentd/pkg/agent"
)

// full is a home on a disk with no room, and what it says about that.
type full struct {
	*home
	*history
	rec   *disktest.Recorder
	says  chan string
	waits chan time.Duration
	tick  chan time.Time
}

func newFull(t *testing.T) *full {
	dir := t.TempDir()
	rec, err := disktest.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &full{rec: rec, history: newHistory(1, 2), says: make(chan string, 10), waits: make(chan time.Duration), tick: make(chan time.Time)}
	f.home = openHome(t, rec, dir, f.history, func(c *Config) {
		c.After = func(d time.Duration) <-chan time.Time { f.waits <- d; return f.tick }
		c.Stuck = func(err error) {
			if !errors.Is(err, unix.ENOSPC) {
				t.Error("stuck:", err)
			}
			f.says <- "stuck"
		}
		c.Unstuck = func() { f.says <- "unstuck" }
	})
	rec.SetSpace(2 * 4096)
	return f
}

func TestApply_WaitsForSpaceAndLosesNothing(t *testing.T) {
	f := newFull(t)
	a := f.of(0, 1)
	f.hand(t, f.entry(0, f.commit(a, filled(1, 1))))
	f.wait(t, f.order...)
	next := filled(5, 2)
	fill(next[:4096], 1)
	for i := range 60 { // a page of many runs, which is read before it is written
		next[i*64] = 3
	}
	l := f.entry(0, f.commitAs(a, next, 0, 1024))
	f.hand(t, l)
	if s := <-f.says; s != "stuck" {
		t.Fatal(s)
	}
	for _, want := range []time.Duration{firstWait, 2 * firstWait, 4 * firstWait, 8 * firstWait, longWait, longWait} {
		if got := <-f.waits; got != want {
			t.Errorf("waits %v, want %v", got, want)
		}
		if !f.Stats().Stuck {
			t.Error("the stats do not say so")
		}
		if want != longWait {
			f.tick <- time.Time{}
			continue
		}
		break
	}
	// The other shard's worker finds room for itself, and goes on.
	f.rec.SetSpace(f.rec.Used() + 4096)
	small := f.entry(1, f.commit(f.of(1, 1), filled(1, 1)))
	f.hand(t, small)
	f.wait(t, small)
	f.rec.SetSpace(100 * 4096)
	f.tick <- time.Time{}
	f.wait(t, l)
	if s := <-f.says; s != "unstuck" {
		t.Error(s)
	}
	f.close(t)
	if s := f.differs(f.history, f.order...); s != "" {
		t.Error(s)
	}
}

// Two stuck workers are one state: it ends with the second.
func TestApply_IsStuckUntilTheLastWorkerGoesOn(t *testing.T) {
	f := newFull(t)
	for shard := range 2 {
		f.hand(t, f.entry(shard, f.commit(f.of(shard, 1), filled(5+5*shard, 1))))
		<-f.waits
	}
	f.rec.SetSpace(14 * 4096) // enough for either of them
	f.tick <- time.Time{}
	f.tick <- time.Time{}
	<-f.waits
	if got := <-f.says; got != "stuck" || len(f.says) != 0 || !f.Stats().Stuck {
		t.Errorf("said %s and %d more", got, len(f.says))
	}
	f.rec.SetSpace(100 * 4096)
	f.tick <- time.Time{}
	f.wait(t, f.order...)
	if got := <-f.says; got != "unstuck" {
		t.Error(got)
	}
	f.close(t)
	if s := f.differs(f.history, f.order...); s != "" {
		t.Error(s)
	}
}

// Close does not wait for space: the log has what is left.
func TestClose_GivesUpOnAFullDisk(t *testing.T) {
	f := newFull(t)
	f.hand(t, f.entry(0, f.commit(f.of(0, 1), filled(5, 1))))
	<-f.waits
	waits := make(chan error)
	go func() { waits <- f.Wait(t.Context(), 0, f.order[0].index) }()
	if err := f.Close(); agent.KindOf(err) != agent.StorageFull || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if err := <-waits; agent.KindOf(err) != agent.StorageFull {
		t.Errorf("who waited got %v", err)
	}
	if err := f.files.Close(); err != nil {
		t.Error(err)
	}
}
