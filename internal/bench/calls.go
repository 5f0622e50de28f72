package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/client"
)

// calls measures the empty call and the durable one, alone and with 64 clients.
func (r *run) calls(ctx context.Context) error {
	node, c, err := r.start(ctx, "calls")
	if err != nil {
		return err
	}
	defer node.Kill()
	defer c.Close()
	a := c.Agent("Bench", "a")
	empty, err := timeEach(sequential, func(int) error { return a.Invoke(ctx, "noop", nil) })
	if err != nil {
		return err
	}
	r.empty = empty.p50
	r.add("empty call through gRPC, p50", us(empty.p50), "empty gRPC "+us(r.bare), ratio(empty.p50, r.bare), "≤ 2.0×")
	upsert, err := timeEach(sequential, func(i int) error { return a.Invoke(ctx, "upsert", nil, i%100) })
	if err != nil {
		return err
	}
	limit := r.synced + r.empty
	r.add("call with one durable upsert, p50", us(upsert.p50), "synced write + empty call "+us(limit), ratio(upsert.p50, limit), "≤ 2.5×")
	many, err := timeMany(clients, perClient*2, func(k, _ int) error { return c.Agent("Bench", fmt.Sprint("e", k)).Invoke(ctx, "noop", nil) })
	if err != nil {
		return err
	}
	r.note("Empty calls, %d clients on %d agents: %.0f/s, p50 %s, p99 %s.", clients, clients, many.perSecond, us(many.p50), us(many.p99))
	durable, err := timeMany(clients, perClient, func(k, i int) error { return c.Agent("Bench", fmt.Sprint("e", k)).Invoke(ctx, "upsert", nil, i%100) })
	if err != nil {
		return err
	}
	r.note("Durable upserts, %d clients on %d agents: %.0f/s, p50 %s, p99 %s.", clients, clients, durable.perSecond, us(durable.p50), us(durable.p99))
	same, err := timeMany(clients, perClient, func(_, i int) error { return a.Invoke(ctx, "upsert", nil, i%100) })
	if err != nil {
		return err
	}
	r.note("Durable upserts, %d clients on 1 agent: %.0f/s, p50 %s, p99 %s.", clients, same.perSecond, us(same.p50), us(same.p99))
	return node.Stop()
}

// hostile measures what neighbours notice of ten agents that never end, grow for
// ever or search for ever.
func (r *run) hostile(ctx context.Context) error {
	const budget = 4 * time.Second
	node, c, err := r.start(ctx, "hostile", "--turn-budget", budget.String(), "--memory", "1GiB")
	if err != nil {
		return err
	}
	defer node.Kill()
	defer c.Close()
	load := func() (times, error) {
		return timeMany(4, 400, func(k, i int) error { return c.Agent("Bench", fmt.Sprint("good", k)).Invoke(ctx, "upsert", nil, i%100) })
	}
	if _, err := load(); err != nil { // warm
		return err
	}
	calm, err := load()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	kinds := make([]string, 10)
	var slowest time.Duration
	var mu sync.Mutex
	for i := range kinds {
		method := []string{"spin", "grow", "recurse", "regex"}[i%4]
		wg.Go(func() {
			began := time.Now()
			kind := describeEnd(c.Agent("Bench", fmt.Sprint("bad", i)).Invoke(ctx, method, nil))
			mu.Lock()
			defer mu.Unlock()
			kinds[i] = method + ":" + kind
			slowest = max(slowest, time.Since(began))
		})
	}
	began := time.Now()
	var samples []time.Duration
	for time.Since(began) < budget*3/4 {
		t, err := load()
		if err != nil {
			return err
		}
		samples = append(samples, t.samples...)
	}
	during := quantiles(samples, time.Since(began))
	wg.Wait()
	r.add("neighbours' p99 from the moment ten hostile agents begin", us(during.p99), "the same load alone "+us(calm.p99), ratio(during.p99, calm.p99), "≤ 2×")
	r.note("Neighbours beside hostile agents: %.0f/s, p50 %s; alone %.0f/s, p50 %s.", during.perSecond, us(during.p50), calm.perSecond, us(calm.p50))
	r.note("Hostile agents ended as %v; the slowest after %v (budget %v).", kinds, slowest.Round(time.Millisecond), budget)
	mem, err := settledMemory(ctx, node)
	if err != nil {
		return err
	}
	r.note("Memory of the node afterwards: %d MiB.", mem>>20)
	return node.Stop()
}

func describeEnd(err error) string {
	var e *agent.Error
	if errors.As(err, &e) {
		return e.Kind.String()
	}
	return fmt.Sprint(err)
}

// wakes measures the first call to an agent that sleeps, against one that is live.
func (r *run) wakes(ctx context.Context) error {
	const n = 300
	node, c, err := r.start(ctx, "wake", "--idle", "200ms")
	if err != nil {
		return err
	}
	defer node.Kill()
	defer c.Close()
	create, err := timeEach(n, func(i int) error { return c.Agent("Bench", fmt.Sprint("w", i)).Invoke(ctx, "noop", nil) })
	if err != nil {
		return err
	}
	if err := allAsleep(ctx, c, n+n/10); err != nil {
		return err
	}
	wake, err := timeEach(n, func(i int) error {
		return c.Agent("Bench", fmt.Sprint("w", i)).Invoke(ctx, "noop", nil)
	})
	if err != nil {
		return err
	}
	calm, err := timeEach(n, func(int) error { return c.Agent("Bench", "w0").Invoke(ctx, "noop", nil) })
	if err != nil {
		return err
	}
	r.add("call that wakes a hibernated agent, p50", us(wake.p50), "call to a live agent "+us(calm.p50), fmt.Sprintf("+%s", us(wake.p50-calm.p50)), "≤ +1 ms")
	r.note("Creating an agent with its first call: p50 %s, p99 %s. Waking: p99 %s.", us(create.p50), us(create.p99), us(wake.p99))
	return node.Stop()
}

// allAsleep waits until no agent's database is open.
func allAsleep(ctx context.Context, c *client.Client, n int) error {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		live, seen := 0, 0
		for info, err := range c.ListAll(ctx, "Bench") {
			if err != nil {
				return err
			}
			seen++
			if info.Live {
				live++
			}
		}
		if live == 0 && seen >= n {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("agents did not hibernate within a minute")
}

func us(v float64) string {
	if v >= 10_000 {
		return fmt.Sprintf("%.1f ms", v/1000)
	}
	return fmt.Sprintf("%.0f µs", v)
}

func ratio(a, b float64) string { return fmt.Sprintf("**%.2f×**", a/b) }
