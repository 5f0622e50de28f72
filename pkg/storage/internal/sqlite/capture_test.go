package sqlite

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestSelfTest_Passes(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Fatal(err)
	}
}

func mustExec(t testing.TB, conn *Conn, sql string) {
	t.Helper()
	if err := conn.Exec(sql); err != nil {
		t.Fatalf("%.100s: %v", sql, err)
	}
}

// mustCommit runs SQL that makes exactly one commit, and takes it.
func (f *agentFile) mustCommit(t testing.TB, conn *Conn, sql string) {
	t.Helper()
	mustExec(t, conn, sql)
	if !f.take(t) {
		t.Fatalf("%.100s: no delta", sql)
	}
}

// check compares what the connection reads with what all deltas together give.
func (f *agentFile) check(t testing.TB) {
	t.Helper()
	p := probe{capture: f.capture, image: f.image}
	if err := p.compare(); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code Code, stop Stop) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || (e.Code != code && e.Code.Primary() != code) || e.Stop != stop {
		t.Fatalf("error %#v, want code %d and stop %d", err, code, stop)
	}
}

func wantError(t testing.TB, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want %q", err, part)
	}
}

// Sorting and temporary tables find no file to spill to, and need none.
func TestCapture_SortsInMemory(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 0)
	f.mustCommit(t, conn, "CREATE TABLE t(a, b)")
	mustExec(t, conn, "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) SELECT count(*) FROM (SELECT x, randomblob(500) AS r FROM n ORDER BY r)")
	mustExec(t, conn, "CREATE TEMP TABLE big AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 20000) SELECT x, randomblob(500) FROM n")
	if f.take(t) {
		t.Error("a temporary table left a delta")
	}
}

const fill = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT %) INSERT INTO t SELECT x, zeroblob(3000) FROM n"

func rows(n string) string { return strings.Replace(fill, "%", n, 1) }

// ioErrData is the extended code of bytes that are not what was written.
const ioErrData Code = 10 | 32<<8

// damagedFile is a file whose applied commits fill a few pages of each kind.
func damagedFile(t *testing.T) *agentFile {
	f := newAgentFile(t)
	conn, _ := f.open(t, 0)
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b, a); INSERT INTO t VALUES(1, 'one'), (2, zeroblob(6000)); COMMIT")
	f.apply(t, -1)
	return f
}

// scan reads all of the database.
func (f *agentFile) scan() error {
	conn, capture, err := OpenCapture(CaptureOptions{FD: int(f.file.Fd()), Pages: f.pages, Seq: f.applied}, Options{})
	if err != nil {
		return err
	}
	defer conn.Close(false)
	var page [pageBytes]byte
	for no := uint32(1); no <= f.pages; no++ {
		if err := capture.page(no, &page); err != nil {
			return err
		}
	}
	return conn.Exec("SELECT sum(length(b)) FROM t; SELECT count(*) FROM t INDEXED BY i WHERE b > ''")
}

