package sqlite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// SelfTest proves, once per process, what captures take for granted of the SQLite
// that is linked: a commit that changes something is announced exactly once and has
// one delta; what is rolled back, in whole or in part, leaves none; and the deltas,
// applied in order to nothing, give byte for byte what the connection reads. Any
// goroutine; some milliseconds. An error means: do not serve, build with the pinned
// SQLite.
func SelfTest() error { return selfTest() }

var selfTest = sync.OnceValue(func() error {
	conn, capture, err := OpenCapture(CaptureOptions{FD: -1}, Options{})
	if err != nil {
		return fmt.Errorf("self-test of SQLite: %w", err)
	}
	t := &probe{conn: conn, capture: capture}
	err = errors.Join(t.run(), conn.Close(false))
	if err != nil {
		return fmt.Errorf("self-test of SQLite: %w", err)
	}
	return nil
})

// probe runs SQL on a capture and keeps an image beside it.
type probe struct {
	conn    *Conn
	capture *Capture
	image   []byte
	seq     uint64
	buf     []byte
}

// step is SQL and what it must do.
type step struct {
	sql     string
	fails   bool // returns an error
	commits int  // with a delta
	counts  bool // a commit that may change the header's counters, and nothing else
}

var selfTestSteps = []step{
	{sql: "BEGIN; CREATE TABLE p(id INTEGER PRIMARY KEY, b); CREATE TABLE c(x REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED); INSERT INTO p VALUES(1, randomblob(10000)); COMMIT", commits: 1},
	{sql: "INSERT INTO p VALUES(2, 'two')", commits: 1},
	{sql: "BEGIN; SELECT count(*) FROM p; COMMIT"},
	{sql: "BEGIN; UPDATE p SET b = 'no' WHERE id = 7; COMMIT"},
	{sql: "BEGIN; UPDATE p SET b = randomblob(50000); ROLLBACK"},
	{sql: "INSERT INTO p VALUES(9, '')", commits: 1},
	{sql: "BEGIN; SAVEPOINT a; UPDATE p SET b = 'nine' WHERE id = 9; ROLLBACK TO a; RELEASE a; COMMIT", counts: true},
	{sql: "BEGIN; SAVEPOINT a; UPDATE p SET b = randomblob(50000); ROLLBACK TO a; RELEASE a; COMMIT", counts: true},
	{sql: "BEGIN; INSERT INTO p VALUES(3, ''); SAVEPOINT a; UPDATE p SET b = ''; ROLLBACK TO a; COMMIT", commits: 1},
	{sql: "INSERT INTO p VALUES(4, randomblob(9000)), (3, '')", fails: true},
	{sql: "BEGIN; INSERT INTO c VALUES(99); COMMIT", fails: true},
	{sql: "ROLLBACK"},
	{sql: "INSERT INTO p SELECT value + 10, zeroblob(3000) FROM (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 2000) SELECT value FROM n)", commits: 1},
	{sql: "BEGIN; PRAGMA cache_spill=20; PRAGMA cache_size=20; UPDATE p SET b = randomblob(500); ROLLBACK"},
	{sql: "BEGIN; UPDATE p SET b = randomblob(500); SAVEPOINT a; DELETE FROM p; ROLLBACK TO a; COMMIT", commits: 1},
	{sql: "DELETE FROM p WHERE id > 3", commits: 1},
	{sql: "PRAGMA incremental_vacuum"},
	{sql: "VACUUM", commits: 1},
	{sql: "DROP TABLE p", commits: 1},
}

func (t *probe) run() error {
	for _, s := range selfTestSteps {
		if err := t.step(s); err != nil {
			return fmt.Errorf("%w: after %s", err, s.sql)
		}
	}
	if err := t.interrupted(); err != nil {
		return err
	}
	return t.step(step{sql: "CREATE TABLE last(a)", commits: 1})
}

// interrupted stops a statement that has written, by its limit of pages.
func (t *probe) interrupted() error {
	t.conn.limitWritten(100)
	err := t.step(step{sql: "CREATE TABLE big AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x, zeroblob(3000) FROM n", fails: true})
	t.conn.limitWritten(0)
	return err
}

