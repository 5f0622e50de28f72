package sqlite

import (
	"os"
	"runtime"
	"testing"

	"pgregory.net/rapid"
)

// pageModel is a database as a list of page bodies, committed and in the open
// transaction.
type pageModel struct {
	committed, open [][pageBytes]byte
	cut             int // pages left by the deepest truncation of the open transaction
}

func (m *pageModel) begin() {
	m.open = append([][pageBytes]byte(nil), m.committed...)
	m.cut = 1 << 30
}

func (m *pageModel) write(no int, page [pageBytes]byte) {
	for len(m.open) < no {
		m.open = append(m.open, [pageBytes]byte{})
	}
	m.open[no-1] = page
}

func (m *pageModel) truncate(pages int) {
	if pages < len(m.open) {
		m.open = m.open[:pages]
		m.cut = min(m.cut, pages)
	}
}

// pageBody is a page that is easy to tell from others; the first must look like a
// database of ours.
func pageBody(no, value int) (page [pageBytes]byte) {
	for at := 100 + no*100%900; at < pageBytes-8; at += 900 {
		page[at] = byte(value)
	}
	if no == 1 {
		page[16], page[20] = pageBytes>>8, 8
	}
	return page
}

// body is the page without its trailer.
func body(page [pageBytes]byte) [pageBytes]byte {
	clear(page[pageBytes-8:])
	return page
}

// The capture alone, without SQLite: any order of writes, truncations, commits and
// applications.
func TestCapture_PagesFollowTheModel(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "x")
		if err != nil {
			rt.Fatal(err)
		}
		s := &sub{TB: t, rt: rt, dir: dir}
		defer s.end()
		f := newAgentFile(s)
		_, capture := f.open(s, 0)
		m := &pageModel{}
		m.begin()
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0, 1, 2, 3:
				no := rapid.IntRange(1, min(len(m.open)+4, m.cut, 30)).Draw(rt, "no")
				page := pageBody(no, rapid.IntRange(0, 3).Draw(rt, "value"))
				m.write(no, page)
				if err := capture.write(uint32(no), &page); err != nil {
					rt.Fatal(err)
				}
			case 4:
				pages := rapid.IntRange(1, 30).Draw(rt, "pages")
				m.truncate(pages)
				capture.truncate(uint32(pages))
			case 5, 6, 7:
				if err := capture.commit(); err != nil {
					rt.Fatal(err)
				}
				if f.take(s) && same(m.committed, m.open) && len(m.open) == len(m.committed) && !hasNew(m) {
					rt.Fatal("a delta of nothing")
				}
				m.committed = m.open
				m.begin()
			case 8:
				capture.discard()
				m.begin()
			case 9:
				f.apply(s, rapid.IntRange(1, 4).Draw(rt, "apply"))
			}
			m.check(s, f, capture)
		}
	})
}

// hasNew says whether a page of zeros was written for the first time: it gets a
// trailer.
func hasNew(m *pageModel) bool {
	for _, page := range m.open {
		if page == ([pageBytes]byte{}) {
			return true
		}
	}
	return false
}

