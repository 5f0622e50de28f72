package replication_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"agentd/internal/raftgroup"
	"agentd/pkg/agent"
	"agentd/pkg/replication"
)

const committed agent.Kind = 255

func TestGroups_SettleOnlyWhatIsInTheLog(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, nil)
		p, o := n.engine.proposer(0), newOutcomes()
		n.logs[0].Hold()
		o.propose(t, p, "a")
		synctest.Wait()
		if o.count() != 0 {
			t.Error("a record was acknowledged before the log had it")
		}
		n.logs[0].Release()
		if got := kinds(o.await(1)); !slices.Equal(got, []agent.Kind{committed}) {
			t.Errorf("settled as %v", got)
		}
		entries := n.logs[0].Entries()
		if last := entries[len(entries)-1]; string(last.Data) != "a" {
			t.Errorf("the log ends with %q", last.Data)
		}
		n.close(t)
	})
}

func TestGroups_LoneRecordsGoOutAtOnceAndOthersGather(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, func(c *replication.Config) { c.MaxInFlight = 2 })
		p, o := n.engine.proposer(0), newOutcomes()
		begin := time.Now()
		o.propose(t, p, "lone")
		o.await(1)
		if d := time.Since(begin); d != 0 {
			t.Errorf("a lone record took %s of waiting", d)
		}
		n.logs[0].Hold()
		for i := range 10 {
			o.propose(t, p, fmt.Sprint(i))
		}
		synctest.Wait()
		n.logs[0].Release()
		list := o.await(11)
		for i, one := range list[1:] {
			if one.record != fmt.Sprint(i) || one.err != nil {
				t.Errorf("outcome %d is %v", i, one)
			}
		}
		synctest.Wait()
		if got, want := n.engine.told(0).entries, []string{"lone", "0", "1", "23456789"}; !slices.Equal(got, want) {
			t.Errorf("entries %q, not %q", got, want)
		}
		n.close(t)
	})
}

func TestGroups_EntriesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, func(c *replication.Config) { c.MaxInFlight, c.MaxEntryBytes = 1, 4 })
		p, o := n.engine.proposer(0), newOutcomes()
		n.logs[0].Hold()
		for _, r := range []string{"first", "aa", "bb", "c", "longer than four", "d", "ee"} {
			o.propose(t, p, r)
		}
		synctest.Wait()
		n.logs[0].Release()
		o.await(7)
		synctest.Wait()
		if got, want := n.engine.told(0).entries, []string{"first", "aabb", "c", "longer than four", "dee"}; !slices.Equal(got, want) {
			t.Errorf("entries %q, not %q", got, want)
		}
		n.close(t)
	})
}

func TestPropose_RefusesBeyondTheBounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, func(c *replication.Config) { c.MaxPendingRecords, c.MaxPendingBytes, c.MaxInFlight = 3, 10, 1 })
		p, o := n.engine.proposer(0), newOutcomes()
		never := func(error) { t.Error("a refused record was settled") }
		refused := func(record string, kind agent.Kind) {
			t.Helper()
			if err := p.Propose([]byte(record), never); agent.KindOf(err) != kind || !errors.As(err, new(*agent.Error)) {
				t.Errorf("Propose(%q) returned %v", record, err)
			}
		}
		o.propose(t, p, "larger than the bound, and alone")
		o.await(1)
		n.logs[0].Hold()
		o.propose(t, p, "1234")
		refused("1234567", agent.Overloaded)
		o.propose(t, p, "5")
		o.propose(t, p, "6")
		refused("7", agent.Overloaded)
		n.logs[0].Release()
		o.await(4)
		refused("", agent.Invalid)
		refused(string(make([]byte, replication.MaxRecordBytes+1)), agent.TooLarge)
		n.full.Store(true)
		refused("x", agent.StorageFull)
		n.full.Store(false)
		o.propose(t, p, "y")
		n.close(t)
		refused("z", agent.Unavailable)
		if got := o.await(5); kinds(got)[4] != committed {
			t.Errorf("Close settled as %v", got[4].err)
		}
	})
}

