package governor

import (
	"sync/atomic"
	"testing"
	"time"

	"agentd/pkg/agent"
)

// spin runs a turn that ends only when it is interrupted and returns the cause.
func spin(g *Governor, work func()) (cause error, retired bool) {
	var stop atomic.Pointer[error]
	turn := g.Turn(func(err error) { stop.Store(&err) })
	turn.Begin()
	for stop.Load() == nil {
		work()
	}
	return *stop.Load(), turn.End()
}

func start(t *testing.T, cfg Config) *Governor {
	t.Helper()
	g := New(cfg)
	g.Start()
	t.Cleanup(g.Close)
	return g
}

func TestGovernor_TurnOverBudgetIsStopped(t *testing.T) {
	g := start(t, Config{Budget: 50 * time.Millisecond})
	done := make(chan error)
	go func() {
		began := time.Now()
		err, retired := spin(g, func() {})
		if !retired {
			t.Error("the thread of a long turn must be retired")
		}
		if took := time.Since(began); took < 50*time.Millisecond {
			t.Errorf("stopped after %v, before its budget", took)
		}
		done <- err
	}()
	if err := <-done; agent.KindOf(err) != agent.CPULimit {
		t.Fatalf("cause = %v, want kind cpu_limit", err)
	}
}

func TestGovernor_ShortTurnKeepsItsThread(t *testing.T) {
	g := start(t, Config{LongAfter: time.Hour})
	turn := g.Turn(func(error) { t.Error("interrupted") })
	for range 1000 {
		turn.Begin()
		if turn.End() {
			t.Fatal("a short turn must not retire its thread")
		}
	}
}

// A node that falls idle over a heap of garbage gives it back.
func TestGovernor_IdleNodeGivesMemoryBack(t *testing.T) {
	g := start(t, Config{})
	held := make([]byte, 256<<20)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	sink = append(sink[:0], held)
	sink, held = nil, nil
	var meter heapMeter
	turn := g.Turn(func(error) {})
	turn.Begin() // wakes the watcher, which then finds nothing to do
	turn.End()
	deadline := time.After(20 * time.Second)
	for {
		if all, _ := meter.read(); all < 128<<20 {
			return
		}
		select {
		case <-deadline:
			t.Fatal("garbage is still held")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

var sink [][]byte

func BenchmarkTurn(b *testing.B) {
	g := New(Config{})
	g.Start()
	defer g.Close()
	turn := g.Turn(func(error) {})
	b.ReportAllocs()
	for b.Loop() {
		turn.Begin()
		turn.End()
	}
}
