package reference

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// A full database refuses the turn, says so, and can still be read.
func TestFullDatabase(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db, err := s.Open(context.Background(), counterID(1))
	if err != nil {
		t.Fatal(err)
	}
	run(t, db, "CREATE TABLE t(a); INSERT INTO t VALUES(1)")
	if _, err := db.Commit(storage.Wake{}); err != nil {
		t.Fatal(err)
	}
	if err := db.(*database).conn.Exec("PRAGMA max_page_count=10"); err != nil {
		t.Fatal(err)
	}
	_, err = db.UserQuery("INSERT INTO t VALUES(zeroblob(100000))")
	if agent.KindOf(err) != agent.StorageFull {
		t.Errorf("error %v (%v)", err, agent.KindOf(err))
	}
	if err := db.Rollback(); err != nil {
		t.Fatal(err)
	}
	rows, err := db.UserQuery("SELECT a FROM t")
	if err != nil {
		t.Fatal(err)
	}
	row := make([]storage.Value, 1)
	if err := rows.Next(row); err != nil || row[0] != int64(1) {
		t.Errorf("%v %v", row, err)
	}
	rows.Close()
}

// Beyond maxUnsettled commits the loop waits for the disk instead of for memory.
func TestUnsettledCommitsAreBounded(t *testing.T) {
	disk := &recorder{}
	s, err := Open(Config{Dir: t.TempDir(), Now: time.Now, disk: disk.sync})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	db, err := s.Open(context.Background(), counterID(1))
	if err != nil {
		t.Fatal(err)
	}
	log := db.(*database).log
	reached, release := make(chan struct{}, 1), make(chan struct{})
	disk.mu.Lock()
	disk.before = func(op syncOp, _ *os.File) {
		if op == syncLog {
			select {
			case reached <- struct{}{}:
			default:
			}
			<-release
		}
	}
	disk.mu.Unlock()
	run(t, db, "CREATE TABLE t(a)")
	if _, err := db.Commit(storage.Wake{}); err != nil {
		t.Fatal(err)
	}
	<-reached // the first is being synced; the next ones gather
	for i := range maxUnsettled {
		log.add(s.syncer, storage.NewTicket(uint64(i+2)))
	}
	added := make(chan struct{})
	last := storage.NewTicket(maxUnsettled + 2)
	go func() {
		log.add(s.syncer, last)
		close(added)
	}()
	log.mu.Lock()
	if n := len(log.pending); n > maxUnsettled {
		t.Errorf("%d commits are waiting", n)
	}
	log.mu.Unlock()
	select {
	case <-added:
		t.Error("one too many was taken")
	default:
	}
	close(release)
	<-added
	if err := last.Wait(); err != nil {
		t.Error(err)
	}
}

// The engine runs in a bubble of fake time: none of its goroutines waits for a
// clock or outside the bubble.
func TestInBubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Config{Dir: dir, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		db, err := s.Open(context.Background(), counterID(1))
		if err != nil {
			t.Fatal(err)
		}
		run(t, db, "CREATE TABLE t(a)")
		ticket, err := db.Commit(storage.Wake{At: time.Now().Add(time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		if err := ticket.Wait(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // of the bubble
		due, _, err := s.Catalog().Due(context.Background(), time.Now(), 1)
		if err != nil || len(due) != 1 {
			t.Errorf("due %v, %v", due, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
