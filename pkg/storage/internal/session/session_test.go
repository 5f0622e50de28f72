package session

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testID = agent.ID{Namespace: "default", Class: "Thing", Name: "a"}

// bench is one session over a database with the meta table.
type bench struct {
	testing.TB
	*Session
	conn      *sqlite.Conn
	announced int // calls of WillWrite
}

func open(tb testing.TB, o sqlite.Options) *bench {
	tb.Helper()
	o.Create = true
	path := filepath.Join(tb.TempDir(), "x.db")
	conn, err := sqlite.Open(path, o)
	if err == nil {
		err = conn.Exec("PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-512; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; " + MetaSchema)
	}
	if err != nil {
		tb.Fatal(err)
	}
	b := &bench{TB: tb, conn: conn}
	b.Session = New(Config{Agent: testID, Path: path, WillWrite: func() { b.announced++ }}, conn)
	tb.Cleanup(func() { b.must(b.Close(closeConn)) })
	return b
}

func closeConn(conn *sqlite.Conn) error {
	if conn == nil {
		return nil
	}
	return conn.Close(false)
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) run(query string, args ...storage.Value) {
	b.Helper()
	rows, err := b.Query(sqlite.Platform, query, args)
	b.must(err)
	b.must(rows.Close())
}

// one is the only value of a query.
func (b *bench) one(query string) storage.Value {
	b.Helper()
	rows, err := b.Query(sqlite.Platform, query, nil)
	b.must(err)
	var dst [1]storage.Value
	b.must(rows.Next(dst[:]))
	b.must(rows.Close())
	return dst[0]
}

func (b *bench) commit() {
	b.Helper()
	_, err := b.Commit(false, func(Writer) error { return nil })
	b.must(err)
}

func wantKind(t *testing.T, err error, kind agent.Kind) {
	t.Helper()
	var e *agent.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("error %v (kind %v), want kind %v", err, agent.KindOf(err), kind)
	}
}

func TestBreak_EndsEverythingButClose(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a); INSERT INTO t VALUES(1),(2)")
	b.commit()
	rows, err := b.Query(sqlite.User, "SELECT a FROM t", nil)
	b.must(err)
	b.run("INSERT INTO t VALUES(3)")
	gone := errors.New("leadership was lost")
	b.Break(gone)
	b.Break(errors.New("a later reason"))
	for name, call := range map[string]func() error{
		"query":     func() error { _, err := b.Query(sqlite.Read, "SELECT 1", nil); return err },
		"next":      func() error { return rows.Next(make([]storage.Value, 1)) },
		"savepoint": func() error { return b.Savepoint(func() error { return nil }) },
		"rollback":  b.Rollback,
		"usable":    b.Usable,
		"commit":    func() error { _, err := b.Commit(true, func(Writer) error { return nil }); return err },
	} {
		if err := call(); err != gone {
			t.Errorf("%s says %v", name, err)
		}
	}
	b.must(b.Close(func(conn *sqlite.Conn) error {
		row, err := QueryRow(conn, "SELECT count(*) FROM t", 1)
		if err != nil || row[0] != int64(2) {
			t.Errorf("%v rows at the end, %v; the open turn is to be dropped", row, err)
		}
		return conn.Close(false)
	}))
}

// Break waits for nothing, so it may come while a call is under way, even from what
// that call itself calls; a commit that has not happened yet does not happen then.
func TestBreak_DoesNotWait(t *testing.T) {
	b := open(t, Limits())
	gone := errors.New("gone")
	_, err := b.Commit(true, func(w Writer) error {
		b.Break(gone)
		return WriteMeta(w, Meta{Key: testID.Key(), Seq: 1})
	})
	if err != gone {
		t.Errorf("commit: %v", err)
	}
	if m, err := ReadMeta(b.conn); err != nil || m.Seq != 0 {
		t.Errorf("committed although broken: %+v, %v", m, err)
	}
}