func TestGroups_RecordsThatTheLogHasNoRoomForAreRefusedAndTheShardGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, nil)
		p, o := n.engine.proposer(0), newOutcomes()
		n.logs[0].Hold()
		for i := range 5 {
			o.propose(t, p, fmt.Sprint(i))
		}
		synctest.Wait()
		n.full.Store(true)
		n.logs[0].Release()
		list := o.await(5)
		if want := []agent.Kind{committed, agent.StorageFull, agent.StorageFull, agent.StorageFull, agent.StorageFull}; !slices.Equal(kinds(list), want) {
			t.Errorf("settled as %v", list)
		}
		synctest.Wait()
		told := n.engine.told(0)
		if want := []string{"lead 2", "apply 0", "resign 2", "lead 2"}; !slices.Equal(told.events, want) {
			t.Errorf("the engine was told %v", told.events)
		}
		if n.engine.taken() != 1 || n.entriesInLogs() > 1 { // the marker of the new reign may come later
			t.Errorf("%d checkpoints, %d entries left", n.engine.taken(), n.entriesInLogs())
		}
		if err := told.proposer.Propose([]byte("x"), nil); agent.KindOf(err) != agent.StorageFull {
			t.Errorf("Propose returned %v", err)
		}
		n.full.Store(false)
		o.propose(t, told.proposer, "room again")
		if got := o.await(6)[5]; got.err != nil {
			t.Error(got.err)
		}
		n.close(t)
	})
}

// The log runs out of room under an entry: the shard comes back by itself when there
// is room again.
func TestGroups_EntryThatDoesNotFitCostsOneReign(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, nil)
		p, o := n.engine.proposer(0), newOutcomes()
		o.propose(t, p, "a")
		o.await(1)
		n.logs[0].Fill(true)
		o.propose(t, p, "b")
		o.propose(t, p, "c")
		if got := kinds(o.await(3))[1:]; !slices.Equal(got, []agent.Kind{agent.OutcomeUnknown, agent.Unavailable}) {
			t.Errorf("settled as %v", got)
		}
		time.Sleep(time.Hour)
		if err := n.groups.Stats().Shards[0].Err; err != nil {
			t.Errorf("the shard is out of service: %v", err)
		}
		n.logs[0].Fill(false)
		o.propose(t, n.engine.proposer(0), "d")
		if got := o.await(4)[3]; got.err != nil {
			t.Error(got.err)
		}
		n.close(t)
		if got := n.engine.told(0).entries; !slices.Equal(got, []string{"a", "d"}) {
			t.Errorf("applied %v", got)
		}
	})
}

// A log that fails in the middle: nothing acknowledged that it does not hold, all
// later records fail, in order.
func TestGroups_LogThatFailsEndsTheShardInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(2)
		n.start(t, func(c *replication.Config) { c.MaxInFlight = 2 })
		p, o := n.engine.proposer(0), newOutcomes()
		for i := range 5 {
			o.propose(t, p, fmt.Sprint("good ", i))
		}
		o.await(5)
		n.logs[0].Hold()
		for i := range 6 {
			o.propose(t, p, fmt.Sprint("bad ", i))
		}
		synctest.Wait()
		n.logs[0].Fail(errDisk)
		list := o.await(11)
		for i, one := range list[5:] {
			want := agent.OutcomeUnknown
			if i >= 2 {
				want = agent.Unavailable // they were in no entry yet
			}
			if one.record != fmt.Sprint("bad ", i) || agent.KindOf(one.err) != want || !errors.Is(one.err, errDisk) {
				t.Errorf("outcome %d is %v", i, one)
			}
		}
		if err := p.Propose([]byte("later"), nil); agent.KindOf(err) != agent.Unavailable {
			t.Errorf("a later record: %v", err)
		}
		synctest.Wait()
		if got := n.engine.told(0); !errors.Is(got.reason, errDisk) || !slices.Equal(got.events[len(got.events)-2:], []string{"resign 2", "resign 0"}) {
			t.Errorf("the engine was told %v, %v", got.events, got.reason)
		}
		for _, e := range n.logs[0].Entries() {
			if strings.Contains(string(e.Data), "bad") {
				t.Errorf("the log has %q", e.Data)
			}
		}
		o.propose(t, n.engine.proposer(1), "the other shard goes on")
		o.await(12)
		if st := n.groups.Stats(); st.Shards[0].Err == nil || st.Shards[1].Err != nil || !st.Shards[1].Led {
			t.Errorf("stats %+v", st)
		}
		if err := n.groups.Ready(t.Context()); !errors.Is(err, errDisk) {
			t.Errorf("Ready returned %v", err)
		}
		n.close(t)
	})
}

