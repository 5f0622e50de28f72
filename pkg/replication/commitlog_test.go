package replication_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"agentd/internal/disk"
	"agentd/internal/disk/disktest"
	"agentd/pkg/replication"
	"agentd/pkg/storage/commitlog"
)

func openLog(t *testing.T, fs disk.FS, dir string) *commitlog.Log {
	t.Helper()
	l, err := commitlog.Open(commitlog.Config{Dir: dir, FS: fs, SegmentBytes: 1 << 20, MaxBytes: 64 << 20, CacheBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// onLog starts groups on a commit log.
func (n *node) onLog(t *testing.T, l *commitlog.Log) {
	t.Helper()
	n.start(t, func(c *replication.Config) { c.Log = replication.OnCommitLog(l) })
}

// write has 16 writers propose n records each to a node's shards, and returns how
// many were acknowledged by shard.
func (n *node) write(t *testing.T, shards, each int) [][]outcome {
	t.Helper()
	all := make([]*outcomes, shards)
	for i := range all {
		all[i] = newOutcomes()
	}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			o, p := all[w%shards], n.engine.told(w%shards).proposer
			for i := range each {
				record := fmt.Sprintf("%d.%d %s;", w, i, strings.Repeat("x", 10*i))
				settled := make(chan struct{})
				tell := o.of(record)
				if p == nil || p.Propose([]byte(record), func(err error) { tell(err); close(settled) }) != nil {
					return
				}
				<-settled
			}
		})
	}
	wg.Wait()
	var list [][]outcome
	for _, o := range all {
		list = append(list, o.await(0))
	}
	return list
}

// acknowledged are the records of a shard that were, one after the other.
func acknowledged(list []outcome) string {
	var b strings.Builder
	for _, one := range list {
		if one.err == nil {
			b.WriteString(one.record)
		}
	}
	return b.String()
}

func TestCommitLog_RestartRedoesWhatWasAcknowledged(t *testing.T) {
	const shards = 4
	dir, n := t.TempDir(), newNode(shards)
	l := openLog(t, disk.OS{}, dir)
	n.onLog(t, l)
	first := n.write(t, shards, 50)
	if err := n.groups.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := l.Stats(); st.Entries != 0 {
		t.Errorf("%d entries are left after a checkpoint", st.Entries)
	}
	second := n.write(t, shards, 50)
	n.engine.set(func() { n.engine.checkpoint = errors.New("no checkpoint before the restart") })
	if err := n.groups.Close(context.Background()); err == nil {
		t.Error("Close kept silent about its checkpoint")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	again := newNode(shards)
	l = openLog(t, disk.OS{}, dir)
	again.onLog(t, l)
	for shard := range shards {
		if acknowledged(first[shard]) == "" {
			t.Error("nothing was acknowledged")
		}
		if got := strings.Join(again.engine.told(shard).entries, ""); got != acknowledged(second[shard]) {
			t.Errorf("shard %d redid %d bytes, %d were acknowledged since the checkpoint", shard, len(got), len(acknowledged(second[shard])))
		}
	}
	again.close(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A write of the log fails in the middle of load: whatever the disk has then, every
// acknowledged record is in it.
func TestCommitLog_FailedWriteLosesNothingAcknowledged(t *testing.T) {
	const shards = 4
	for after := 5; after < 60; after += 11 {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			dir, n := t.TempDir(), newNode(shards)
			fs, err := disktest.New(dir)
			if err != nil {
				t.Fatal(err)
			}
			l := openLog(t, fs, dir)
			n.onLog(t, l)
			fs.Intercept(disktest.Nth(disktest.Write, "", int64(after), errDisk, true))
			list := n.write(t, shards, 100)
			<-l.Failed()
			for shard := range shards {
				n.engine.until(func() bool { return n.engine.shards[shard].proposer == nil })
				failed := false
				for _, one := range list[shard] {
					if failed = failed || one.err != nil; failed && one.err == nil {
						t.Errorf("shard %d acknowledged %q after a failure", shard, one.record)
					}
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = n.groups.Close(ctx)
			_ = l.Close()

			again := newNode(shards)
			l = openLog(t, disk.OS{}, dir)
			again.onLog(t, l)
			for shard := range shards {
				if got := strings.Join(again.engine.told(shard).entries, ""); !strings.HasPrefix(got, acknowledged(list[shard])) {
					t.Errorf("shard %d lost acknowledged records", shard)
				}
			}
			again.close(t)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The machine dies at any moment of a load: what was acknowledged before is redone,
// in order, and what else is redone was at least proposed.
func TestCommitLog_PowerLossKeepsWhatWasAcknowledged(t *testing.T) {
	const shards = 2
	dir, n := t.TempDir(), newNode(shards)
	rec, err := disktest.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := openLog(t, rec, dir)
	n.onLog(t, l)
	begin := rec.Len()
	type acknowledgement struct {
		point  int // of the disk's record, at the latest
		record string
	}
	var mu sync.Mutex // guards acks
	acks := make([][]acknowledgement, shards)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			shard := w % shards
			p, settled := n.engine.proposer(shard), make(chan error, 1)
			for i := range 12 {
				record := fmt.Sprintf("%d.%d;", w, i)
				err := p.Propose([]byte(record), func(err error) {
					mu.Lock()
					defer mu.Unlock()
					acks[shard] = append(acks[shard], acknowledgement{rec.Len(), record})
					settled <- err
				})
				if err == nil {
					err = <-settled
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	end := rec.Len()
	n.close(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for point := begin; point <= end; point += 1 + (end-begin)/25 {
		folder := t.TempDir()
		if err := rec.At(point).Crash(disktest.Random(uint64(point)), folder); err != nil {
			t.Fatal(err)
		}
		again := newNode(shards)
		l := openLog(t, disk.OS{}, folder)
		again.onLog(t, l)
		for shard := range shards {
			var want strings.Builder
			for _, a := range acks[shard] {
				if a.point <= point {
					want.WriteString(a.record)
				}
			}
			if got := strings.Join(again.engine.told(shard).entries, ""); !strings.HasPrefix(got, want.String()) {
				t.Errorf("after operation %d shard %d redid %s, acknowledged was %s", point, shard, got, want.String())
			}
		}
		again.close(t)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A shard whose part of the log is damaged must not start; damage itself is made in
// the tests of the log.
func TestCommitLog_GroupsAreTheLogs(t *testing.T) {
	l := openLog(t, disk.OS{}, t.TempDir())
	log := replication.OnCommitLog(l)
	g, err := log.Group(3)
	if err != nil || g.Last() != 0 || log.Full() {
		t.Errorf("a new group: %v, full %v", err, log.Full())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