func TestClose_EndsEverythingOnce(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a); INSERT INTO t VALUES(1),(2)")
	rows, err := b.Query(sqlite.User, "SELECT a FROM t", nil)
	b.must(err)
	closed := 0
	for range 2 {
		b.must(b.Close(func(conn *sqlite.Conn) error { closed++; return conn.Close(false) }))
	}
	if closed != 1 {
		t.Errorf("the connection was closed %d times", closed)
	}
	if pages, err := b.Pages(); pages != 0 || err != nil {
		t.Errorf("%d pages, %v", pages, err)
	}
	wantKind(t, rows.Next(make([]storage.Value, 1)), agent.SQL)
	b.must(rows.Close())
	wantKind(t, b.Usable(), agent.Unavailable)
	wantKind(t, b.Rollback(), agent.Unavailable)
	_, err = b.Query(sqlite.Read, "SELECT 1", nil)
	wantKind(t, err, agent.Unavailable)
	_, err = b.Commit(true, func(Writer) error { return nil })
	wantKind(t, err, agent.Unavailable)
	b.Interrupt()
}

// Close, Break and Interrupt may come from elsewhere at any moment.
func TestClose_FromElsewhere(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a)")
	b.commit()
	var others sync.WaitGroup
	started := make(chan struct{})
	others.Go(func() {
		<-started
		for range 100 {
			b.Interrupt()
		}
		if err := b.Close(closeConn); err != nil {
			t.Error(err)
		}
		b.Break(errors.New("too late"))
	})
	for n := 0; ; n++ {
		if n == 10 {
			close(started)
		}
		err := b.Savepoint(func() error {
			rows, err := b.Query(sqlite.User, "INSERT INTO t VALUES(1); SELECT a FROM t", nil)
			if err != nil {
				return err
			}
			_, err = rows.Each(nil)
			return err
		})
		if err == nil {
			_, err = b.Commit(false, func(Writer) error { return nil })
		}
		switch {
		case agent.KindOf(err) == agent.Unavailable && err != nil:
			others.Wait()
			return
		case err != nil:
			if err := b.Rollback(); err != nil {
				wantKind(t, err, agent.Unavailable)
			}
		}
	}
}

// A connection is made once, when something needs it; making it may be tried again.
func TestCreate_OnceAndLate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	var calls []string
	fail := errors.New("no space")
	s := New(Config{Agent: testID, Path: path,
		WillWrite: func() { calls = append(calls, "announce") },
		Create: func() (*sqlite.Conn, error) {
			calls = append(calls, "create")
			if fail != nil {
				return nil, fail
			}
			o := Limits()
			o.Create = true
			return sqlite.Open(path, o)
		}}, nil)
	s.Interrupt()
	if pages, err := s.Pages(); pages != 0 || err != nil {
		t.Errorf("%d pages, %v", pages, err)
	}
	if err := s.Rollback(); err != nil {
		t.Error(err)
	}
	if changed, err := s.Commit(false, func(Writer) error { t.Error("own was called"); return nil }); changed || err != nil {
		t.Errorf("commit of nothing: %t %v", changed, err)
	}
	if _, err := s.Query(sqlite.Read, "SELECT 1", nil); err != fail {
		t.Error(err)
	}
	if got := fmt.Sprint(calls); got != "[create]" {
		t.Errorf("a read called %s", got)
	}
	calls = nil
	for range 2 {
		if _, err := s.Query(sqlite.User, "SELECT 1", nil); err != fail {
			t.Error(err)
		}
	}
	if got := fmt.Sprint(calls); got != "[announce create create]" {
		t.Errorf("attempts to write called %s", got)
	}
	fail, calls = nil, nil
	for _, sql := range []string{"CREATE TABLE t(a)", "INSERT INTO t VALUES(1)"} {
		if _, err := s.Query(sqlite.User, sql, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(calls); got != "[create]" {
		t.Errorf("two writes called %s", got)
	}
	if err := s.Close(closeConn); err != nil {
		t.Error(err)
	}
}

func TestWillWrite_OnceAtTheFirstWriteLock(t *testing.T) {
	b := open(t, Limits())
	for _, c := range []struct {
		sql  string
		want int
	}{
		{"SELECT 1", 0}, {"CREATE TABLE IF NOT EXISTS agentd_meta(a)", 0}, {"CREATE TABLE t(a)", 1}, {"INSERT INTO t VALUES(1)", 1},
	} {
		b.run(c.sql)
		if b.announced != c.want {
			t.Errorf("after %s the engine was told %d times, want %d", c.sql, b.announced, c.want)
		}
	}
}

// An interrupt holds for all of what one Query does, also for the opening of its
// transaction; the next Query, and what a commit does, are free of it.
func TestInterrupt_HoldsUntilTheNextQuery(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a)")
	b.commit()
	b.cfg.WillWrite, b.announced, b.Session.announced = b.Interrupt, 0, false // in the middle of the script
	_, err := b.Query(sqlite.User, "INSERT INTO t VALUES(1); INSERT INTO t VALUES(2); INSERT INTO t VALUES(3)", nil)
	wantKind(t, err, agent.SQL)
	if got := b.one("SELECT count(*) FROM t"); got != int64(1) {
		t.Errorf("%v rows", got)
	}
	b.must(b.Rollback())
	b.Interrupt()
	b.mu.Lock()
	err = b.beginLocked()
	b.mu.Unlock()
	wantKind(t, err, agent.SQL)
	b.must(b.Savepoint(func() error { b.run("INSERT INTO t VALUES(1)"); return nil }))
	b.Interrupt()
	_, err = b.Commit(false, func(w Writer) error {
		b.Interrupt()
		if _, err := w.Pages(); err != nil {
			return err
		}
		b.Interrupt()
		err := WriteMeta(w, Meta{Key: testID.Key(), Seq: 1})
		b.Interrupt()
		return err
	})
	b.must(err)
	b.Interrupt()
	_, err = b.Commit(true, func(Writer) error { return nil }) // begins by itself
	b.must(err)
	b.cfg.WillWrite, b.Session.announced = b.Interrupt, false
	_, err = b.Query(sqlite.User, "INSERT INTO t VALUES(1); INSERT INTO t VALUES(2)", nil)
	wantKind(t, err, agent.SQL) // it hears again
}

