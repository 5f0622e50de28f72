package apply

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage/internal/catalog"
)

var _ Catalog = (*catalog.Catalog)(nil)

// The catalog that runs in the node agrees with the log through checkpoints and
// restarts.
func TestApplier_WithTheRealCatalog(t *testing.T) {
	h := newHistory(11, 4)
	h.random(300, 5, 3)
	dir := t.TempDir()
	config := catalog.Config{Path: filepath.Join(dir, "catalog.db"), FS: disk.OS{}, Shards: h.shards, ShardOf: h.shardOf, Log: slog.New(slog.DiscardHandler),
		Propose: func(context.Context, agent.ID, string) error { return nil }}
	if err := catalog.Rebuild(config, nil); err != nil {
		t.Fatal(err)
	}
	for life, upto := range []int{100, 220, 300} {
		files, err := OpenFiles(lazy{}, filepath.Join(dir, "agents"), 4)
		if err != nil {
			t.Fatal(err)
		}
		cat, err := catalog.Open(config)
		if err != nil {
			t.Fatal(err)
		}
		a := New(Config{Files: files, FS: lazy{}, Dir: dir, Catalog: cat, Shards: h.shards, ShardOf: h.shardOf, Failed: func(err error) { t.Error(err) }})
		o := &home{Applier: a, files: files, ledger: &ledger{rows: make([]map[string]row, h.shards)}}
		for i, l := range h.order[:upto] { // from the beginning: the log was not truncated
			o.hand(t, l)
			if i == upto-30 {
				if err := o.Checkpoint(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		o.wait(t, h.order[:upto]...)
		o.copyRows(t, h, cat)
		if s := o.differs(h, h.order[:upto]...); s != "" {
			t.Errorf("life %d: %s", life, s)
		}
		o.close(t)
		if err := cat.Close(); err != nil {
			t.Error(err)
		}
	}
}

// copyRows brings what the catalog says into the form that differs compares.
func (o *home) copyRows(t *testing.T, h *history, cat *catalog.Catalog) {
	t.Helper()
	for shard := range h.shards {
		o.ledger.rows[shard] = make(map[string]row)
	}
	for _, id := range h.ids() {
		e, err := cat.Get(t.Context(), id)
		if agent.KindOf(err) == agent.NotFound {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		o.ledger.rows[h.shardOf(id)][id.Key()] = row{e.Seq, uint32(e.SizeBytes / 4096), e.Quarantine}
	}
	n, err := cat.Count(t.Context())
	have := 0
	for _, rows := range o.ledger.rows {
		have += len(rows)
	}
	if err != nil || n != have {
		t.Errorf("the catalog counts %d agents, %v; it has %d", n, err, have)
	}
}