func TestCapture_DamageOfAnyByteIsAnError(t *testing.T) {
	f := damagedFile(t)
	if err := f.scan(); err != nil {
		t.Fatal(err)
	}
	image := f.read(t)
	for at := range image {
		if at%pageBytes > 300 && at%pageBytes < pageBytes-16 && at%13 != 0 && testing.Short() {
			continue
		}
		if _, err := f.file.WriteAt([]byte{image[at] ^ byte(1<<(at%8))}, int64(at)); err != nil {
			t.Fatal(err)
		}
		wantCode(t, f.scan(), ioErrData, StopNone)
		if _, err := f.file.WriteAt(image[at:at+1], int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.scan(); err != nil {
		t.Fatal(err)
	}
}

func TestCapture_PageInTheWrongPlaceIsAnError(t *testing.T) {
	f := damagedFile(t)
	image := f.read(t)
	if _, err := f.file.WriteAt(image[pageBytes:2*pageBytes], 2*pageBytes); err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.scan(), ioErrData, StopNone)
}

// A file that ends early does not pass for one with zeros at its end.
func TestCapture_ShortFileIsAnError(t *testing.T) {
	f := damagedFile(t)
	for _, size := range []int64{int64(f.pages)*pageBytes - 1, int64(f.pages-1) * pageBytes, pageBytes + 7, 0} {
		if err := f.file.Truncate(size); err != nil {
			t.Fatal(err)
		}
		wantCode(t, f.scan(), ioErrData, StopNone)
	}
}

func TestCapture_ReadErrorHasItsErrno(t *testing.T) {
	f := damagedFile(t)
	f.file.Close()
	err := f.scan()
	var e *Error
	if !errors.As(err, &e) || e.Code.Primary() != IOErr || e.Errno == 0 {
		t.Errorf("error %#v", err)
	}
}

// A page that goes bad under SQLite's cache is found when its change is encoded; the
// commit fails, and what was there before can be read again.
func TestCapture_DamageBelowAChangeFailsTheCommit(t *testing.T) {
	f := damagedFile(t)
	conn, _ := f.open(t, 0)
	mustExec(t, conn, "SELECT * FROM t; BEGIN; UPDATE t SET b = 'two' WHERE a = 1")
	image := f.read(t)
	if _, err := f.file.WriteAt([]byte{image[2*pageBytes-1000] + 1}, 2*pageBytes-1000); err != nil {
		t.Fatal(err)
	}
	wantCode(t, conn.Exec("COMMIT"), ioErrData, StopNone)
	if f.take(t) || !conn.Autocommit() {
		t.Error("the commit came into being")
	}
	if _, err := f.file.WriteAt(image, 0); err != nil {
		t.Fatal(err)
	}
	f.check(t)
	f.mustCommit(t, conn, "UPDATE t SET b = 'two' WHERE a = 1")
	f.check(t)
}

// Without memory a commit fails and leaves the state before; the next one succeeds.
func TestCapture_WithoutMemory(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 0)
	f.mustCommit(t, conn, "PRAGMA auto_vacuum=FULL")
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a, b); "+rows("400")+"; COMMIT")
	for n := 1; ; n++ {
		runtime.LockOSThread() // the fault is the thread's
		failAllocation(n)
		err := conn.Exec("BEGIN; DELETE FROM t WHERE a > 20; INSERT INTO t SELECT 99, zeroblob(20000); COMMIT")
		left := failAllocation(0)
		runtime.UnlockOSThread()
		if err == nil {
			if !left {
				t.Fatalf("allocation %d failed, and nobody noticed", n)
			}
			if n < 10 {
				t.Errorf("only %d allocations", n)
			}
			break
		}
		wantCode(t, err, NoMem, StopNone)
		if !conn.Autocommit() || f.take(t) {
			t.Fatal("a failed commit left something")
		}
		f.check(t)
		mustExec(t, conn, "SELECT count(*) FROM t")
	}
	f.take(t)
	f.check(t)
}

func TestCapture_DeltaThatWasNotTakenStopsTheNextCommit(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 0)
	mustExec(t, conn, "CREATE TABLE t(a, b)")
	err := conn.Exec("INSERT INTO t VALUES(1, 2)")
	wantCode(t, err, IOErr, StopNone)
	if !strings.Contains(err.Error(), "Take") {
		t.Errorf("error %v", err)
	}
	mustExec(t, conn, "BEGIN IMMEDIATE; COMMIT; BEGIN; INSERT INTO t VALUES(1, 2); ROLLBACK")
	if !f.take(t) {
		t.Fatal("the delta is gone")
	}
	f.mustCommit(t, conn, "INSERT INTO t VALUES(1, 2)")
	f.check(t)
}