func TestStatements_AreBounded(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a)")
	for i := range 3 * maxStatements {
		b.run(fmt.Sprintf("SELECT a FROM t WHERE a=%d", i))
	}
	if n := len(b.statements.kept); n != maxStatements {
		t.Errorf("%d statements are kept, want %d", n, maxStatements)
	}
	wide := strings.Repeat("+abs(a)", 200)
	for i := range maxStatements {
		b.run(fmt.Sprintf("SELECT %d%s FROM t", i, wide))
		sum := 0
		for _, st := range b.statements.kept {
			sum += st.Memory
		}
		if sum != b.statements.bytes || sum > maxStatementBytes {
			t.Fatalf("%d bytes are kept, counted as %d", sum, b.statements.bytes)
		}
	}
	b.run("SELECT '" + strings.Repeat("x", maxStatementBytes/8) + "'")
	for key := range b.statements.kept {
		if len(key.query) > maxStatementBytes/8 {
			t.Error("a very long query is kept")
		}
	}
}

// The same statement runs twice at once as two; a kept one is used again unless the
// schema changed while it ran.
func TestStatements_AreUsedAgain(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a); INSERT INTO t VALUES(1),(2)")
	const query = "SELECT * FROM t"
	b.run(query)
	first := b.statements.kept[statementKey{sqlite.Platform, query}]
	b.run(query)
	rows, err := b.Query(sqlite.Platform, query, nil)
	b.must(err)
	if !first.busy || b.statements.kept[first.key] != first {
		t.Error("the kept statement was not used again")
	}
	b.run(query) // beside the open one
	b.run("CREATE TABLE u(a)")
	row := make([]storage.Value, 1)
	b.must(rows.Next(row))
	b.must(rows.Next(row))
	if err := rows.Next(row); err != io.EOF || row[0] != int64(2) {
		t.Errorf("rows that were open during a change of the schema: %v, %v", row, err)
	}
	if len(b.statements.kept) != 1 { // CREATE TABLE u
		t.Errorf("kept after a change of the schema: %v", b.statements.kept)
	}
}

// The statement that was not used for the longest time goes first.
func TestStatements_KeepsWhatIsUsed(t *testing.T) {
	b := open(t, Limits())
	for i := range 3 * maxStatements {
		b.run("SELECT 'often'")
		b.run(fmt.Sprintf("SELECT %d", i))
	}
	last := fmt.Sprintf("SELECT %d", 3*maxStatements-1)
	for query, want := range map[string]bool{"SELECT 'often'": true, last: true, "SELECT 0": false} {
		if kept := b.statements.kept[statementKey{sqlite.Platform, query}] != nil; kept != want {
			t.Errorf("%s is kept: %t", query, kept)
		}
	}
}

