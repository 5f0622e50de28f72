package apply

import (
	"fmt"
	"path/filepath"
	"testing"

	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// nowhere is a catalog that remembers numbers only.
type nowhere struct {
	*ledger
	seqs []map[agent.ID]uint64 // by shard; belongs to the shard's worker
	of   func(agent.ID) int
}

func (n *nowhere) Seq(id agent.ID) (uint64, error) { return n.seqs[n.of(id)][id], nil }

func (n *nowhere) Commit(shard int, _ uint64, r *record.Record) error {
	n.seqs[shard][r.Agent] = r.Seq
	return nil
}

// BenchmarkApply is one record of a usual turn: three pages of a few runs each.
func BenchmarkApply(b *testing.B) {
	for _, agents := range []int{1, 64, 4096} {
		b.Run(fmt.Sprintf("%d agents", agents), func(b *testing.B) { benchmarkApply(b, agents) })
	}
}

func benchmarkApply(b *testing.B, agents int) {
	h := newHistory(1, 16)
	dir := b.TempDir()
	files, err := OpenFiles(lazy{}, filepath.Join(dir, "agents"), agents)
	if err != nil {
		b.Fatal(err)
	}
	cat := &nowhere{of: h.shardOf}
	if cat.ledger, err = openLedger(lazy{}, filepath.Join(dir, "ledger"), h.shards); err != nil {
		b.Fatal(err)
	}
	for range h.shards {
		cat.seqs = append(cat.seqs, make(map[agent.ID]uint64))
	}
	a := New(Config{Files: files, FS: lazy{}, Dir: dir, Catalog: cat, Shards: h.shards, ShardOf: h.shardOf})
	before, after := filled(8, 1), filled(8, 1)
	for _, at := range []int{24, 4088, 4096 + 100, 4096 + 3000, 8192 - 8, 3*4096 + 8, 3*4096 + 2000, 4*4096 - 8} {
		fill(after[at:at+8], 2)
	}
	for i := range 250 {
		after[4096+1000+i]++
	}
	delta := diff(before, after, 4, 1024)
	ids, base := make([]agent.ID, agents), uint64(0)
	for i := range ids {
		ids[i] = named(fmt.Sprint("a", i))
	}
	index := make([]uint64, h.shards)
	b.ReportAllocs()
	var n int
	for b.Loop() {
		id := ids[n%agents]
		if n++; n%agents == 1 || agents == 1 {
			base = uint64((n - 1) / agents)
		}
		shard := h.shardOf(id)
		index[shard]++
		r := record.Append(nil, &record.Record{Kind: record.Commit, Agent: id, Base: base, Seq: base + 1, At: birth, CreatedAt: birth, Pages: 8, Delta: delta})
		if err := a.Apply(shard, index[shard], r); err != nil {
			b.Fatal(err)
		}
	}
	for shard, i := range index {
		if err := a.Wait(b.Context(), shard, i); err != nil {
			b.Fatal(err)
		}
	}
	s := a.Stats()
	b.ReportMetric(float64(s.Writes)/float64(s.Records), "writes/op")
	if err := a.Close(); err != nil {
		b.Fatal(err)
	}
	if err := files.Close(); err != nil {
		b.Fatal(err)
	}
}
