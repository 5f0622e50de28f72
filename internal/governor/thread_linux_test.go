package governor

import (
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
)

// The thread of a long turn is slow, every other thread is not, and the
// processors that were added for it go away again.
func TestGovernor_LongTurnLosesPriority(t *testing.T) {
	base := runtime.GOMAXPROCS(0)
	g := start(t, Config{Budget: 100 * time.Millisecond, LongAfter: time.Millisecond})
	var policy, procs atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = spin(g, func() {
			// Until it is told to stop; see StoppedTurnGetsItsPriorityBack.
			if attr, err := unix.SchedGetAttr(0, 0); err == nil && attr.Policy != unix.SCHED_NORMAL {
				policy.Store(int64(attr.Policy))
			}
			procs.Store(int64(runtime.GOMAXPROCS(0)))
		})
	}()
	<-done
	if policy.Load() != unix.SCHED_IDLE {
		t.Errorf("scheduling class in a long turn = %d, want SCHED_IDLE", policy.Load())
	}
	if procs.Load() != int64(2*base+1) {
		t.Errorf("GOMAXPROCS in a long turn = %d, want %d", procs.Load(), 2*base+1)
	}
	g.Close()
	if got := runtime.GOMAXPROCS(0); got != base {
		t.Errorf("GOMAXPROCS after Close = %d, want %d", got, base)
	}
}

func TestGovernor_GrowingTurnIsStoppedNotItsNeighbour(t *testing.T) {
	var meter heapMeter
	used, _ := meter.read()
	limit := used + 256<<20
	g := start(t, Config{Budget: 20 * time.Second, MemoryLimit: limit})
	var wrong atomic.Bool
	innocent := g.Turn(func(error) { wrong.Store(true) })
	quit, ready, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		innocent.Begin()
		close(ready)
		for x := 0; ; x++ { // older than the grower and just as busy
			select {
			case <-quit:
				innocent.End()
				return
			default:
			}
		}
	}()
	<-ready
	done := make(chan error)
	go func() {
		var mine [][]byte
		err, _ := spin(g, func() {
			block := make([]byte, 1<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			mine = append(mine, block)
		})
		sink = mine[:0]
		done <- err
	}()
	err := <-done
	close(quit)
	<-left
	sink = nil
	if agent.KindOf(err) != agent.MemoryLimit {
		t.Fatalf("cause = %v, want kind memory_limit", err)
	}
	if wrong.Load() {
		t.Error("a turn that allocates nothing was stopped")
	}
}

// A turn that is told to stop must get the processor to notice.
func TestGovernor_StoppedTurnGetsItsPriorityBack(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only a privileged process can raise a thread's priority")
	}
	g := start(t, Config{Budget: 50 * time.Millisecond, LongAfter: time.Millisecond})
	policy := make(chan uint32, 1)
	go func() {
		_, _ = spin(g, func() {})
		attr, err := unix.SchedGetAttr(0, 0) // still the retired thread
		if err != nil {
			t.Error(err)
			attr = &unix.SchedAttr{Policy: unix.SCHED_IDLE}
		}
		policy <- attr.Policy
	}()
	if got := <-policy; got != unix.SCHED_NORMAL {
		t.Errorf("scheduling class of a stopped turn = %d, want SCHED_NORMAL", got)
	}
}