// What the engine does once per agent takes no place in the cache, nor do the parts
// of a script.
func TestStatements_NotKept(t *testing.T) {
	b := open(t, Limits())
	b.run("SELECT 1; SELECT 2")
	_, err := b.Commit(true, func(w Writer) error { return w.Exec("CREATE TABLE t(a)") })
	b.must(err)
	for key := range b.statements.kept {
		if key.query != "BEGIN" && key.query != "COMMIT" {
			t.Errorf("%s is kept", key.query)
		}
	}
}

// Names of columns are those of the schema as it is, also when a change was taken
// back.
func TestStatements_ForgetASchemaTakenBack(t *testing.T) {
	b := open(t, Limits())
	b.run("CREATE TABLE t(a)")
	b.commit()
	columns := func() string {
		rows, err := b.Query(sqlite.User, "SELECT * FROM t", nil)
		b.must(err)
		b.must(rows.Close())
		return rows.Columns[0]
	}
	rename := func() error {
		b.run("ALTER TABLE t RENAME COLUMN a TO b")
		if got := columns(); got != "b" {
			t.Errorf("column %s", got)
		}
		return errors.New("take it back")
	}
	for name, back := range map[string]func(){
		"rollback":  func() { rename(); b.must(b.Rollback()) },
		"savepoint": func() { b.Savepoint(rename) },
	} {
		back()
		if got := columns(); got != "a" {
			t.Errorf("column %s after a %s", got, name)
		}
	}
}

func TestQuery_RefusesWithReason(t *testing.T) {
	b := open(t, Limits())
	many := make([]storage.Value, storage.MaxParameters+1)
	for _, c := range []struct {
		sql  string
		args []storage.Value
		kind agent.Kind
		says string
	}{
		{"SELECT 1", many, agent.SQL, "101 arguments were given; at most 100 are allowed"},
		{"SELECT " + strings.Repeat("?,", storage.MaxParameters) + "?", many[1:], agent.SQL, "101 parameters; at most 100 are allowed"},
		{"SELECT ?", many[:2], agent.SQL, "1 parameters but 2 arguments were given"},
		{"SELECT 1\x00; no SQL", nil, agent.SQL, "bind such text as an argument"},
		{" ; -- nothing", nil, agent.SQL, "query Thing/a: the SQL holds no statement"},
		{"SELECT abs(column1) FROM (VALUES(1),(-9223372036854775807-1)); SELECT 1", nil, agent.SQL, "integer overflow"}, // at its second row
		{"SELECT '" + strings.Repeat("x", storage.MaxStatementBytes) + "'", nil, agent.SQL, "bind long values as arguments"},
		{"SELECT 1" + strings.Repeat(" ", maxScriptBytes), nil, agent.TooLarge, "at most 16777216 are allowed"},
	} {
		_, err := b.Query(sqlite.User, c.sql, c.args)
		wantKind(t, err, c.kind)
		if !strings.HasSuffix(err.Error(), c.says) {
			t.Errorf("%.40s: %v", c.sql, err)
		}
	}
}

func TestReadMeta_GivesWhatWasWritten(t *testing.T) {
	b := open(t, Limits())
	if m, err := ReadMeta(b.conn); err != nil || m != (Meta{}) {
		t.Errorf("before the first commit: %+v, %v", m, err)
	}
	born := time.UnixMilli(1_700_000_000_001)
	for seq := uint64(1); seq < 5; seq++ {
		want := Meta{Key: testID.Key(), Seq: seq, Wake: storage.Wake{Resume: seq == 2}, CreatedAt: born}
		if seq == 3 {
			want.Wake.At = time.UnixMilli(1_800_000_000_123)
		}
		if seq > 2 {
			want.CommittedAt = born.Add(time.Duration(seq) * time.Hour)
		}
		_, err := b.Commit(true, func(w Writer) error { return WriteMeta(w, want) })
		b.must(err)
		m, err := ReadMeta(b.conn)
		if err != nil || m != want {
			t.Errorf("read %+v, %v; written %+v", m, err, want)
		}
		if e, err := m.Entry(5); err != nil || e.ID != testID || e.Seq != seq || e.SizeBytes != 5 || !e.Wake.Equal(want.Wake) || !e.CreatedAt.Equal(born) {
			t.Errorf("entry %+v, %v", e, err)
		}
	}
}

