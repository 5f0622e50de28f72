package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"agentd/pkg/replication/single"
	"agentd/pkg/storage"
)

// scale measures many agents on one disk: random access with few of them open, and
// a restart with much log to redo.
func (r *run) scale(ctx context.Context) error {
	dir := filepath.Join(r.dir, "scale")
	s, err := single.Open(ctx, single.Config{Dir: dir, Now: time.Now, MaxOpen: 5000, CheckpointEvery: time.Hour, CheckpointBytes: 1 << 40})
	if err != nil {
		return err
	}
	began := time.Now()
	if err := manyAgents(ctx, s, r.hibernated, func(w *agentWriter) error { return nil }); err != nil {
		return err
	}
	r.note("Creating %d agents at the storage interface, 64 at a time: %.0f/s.", r.hibernated, float64(r.hibernated)/time.Since(began).Seconds())
	unix.Sync()
	if err := r.randomAccess(ctx, s); err != nil {
		return err
	}
	if err := s.Checkpoint(ctx); err != nil {
		return err
	}
	for s.Stats().Log.LiveBytes < 512<<20 {
		if err := manyAgents(ctx, s, r.hibernated, (*agentWriter).burst); err != nil {
			return err
		}
	}
	live := s.Stats().Log.LiveBytes
	// The folder as a killed process leaves it: closing would make a checkpoint.
	crashed := filepath.Join(r.dir, "crashed")
	if err := copyTree(dir, crashed); err != nil {
		return err
	}
	unix.Sync() // the copy's own writes are no part of a restart
	if err := s.Close(); err != nil {
		return err
	}
	began = time.Now()
	s, err = openSingle(ctx, crashed)
	if err != nil {
		return err
	}
	took := time.Since(began)
	r.add(fmt.Sprintf("restart with %d agents and %d MiB of log to redo", r.hibernated, live>>20), took.Round(time.Millisecond).String(), "", "", "≤ 5 s")
	return s.Close()
}

// manyAgents opens agents 0 to n-1, 64 at a time, runs fn on each and closes it.
func manyAgents(ctx context.Context, s storage.Store, n int, fn func(*agentWriter) error) error {
	var next atomic.Int64
	errs := make(chan error, busyAgents)
	for range busyAgents {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					errs <- nil
					return
				}
				w, err := openWriter(ctx, s, i)
				if err == nil {
					err = fn(w)
				}
				if err == nil {
					err = w.db.Close()
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	var err error
	for range busyAgents {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return err
}

// randomAccess compares transactions on agents that are all open with transactions
// on random agents of all there are, of which 4 096 stay open at a time.
func (r *run) randomAccess(ctx context.Context, s storage.Store) error {
	const open, workers = 4096, 64
	pools := make([][]*agentWriter, workers) // each worker has its own agents: n ≡ worker (mod workers)
	pick := make([]*rand.Rand, workers)
	names := make([][]int, workers)
	for k := range workers {
		pick[k] = rand.New(rand.NewPCG(7, uint64(k)))
		for i := range open / workers {
			w, err := openWriter(ctx, s, i*workers+k)
			if err != nil {
				return err
			}
			pools[k], names[k] = append(pools[k], w), append(names[k], i*workers+k)
		}
	}
	all, err := timeFor(workers, 3, func(k int) error { return pools[k][pick[k].IntN(len(pools[k]))].transact() })
	if err != nil {
		return err
	}
	churn, err := timeFor(workers, 3, func(k int) error {
		slot := pick[k].IntN(len(pools[k]))
		n := pick[k].IntN(r.hibernated/workers)*workers + k
		if !contains(names[k], n) {
			if err := pools[k][slot].db.Close(); err != nil {
				return err
			}
			w, err := openWriter(ctx, s, n)
			if err != nil {
				return err
			}
			pools[k][slot], names[k][slot] = w, n
		}
		return pools[k][slot].transact()
	})
	for _, pool := range pools {
		for _, w := range pool {
			if closeErr := w.db.Close(); err == nil {
				err = closeErr
			}
		}
	}
	r.add(fmt.Sprintf("random access to %d agents, %d open, transactions a second", r.hibernated, open), fmt.Sprintf("%.0f/s", churn.perSecond),
		fmt.Sprintf("all open: %.0f/s", all.perSecond), ratio(churn.perSecond, all.perSecond), "≥ 0.5×")
	return err
}

func contains(list []int, n int) bool {
	for _, x := range list {
		if x == n {
			return true
		}
	}
	return false
}

func copyTree(from, to string) error { return os.CopyFS(to, os.DirFS(from)) }
