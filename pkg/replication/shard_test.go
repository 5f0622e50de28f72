package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"agentd/internal/raftgroup"
)

// diary is an engine that writes down what it is told.
type diary struct{ pages []string }

func (d *diary) Apply(_ int, _ uint64, entry []byte) error {
	d.pages = append(d.pages, "apply "+string(entry))
	return nil
}
func (d *diary) Wait(context.Context, int, uint64) error { return nil }
func (d *diary) Checkpoint(context.Context) error        { return nil }
func (d *diary) Lead(_ int, term uint64, _ Proposer) {
	d.pages = append(d.pages, fmt.Sprint("lead ", term))
}
func (d *diary) Resign(_ int, term uint64, _ error) {
	d.pages = append(d.pages, fmt.Sprint("resign ", term))
}

// newShard is a shard whose group is played by the test: what it submits is in sent.
func newShard(d *diary, sent *[][]byte) *shard {
	s := &shard{engine: d, full: func() bool { return false }, ready: make(chan struct{}),
		limits:      limits{bytes: 1 << 20, records: 100, inFlight: 2, entry: 1 << 20},
		checkpoints: newCheckpoints(Config{Engine: d, CheckpointBytes: 1 << 30, Logger: slog.New(slog.DiscardHandler)}, nil)}
	s.submit = func(_ uint64, data []byte) { *sent = append(*sent, data) }
	return s
}

func (s *shard) begin(term uint64) *reign {
	_, cancel := context.WithCancel(context.Background())
	s.opening = &opening{term: term, cancel: cancel}
	s.opened(nil)
	return s.reign.Load()
}

func TestShard_ResignsBeforeAnotherLeadersEntryIsApplied(t *testing.T) {
	d, sent := &diary{}, [][]byte(nil)
	s := newShard(d, &sent)
	r := s.begin(2)
	fates := make([]error, 2)
	for i, record := range []string{"own", "lost"} {
		if err := r.Propose([]byte(record), func(err error) {
			d.pages, fates[i] = append(d.pages, "settle "+record), err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply([]raftgroup.Entry{{Index: 5, Term: 2, Data: sent[0]}, {Index: 6, Term: 3, Data: []byte("foreign")}}); err != nil {
		t.Fatal(err)
	}
	want := []string{"lead 2", "settle own", "settle lost", "resign 2", "apply own", "apply foreign"}
	if !slices.Equal(d.pages, want) || fates[0] != nil || fates[1] == nil {
		t.Errorf("the engine was told %q, fates %v", d.pages, fates)
	}
}

func TestShard_IsNotLedOnceAnotherLeadersEntryWasApplied(t *testing.T) {
	d := &diary{}
	s := newShard(d, new([][]byte))
	if err := s.Apply([]raftgroup.Entry{{Index: 6, Term: 3, Data: []byte("foreign")}}); err != nil {
		t.Fatal(err)
	}
	if s.begin(2) != nil || !slices.Equal(d.pages, []string{"apply foreign"}) {
		t.Errorf("the engine was told %q", d.pages)
	}
}

func TestReign_AcknowledgesNothingButItsOwnNextEntry(t *testing.T) {
	d, sent := &diary{}, [][]byte(nil)
	s := newShard(d, &sent)
	r := s.begin(2)
	for range 2 {
		if err := r.Propose([]byte("same bytes"), func(err error) { t.Error("settled", err) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Apply([]raftgroup.Entry{{Index: 5, Term: 2, Data: sent[1]}}); !errors.Is(err, errForeign) {
		t.Errorf("Apply of the second entry returned %v", err)
	}
	if err := s.Apply([]raftgroup.Entry{{Index: 5, Term: 2, Data: []byte("same bytes")}}); !errors.Is(err, errForeign) {
		t.Errorf("Apply of another entry returned %v", err)
	}
}

// A settle function may propose, as an agent's next commit does.
func TestReign_SettleMayPropose(t *testing.T) {
	d, sent := &diary{}, [][]byte(nil)
	s := newShard(d, &sent)
	r := s.begin(2)
	var again func(error)
	left := 3
	again = func(err error) {
		if left--; err == nil && left > 0 {
			if err := r.Propose(fmt.Append(nil, left), again); err != nil {
				t.Error(err)
			}
		}
	}
	again(nil)
	for i := 0; i < len(sent); i++ {
		if err := s.Apply([]raftgroup.Entry{{Index: uint64(i + 1), Term: 2, Data: sent[i]}}); err != nil {
			t.Fatal(err)
		}
	}
	if left != 0 {
		t.Errorf("%d proposals are left", left)
	}
	r.end(errors.New("over"))
	if err := r.Propose([]byte("x"), nil); err == nil {
		t.Error("a proposal after the end was taken")
	}
}
