package main

import (
	"context"
	"fmt"
	"time"

	"agentd/internal/process"
)

// live measures what a live agent of a small class adds to the process.
func (r *run) live(ctx context.Context) error {
	const n = 2000
	node, c, err := r.start(ctx, "live", "--idle", "1h")
	if err != nil {
		return err
	}
	defer node.Kill()
	defer c.Close()
	if err := c.Agent("Bench", "warm").Invoke(ctx, "upsert", nil, 1); err != nil {
		return err
	}
	before, err := settledMemory(ctx, node)
	if err != nil {
		return err
	}
	_, err = timeMany(16, n/16, func(k, i int) error {
		return c.Agent("Bench", fmt.Sprintf("l%d-%d", k, i)).Invoke(ctx, "upsert", nil, 1)
	})
	if err != nil {
		return err
	}
	after, err := settledMemory(ctx, node)
	if err != nil {
		return err
	}
	each := float64(after-before) / n
	r.add("memory of a live agent of a small class (process RSS)", fmt.Sprintf("%.0f KiB", each/1024), fmt.Sprintf("%d agents: %d → %d MiB", n, before>>20, after>>20), "", "≤ 200 KiB")
	return node.Stop()
}

// hibernate creates many agents, restarts the node, and looks at start-up and
// memory.
func (r *run) hibernate(ctx context.Context) error {
	node, c, err := r.start(ctx, "hibernated", "--idle", "300ms")
	if err != nil {
		return err
	}
	defer func() { node.Kill() }()
	const workers = 16
	began := time.Now()
	_, err = timeMany(workers, r.hibernated/workers, func(k, i int) error {
		return c.Agent("Bench", fmt.Sprintf("h%d-%d", k, i)).Invoke(ctx, "noop", nil)
	})
	if err != nil {
		return err
	}
	created := time.Since(began)
	if err := c.Close(); err != nil {
		return err
	}
	if err := node.Stop(); err != nil {
		return err
	}
	base, _, err := r.restart(ctx, "empty")
	if err != nil {
		return err
	}
	full, took, err := r.restart(ctx, "hibernated")
	if err != nil {
		return err
	}
	each := (float64(full) - float64(base)) / float64(r.hibernated)
	r.add("memory of a hibernated agent (process RSS)", fmt.Sprintf("%.0f B", each),
		fmt.Sprintf("%d agents: %d MiB, none: %d MiB", r.hibernated, full>>20, base>>20), "", "≤ 300 B")
	r.add(fmt.Sprintf("start with %d hibernated agents", r.hibernated), took.Round(time.Millisecond).String(), "process start to ready", "", "")
	r.note("Creating %d agents with %d clients took %v (%.0f/s).", r.hibernated, workers, created.Round(time.Second), float64(r.hibernated)/created.Seconds())
	return nil
}

// restart starts a node on a folder, waits until it is quiet, and stops it again.
func (r *run) restart(ctx context.Context, name string) (memory uint64, took time.Duration, err error) {
	began := time.Now()
	node, err := process.Start(ctx, process.Options{Binary: r.binary, Data: r.dir + "/" + name})
	if err != nil {
		return 0, 0, err
	}
	took = node.Ready.Sub(began)
	memory, err = settledMemory(ctx, node)
	if stopErr := node.Stop(); err == nil {
		err = stopErr
	}
	return memory, took, err
}

// settledMemory reads the memory of a node that was left alone for two seconds and
// has stopped changing.
func settledMemory(ctx context.Context, node *process.Node) (uint64, error) {
	var last uint64
	for i := range 20 {
		now, err := node.Memory()
		if err != nil {
			return 0, err
		}
		if diff := int64(now) - int64(last); i >= 4 && diff < 1<<20 && diff > -(1<<20) {
			return now, nil
		}
		last = now
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
	return last, nil
}
