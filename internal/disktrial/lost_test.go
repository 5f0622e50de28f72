package disktrial

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestVolumeLosesWhatWasNotSynced shows that the false power cut is one: without it
// TestLostWrites would prove nothing.
func TestVolumeLosesWhatWasNotSynced(t *testing.T) {
	v := newVolume(t, 64)
	path := func(name string) string { return filepath.Join(v.dir, name) }
	old, fresh := bytes.Repeat([]byte("old."), 4096), bytes.Repeat([]byte("new."), 4096)
	put := func(name string, text []byte, sync bool) {
		f, err := os.OpenFile(path(name), os.O_CREATE|os.O_WRONLY, 0o600)
		must(t, err)
		_, err = f.Write(text)
		must(t, err)
		if sync {
			must(t, f.Sync())
		}
		must(t, f.Close())
	}
	put("overwritten", old, true)
	put("kept", fresh, true)
	put("overwritten", fresh, false)
	put("lost", fresh, false)
	v.cut()
	v.remount()
	for name, want := range map[string][]byte{"kept": fresh, "overwritten": old, "lost": nil} {
		got, err := os.ReadFile(path(name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s holds %.8q... (%d bytes), want %.8q (%d)", name, got, len(got), want, len(want))
		}
	}
}

// TestLostWrites cuts the power of a store at random moments: what was acknowledged
// is there afterwards, whole, and so is everything else that the store says of itself.
func TestLostWrites(t *testing.T) {
	v := newVolume(t, 160)
	tr := newTrial(t, filepath.Join(v.dir, "data"))
	for end := time.Now().Add(budget()); time.Now().Before(end) || tr.rounds < 3; {
		tr.vary()
		tr.cutPower(v)
		if tr.random.IntN(3) > 0 { // else the next child recovers, and is cut too
			tr.check()
		}
	}
	tr.check()
	t.Log(tr.summary())
}

// cutPower lets a child write until the disk is gone.
func (tr *trial) cutPower(v *volume) {
	tr.Helper()
	child := tr.start()
	child.await("the store was open", child.ready)
	child.await("enough commits", tr.ledger.await(1+tr.random.IntN(1500)))
	v.cut()
	child.await("the store noticed", child.ended)
	if child.err != nil {
		tr.Errorf("round %d: the child ended with %v: %s", tr.rounds, child.err, child.stderr.String())
	}
	v.remount()
	tr.settle()
}
