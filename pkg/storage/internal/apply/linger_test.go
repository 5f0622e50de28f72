package apply

import (
	"testing"
	"testing/synctest"
	"time"

	"agentd/internal/disk"
)

// TestApply_LingersUntilItIsWanted: entries gather until the time is over or somebody
// waits, and one agent's commits then share their writes.
func TestApply_LingersUntilItIsWanted(t *testing.T) {
	for what, want := range map[string]func(t *testing.T, o *home){
		"agent":      func(t *testing.T, o *home) { check(t, o.WaitAgent(t.Context(), named("a"), 20)) },
		"index":      func(t *testing.T, o *home) { check(t, o.Wait(t.Context(), 0, 20)) },
		"checkpoint": func(t *testing.T, o *home) { check(t, o.Checkpoint(t.Context())) },
		"hurry":      func(t *testing.T, o *home) { defer o.Hurry()(); synctest.Wait() },
		"time":       func(t *testing.T, o *home) { time.Sleep(time.Hour); synctest.Wait() },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				h := newHistory(1, 1)
				o := openHome(t, disk.OS{}, dir, h, func(c *Config) { c.Linger = time.Hour })
				defer o.close(t)
				for i := range 20 {
					o.hand(t, h.entry(0, h.commit(named("a"), filled(3, byte(i+1)))))
				}
				synctest.Wait()
				if s := o.Stats(); s.Records != 0 {
					t.Fatalf("%d records were applied before anybody waited", s.Records)
				}
				want(t, o)
				if s := o.Stats(); s.Records != 20 || s.Writes > 3 {
					t.Errorf("%d records with %d writes, want 20 with one for each page", s.Records, s.Writes)
				}
			})
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}
