package apply

import (
	"fmt"
	"path/filepath"
	"testing"

	"agentd/internal/disk/disktest"
)

// run is a life of an applier on a recording disk, with checkpoints.
type run struct {
	*history
	rec   *disktest.Recorder
	notes []int // operations before each entry was handed over
}

// live applies all of the history, with a checkpoint now and then, in small batches
// or large ones.
func live(t *testing.T, seed uint64) *run {
	h := newHistory(seed, 2)
	h.random(20, 2, 4)
	r := &run{history: h}
	dir := t.TempDir()
	var err error
	if r.rec, err = disktest.New(dir); err != nil {
		t.Fatal(err)
	}
	o := openHome(t, r.rec, dir, h)
	for i, l := range h.order {
		r.notes = append(r.notes, r.rec.Len())
		o.hand(t, l)
		if seed%2 == 0 {
			o.wait(t, l)
		}
		if i%7 == 6 {
			if err := o.Checkpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	o.close(t)
	if s := o.differs(h, h.order...); s != "" {
		t.Fatal(s)
	}
	return r
}

// handed are the entries that may have left traces at a point: the log has them.
func (r *run) handed(point int) []logged {
	n := 0
	for n < len(r.notes) && r.notes[n] < point {
		n++
	}
	return r.order[:n]
}

// recover starts from what a crash left, with the log as it was, and once more after
// a checkpoint.
func (r *run) recover(t *testing.T, dir string, entries []logged) error {
	for _, when := range []string{"after redo", "after a checkpoint"} {
		o := openHome(t, lazy{}, dir, r.history)
		o.hand(t, entries...)
		o.wait(t, entries...)
		if s := o.differs(r.history, entries...); s != "" {
			o.close(t)
			return fmt.Errorf("%s: %s", when, s)
		}
		if err := o.Checkpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.close(t)
	}
	return nil
}

// Whenever the machine dies, whatever part of the sectors, sizes and names that were
// not synced is left: the log from the checkpoint on leads to exactly the files and
// the catalog that it means.
func TestApplier_CrashAnywhereIsRedone(t *testing.T) {
	for seed := range uint64(3) {
		r := live(t, seed)
		into := filepath.Join(t.TempDir(), "crash")
		r.rec.Each(func(point int, w *disktest.World) bool {
			entries := r.handed(point)
			choosers := []disktest.Chooser{disktest.Oldest, disktest.Newest, disktest.Random(seed<<32 + uint64(point)), disktest.Random(seed<<33 + uint64(point))}
			for i, choose := range choosers {
				if err := w.Crash(choose, into); err != nil {
					t.Fatal(err)
				}
				if err := r.recover(t, into, entries); err != nil {
					t.Errorf("seed %d, machine died after operation %d, choice %d: %v", seed, point, i, err)
				}
			}
			return !t.Failed()
		})
	}
}

// The same when the process is killed between two system calls, and the log has gone
// on elsewhere meanwhile.
func TestApplier_KillAnywhereIsRedone(t *testing.T) {
	for seed := range uint64(3) {
		r := live(t, seed)
		into := filepath.Join(t.TempDir(), "kill")
		r.rec.Each(func(point int, w *disktest.World) bool {
			if err := w.Kill(into); err != nil {
				t.Fatal(err)
			}
			if err := r.recover(t, into, r.order); err != nil {
				t.Errorf("seed %d, killed after operation %d: %v", seed, point, err)
			}
			return !t.Failed()
		})
	}
}

// A page torn in every way between two commits is exact after redo.
func TestApplier_TornPageIsExactInEveryWay(t *testing.T) {
	h := newHistory(5, 1)
	id := named("a")
	im := make(image, 2*4096)
	step := func(change func(image)) {
		next := append(image(nil), im...)
		change(next)
		h.entry(0, h.commit(id, next))
		im = next
	}
	step(func(im image) { fill(im[:], 1) })
	step(func(im image) { fill(im[100:3000], 2) })
	step(func(im image) { fill(im[600:601], 3); fill(im[1500:2600], 4); fill(im[4088:4096], 5) })
	dir := t.TempDir()
	rec, err := disktest.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := openHome(t, rec, dir, h)
	o.hand(t, h.order[0])
	if err := o.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.hand(t, h.order[1:]...)
	o.close(t)
	r := &run{history: h, rec: rec}
	into, states := filepath.Join(t.TempDir(), "torn"), 0
	w := rec.At(rec.Len())
	all := disktest.Every(3000, func(choose disktest.Chooser) bool {
		states++
		if err := w.Crash(choose, into); err != nil {
			t.Fatal(err)
		}
		if err := r.recover(t, into, h.order); err != nil {
			t.Errorf("state %d: %v", states, err)
		}
		return !t.Failed()
	})
	if !all || states < 64 {
		t.Errorf("%d states, all: %v", states, all)
	}
}

func fill(b []byte, c byte) {
	for i := range b {
		b[i] = c
	}
}
