package e2e

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"agentd/pkg/agent"
)

// Ten agents misbehave at once. Each call ends in time with an error that says
// why, the neighbours go on, and the memory comes back.
func TestE2E_HostileAgents(t *testing.T) {
	const budget = 20 * time.Second // hostile code runs at low priority: time enough to grow on a busy machine
	w := newWorld(t, "--turn-budget", budget.String(), "--memory", "80MiB")
	w.deploy([]string{"testdata/worker.ts"}, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 5*budget)
	defer cancel()
	before, err := w.node.Memory()
	if err != nil {
		t.Fatal(err)
	}
	hostile := map[string][]agent.Kind{
		"forever":   {agent.CPULimit},
		"promises":  {agent.CPULimit, agent.MemoryLimit},
		"grow":      {agent.MemoryLimit},
		"fill":      {agent.Exception, agent.CPULimit},
		"search":    {agent.Exception, agent.CPULimit},
		"regex":     {agent.CPULimit},
		"recursion": {agent.Exception},
	}
	var wg sync.WaitGroup
	for method, kinds := range hostile {
		wg.Go(func() {
			began := time.Now()
			err := w.current().Agent("Bad", method).Invoke(ctx, method, nil)
			took := time.Since(began)
			t.Logf("%-10s %-12v after %v: %.120v", method, agent.KindOf(err), took.Round(time.Millisecond), err)
			if took > budget+time.Second {
				t.Errorf("%s ended after %v; the budget is %v", method, took, budget)
			}
			ok := false
			for _, kind := range kinds {
				ok = ok || agent.KindOf(err) == kind
			}
			if err == nil || !ok {
				t.Errorf("%s: %v, want one of %v", method, err, kinds)
			}
		})
	}
	wg.Wait()
	var one int
	if err := w.current().Agent("Bad", "neighbour").Invoke(ctx, "ping", &one); err != nil || one != 1 {
		t.Errorf("neighbour: %d, %v", one, err)
	}
	await(t, "memory to come back", func() bool {
		now, err := w.node.Memory()
		return err == nil && now < before+256<<20
	})
}

// An array that grows for ever meets the memory limit, however long that takes, and
// the memory comes back.
func TestE2E_GrowingAgentMeetsTheMemoryLimit(t *testing.T) {
	w := newWorld(t, "--turn-budget", "90s", "--memory", "80MiB")
	w.deploy([]string{"testdata/worker.ts"}, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	before, err := w.node.Memory()
	if err != nil {
		t.Fatal(err)
	}
	err = w.current().Agent("Bad", "grow").Invoke(ctx, "grow", nil)
	if agent.KindOf(err) != agent.MemoryLimit || !strings.Contains(err.Error(), "--memory") {
		t.Errorf("got %v; want kind memory_limit that names --memory", err)
	}
	await(t, "memory to come back", func() bool {
		now, err := w.node.Memory()
		return err == nil && now < before+128<<20
	})
}

// An agent that is reset again and again is set aside until an operator lifts it,
// also across a restart.
func TestE2E_Quarantine(t *testing.T) {
	w := newWorld(t, "--turn-budget", "100ms")
	w.deploy([]string{"testdata/worker.ts"}, nil)
	ctx := context.Background()
	for range 3 {
		if err := w.current().Agent("Bad", "q").Invoke(ctx, "forever", nil); agent.KindOf(err) != agent.CPULimit {
			t.Fatalf("got %v, want cpu_limit", err)
		}
	}
	refused := func() error { return w.current().Agent("Bad", "q").Invoke(ctx, "ping", nil) }
	if err := refused(); agent.KindOf(err) != agent.Quarantined {
		t.Fatalf("got %v, want quarantined", err)
	}
	w.crash()
	if err := refused(); agent.KindOf(err) != agent.Quarantined {
		t.Fatalf("after a restart: %v, want quarantined", err)
	}
	out, err := w.node.Run(ctx, "describe", "Bad/q")
	if err != nil || !strings.Contains(out, "quarantined") || !strings.Contains(out, "unquarantine") {
		t.Errorf("describe says neither why nor how to go on: %v\n%s", err, out)
	}
	if out, err := w.node.Run(ctx, "unquarantine", "Bad/q"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := refused(); err != nil {
		t.Errorf("after the quarantine was lifted: %v", err)
	}
}
