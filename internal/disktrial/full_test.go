package disktrial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage"
)

// crowd is agents that write in this process until the disk is full.
type crowd struct {
	*testing.T
	*trial
	store *single.Store
	row   int // bytes of each commit's row

	mu     sync.Mutex   // guards what follows
	full   int          // refusals
	unread map[int]bool // agents that could not be opened while the disk was full
}

// unreadable notes an agent whose last commit was in flight as the disk became full:
// nothing can be read of it until there is space.
func (c *crowd) unreadable(k int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unread == nil {
		c.unread = make(map[int]bool)
	}
	c.unread[k] = true
}

// fill has every agent commit until it is refused limit times, or enough says so. Each
// refusal must be of kind StorageFull and leave an agent that can be read.
func (c *crowd) fill(limit int, enough func() bool) {
	c.Helper()
	var wg sync.WaitGroup
	for k := range c.Agents {
		wg.Go(func() {
			if err := c.write(k, limit, enough); err != nil {
				c.T.Errorf("agent %d: %v", k, err)
			}
		})
	}
	wg.Wait()
	if n := len(c.unread); 2*n > c.Agents {
		c.T.Errorf("%d of %d agents cannot be read while the disk is full; only those with a commit in flight may", n, c.Agents)
	}
	select {
	case <-c.store.Failed():
		c.T.Errorf("the store failed: %v", c.store.Err())
	default:
	}
}

// write is one agent's part in fill.
func (c *crowd) write(k, limit int, enough func() bool) error {
	for refused := 0; refused < limit; {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		db, err := c.store.Open(ctx, agentID(k))
		cancel()
		if agent.KindOf(err) == agent.StorageFull && err != nil {
			refused++
			c.unreadable(k)
			continue
		}
		if err != nil {
			return fmt.Errorf("open while the disk is full: %w", err)
		}
		n, err := c.commits(db, k, enough)
		if err == nil {
			return db.Close()
		}
		if err := c.refused(err); err != nil {
			return errors.Join(err, db.Close())
		}
		refused++
		if err := c.readOn(db, k, n); err != nil {
			return errors.Join(err, db.Close())
		}
		_ = db.Close() // it repeats how the last commit ended
	}
	return nil
}

// commits goes on until a commit is refused or enough says so; n is the last commit
// that was acknowledged.
func (c *crowd) commits(db storage.DB, k int, enough func() bool) (n int64, err error) {
	now, err := read(db)
	for err == nil && !enough() {
		next := content{life: int64(k + 1), n: now.n + 1}
		if err = next.write(db, c.row); err != nil {
			return now.n, fmt.Errorf("write: %w", err)
		}
		c.ledger.event("try", fmt.Sprintf("%d %d %d", k, next.life, next.n))
		var ticket *storage.Ticket
		if ticket, err = db.Commit(next.wake()); err == nil {
			err = ticket.Wait()
		}
		if err == nil {
			c.ledger.event("ack", fmt.Sprintf("%d %d %d", k, next.life, next.n))
			now = next
		}
	}
	return now.n, err
}

// refused checks the words of a refusal.
func (c *crowd) refused(err error) error {
	c.mu.Lock()
	c.full++
	c.mu.Unlock()
	if agent.KindOf(err) != agent.StorageFull || !strings.Contains(err.Error(), "space") {
		return fmt.Errorf("a commit to a full disk is refused with kind %v: %w", agent.KindOf(err), err)
	}
	return nil
}

// readOn reads from a database whose commit was refused; where that broke it, from the
// database opened again.
func (c *crowd) readOn(db storage.DB, k int, n int64) error {
	if err := db.Rollback(); err == nil {
		if now, err := read(db); err == nil {
			if now.n != n {
				return fmt.Errorf("after a refused commit the database holds commit %d, not %d", now.n, n)
			}
			return nil
		}
	}
	_ = db.Close() // it repeats how the last commit ended
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	again, err := c.store.Open(ctx, agentID(k))
	if agent.KindOf(err) == agent.StorageFull && err != nil {
		c.unreadable(k)
		return nil
	}
	if err != nil {
		return fmt.Errorf("open after a refused commit: %w", err)
	}
	defer again.Close()
	if now, err := read(again); err != nil || now.n != n {
		return fmt.Errorf("after a refused commit the database holds commit %d (%v), not %d", now.n, err, n)
	}
	return nil
}

// comeBack has every agent commit again without a restart.
func (c *crowd) comeBack() {
	c.Helper()
	begin := time.Now()
	poll(c.T, "a commit after space was freed", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for k := range c.Agents {
			if err := c.once(ctx, k); err != nil {
				return fmt.Errorf("agent %d: %w", k, err)
			}
		}
		return nil
	})
	if took := time.Since(begin); took > 5*time.Second {
		c.T.Errorf("it took %v until commits succeeded again", took)
	}
}