func TestCapture_TransactionOfTooManyPagesFails(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 20)
	f.mustCommit(t, conn, "CREATE TABLE t(a, b)")
	for _, c := range []struct{ name, sql string }{
		{"at the commit", "BEGIN; " + rows("21") + "; COMMIT"},
		{"when the cache spills", "BEGIN; " + rows("5000") + "; COMMIT"},
	} {
		wantCode(t, conn.Exec(c.sql), Full, StopWritten)
		if !conn.Autocommit() {
			mustExec(t, conn, "ROLLBACK")
		}
		if f.take(t) {
			t.Fatalf("%s: a failed commit left a delta", c.name)
		}
		f.check(t)
	}
	f.mustCommit(t, conn, "BEGIN; "+rows("10")+"; COMMIT")
	f.check(t)
	if err := (&Error{}); errors.As(conn.Exec("SELECT * FROM missing"), &err) && err.Stop != StopNone {
		t.Errorf("a later error is taken for too many pages: %#v", err)
	}
	if n := f.capture.staged(); n != 0 {
		t.Errorf("%d pages stay staged", n)
	}
}

// A statement that writes without end is stopped while it runs.
func TestCapture_EndlessWriteIsStopped(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 2000)
	f.mustCommit(t, conn, "CREATE TABLE t(a, b)")
	_, err := prepare(t, conn, User, "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) INSERT INTO t SELECT x, zeroblob(100000) FROM n").Run(nil)
	wantCode(t, err, Full, StopWritten)
	f.check(t)
}

// After each order of shrinking, growing and applying, the pages are those of the
// commits, also where the file still has the old ones.
func TestCapture_ShrinkThenGrowReadsNoOldPages(t *testing.T) {
	for _, applied := range []int{0, 1, 2, 3, 4} {
		f := newAgentFile(t)
		conn, _ := f.open(t, 0)
		f.mustCommit(t, conn, "PRAGMA auto_vacuum=FULL")
		f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a, b); "+rows("60")+"; COMMIT")
		f.apply(t, -1)
		f.mustCommit(t, conn, "DELETE FROM t WHERE a > 5")
		if f.capture.pages() > 20 {
			t.Fatal("the database did not shrink")
		}
		f.apply(t, min(applied, 1))
		f.mustCommit(t, conn, "BEGIN; "+rows("30")+"; DELETE FROM t WHERE a % 2 = 1; COMMIT")
		f.mustCommit(t, conn, "DELETE FROM t WHERE a > 20")
		f.mustCommit(t, conn, "BEGIN; "+rows("90")+"; COMMIT")
		f.check(t)
		for range 4 {
			f.apply(t, 1)
			f.check(t)
		}
		f.apply(t, applied)
		f.mustCommit(t, conn, "DELETE FROM t")
		f.check(t)
	}
}

// Growth after a truncation that the file has not seen: the pages that nobody wrote
// are zeros, not what the file has there.
func TestCapture_CutHidesTheFileUntilItIsApplied(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 0)
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a, b); "+rows("60")+"; COMMIT")
	f.apply(t, -1)
	before := f.capture.pages()
	mustExec(t, conn, "DELETE FROM t")
	f.take(t)
	if err := conn.Vacuum(); err != nil || !f.take(t) {
		t.Fatal(err)
	}
	// Pages of the rows that go again within the transaction are not written.
	f.mustCommit(t, conn, "BEGIN; "+rows("90")+"; DELETE FROM t WHERE a < 89; COMMIT")
	if f.capture.pages() < before || bytes.Count(f.image, make([]byte, pageBytes)) < 30 {
		t.Fatalf("the database did not grow from %d pages to many unwritten ones", before)
	}
	for f.behind() > 0 {
		f.check(t)
		f.apply(t, 1)
	}
	f.check(t)
}

func TestCapture_AppliedDropsWhatTheFileHolds(t *testing.T) {
	f := newAgentFile(t)
	conn, capture := f.open(t, 0)
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a, b); "+rows("2000")+"; COMMIT")
	f.mustCommit(t, conn, "UPDATE t SET b = 'x' WHERE a = 1000")
	if n := capture.PendingBytes(); n < 2000*4096 {
		t.Errorf("%d bytes pend", n)
	}
	capture.Applied(0, int(f.file.Fd()))
	if n := capture.PendingBytes(); n < 2000*4096 {
		t.Errorf("%d bytes pend after nothing was applied", n)
	}
	f.apply(t, 1)
	if n := capture.PendingBytes(); n == 0 || n > 8*4200 {
		t.Errorf("%d bytes pend", n)
	}
	f.check(t)
	f.apply(t, 1)
	if n := capture.PendingBytes(); n != 0 {
		t.Errorf("%d bytes pend after all was applied", n)
	}
	if n := capture.overlaid(); n > 6 {
		t.Errorf("%d pages are kept", n)
	}
	f.check(t)
}

