package catalog

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// TestCatalog_EverybodyAtOnce runs two workers, loops, a checkpointer, a waker and
// readers; each agent's number may only grow for whoever looks.
func TestCatalog_EverybodyAtOnce(t *testing.T) {
	w := newWorld(t)
	const agents, commits = 200, 3000
	ids := make([]agent.ID, agents)
	for i := range ids {
		ids[i] = name(fmt.Sprint(i))
	}
	var index [testShards]atomic.Uint64
	var seqs [agents]atomic.Uint64 // durable
	var workers, others errgroup.Group
	stop := make(chan struct{})
	var cutting sync.RWMutex // a cut is made between two records of its shard
	for worker := range 2 {
		workers.Go(func() error {
			for n := range commits {
				i := (n*7 + n/agents) % agents
				id := ids[i]
				shard := shardOf(id)
				if shard%2 != worker {
					continue
				}
				seq := seqs[i].Load() + 1
				var l *Life
				if n%3 == 0 {
					e, ok, err := w.Entry(id)
					if err != nil {
						return err
					}
					if !ok {
						e.ID = id
					}
					l = w.Catalog.Open(e)
					w.committed(l, seq, wakeAt(int64(n)))
				}
				if n%6 == 0 {
					l.Closed()
				}
				cutting.RLock()
				err := w.Commit(shard, index[shard].Add(1), &record.Record{Kind: record.Commit, Agent: id, Base: seq - 1, Seq: seq,
					At: at(1), CreatedAt: at(1), Wake: wakeAt(int64(n)), Pages: 1})
				cutting.RUnlock()
				if err != nil {
					return err
				}
				seqs[i].Store(seq)
				if l != nil {
					l.Closed()
				}
			}
			return nil
		})
	}
	until := func(fn func() error) {
		others.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				if err := fn(); err != nil {
					return err
				}
			}
		})
	}
	until(func() error { // checkpoints
		cutting.Lock()
		var cuts []any
		for s := range testShards {
			cuts = append(cuts, w.Cut(s, index[s].Load()))
		}
		cutting.Unlock()
		return w.Write(ctx, cuts)
	})
	until(func() error { // readers
		for i, id := range ids {
			least := seqs[i].Load()
			e, ok, err := w.Entry(id)
			if err != nil {
				return err
			}
			if e.Seq < least || ok != (e.Seq > 0) {
				return fmt.Errorf("%v is at %d, and was at %d before", id, e.Seq, least)
			}
			if seq, err := w.Seq(id); err != nil || seq < least {
				return fmt.Errorf("%v: applied %d (%v), and was at %d before", id, seq, err, least)
			}
		}
		return nil
	})
	until(func() error {
		before, _ := w.Count(ctx)
		list, err := w.List(ctx, "default", "", agent.ID{}, 1000)
		if err == nil && len(list) < before {
			err = fmt.Errorf("%d are listed, and there were %d before", len(list), before)
		}
		return err
	})
	until(func() error {
		due, _, err := w.Due(ctx, at(commits), 1000)
		seen := map[agent.ID]bool{}
		for _, e := range due {
			if seen[e.ID] {
				return fmt.Errorf("%v is due twice in one answer", e.ID)
			}
			seen[e.ID] = true
		}
		return err
	})
	w.must(workers.Wait())
	close(stop)
	w.must(others.Wait())
	for s := range testShards {
		w.index[s] = index[s].Load()
	}
	w.checkpoint()
	for i, p := range w.parts {
		if len(p.agents) != 0 {
			t.Errorf("shard %d: %d agents stay in memory", i, len(p.agents))
		}
	}
	w.restart()
	w.wantCount(agents)
	for i, id := range ids {
		if e, err := w.Get(ctx, id); err != nil || e.Seq != seqs[i].Load() {
			t.Errorf("%v: %+v %v, want %d", id, e, err, seqs[i].Load())
		}
	}
}