// once opens an agent for one commit.
func (c *crowd) once(ctx context.Context, k int) error {
	db, err := c.store.Open(ctx, agentID(k))
	if err != nil {
		return err
	}
	made := false
	_, err = c.commits(db, k, func() bool { before := made; made = true; return before })
	if err != nil {
		_ = db.Close() // it repeats how the commit ended
		return err
	}
	return db.Close()
}

func never() bool { return false }

func newCrowd(t *testing.T, v *volume, row int) *crowd {
	t.Helper()
	tr := newTrial(t, filepath.Join(v.dir, "data"))
	tr.CheckpointEvery, tr.CheckpointBytes = 200*time.Millisecond, 8<<20
	return &crowd{T: t, trial: tr, row: row}
}

func (c *crowd) open() {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.T.Context(), childTimeout)
	defer cancel()
	s, err := single.Open(ctx, c.config())
	must(c.T, err)
	c.store = s
	c.T.Cleanup(func() { _ = s.Close() }) // before the volume goes
}

// end closes the store and proves that nothing was lost.
func (c *crowd) end() {
	c.Helper()
	if err := c.store.Close(); err != nil {
		c.T.Errorf("close: %v", err)
	}
	c.trial.check()
	c.T.Logf("%d commits, %d refusals", c.ledger.count(), c.full)
}

func TestDiskFull_RefusesNewDataUntilThereIsSpace(t *testing.T) {
	v := newVolume(t, 64)
	v.ballast(24 << 20)
	c := newCrowd(t, v, 60<<10)
	c.open()
	c.fill(3, never)
	v.release()
	c.comeBack()
	c.end()
}

// The log has segments ready, but agents' files cannot grow.
func TestDiskFull_WhileOnlyFilesCannotGrow(t *testing.T) {
	v := newVolume(t, 64)
	c := newCrowd(t, v, 20<<10)
	c.open()
	for k := range c.Agents {
		must(t, c.once(t.Context(), k))
	}
	v.ballast(0)
	c.fill(3, never)
	if !c.store.Stats().Stuck {
		t.Error("files could grow on the full disk")
	}
	v.release()
	c.comeBack()
	c.end()
}

// Agents' files have all pages that they need, but the log gets no segment more: it
// lives from those that checkpoints free.
func TestDiskFull_WhileTheLogCannotGrow(t *testing.T) {
	v := newVolume(t, 64)
	c := newCrowd(t, v, 500)
	c.CheckpointEvery, c.CheckpointBytes = time.Hour, 1<<40
	c.open()
	c.fill(1, func() bool { return c.ledger.count() >= trialAgents*(keptRows+50) })
	v.ballast(0)
	end := time.Now().Add(budget() / 3)
	c.fill(1000, func() bool { return c.ledger.count() >= 20_000 || time.Now().After(end) })
	v.release()
	c.comeBack()
	c.end()
}

// A start on a full disk either works or is refused in words, and nothing is lost.
func TestDiskFull_AtStart(t *testing.T) {
	v := newVolume(t, 64)
	tr := newTrial(t, filepath.Join(v.dir, "data"))
	for range 3 {
		tr.vary()
		tr.CheckpointEvery, tr.CheckpointBytes = time.Hour, 1<<40
		child := tr.start()
		child.await("the store was open", child.ready)
		child.await("enough commits", tr.ledger.await(400))
		child.kill()
		tr.settle()
		v.ballast(0)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		s, err := single.Open(ctx, tr.config())
		cancel()
		if err == nil {
			t.Log("the store opens on a full disk")
			must(t, s.Close())
		} else if agent.KindOf(err) != agent.StorageFull {
			t.Errorf("open on a full disk: kind %v: %v", agent.KindOf(err), err)
		} else {
			t.Log(err)
		}
		v.release()
		tr.check()
	}
	fresh := filepath.Join(v.dir, "fresh")
	v.ballast(0)
	if s, err := single.Open(t.Context(), plan{Dir: fresh}.config()); err == nil {
		t.Error("a new store fits on a full disk")
		must(t, s.Close())
	} else if agent.KindOf(err) != agent.StorageFull {
		t.Errorf("a new store on a full disk: kind %v: %v", agent.KindOf(err), err)
	}
	v.release()
	s, err := single.Open(t.Context(), plan{Dir: fresh}.config())
	must(t, err)
	must(t, s.Close())
	must(t, os.RemoveAll(fresh))
}
