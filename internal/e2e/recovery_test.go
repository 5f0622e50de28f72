package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/client"
)

const published = "../../../shared/programs/my-agent.ts"

// A program that others published runs unchanged, is killed between its two
// operations, and finishes although nobody asks.
func TestE2E_PublishedProgramSurvivesKill(t *testing.T) {
	if _, err := os.Stat(published); err != nil {
		t.Skipf("the published program is not beside the repository: %v", err)
	}
	w := newWorld(t)
	w.deploy([]string{published}, []string{"testdata/operations.ts"})
	a := w.current().Agent("MyAgent", "a")
	go func() { _ = a.Invoke(context.Background(), "doWork", nil) }() // the kill ends it
	await(t, "the first stash", func() bool {
		table, err := a.Query(context.Background(), `SELECT snapshot FROM cf_agents_runs WHERE snapshot IS NOT NULL`)
		return err == nil && len(table.Rows) == 1
	})
	w.crash()
	// Nothing is sent until the log says that the fiber was settled.
	await(t, "recovery without traffic", func() bool { return w.lines("fiber:recovery:handled") == 1 })
	state, _, err := w.current().Agent("MyAgent", "a").State(context.Background())
	if err != nil || string(state) != `{"result":"step one, step two"}` {
		t.Fatalf("state = %s, %v", state, err)
	}
}

func TestE2E_ThousandFibersRecoverOnce(t *testing.T) {
	const agents = 1000
	w := newWorld(t)
	w.deploy([]string{"testdata/worker.ts"}, nil)
	ctx := context.Background()
	each(agents, func(i int) {
		if err := w.current().Agent("Worker", fmt.Sprint(i)).Invoke(ctx, "begin", nil); err != nil {
			t.Error(err)
		}
	})
	w.crash()
	await(t, "all recoveries", func() bool { return w.lines("fiber:recovery:handled") >= agents })
	t.Logf("%d agents recovered %v after the node was ready", agents, time.Since(w.node.Ready).Round(time.Millisecond))
	each(agents, func(i int) {
		var history []string
		if err := w.current().Agent("Worker", fmt.Sprint(i)).Invoke(ctx, "history", &history); err != nil {
			t.Error(err)
		}
		if !slices.Equal(history, []string{"recovered work at 1"}) {
			t.Errorf("agent %d: %v", i, history)
		}
	})
}

// Sixty-four clients count in a hundred agents while the node is killed twenty
// times. Every acknowledged increment is there, none twice.
func TestE2E_CountingThroughTwentyKills(t *testing.T) {
	const agents, clients, kills = 100, 64, 20
	w := newWorld(t)
	w.deploy([]string{"testdata/worker.ts"}, nil)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	var acknowledged [agents]atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for k := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(seed), uint64(k)))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				target := rnd.IntN(agents)
				addUntilAcknowledged(t, w, fmt.Sprint(target), fmt.Sprintf("%d-%d", k, i))
				acknowledged[target].Add(1)
			}
		})
	}
	rnd := rand.New(rand.NewPCG(uint64(seed), 1<<32))
	for range kills {
		<-time.After(time.Duration(50+rnd.IntN(300)) * time.Millisecond)
		w.crash()
	}
	close(stop)
	wg.Wait()
	var sum int64
	for i := range agents {
		var total int64
		if err := w.current().Agent("Counter", fmt.Sprint(i)).Invoke(context.Background(), "total", &total); err != nil {
			t.Fatal(err)
		}
		if want := acknowledged[i].Load(); total != want {
			t.Errorf("agent %d counted %d, acknowledged were %d", i, total, want)
		}
		sum += total
	}
	t.Logf("%d increments through %d kills", sum, kills)
	if sum == 0 {
		t.Error("nothing was counted: the test shows nothing")
	}
}

// addUntilAcknowledged repeats one increment under one key until it is answered.
func addUntilAcknowledged(t *testing.T, w *world, name, key string) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := w.current().Agent("Counter", name).Call(ctx, "add", nil, client.WithKey(key))
		cancel()
		if err == nil {
			return
		}
		switch agent.KindOf(err) {
		case agent.Unavailable, agent.OutcomeUnknown, agent.Reset, agent.Overloaded, agent.Deadline, agent.Canceled:
			<-time.After(time.Millisecond)
		default:
			t.Errorf("increment: %v", err)
			return
		}
	}
}

// each runs fn for 0…n-1, sixteen at a time.
func each(n int, fn func(i int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(i)
		})
	}
	wg.Wait()
}
