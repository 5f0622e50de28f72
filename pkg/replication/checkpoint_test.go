package replication_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"agentd/pkg/replication"
)

func (n *node) entriesInLogs() int {
	sum := 0
	for _, l := range n.logs {
		sum += len(l.Entries())
	}
	return sum
}

func TestCheckpoints_OneOfTheEngineServesAllShards(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(4)
		n.start(t, nil)
		o := newOutcomes()
		o.propose(t, n.engine.proposer(0), "a")
		o.propose(t, n.engine.proposer(2), "b")
		o.await(2)
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				if err := n.groups.Snapshot(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		if n.engine.taken() != 1 || !slices.Equal(n.engine.cut, []int{1, 0, 1, 0}) || n.entriesInLogs() != 0 {
			t.Errorf("%d checkpoints, the last of %v, %d entries left", n.engine.taken(), n.engine.cut, n.entriesInLogs())
		}
		n.close(t)
		if n.engine.taken() != 1 {
			t.Error("Close took a checkpoint although nothing had changed")
		}
	})
}

func TestCheckpoints_ByTimeOnlyWhenSomethingChanged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(2)
		n.start(t, nil)
		count := n.engine.taken
		time.Sleep(time.Hour)
		if count() != 0 {
			t.Errorf("%d checkpoints of nothing", count())
		}
		o := newOutcomes()
		o.propose(t, n.engine.proposer(0), "a")
		o.await(1)
		time.Sleep(59 * time.Second)
		before := count()
		time.Sleep(2 * time.Second)
		if before != 0 && before != 1 || count() != 1 {
			t.Errorf("%d, then %d checkpoints", before, count())
		}
		time.Sleep(time.Hour)
		if count() != 1 {
			t.Errorf("%d checkpoints", count())
		}
		if st := n.groups.Stats(); st.Checkpoints != 1 || st.LastCheckpoint.IsZero() || st.Uncovered != 0 {
			t.Errorf("stats %+v", st)
		}
		n.close(t)
	})
}

func TestCheckpoints_ByBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(2)
		n.start(t, func(c *replication.Config) { c.CheckpointBytes = 1000 })
		o := newOutcomes()
		for i := range 11 {
			o.propose(t, n.engine.proposer(i%2), strings.Repeat("x", 100))
			o.await(i + 1)
			synctest.Wait()
		}
		if n.engine.taken() != 1 {
			t.Errorf("%d checkpoints after 1 100 bytes", n.engine.taken())
		}
		n.close(t)
	})
}

func TestCheckpoints_AreTriedAgainWithPatience(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, nil)
		full := errors.New("disk full")
		n.engine.set(func() { n.engine.checkpoint = full })
		o := newOutcomes()
		o.propose(t, n.engine.proposer(0), "a")
		o.await(1)
		if err := n.groups.Snapshot(t.Context()); err == nil {
			t.Error("Snapshot succeeded")
		}
		before := n.entriesInLogs()
		time.Sleep(10 * time.Minute)
		if n.engine.taken() < 10 || n.engine.taken() > 20 {
			t.Errorf("%d tries in ten minutes", n.engine.taken())
		}
		if before == 0 || n.entriesInLogs() != before {
			t.Errorf("%d of %d entries are left", n.entriesInLogs(), before)
		}
		n.engine.set(func() { n.engine.checkpoint = nil })
		time.Sleep(2 * time.Minute)
		if n.entriesInLogs() != 0 {
			t.Errorf("%d entries are left", n.entriesInLogs())
		}
		n.close(t)
	})
}

func TestCheckpoints_LogIsForgottenOnlyWhenApplied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, nil)
		o := newOutcomes()
		o.propose(t, n.engine.proposer(0), "a")
		o.await(1)
		n.engine.until(func() bool { return len(n.engine.shards[0].entries) == 1 })
		n.engine.set(func() { n.engine.held = true })
		o.propose(t, n.engine.proposer(0), "b")
		o.await(2) // in the log, not in the engine
		taken := make(chan error, 1)
		go func() { taken <- n.groups.Snapshot(t.Context()) }()
		synctest.Wait()
		if len(taken) != 0 || n.entriesInLogs() == 0 {
			t.Error("the log was truncated while the engine had not taken an entry")
		}
		n.engine.set(func() { n.engine.held = false })
		if err := <-taken; err != nil || !slices.Equal(n.engine.cut, []int{2}) {
			t.Errorf("Snapshot: %v, of %v", err, n.engine.cut)
		}
		n.close(t)
	})
}

// The engine applies behind Apply: its checkpoint must not begin before it has come as
// far as every log that will be truncated.
func TestCheckpoints_BeginWhenTheEngineHasAppliedEveryShard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(3)
		n.start(t, nil)
		o := newOutcomes()
		for shard := range 3 {
			o.propose(t, n.engine.proposer(shard), "x")
		}
		o.await(3)
		applied := make(chan struct{})
		n.engine.set(func() {
			n.engine.wait = func(_ context.Context, shard int) error {
				if shard == 1 {
					<-applied
				}
				return nil
			}
		})
		taken := make(chan error, 1)
		go func() { taken <- n.groups.Snapshot(t.Context()) }()
		synctest.Wait()
		if n.engine.taken() != 0 {
			t.Error("a checkpoint began before a shard was applied")
		}
		close(applied)
		if err := <-taken; err != nil || n.engine.taken() != 1 {
			t.Errorf("Snapshot: %v, %d checkpoints", err, n.engine.taken())
		}
		n.close(t)
	})
}