// The table that files had before there was a time of commit still serves an engine
// that keeps none.
func TestReadMeta_KnowsTheOldTable(t *testing.T) {
	b := open(t, Limits())
	b.run("ALTER TABLE agentd_meta DROP COLUMN committed_at")
	b.commit()
	for seq := uint64(1); seq < 3; seq++ {
		want := Meta{Key: testID.Key(), Seq: seq, CreatedAt: time.UnixMilli(1)}
		_, err := b.Commit(true, func(w Writer) error { return WriteMeta(w, want) })
		b.must(err)
		if m, err := ReadMeta(b.conn); err != nil || m != want {
			t.Errorf("read %+v, %v; written %+v", m, err, want)
		}
	}
}

func TestReadMeta_RefusesWhatCannotBe(t *testing.T) {
	for _, values := range []string{"x'00', 1, NULL, 0, 1", "'k', 0, NULL, 0, 1", "'k', -1, NULL, 0, 1", "'k', 'x', NULL, 0, 1", "'k', 1, NULL, 0, x'01'"} {
		b := open(t, Limits())
		b.run("INSERT INTO agentd_meta VALUES(1," + values + ",NULL)")
		_, err := ReadMeta(b.conn)
		var cause *sqlite.Error
		if !errors.As(err, &cause) || cause.Code != sqlite.Corrupt {
			t.Errorf("%s: %v", values, err)
		}
	}
}

func TestFault_SaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		err  sqlite.Error
		kind agent.Kind
		says string
	}{
		{sqlite.Error{Code: sqlite.Generic, Msg: "no such table: t"}, agent.SQL, "no such table: t"},
		{sqlite.Error{Code: sqlite.Interrupt, Stop: sqlite.StopInterrupt}, agent.SQL, "interrupted"},
		{sqlite.Error{Code: sqlite.Interrupt, Stop: sqlite.StopWritten}, agent.TooLarge, "several turns"},
		{sqlite.Error{Code: sqlite.Interrupt, Stop: sqlite.StopMemory}, agent.TooLarge, "add an index"},
		{sqlite.Error{Code: sqlite.Auth, Denied: "not that"}, agent.SQL, "not that"},
		{sqlite.Error{Code: sqlite.Corrupt}, agent.Corrupt, "/x.db"},
		{sqlite.Error{Code: sqlite.NotADB}, agent.Corrupt, "/x.db"},
		{sqlite.Error{Code: ioShortRead}, agent.Corrupt, "restore"},
		{sqlite.Error{Code: sqlite.Full}, agent.StorageFull, "10 GiB"},
		{sqlite.Error{Code: sqlite.TooBig}, agent.TooLarge, "2 MiB"},
		{sqlite.Error{Code: sqlite.NoMem}, agent.MemoryLimit, "memory"},
		{sqlite.Error{Code: sqlite.IOErr}, agent.Internal, "/x.db"},
		{sqlite.Error{Code: sqlite.IOErr, Errno: 28}, agent.StorageFull, "free some"},
		{sqlite.Error{Code: sqlite.CantOpen, Errno: 13}, agent.Denied, "owner or mode"},
	} {
		err := Fault("query", testID, "/x.db", fmt.Errorf("wrapped: %w", &c.err))
		wantKind(t, err, c.kind)
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.err, err)
		}
	}
	if err := Fault("query", testID, "/x.db", io.EOF); err != io.EOF {
		t.Errorf("a stranger became %v", err)
	}
}

// Only a failed sync is told to the engine, and the caller gets its error too.
func TestFault_TellsTheEngineOfFailedSyncs(t *testing.T) {
	var told []error
	s := New(Config{Agent: testID, Fault: func(err error) { told = append(told, err) }}, nil)
	sync, sql := &sqlite.Error{Code: sqlite.IOErrFsync}, &sqlite.Error{Code: sqlite.Generic}
	for _, err := range []error{sync, sql} {
		if s.fault("query", err) == nil {
			t.Error("the caller gets no error")
		}
	}
	if len(told) != 1 || told[0] != error(sync) {
		t.Errorf("told %v", told)
	}
}
