package replication_test

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"agentd/pkg/replication"
)

// sink is an engine that keeps nothing.
type sink struct{ *engine }

func (sink) Apply(int, uint64, []byte) error { return nil }

// BenchmarkPropose is what replication adds to a disk that takes 50 us for a write:
// compare a lone writer's time with device-us, and CPU at 64 writers.
func BenchmarkPropose(b *testing.B) {
	for _, writers := range []int{1, 64} {
		for _, inFlight := range []int{1, 2, 4} {
			b.Run(fmt.Sprintf("writers=%d/inflight=%d", writers, inFlight), func(b *testing.B) { propose(b, writers, inFlight) })
		}
	}
}

func propose(b *testing.B, writers, inFlight int) {
	const shards = 16
	n, d := newNode(shards), newDevice(50*time.Microsecond)
	defer close(d.end)
	c := n.config()
	c.Engine, c.MaxInFlight = sink{n.engine}, inFlight
	c.Log = onDevice{n, d}
	groups, err := replication.Start(c)
	if err != nil {
		b.Fatal(err)
	}
	defer groups.Close(context.Background()) //nolint:errcheck // nothing to keep
	if err := groups.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	record := make([]byte, 650)
	before, writes := processCPU(), d.count
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		p := n.engine.proposer(w % shards)
		wg.Go(func() {
			settled := make(chan error, 1)
			tell := func(err error) { settled <- err }
			for range b.N / writers {
				if err := p.Propose(record, tell); err != nil {
					b.Error(err)
					return
				}
				<-settled
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64((processCPU()-before).Nanoseconds())/float64(b.N), "cpu-ns/record")
	b.ReportMetric(float64(b.N)/float64(d.count-writes), "records/write")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(d.count-writes), "us/write")
}

// BenchmarkIdle is the CPU that 16 groups cost while nothing happens.
func BenchmarkIdle(b *testing.B) {
	n := newNode(16)
	c := n.config()
	groups, err := replication.Start(c)
	if err != nil {
		b.Fatal(err)
	}
	defer groups.Close(b.Context()) //nolint:errcheck // nothing to keep
	if err := groups.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	before, begin := processCPU(), time.Now()
	for b.Loop() {
		<-time.After(3 * time.Second)
	}
	b.ReportMetric(100*float64(processCPU()-before)/float64(time.Since(begin)), "%cpu")
}

func processCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkDevice is the disk of BenchmarkPropose by itself: the yardstick of a lone
// writer.
func BenchmarkDevice(b *testing.B) {
	d := newDevice(50 * time.Microsecond)
	defer close(d.end)
	before := processCPU()
	for b.Loop() {
		done := make(chan struct{})
		d.writes <- done
		<-done
	}
	b.ReportMetric(float64((processCPU()-before).Nanoseconds())/float64(b.N), "cpu-ns/record")
}