func TestGroups_EngineThatCannotApplyTakesTheShardOutOfService(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(2)
		n.start(t, nil)
		p, o := n.engine.proposer(0), newOutcomes()
		gap := &agent.Error{Kind: agent.Corrupt, Msg: "gap"}
		n.engine.set(func() { n.engine.gap[0] = gap })
		o.propose(t, p, "acknowledged all the same, it is in the log")
		o.await(1)
		n.engine.until(func() bool { return n.engine.shards[0].proposer == nil })
		if err := p.Propose([]byte("x"), nil); agent.KindOf(err) != agent.Unavailable || !errors.Is(err, gap) {
			t.Errorf("Propose returned %v", err)
		}
		o.propose(t, n.engine.proposer(1), "goes on")
		o.await(2)
		synctest.Wait()
		before := n.logs[0].Entries()
		if err := n.groups.Ready(t.Context()); agent.KindOf(err) != agent.Corrupt && !errors.Is(err, gap) {
			t.Errorf("Ready returned %v", err)
		}
		n.close(t)
		if after := n.logs[0].Entries(); len(after) != len(before) {
			t.Errorf("the log of the broken shard was truncated from %d to %d entries", len(before), len(after))
		}
		if len(n.logs[1].Entries()) != 0 {
			t.Error("the log of the sound shard was not truncated")
		}
	})
}

func TestGroups_ShardThatCannotStartIsOutOfService(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(2)
		n.logs[1].Fail(errDisk)
		c := n.config()
		var err error
		if n.groups, err = replication.Start(c); err != nil {
			t.Fatal(err)
		}
		if err := n.groups.Ready(t.Context()); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "shard 1") {
			t.Errorf("Ready returned %v", err)
		}
		o := newOutcomes()
		o.propose(t, n.engine.proposer(0), "x")
		o.await(1)
		if err := n.groups.Transfer(t.Context(), 1, "b"); !errors.Is(err, errDisk) {
			t.Errorf("Transfer returned %v", err)
		}
		n.close(t)
	})
}

func TestGroups_RestartRedoesExactlyWhatNoSnapshotCovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(3)
		n.start(t, nil)
		o := newOutcomes()
		write := func(round string) {
			for shard := range 3 {
				p := n.engine.proposer(shard)
				for i := range 20 {
					o.propose(t, p, fmt.Sprintf("%s %d.%d;", round, shard, i))
				}
			}
		}
		write("covered")
		o.await(60)
		if err := n.groups.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
		write("redone")
		o.await(120)
		again := n.crashed()
		again.start(t, nil)
		for shard := range 3 {
			var want strings.Builder
			for i := range 20 {
				fmt.Fprintf(&want, "redone %d.%d;", shard, i)
			}
			got := again.engine.told(shard)
			if all := strings.Join(got.entries, ""); all != want.String() {
				t.Errorf("shard %d redid %s", shard, all)
			}
			if !slices.IsSorted(got.indices) {
				t.Errorf("indices %v", got.indices)
			}
			if lead := got.events[len(got.events)-1]; !strings.HasPrefix(lead, "lead") {
				t.Errorf("shard %d was led before its redo: %v", shard, got.events)
			}
		}
		n.close(t)
		again.close(t)
		clean := again.crashed()
		clean.start(t, nil)
		for shard := range 3 {
			if got := clean.engine.told(shard).entries; len(got) != 0 {
				t.Errorf("after Close shard %d redid %v", shard, got)
			}
		}
		clean.close(t)
	})
}

func TestGroups_LeadWaitsUntilTheEngineHasApplied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, nil)
		o := newOutcomes()
		o.propose(t, n.engine.proposer(0), "x")
		o.await(1)
		again := n.crashed()
		n.close(t)
		applied := make(chan struct{})
		again.engine.wait = func(ctx context.Context, _ int) error {
			select {
			case <-applied:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		var err error
		if again.groups, err = replication.Start(again.config()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := again.engine.told(0).events; !slices.Equal(got, []string{"apply x"}) {
			t.Errorf("before the engine had applied it was told %v", got)
		}
		close(applied)
		if err := again.groups.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		again.close(t)
	})
}

func TestGroups_EngineThatCannotRedoIsReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, nil)
		o := newOutcomes()
		o.propose(t, n.engine.proposer(0), "x")
		o.await(1)
		again := n.crashed()
		n.close(t)
		damage := &agent.Error{Kind: agent.Corrupt, Msg: "damaged"}
		again.engine.wait = func(context.Context, int) error { return damage }
		var err error
		if again.groups, err = replication.Start(again.config()); err != nil {
			t.Fatal(err)
		}
		if err := again.groups.Ready(t.Context()); !errors.Is(err, damage) {
			t.Errorf("Ready returned %v", err)
		}
		if err := again.groups.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestGroups_CloseSettlesWhatWasTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, nil)
		p, o := n.engine.proposer(0), newOutcomes()
		n.logs[0].Hold()
		for i := range 5 {
			o.propose(t, p, fmt.Sprint(i))
		}
		closed := make(chan error, 1)
		go func() { closed <- n.groups.Close(t.Context()) }()
		synctest.Wait()
		if err := p.Propose([]byte("late"), nil); agent.KindOf(err) != agent.Unavailable {
			t.Errorf("Propose during Close returned %v", err)
		}
		n.logs[0].Release()
		if err := <-closed; err != nil {
			t.Error(err)
		}
		for _, one := range o.await(5) {
			if one.err != nil {
				t.Error(one)
			}
		}
	})
}

func TestGroups_CloseWithoutTimeFailsWhatIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(1)
		n.start(t, func(c *replication.Config) { c.MaxInFlight = 1 })
		p, o := n.engine.proposer(0), newOutcomes()
		n.logs[0].Hold()
		o.propose(t, p, "in the air")
		o.propose(t, p, "waiting")
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		closed := make(chan struct{})
		go func() {
			_ = n.groups.Close(ctx)
			close(closed)
		}()
		if got := kinds(o.await(2)); !slices.Equal(got, []agent.Kind{agent.OutcomeUnknown, agent.Unavailable}) {
			t.Errorf("settled as %v", got)
		}
		n.logs[0].Release()
		<-closed
	})
}

func TestStart_RefusesNonsense(t *testing.T) {
	for name, spoil := range map[string]func(*replication.Config){
		"shards":     func(c *replication.Config) { c.Shards = 0 },
		"node":       func(c *replication.Config) { c.Node = "" },
		"engine":     func(c *replication.Config) { c.Engine = nil },
		"in flight":  func(c *replication.Config) { c.MaxInFlight = raftgroup.MaxInFlight + 1 },
		"entry":      func(c *replication.Config) { c.MaxEntryBytes = 17 << 20 },
		"pending":    func(c *replication.Config) { c.MaxPendingRecords = -1 },
		"checkpoint": func(c *replication.Config) { c.CheckpointEvery = -1 },
		"transport":  func(c *replication.Config) { c.Members = func(int) []raftgroup.Peer { return nil } },
	} {
		t.Run(name, func(t *testing.T) {
			c := newNode(1).config()
			spoil(&c)
			if _, err := replication.Start(c); agent.KindOf(err) != agent.Invalid {
				t.Errorf("Start returned %v", err)
			}
		})
	}
}

// Many writers on many shards, in real time: every shard's entries are its
// outcomes, in order.
func TestGroups_ManyWritersKeepOrder(t *testing.T) {
	const shards, writers, each = 16, 64, 100
	n := newNode(shards)
	n.start(t, nil)
	all := make([]*outcomes, shards)
	for i := range all {
		all[i] = newOutcomes()
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			shard := w % shards
			p := n.engine.proposer(shard)
			for i := range each {
				record, settled := fmt.Sprintf("%d.%d;", w, i), make(chan struct{})
				tell := all[shard].of(record)
				if err := p.Propose([]byte(record), func(err error) { tell(err); close(settled) }); err != nil {
					t.Error(err)
					return
				}
				<-settled
			}
		})
	}
	wg.Wait()
	n.close(t)
	for shard, o := range all {
		var want strings.Builder
		for _, one := range o.await(writers / shards * each) {
			if one.err != nil {
				t.Fatal(one.err)
			}
			want.WriteString(one.record)
		}
		if got := strings.Join(n.engine.told(shard).entries, ""); got != want.String() {
			t.Errorf("shard %d applied in another order than it acknowledged", shard)
		}
	}
}
