package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	sequential = 4000 // samples of one measurement, one at a time
	clients    = 64
	perClient  = 400
)

// yardsticks measures what the machine can do at best: a synced write and an empty
// gRPC between two processes.
func (r *run) yardsticks(ctx context.Context) error {
	var err error
	if r.synced, err = syncedWrite(r.dir); err != nil {
		return err
	}
	r.note("Yardstick: 4 KiB synced write (zeroed file, fdatasync), p50 **%.0f µs**.", r.synced)
	child := exec.CommandContext(ctx, os.Args[0], "-bare-grpc")
	out, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait() // it was killed
	}()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("bare gRPC server: %w", err)
	}
	conn, err := grpc.NewClient(strings.TrimSpace(addr), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	check := healthpb.NewHealthClient(conn)
	call := func(int) error {
		_, err := check.Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
	one, err := timeEach(sequential, call)
	if err != nil {
		return err
	}
	r.bare = one.p50
	many, err := timeMany(clients, perClient*4, func(_, i int) error { return call(i) })
	if err != nil {
		return err
	}
	r.note("Yardstick: empty gRPC unary between two processes, p50 **%.0f µs** one at a time, **%.0f/s** with %d clients.", one.p50, many.perSecond, clients)
	return nil
}

// serveBare is the child process: a gRPC server with nothing of agentd in it. It
// ends with its parent, which kills it.
func serveBare() error {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	healthpb.RegisterHealthServer(s, health.NewServer())
	fmt.Println(lis.Addr())
	return s.Serve(lis)
}

func syncedWrite(dir string) (p50 float64, err error) {
	f, err := os.Create(filepath.Join(dir, "synced"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const blocks = 1024
	if _, err := f.Write(make([]byte, blocks*4096)); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	block := make([]byte, 4096)
	t, err := timeEach(2000, func(i int) error {
		block[0]++
		if _, err := f.WriteAt(block, int64(i%blocks)*4096); err != nil {
			return err
		}
		return unix.Fdatasync(int(f.Fd()))
	})
	return t.p50, err
}

// times are the quantiles of one measurement in microseconds.
type times struct {
	p50, p99, perSecond float64

	samples []time.Duration // sorted
}

func quantiles(samples []time.Duration, wall time.Duration) times {
	slices.Sort(samples)
	at := func(q float64) float64 {
		return float64(samples[int(q*float64(len(samples)-1))].Nanoseconds()) / 1000
	}
	return times{p50: at(0.5), p99: at(0.99), perSecond: float64(len(samples)) / wall.Seconds(), samples: samples}
}

// timeEach runs fn n times after a warm-up of a tenth.
func timeEach(n int, fn func(i int) error) (times, error) {
	samples := make([]time.Duration, 0, n)
	var began time.Time
	for i := range n + n/10 {
		if i == n/10 {
			began = time.Now()
		}
		start := time.Now()
		if err := fn(i); err != nil {
			return times{}, err
		}
		if i >= n/10 {
			samples = append(samples, time.Since(start))
		}
	}
	return quantiles(samples, time.Since(began)), nil
}

// timeMany runs fn n times in each of c goroutines.
func timeMany(c, n int, fn func(client, i int) error) (times, error) {
	all := make([][]time.Duration, c)
	errs := make([]error, c)
	var wg sync.WaitGroup
	began := time.Now()
	for k := range c {
		wg.Go(func() {
			for i := range n {
				start := time.Now()
				if errs[k] = fn(k, i); errs[k] != nil {
					return
				}
				all[k] = append(all[k], time.Since(start))
			}
		})
	}
	wg.Wait()
	wall := time.Since(began)
	for _, err := range errs {
		if err != nil {
			return times{}, err
		}
	}
	return quantiles(slices.Concat(all...), wall), nil
}