// A number that was not committed yet says nothing about what comes later.
func TestCapture_AppliedDoesNotRunAhead(t *testing.T) {
	f := newAgentFile(t)
	conn, capture := f.open(t, 0)
	f.mustCommit(t, conn, "CREATE TABLE t(a, b)")
	f.apply(t, 1)
	capture.Applied(1000, int(f.file.Fd()))
	f.mustCommit(t, conn, "BEGIN; "+rows("100")+"; COMMIT")
	capture.Applied(1, int(f.file.Fd()))
	f.check(t)
	if n := capture.PendingBytes(); n < 50*pageBytes {
		t.Errorf("%d bytes pend after a commit", n)
	}
	f.apply(t, 1)
	if n := capture.PendingBytes(); n != 0 {
		t.Errorf("%d bytes pend after all was applied", n)
	}
}

// What was said of an earlier commit, late, says nothing about the file now.
func TestCapture_AppliedDoesNotGoBack(t *testing.T) {
	f := newAgentFile(t)
	conn, capture := f.open(t, 0)
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a, b); "+rows("100")+"; COMMIT")
	f.mustCommit(t, conn, "DELETE FROM t WHERE a = 50")
	f.apply(t, -1)
	capture.Applied(1, -1)
	f.check(t)
	if n := capture.PendingBytes(); n != 0 {
		t.Errorf("%d bytes pend", n)
	}
}

// Any order of the two; the race detector and the address sanitizer look on.
func TestCapture_AppliedWhileCommitting(t *testing.T) {
	f := newAgentFile(t)
	conn, capture := f.open(t, 0)
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a, b); "+rows("1000")+"; COMMIT")
	commits := make(chan fileCommit, 2)
	commits <- f.queue[0]
	var wg sync.WaitGroup
	wg.Go(func() {
		for c := range commits {
			f.write(t, c)
			capture.Applied(c.seq, int(f.file.Fd()))
		}
	})
	for i := range 40 {
		mustExec(t, conn, "UPDATE t SET a = "+strconv.Itoa(i))
		delta, pages, seq, _ := capture.Take(nil)
		var err error
		if f.image, err = replay(f.image, delta, pages); err != nil {
			t.Fatal(err)
		}
		commits <- fileCommit{delta, pages, seq}
	}
	close(commits)
	wg.Wait()
	f.check(t)
}

// The applier closes the earlier descriptor as soon as Applied has returned, while
// the owner reads.
func TestCapture_AppliedBesideTheOwner(t *testing.T) {
	f := newAgentFile(t)
	conn, capture := f.open(t, 0)
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a INTEGER PRIMARY KEY, b); "+rows("300")+"; COMMIT")
	f.apply(t, -1)
	mustExec(t, conn, "PRAGMA cache_size=5")
	commits := make(chan fileCommit, 8)
	var wg sync.WaitGroup
	wg.Go(func() {
		for c := range commits {
			f.write(t, c)
			old := f.reopen(t)
			capture.Applied(c.seq, int(f.file.Fd()))
			old.Close()
			capture.PendingBytes()
		}
	})
	for i := range 400 {
		sql := "UPDATE t SET b = zeroblob(2000 + " + strconv.Itoa(i) + ") WHERE a % 50 = " + strconv.Itoa(i%50)
		if i%7 == 0 {
			sql = "DELETE FROM t WHERE a % 9 = 3"
		} else if i%7 == 3 {
			sql = "INSERT INTO t(b) VALUES(zeroblob(9000))"
		}
		mustExec(t, conn, sql)
		delta, pages, seq, ok := capture.Take(nil)
		if !ok {
			continue
		}
		f.seq++
		var err error
		if f.image, err = replay(f.image, delta, pages); err != nil {
			t.Fatal(err)
		}
		commits <- fileCommit{delta, pages, seq}
		if i%20 == 0 {
			f.check(t)
		}
	}
	close(commits)
	wg.Wait()
	f.check(t)
	if !bytes.Equal(f.read(t), f.image) {
		t.Error("the file is not what its commits give")
	}
}

