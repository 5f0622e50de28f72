package reference

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// crashFolder tells the test binary that it is the process to be killed.
const crashFolder = "STORAGE_CRASH_FOLDER"

const (
	crashAgents = 6
	crashRounds = 24
)

// wakeOf is the wake that commit n of the crash test carries.
func wakeOf(n uint64) storage.Wake {
	w := storage.Wake{Resume: n%3 == 0}
	if n%4 != 0 {
		w.At = time.UnixMilli(int64(1_000_000 + n))
	}
	return w
}

// TestCrashProcess is the process that TestKilled kills: agents that commit, close
// and open again, and say on stdout what was promised.
func TestCrashProcess(t *testing.T) {
	dir := os.Getenv(crashFolder)
	if dir == "" {
		t.Skip("run by TestKilled")
	}
	s, err := Open(Config{Dir: dir, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	var out sync.Mutex
	var wg sync.WaitGroup
	for i := range crashAgents {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), uint64(os.Getpid())))
			for {
				db, err := s.Open(context.Background(), counterID(i))
				if err != nil {
					t.Error(err)
					return
				}
				run(t, db, "CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, body)")
				for range random.IntN(40) {
					size := 100
					if random.IntN(20) == 0 {
						size = 300_000 // now and then the log is written back
					}
					run(t, db, "INSERT INTO t(body) VALUES(zeroblob(?))", size)
					seq := db.(*database).meta.Seq + 1
					ticket, err := db.Commit(wakeOf(seq))
					if err != nil {
						t.Error(err)
						return
					}
					ticket.Then(func(err error) {
						if err == nil {
							out.Lock()
							fmt.Printf("durable %d %d\n", i, seq)
							out.Unlock()
						}
					})
				}
				if err := db.Close(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// A process is killed at random moments, again and again on the same folder.
// Afterwards every promised commit is there, commits have no gaps, and the catalog
// knows the wake of each agent's last commit.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	promised := make([]uint64, crashAgents)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	for range crashRounds {
		child := exec.Command(os.Args[0], "-test.run=^TestCrashProcess$")
		child.Env = append(os.Environ(), crashFolder+"="+dir)
		pipe, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines, killAt := bufio.NewScanner(pipe), 1+random.IntN(300)
		for n := 0; lines.Scan(); {
			var i int
			var seq uint64
			if _, err := fmt.Sscanf(lines.Text(), "durable %d %d", &i, &seq); err != nil {
				t.Fatalf("the process says %q", lines.Text())
			}
			if seq < promised[i] {
				t.Fatalf("agent %d: commit %d was promised after %d", i, seq, promised[i])
			}
			promised[i] = seq
			if n++; n == killAt {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); err == nil {
			t.Fatal("the process ended by itself")
		}
		checkAfterCrash(t, dir, promised)
	}
}

func checkAfterCrash(t *testing.T, dir string, promised []uint64) {
	t.Helper()
	s, err := Open(Config{Dir: dir, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	ctx := context.Background()
	list, _, err := s.Catalog().Due(ctx, time.UnixMilli(1<<50), 100)
	if err != nil {
		t.Fatal(err)
	}
	due := make(map[agent.ID]bool)
	for _, e := range list {
		due[e.ID] = true
	}
	for i, want := range promised {
		id := counterID(i)
		entry, err := s.Catalog().Get(ctx, id)
		if agent.KindOf(err) == agent.NotFound && err != nil && want == 0 {
			continue
		}
		if err != nil {
			t.Fatalf("agent %d: %v", i, err)
		}
		db, err := s.Open(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := db.Query("SELECT count(*), max(n) FROM t")
		if err != nil {
			t.Fatal(err)
		}
		row := make([]storage.Value, 2)
		if err := rows.Next(row); err != nil {
			t.Fatal(err)
		}
		rows.Close()
		seq := db.(*database).meta.Seq
		if seq < want || row[0] != int64(seq) || row[1] != int64(seq) {
			t.Fatalf("agent %d: %d commits were promised, the file has number %d and rows %v", i, want, seq, row)
		}
		wake := wakeOf(seq)
		if entry.Seq != seq || !entry.Wake.Equal(wake) || !db.Wake().Equal(wake) || due[id] != (wake.Resume || !wake.At.IsZero()) {
			t.Fatalf("agent %d at %d: catalog %+v, file %+v, due %t, want %+v", i, seq, entry, db.Wake(), due[id], wake)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// recorder is a disk that writes down what was synced, and can be made to fail or
// to wait.
type recorder struct {
	mu     sync.Mutex // guards what follows
	ops    []syncOp
	fail   map[syncOp]error
	before func(syncOp, *os.File) // called first, without the lock
}

func (r *recorder) sync(op syncOp, f *os.File) error {
	r.mu.Lock()
	before := r.before
	r.mu.Unlock()
	if before != nil {
		before(op, f)
	}
	r.mu.Lock()
	r.ops = append(r.ops, op)
	err := r.fail[op]
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return osSync(op, f)
}

// Before the first commit of a life is in its file, the catalog durably says "read
// the file"; before its ticket settles, log, file and folders are synced.
func TestOrderOfSyncs(t *testing.T) {
	disk := &recorder{}
	s, err := Open(Config{Dir: t.TempDir(), Now: time.Now, disk: disk.sync})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	id := counterID(1)
	wal := s.folder.agentPath(id) + "-wal"
	for life := range 2 {
		disk.mu.Lock()
		disk.ops = nil
		disk.before = func(op syncOp, _ *os.File) {
			info, err := os.Stat(wal)
			if op == syncCatalog && err == nil && info.Size() > 0 {
				t.Error("the file had a commit before the catalog knew")
			}
		}
		disk.mu.Unlock()
		db, err := s.Open(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		run(t, db, "CREATE TABLE IF NOT EXISTS t(a); INSERT INTO t VALUES(1)")
		ticket, err := db.Commit(storage.Wake{At: time.UnixMilli(1)})
		if err != nil {
			t.Fatal(err)
		}
		if err := ticket.Wait(); err != nil {
			t.Fatal(err)
		}
		disk.mu.Lock()
		got := fmt.Sprint(disk.ops)
		disk.before = nil
		disk.mu.Unlock()
		want := []syncOp{syncCatalog, syncLog, syncFolder}
		if life == 0 {
			want = append(want, syncNew)
		}
		for _, op := range want {
			if !strings.Contains(got, string(op)) {
				t.Errorf("life %d: the ticket settled after %s, without %s", life, got, op)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A ticket does not settle while any of its syncs is under way.
func TestTicketWaitsForEverySync(t *testing.T) {
	for _, slow := range []syncOp{syncLog, syncNew, syncFolder} {
		t.Run(string(slow), func(t *testing.T) {
			disk := &recorder{}
			s, err := Open(Config{Dir: t.TempDir(), Now: time.Now, disk: disk.sync})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			reached, release := make(chan struct{}, 8), make(chan struct{})
			disk.mu.Lock()
			disk.before = func(op syncOp, _ *os.File) {
				if op == slow {
					reached <- struct{}{}
					<-release
				}
			}
			disk.mu.Unlock()
			db, err := s.Open(context.Background(), counterID(1))
			if err != nil {
				t.Fatal(err)
			}
			run(t, db, "CREATE TABLE t(a)")
			ticket, err := db.Commit(storage.Wake{})
			if err != nil {
				t.Fatal(err)
			}
			<-reached
			if settled, _ := ticket.Settled(); settled {
				t.Error("settled too early")
			}
			run(t, db, "INSERT INTO t VALUES(1)") // the loop goes on meanwhile
			later, err := db.Commit(storage.Wake{})
			if err != nil {
				t.Fatal(err)
			}
			close(release)
			if err := later.Wait(); err != nil {
				t.Error(err)
			}
			if settled, err := ticket.Settled(); !settled || err != nil {
				t.Errorf("the earlier ticket: %t %v", settled, err)
			}
		})
	}
}

// After a failed sync nothing is acknowledged, and nothing is synced again.
func TestFailedSync(t *testing.T) {
	for _, op := range []syncOp{syncLog, syncNew, syncFolder, syncCatalog} {
		t.Run(string(op), func(t *testing.T) {
			disk := &recorder{fail: make(map[syncOp]error)}
			s, err := Open(Config{Dir: t.TempDir(), Now: time.Now, disk: disk.sync})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			db, err := s.Open(context.Background(), counterID(1))
			if err != nil {
				t.Fatal(err)
			}
			disk.mu.Lock()
			disk.fail[op] = fmt.Errorf("bad sector")
			disk.mu.Unlock()
			run(t, db, "CREATE TABLE t(a)")
			ticket, err := db.Commit(storage.Wake{})
			if err == nil {
				err = ticket.Wait()
			}
			if agent.KindOf(err) != agent.OutcomeUnknown {
				t.Errorf("commit: %v", err)
			}
			<-s.Failed()
			if s.Err() == nil {
				t.Error("no reason")
			}
			disk.mu.Lock()
			disk.ops, disk.fail = nil, nil
			disk.mu.Unlock()
			if _, err := s.Open(context.Background(), counterID(2)); err == nil {
				t.Error("a failed store opens databases")
			}
			if _, err := db.Query("INSERT INTO t VALUES(1)"); err == nil {
				if _, err = db.Commit(storage.Wake{}); err == nil {
					t.Error("a failed store commits")
				}
			}
			if err := db.Close(); err == nil && op != syncCatalog {
				t.Error("closing hides that the last commit is not durable")
			}
			for _, got := range disk.ops {
				if got == syncLog || got == syncNew {
					t.Errorf("%s was synced again", got)
				}
			}
		})
	}
}

// A commit that gathered while the sync before it failed is not synced any more.
func TestNoSyncAfterAFailedOne(t *testing.T) {
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
	run(t, db, "CREATE TABLE t(a)")
	first, err := db.Commit(storage.Wake{})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	reached, release := make(chan struct{}), make(chan struct{})
	disk.mu.Lock()
	disk.ops, disk.fail = nil, map[syncOp]error{syncLog: fmt.Errorf("bad sector")}
	disk.before = func(syncOp, *os.File) { reached <- struct{}{}; <-release }
	disk.mu.Unlock()
	var tickets []*storage.Ticket
	for n := range 2 {
		run(t, db, "INSERT INTO t VALUES(1)")
		ticket, err := db.Commit(storage.Wake{})
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, ticket)
		if n == 0 {
			<-reached
		}
	}
	disk.mu.Lock()
	disk.before = nil
	disk.mu.Unlock()
	close(release)
	for _, ticket := range tickets {
		if err := ticket.Wait(); agent.KindOf(err) != agent.OutcomeUnknown {
			t.Errorf("commit %d: %v", ticket.Seq(), err)
		}
	}
	disk.mu.Lock()
	defer disk.mu.Unlock()
	if len(disk.ops) != 1 {
		t.Errorf("synced %v, want one failed sync and no more", disk.ops)
	}
}

// Pages go back to the database only when the log that holds them, and its name in
// the folder, are durable.
func TestWriteBackWaitsForTheDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		disk := &recorder{}
		s, err := Open(Config{Dir: dir, Now: time.Now, disk: disk.sync})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		db, err := s.Open(context.Background(), counterID(1))
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		disk.mu.Lock()
		disk.before = func(op syncOp, _ *os.File) {
			if op == syncFolder {
				<-release
			}
		}
		disk.mu.Unlock()
		run(t, db, "CREATE TABLE t(a)")
		for range 3 {
			run(t, db, "INSERT INTO t VALUES(zeroblob(1000000))")
		}
		committed := make(chan error)
		go func() {
			_, err := db.Commit(storage.Wake{})
			committed <- err
		}()
		synctest.Wait() // everything stands still: only release is missing
		size := func() int64 {
			info, err := os.Stat(db.(*database).path)
			if err != nil {
				t.Fatal(err)
			}
			return info.Size()
		}
		if n := size(); n != int64(len(s.template)) {
			t.Errorf("the database has %d bytes already", n)
		}
		close(release)
		if err := <-committed; err != nil {
			t.Error(err)
		}
		if n := size(); n < 3_000_000 {
			t.Errorf("the log of 3 MB was not written back: the database has %d bytes", n)
		}
	})
}

// A log that a deletion left behind is not replayed over the agent's next life.
func TestOrphanedLogIsForgotten(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	path := s.folder.agentPath(counterID(1))
	db, err := s.Open(context.Background(), counterID(1))
	if err != nil {
		t.Fatal(err)
	}
	run(t, db, "CREATE TABLE old(a)")
	if _, err := db.Commit(storage.Wake{}); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(context.Background(), counterID(1)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"-wal", log, 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err = s.Open(context.Background(), counterID(1)); err != nil {
		t.Fatal(err)
	}
	run(t, db, "CREATE TABLE old(a)") // fails if the old life came back
	ticket, err := db.Commit(storage.Wake{})
	if err != nil || ticket.Seq() != 1 {
		t.Errorf("commit %d, %v", ticket.Seq(), err)
	}
}
