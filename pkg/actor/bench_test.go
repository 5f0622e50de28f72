package actor

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"agentd/internal/governor"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// null is a Behavior that does nothing.
type null struct{}

func (null) Start(done func(error)) { done(nil) }
func (null) Call(_ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
	reply(agent.Result{}, nil)
}
func (null) Wake(done func(error))  { done(nil) }
func (null) NextWake() storage.Wake { return storage.Wake{} }
func (null) Busy() bool             { return false }
func (null) Interrupt(error)        {}
func (null) Close()                 {}

type nullClasses struct{}

func (nullClasses) Factory(agent.ID) (Factory, error) {
	return func(Loop) (Behavior, error) { return null{}, nil }, nil
}

func benchHost(b *testing.B, change func(*Config)) *Host {
	cfg := Config{Store: newDisk(), Classes: nullClasses{}}
	if change != nil {
		change(&cfg)
	}
	h := NewHost(cfg)
	b.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return h
}

func BenchmarkEmptyCall(b *testing.B) {
	for _, governed := range []bool{false, true} {
		b.Run(fmt.Sprintf("governed=%v", governed), func(b *testing.B) {
			h := benchHost(b, func(c *Config) {
				if governed {
					g := governor.New(governor.Config{})
					g.Start()
					b.Cleanup(g.Close)
					c.Governor = real{g}
				}
			})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			c := call("a", "m")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h.Call(ctx, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEmptyCallParallel(b *testing.B) {
	h := benchHost(b, nil)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		c := call("a", "m")
		for pb.Next() {
			if _, err := h.Call(context.Background(), c); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkActivation(b *testing.B) {
	h := benchHost(b, func(c *Config) { c.Limits.MaxLive = 64 })
	ids := make([]agent.Call, 1024)
	for n := range ids {
		ids[n] = call(fmt.Sprint("a", n), "m")
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := h.Call(context.Background(), ids[n%len(ids)]); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

// BenchmarkIdleInstances reports what 10 000 live idle instances hold, without
// database and behavior.
func BenchmarkIdleInstances(b *testing.B) {
	const count = 10_000
	for b.Loop() {
		h := benchHost(b, func(c *Config) { c.Limits.MaxLive, c.Limits.Idle = count, time.Hour })
		calls := make([]agent.Call, count)
		for n := range calls {
			calls[n] = call(fmt.Sprint("a", n), "m")
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for _, c := range calls {
			if _, err := h.Call(context.Background(), c); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.GC() // shrinks stacks
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapInuse-before.HeapInuse)/count, "heapB/agent")
		b.ReportMetric(float64(after.StackInuse-before.StackInuse)/count, "stackB/agent")
	}
}