func (f *agentFile) read(t testing.TB) []byte {
	t.Helper()
	image, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func TestCapture_CloseEndsIt(t *testing.T) {
	conn, capture, err := OpenCapture(CaptureOptions{FD: -1}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, "CREATE TABLE t(a)")
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1000 {
			capture.Applied(1, -1)
			capture.PendingBytes()
		}
	})
	if err := conn.Close(false); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, _, _, ok := capture.Take(nil); ok || capture.PendingBytes() != 0 {
		t.Error("a closed capture has something")
	}
	if err := conn.Close(false); err != nil {
		t.Error(err)
	}
}

// A statement that was forgotten keeps the connection's memory, and nothing else
// happens.
func TestCapture_CloseWithAStatementLeft(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 0)
	f.mustCommit(t, conn, "CREATE TABLE t(a, b); "+"INSERT INTO t SELECT 1, 2 WHERE 0")
	stmt, _, err := conn.Prepare(Platform, Terminated("SELECT * FROM t"))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(false); err != nil {
		t.Fatal(err)
	}
	stmt.Finalize()
}

func TestCapture_OpensNoOtherFile(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 0)
	f.mustCommit(t, conn, "CREATE TABLE t(a, b)")
	path := filepath.Join(t.TempDir(), "other.db")
	for _, sql := range []string{
		"ATTACH '" + path + "' AS other", "ATTACH 'agent' AS other", "VACUUM INTO '" + path + "'",
		"PRAGMA journal_mode=DELETE; INSERT INTO t VALUES(1, 2)", "PRAGMA journal_mode=WAL; INSERT INTO t VALUES(1, 2)",
	} {
		if err := conn.Exec(sql); err == nil {
			t.Errorf("%s succeeded", sql)
		}
		f.take(t)
		mustExec(t, conn, "PRAGMA journal_mode=MEMORY")
		f.take(t)
	}
	f.check(t)
	wantError(t, conn.Exec("ATTACH 'agent' AS other"), "too many attached")
	conn.limitAttached(1)
	wantError(t, conn.Exec("ATTACH 'agent' AS other"), "unable to open")
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a file appeared: %v", err)
	}
	f.mustCommit(t, conn, "INSERT INTO t VALUES(1, 2)")
}

// A transaction may begin where one that spilled was rolled back, in one script.
func TestCapture_RollbackLeavesNothingStaged(t *testing.T) {
	f := newAgentFile(t)
	conn, capture := f.open(t, 0)
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a, b); "+rows("100")+"; COMMIT")
	mustExec(t, conn, "PRAGMA cache_size=10; PRAGMA cache_spill=10")
	f.mustCommit(t, conn, "BEGIN; "+rows("200")+"; UPDATE t SET a = -a; ROLLBACK; BEGIN; "+rows("300")+"; COMMIT")
	f.check(t)
	mustExec(t, conn, "BEGIN; UPDATE t SET a = -a")
	if capture.staged() == 0 {
		t.Error("nothing was spilled")
	}
	mustExec(t, conn, "ROLLBACK")
	if n := capture.staged(); n != 0 {
		t.Errorf("%d pages stay staged", n)
	}
}

// A database without room for trailers must not come into being.
func TestCapture_KeepsItsPageFormat(t *testing.T) {
	f := newAgentFile(t)
	conn, _ := f.open(t, 0)
	f.mustCommit(t, conn, "BEGIN; CREATE TABLE t(a, b); "+rows("50")+"; COMMIT")
	mustExec(t, conn, "PRAGMA page_size=8192")
	if err := conn.Vacuum(); err == nil {
		t.Error("the page size was changed")
	}
	if f.take(t) {
		t.Error("a delta")
	}
	f.check(t)
	f.mustCommit(t, conn, "INSERT INTO t VALUES(1, 2)")
	f.check(t)
}