func (t *probe) step(s step) error {
	before := t.capture.finals()
	var err error
	if s.sql == "VACUUM" {
		err = t.conn.Vacuum()
	} else {
		err = t.conn.Exec(s.sql)
	}
	if (err != nil) != s.fails {
		return fmt.Errorf("unexpected result %v", err)
	}
	image := bytes.Clone(t.image)
	commits, err := t.take()
	if err != nil {
		return err
	}
	if s.counts {
		if !bytes.Equal(withoutCounters(image), withoutCounters(t.image)) {
			return errors.New("a delta holds what was rolled back")
		}
	} else if commits != s.commits {
		return fmt.Errorf("%d deltas instead of %d", commits, s.commits)
	}
	if n := t.capture.finals() - before; n < commits || n > 1 {
		return fmt.Errorf("commit was announced %d times", n)
	}
	return t.compare()
}

// withoutCounters is the image with zeros for the change counter, the two numbers
// that go with it, and the sum of the first page. SQLite writes them whenever it
// writes that page.
func withoutCounters(image []byte) []byte {
	image = bytes.Clone(image)
	clear(image[24:28])
	clear(image[92:100])
	clear(image[pageBytes-8 : pageBytes])
	return image
}

// take applies the waiting delta to the image.
func (t *probe) take() (commits int, err error) {
	delta, pages, seq, ok := t.capture.Take(t.buf[:0])
	t.buf = delta
	if ok {
		commits = 1
	}
	if t.seq += uint64(commits); seq != t.seq {
		return commits, fmt.Errorf("commit has number %d instead of %d", seq, t.seq)
	}
	if ok {
		t.image, err = replay(t.image, delta, pages)
	}
	return commits, err
}

func (t *probe) compare() error {
	var page [pageBytes]byte
	for at := 0; at < len(t.image); at += pageBytes {
		no := uint32(at/pageBytes) + 1
		if err := t.capture.page(no, &page); err != nil {
			return err
		}
		if !bytes.Equal(page[:], t.image[at:at+pageBytes]) {
			return fmt.Errorf("page %d differs from what its deltas give", no)
		}
	}
	return nil
}

// wholePage is the number of runs that stands for a whole page.
const wholePage = 0xFFFF

var errBadDelta = errors.New("delta breaks its format")

// replay applies a delta to the image of a database, which then has the given number
// of pages. Only for checks: package record has the real decoder.
func replay(image, delta []byte, pages uint32) ([]byte, error) {
	size := int(pages) * pageBytes
	if grow := size - len(image); grow > 0 {
		image = append(image, make([]byte, grow)...)
	}
	image = image[:size]
	return image, eachRun(delta, pages, func(at int64, run []byte) error {
		copy(image[at:], run)
		return nil
	})
}

// eachRun calls write for each run of a delta, with its place in the file.
func eachRun(delta []byte, pages uint32, write func(at int64, run []byte) error) error {
	last := uint32(0)
	for len(delta) > 0 {
		if len(delta) < 6 {
			return errBadDelta
		}
		no, runs := binary.LittleEndian.Uint32(delta), int(binary.LittleEndian.Uint16(delta[4:]))
		if no <= last || no > pages || runs == 0 || (runs > 1024 && runs != wholePage) {
			return errBadDelta
		}
		last = no
		n, err := eachRunOfPage(delta[6:], runs, func(at int, run []byte) error {
			return write(int64(no-1)*pageBytes+int64(at), run)
		})
		if err != nil {
			return err
		}
		delta = delta[6+n:]
	}
	return nil
}

// eachRunOfPage returns how many bytes of delta the page took.
func eachRunOfPage(delta []byte, runs int, write func(at int, run []byte) error) (used int, err error) {
	if runs == wholePage {
		if len(delta) < pageBytes {
			return 0, errBadDelta
		}
		return pageBytes, write(0, delta[:pageBytes])
	}
	end := -1
	for range runs {
		if len(delta) < used+4 {
			return 0, errBadDelta
		}
		at, n := int(binary.LittleEndian.Uint16(delta[used:])), int(binary.LittleEndian.Uint16(delta[used+2:]))
		used += 4
		if at <= end || n == 0 || at+n > pageBytes || len(delta) < used+n {
			return 0, errBadDelta
		}
		if err := write(at, delta[used:used+n]); err != nil {
			return 0, err
		}
		used, end = used+n, at+n
	}
	return used, nil
}
