package apply

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"agentd/internal/disk/disktest"
	"agentd/pkg/agent"
)

// held is a disk whose SyncFS waits to be let through.
type held struct {
	lazy
	began, let chan struct{}
	syncs      *atomic.Int64
}

func newHeld() held {
	return held{began: make(chan struct{}, 100), let: make(chan struct{}), syncs: new(atomic.Int64)}
}

func (s held) SyncFS(string) error {
	s.syncs.Add(1)
	s.began <- struct{}{}
	<-s.let
	return nil
}

func TestCheckpoint_CallsShareOneThatBeganAfterThem(t *testing.T) {
	h := newHistory(1, 2)
	disk := newHeld()
	o := openHome(t, disk, t.TempDir(), h)
	o.hand(t, h.entry(0, h.commit(h.of(0, 1), filled(1, 1))))
	first := o.joinCheckpoint()
	<-disk.began // it is in its sync: what is handed over now, it does not cover
	late := h.entry(1, h.commit(h.of(1, 1), filled(1, 1)))
	o.hand(t, late)
	second := o.joinCheckpoint()
	if second == first {
		t.Error("a call joined a checkpoint that had begun before it")
	}
	for range 8 {
		if o.joinCheckpoint() != second {
			t.Error("calls at the same time do not share")
		}
	}
	disk.let <- struct{}{}
	<-first.done
	<-disk.began
	if got := o.ledger.durable.Index[1]; got != 0 {
		t.Errorf("the first checkpoint says %d of the second shard", got)
	}
	close(disk.let)
	<-second.done
	if got := o.ledger.durable.Index[1]; first.err != nil || second.err != nil || got != late.index {
		t.Errorf("%v, %v, the second shard is durable up to %d, want %d", first.err, second.err, got, late.index)
	}
	o.close(t)
	if n := disk.syncs.Load(); n != 2 {
		t.Errorf("%d checkpoints for ten calls", n)
	}
}

// The order of the deeds: cut, sync of the files, catalog.
func TestCheckpoint_SyncsFilesBeforeTheCatalogSaysSo(t *testing.T) {
	h := newHistory(1, 1)
	dir := t.TempDir()
	rec, err := disktest.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := openHome(t, rec, dir, h)
	defer o.close(t)
	o.hand(t, h.entry(0, h.commit(named("a"), filled(1, 1))))
	if err := o.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	var deeds []string
	for _, op := range rec.Ops() {
		switch {
		case op.Kind == disktest.SyncFS:
			deeds = append(deeds, "sync files")
		case op.Kind == disktest.Rename:
			deeds = append(deeds, "catalog")
		case op.Kind == disktest.Write && op.Path != "ledger.new":
			deeds = append(deeds, "write file")
		}
	}
	if want := []string{"write file", "sync files", "catalog"}; !slices.Equal(deeds, want) {
		t.Errorf("got %q", deeds)
	}
}

// What is applied during the sync is in the next checkpoint, not in this one: its
// bytes may have come after the sync passed.
func TestCheckpoint_CutsBeforeItSyncs(t *testing.T) {
	h := newHistory(1, 1)
	disk := newHeld()
	o := openHome(t, disk, t.TempDir(), h)
	first := h.entry(0, h.commit(named("a"), filled(1, 1)))
	o.hand(t, first)
	done := make(chan error)
	go func() { done <- o.Checkpoint(t.Context()) }()
	<-disk.began
	second := h.entry(0, h.commit(named("a"), filled(1, 2)))
	o.hand(t, second)
	o.wait(t, second)
	close(disk.let)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := o.ledger.durable
	if got.Index[0] != first.index || got.Rows[0][named("a").Key()].Seq != 1 {
		t.Errorf("the catalog says index %d, %+v", got.Index[0], got.Rows)
	}
	o.close(t)
}

func TestCheckpoint_DoesNothingWhenNothingHappened(t *testing.T) {
	h := newHistory(1, 2)
	disk := newHeld()
	close(disk.let)
	o := openHome(t, disk, t.TempDir(), h)
	defer o.close(t)
	o.hand(t, h.entry(0, h.commit(h.of(0, 1), filled(1, 1))))
	for range 3 {
		if err := o.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := disk.syncs.Load(); n != 1 {
		t.Errorf("%d syncs", n)
	}
}

func TestCheckpoint_TriesAgainWhenTheCatalogIsFull(t *testing.T) {
	h := newHistory(1, 1)
	o := openHome(t, lazy{}, t.TempDir(), h)
	l := h.entry(0, h.commit(named("a"), filled(1, 1)))
	o.hand(t, l)
	o.ledger.fail = &agent.Error{Op: "write catalog", Kind: agent.StorageFull, Msg: "no space"}
	if err := o.Checkpoint(t.Context()); agent.KindOf(err) != agent.StorageFull {
		t.Fatal(err)
	}
	if err := o.Checkpoint(t.Context()); err != nil || o.ledger.durable.Index[0] != l.index {
		t.Errorf("again: %v, index %d", err, o.ledger.durable.Index[0])
	}
	o.close(t)
}

func TestCheckpoint_FailsForGoodWithTheCatalog(t *testing.T) {
	h := newHistory(1, 1)
	failed := make(chan error, 1)
	o := openHome(t, lazy{}, t.TempDir(), h, func(c *Config) { c.Failed = func(err error) { failed <- err } })
	o.hand(t, h.entry(0, h.commit(named("a"), filled(1, 1))))
	broken := errors.New("sync failed")
	o.ledger.fail = broken
	if err := o.Checkpoint(t.Context()); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := <-failed; !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := o.Close(); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func TestCheckpoint_GoesOnWithoutItsCaller(t *testing.T) {
	h := newHistory(1, 1)
	disk := newHeld()
	o := openHome(t, disk, t.TempDir(), h)
	l := h.entry(0, h.commit(named("a"), filled(1, 1)))
	o.hand(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Checkpoint(ctx) }()
	<-disk.began
	cancel()
	if err := <-done; agent.KindOf(err) != agent.Canceled {
		t.Error(err)
	}
	close(disk.let)
	o.close(t) // waits for it
	if o.ledger.durable.Index[0] != l.index {
		t.Error("the checkpoint was dropped")
	}
}
