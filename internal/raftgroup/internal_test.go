package raftgroup

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func FuzzDecodeManifest(f *testing.F) {
	good, err := (&manifest{Version: 1, Index: 9, Term: 2, Peers: []Peer{{Node: "a"}, {Node: "b", Address: "x:1", Observer: true}}, PeersIndex: 1}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"index":1,"term":1,"peers":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err != nil {
			return
		}
		if m.Index == 0 || m.Term == 0 || len(m.Peers) == 0 {
			t.Fatalf("accepted %+v", m)
		}
		again, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := decodeManifest(again); err != nil || n.Index != m.Index || len(n.Peers) != len(m.Peers) {
			t.Fatalf("%+v became %+v, %v", m, n, err)
		}
	})
}

func FuzzDecodeSeal(f *testing.F) {
	f.Add(seal{term: 7, marker: 1}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSeal(&raft.Log{Extensions: b})
		if err == nil && !bytes.Equal(s.encode(), b) {
			t.Fatalf("%x became %+v", b, s)
		}
	})
}

func TestWindow_WaitsForTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &window{limit: 1000, ended: make(chan struct{})}
		w.take(1, 800)
		w.take(1, 800) // a follower reads it too
		if w.bytes > 1000 {
			t.Fatalf("an entry read again counts: %d bytes", w.bytes)
		}
		begin, taken := time.Now(), make(chan time.Duration, 1)
		go func() {
			w.take(2, 800)
			taken <- time.Since(begin)
		}()
		synctest.Wait()
		if len(taken) != 0 {
			t.Error("an entry beyond the limit did not wait")
		}
		time.Sleep(time.Millisecond)
		w.done(1)
		if d := <-taken; d != time.Millisecond {
			t.Errorf("it waited %s", d)
		}
		begin = time.Now()
		w.take(3, 800)
		if d := time.Since(begin); d != windowPatience {
			t.Errorf("without progress it waited %s", d)
		}
		w.done(3)
		if w.bytes != 0 || w.queue != nil {
			t.Errorf("%d bytes, %d entries are left", w.bytes, len(w.queue))
		}
	})
}

func TestWindow_NobodyWaitsAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		w := &window{limit: 10, ended: ended}
		close(ended)
		begin := time.Now()
		w.take(1, 800)
		if d := time.Since(begin); d != 0 {
			t.Errorf("it waited %s", d)
		}
	})
}

func TestSink_ReceivedSnapshotIsRefused(t *testing.T) {
	s := &snapshots{}
	k, err := s.Create(raft.SnapshotVersionMax, 10, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Write([]byte("x")); err == nil {
		t.Error("content was taken")
	}
	if err := k.Close(); err == nil || s.index() != 0 {
		t.Errorf("it was published: %v, index %d", err, s.index())
	}
}

// gap is a machine that fails once.
type gap struct{ calls int }

func (g *gap) Apply([]Entry) error {
	g.calls++
	return errors.New("gap")
}
func (g *gap) Checkpoint(context.Context, uint64) error { return nil }

func TestFSM_TakesNothingAfterAFailure(t *testing.T) {
	m := &gap{}
	g := &Group{life: newLife(), name: "shard 0", machine: m, window: &window{limit: 1}}
	f := &fsm{group: g}
	for i := range uint64(3) {
		f.ApplyBatch([]*raft.Log{{Index: i + 1, Term: 2, Extensions: seal{term: 2}.encode(), Data: []byte("x")}})
	}
	if _, err := f.Snapshot(); err == nil || m.calls != 1 || f.seen.Load() != 0 {
		t.Errorf("%d calls, seen %d, a snapshot returned %v", m.calls, f.seen.Load(), err)
	}
}

func TestFSM_EntryOfAnotherVersionIsAnError(t *testing.T) {
	g := &Group{life: newLife(), name: "shard 0", machine: &gap{}, window: &window{limit: 1}}
	f := &fsm{group: g}
	f.Apply(&raft.Log{Index: 1, Term: 2, Data: []byte("x")})
	if g.Err() == nil {
		t.Error("an entry without a seal was taken")
	}
}
