package catalog

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/record"
)

const manyRows = 1_000_000

func manyID(i int) agent.ID { return name(fmt.Sprintf("customer-%07d", i)) }

// many is a catalog of a million rows; every tenth has a wake. It is made once per
// process, because that takes seconds.
func many(b *testing.B) *world {
	w := &world{TB: b, config: manyConfig(b)}
	w.start()
	b.Cleanup(func() { w.must(w.Catalog.Close()) })
	return w
}

var manyPath string

func manyConfig(b *testing.B) Config {
	w := newWorld(b)
	c := w.config
	c.FS = disk.OS{}
	if manyPath == "" {
		dir, err := os.MkdirTemp("", "catalog")
		w.must(err)
		manyPath = dir + "/catalog.db"
		c.Path = manyPath
		w.must(Rebuild(c, func(yield func(storage.Entry) error) error {
			for i := range manyRows {
				e := storage.Entry{ID: manyID(i), Seq: 1, SizeBytes: 4096, CreatedAt: at(1)}
				if i%10 == 0 {
					e.Wake.At = at(int64(1_000_000 + i))
				}
				if err := yield(e); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	c.Path = manyPath
	return c
}

func TestMain(m *testing.M) {
	code := m.Run()
	if manyPath != "" {
		_ = os.RemoveAll(manyPath[:len(manyPath)-len("/catalog.db")])
	}
	os.Exit(code)
}

func BenchmarkCatalog_Open(b *testing.B) {
	c := manyConfig(b)
	for b.Loop() {
		cat, err := Open(c)
		if err != nil {
			b.Fatal(err)
		}
		_ = cat.Close()
	}
}

func BenchmarkCatalog_GetRow(b *testing.B) {
	w := many(b)
	rng := rand.New(rand.NewPCG(1, 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Get(ctx, manyID(rng.IntN(manyRows))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCatalog_ListPage(b *testing.B) {
	w := many(b)
	for b.Loop() {
		if list, err := w.List(ctx, "default", "", manyID(500_000), 1000); err != nil || len(list) != 1000 {
			b.Fatal(err)
		}
	}
}

// BenchmarkCatalog_DueAfterManyWakes asks as the waker does while 100 000 agents
// whose rows are due have been woken since the last checkpoint.
func BenchmarkCatalog_DueAfterManyWakes(b *testing.B) {
	w := many(b)
	for i := range 90_000 {
		w.applyAs(manyID(i*10), 2, wakeAt(int64(10_000_000+i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		due, _, err := w.Due(ctx, at(5_000_000), 64)
		if err != nil || len(due) != 64 {
			b.Fatal(len(due), err)
		}
	}
}

// BenchmarkCatalog_Commit is the applier's call, on 100 000 agents with a new wake
// each time.
func BenchmarkCatalog_Commit(b *testing.B) {
	for _, wake := range []bool{false, true} {
		b.Run(fmt.Sprintf("wake=%v", wake), func(b *testing.B) {
			w := newWorld(b)
			ids := make([]agent.ID, 100_000)
			for i := range ids {
				ids[i] = manyID(i)
				w.applyAs(ids[i], 1, storage.Wake{})
			}
			rng := rand.New(rand.NewPCG(1, 1))
			shards := make([]int, len(ids))
			for i, id := range ids {
				shards[i] = shardOf(id)
			}
			r := record.Record{Kind: record.Commit, Base: 1, Seq: 2, At: at(1), CreatedAt: at(1), Pages: 1}
			b.ReportAllocs()
			for b.Loop() {
				i := rng.IntN(len(ids))
				r.Agent = ids[i]
				if wake {
					r.Wake.At = at(rng.Int64N(1_000_000))
				}
				_ = w.Commit(shards[i], 1, &r)
			}
		})
	}
}

// BenchmarkCatalog_Write writes 100 000 changed rows of a million, and reports the
// longest that a reader of a row waited.
func BenchmarkCatalog_Write(b *testing.B) {
	w := many(b)
	rng := rand.New(rand.NewPCG(1, 1))
	var longest time.Duration
	for b.Loop() {
		b.StopTimer()
		for range 100_000 {
			i := rng.IntN(manyRows)
			seq, err := w.Seq(manyID(i))
			w.must(err)
			w.applyAs(manyID(i), seq+1, wakeAt(rng.Int64N(1_000_000)))
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					begin := time.Now()
					_, _ = w.Get(ctx, name("nobody"))
					longest = max(longest, time.Since(begin))
				}
			}
		}()
		b.StartTimer()
		w.checkpoint()
		b.StopTimer()
		close(stop)
		<-stopped
		b.StartTimer()
	}
	b.ReportMetric(float64(longest.Microseconds())/1000, "ms-longest-read")
}