func same(a, b [][pageBytes]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func (m *pageModel) check(t testing.TB, f *agentFile, capture *Capture) {
	t.Helper()
	var page [pageBytes]byte
	for i, want := range m.open {
		if err := capture.page(uint32(i+1), &page); err != nil {
			t.Fatalf("page %d: %v", i+1, err)
		}
		if body(page) != want {
			t.Fatalf("page %d is not what was written", i+1)
		}
	}
	if len(f.image) != len(m.committed)*pageBytes {
		t.Fatalf("deltas give %d pages, want %d", len(f.image)/pageBytes, len(m.committed))
	}
	for i, want := range m.committed {
		copy(page[:], f.image[i*pageBytes:])
		if body(page) != want {
			t.Fatalf("page %d is not what its deltas give", i+1)
		}
	}
}

// Once a write has failed, nothing of the transaction can be committed, whatever
// SQLite does.
func TestCapture_LostTransactionCannotCommit(t *testing.T) {
	f := newAgentFile(t)
	_, capture := f.open(t, 2)
	for no := 1; no <= 3; no++ {
		page := pageBody(no, 1)
		if err := capture.write(uint32(no), &page); (err != nil) != (no == 3) {
			t.Fatalf("page %d: %v", no, err)
		}
	}
	page := pageBody(1, 2)
	if err := capture.write(1, &page); err != nil {
		t.Errorf("playing back: %v", err)
	}
	if capture.commit() == nil || f.take(t) {
		t.Error("the transaction was committed")
	}
	capture.discard()
	if err := capture.write(1, &page); err != nil {
		t.Fatal(err)
	}
	if err := capture.commit(); err != nil || !f.take(t) {
		t.Errorf("the next transaction: %v", err)
	}
}

// A page beyond a truncation of the same transaction would be counted against an old
// image that SQLite has given up.
func TestCapture_WriteBeyondACutIsRefused(t *testing.T) {
	f := newAgentFile(t)
	_, capture := f.open(t, 0)
	for no := 1; no <= 5; no++ {
		page := pageBody(no, 1)
		if err := capture.write(uint32(no), &page); err != nil {
			t.Fatal(err)
		}
	}
	if err := capture.commit(); err != nil || !f.take(t) {
		t.Fatal(err)
	}
	capture.truncate(3)
	page := pageBody(4, 2)
	if capture.write(4, &page) == nil || capture.commit() == nil {
		t.Error("the write was taken")
	}
	capture.discard()
	f.check(t)
}

// fillPages commits n pages of the given value.
func fillPages(t testing.TB, f *agentFile, capture *Capture, n, value int) {
	t.Helper()
	for no := 1; no <= n; no++ {
		page := pageBody(no, value)
		if err := capture.write(uint32(no), &page); err != nil {
			t.Fatal(err)
		}
	}
	mustCommitPages(t, f, capture)
}

func mustCommitPages(t testing.TB, f *agentFile, capture *Capture) {
	t.Helper()
	if err := capture.commit(); err != nil || !f.take(t) {
		t.Fatal("no commit: ", err)
	}
}

// A later cut that leaves more does not bring back what an earlier one hides.
func TestCapture_TwoCutsHideTogether(t *testing.T) {
	f := newAgentFile(t)
	_, capture := f.open(t, 0)
	fillPages(t, f, capture, 30, 1)
	f.apply(t, 1)
	capture.truncate(10)
	mustCommitPages(t, f, capture)
	page := pageBody(30, 2)
	if err := capture.write(30, &page); err != nil {
		t.Fatal(err)
	}
	mustCommitPages(t, f, capture)
	capture.truncate(20)
	page = pageBody(1, 3)
	if err := capture.write(1, &page); err != nil {
		t.Fatal(err)
	}
	mustCommitPages(t, f, capture)
	for f.behind() > 0 {
		f.check(t)
		f.apply(t, 1)
	}
	f.check(t)
}

// A transaction that spilled beyond its end and grew the database all the same gives
// the file its length.
func TestCapture_GrownDatabaseHasItsLastPage(t *testing.T) {
	f := newAgentFile(t)
	_, capture := f.open(t, 0)
	fillPages(t, f, capture, 3, 1)
	for _, no := range []uint32{1, 9} {
		page := pageBody(int(no), 2)
		if err := capture.write(no, &page); err != nil {
			t.Fatal(err)
		}
	}
	capture.truncate(6)
	mustCommitPages(t, f, capture)
	f.apply(t, -1) // looks at the file's length
	f.check(t)
}

// A commit that fails half way leaves the pages as they were, before SQLite has said
// that the transaction is over.
func TestCapture_FailedCommitChangesNothing(t *testing.T) {
	f := newAgentFile(t)
	_, capture := f.open(t, 0)
	fillPages(t, f, capture, 300, 1)
	for no := 1; no <= 300; no++ {
		page := pageBody(no, 2)
		if err := capture.write(uint32(no), &page); err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread()
	failAllocation(1) // of the delta
	err := capture.commit()
	failAllocation(0)
	runtime.UnlockOSThread()
	if err == nil || f.take(t) {
		t.Fatal("the commit succeeded without memory")
	}
	f.check(t)
}

// Pages that a commit is being compared with live on while Applied takes them out of
// the overlay.
func TestCapture_AppliedSparesWhatACommitHolds(t *testing.T) {
	f := newAgentFile(t)
	_, capture := f.open(t, 0)
	fillPages(t, f, capture, 20, 1)
	fillPages(t, f, capture, 20, 2)
	for no := 1; no <= 20; no++ {
		page := pageBody(no, 3)
		if err := capture.write(uint32(no), &page); err != nil {
			t.Fatal(err)
		}
	}
	capture.hold()
	f.apply(t, 1)
	f.apply(t, 1)
	if n := capture.release(); n < 10 {
		t.Errorf("%d pages were spared", n)
	}
	mustCommitPages(t, f, capture)
	f.apply(t, -1)
	f.check(t)
}
