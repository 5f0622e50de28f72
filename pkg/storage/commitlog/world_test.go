package commitlog

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"agentd/internal/disk"
	"agentd/internal/disk/disktest"
	"agentd/pkg/agent"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// folder is an empty folder, in memory if the machine has that.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "commitlog")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

var never = make(chan time.Time)

func small(dir string) Config {
	return Config{Dir: dir, FS: disk.OS{}, LogID: [16]byte{1, 2, 3}, SegmentBytes: MinSegmentBytes, MaxBytes: 64 * MinSegmentBytes,
		ReserveBytes: 1, Retry: never, Now: func() time.Time { return time.Unix(1_700_000_000, 0) }}
}

func mustOpen(t testing.TB, c Config) *Log {
	t.Helper()
	l, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustGroup(t testing.TB, l *Log, id uint32) *Group {
	t.Helper()
	g, err := l.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func kindIs(t testing.TB, err error, want agent.Kind) {
	t.Helper()
	if err == nil || agent.KindOf(err) != want {
		t.Fatalf("error %v, want kind %v", err, want)
	}
}

// entry is entry index of a term, with n bytes that only it has.
func entry(index, term uint64, n int) Entry {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(index*31 + term*7 + uint64(i)*13 + uint64(i>>8))
	}
	return Entry{Index: index, Term: term, Type: uint8(index % 5), Data: data, AppendedAt: time.Unix(int64(index), 5)}
}

func run(first, last, term uint64, n int) []Entry {
	var all []Entry
	for i := first; i <= last; i++ {
		all = append(all, entry(i, term, n))
	}
	return all
}

func same(a, b Entry) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt.Equal(b.AppendedAt) &&
		bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

// holding is what a group should hold, in plain Go.
type holding struct {
	entries []Entry // ascending by one
	keys    map[string]string
}

func (h holding) clone() holding {
	return holding{slices.Clone(h.entries), maps.Clone(h.keys)}
}

func (h *holding) append(entries ...Entry) {
	if len(h.entries) > 0 {
		h.entries = h.entries[:entries[0].Index-h.entries[0].Index]
	}
	h.entries = append(h.entries, entries...)
}

// differs says how a group differs from what it should hold. Entries that were
// forgotten from the front may still be there.
func (h holding) differs(g *Group) string {
	if err := g.Damage(); err != nil {
		return err.Error()
	}
	if len(h.entries) == 0 && g.Last() != 0 {
		return fmt.Sprintf("holds %d to %d, should be empty", g.First(), g.Last())
	}
	if n := len(h.entries); n > 0 && (g.First() == 0 || g.First() > h.entries[0].Index || g.Last() != h.entries[n-1].Index) {
		return fmt.Sprintf("holds %d to %d, should hold %d to %d", g.First(), g.Last(), h.entries[0].Index, h.entries[n-1].Index)
	}
	for _, want := range h.entries {
		if got, err := g.Get(want.Index); err != nil || !same(got, want) {
			return fmt.Sprintf("entry %d: term %d, %d bytes, error %v; want term %d, %d bytes", want.Index, got.Term, len(got.Data), err, want.Term, len(want.Data))
		}
	}
	for key, want := range h.keys {
		if got, ok := g.Lookup(key); !ok || string(got) != want {
			return fmt.Sprintf("key %s is %q, %v; want %q", key, got, ok, want)
		}
	}
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	if len(g.keys) != len(h.keys) {
		return fmt.Sprintf("%d keys, want %d", len(g.keys), len(h.keys))
	}
	return ""
}

func (h holding) check(t testing.TB, g *Group) {
	t.Helper()
	if d := h.differs(g); d != "" {
		t.Fatalf("group %d: %s", g.id, d)
	}
}

// story runs steps on a log over a recorder and keeps what each group should hold
// after each of them, with the point from which a crash must not lose it.
type story struct {
	t      testing.TB
	rec    *disktest.Recorder
	log    *Log
	now    map[uint32]holding
	states []state
}

type state struct {
	point  int
	groups map[uint32]holding
}

func newStory(t testing.TB, config func(dir string) Config) *story {
	t.Helper()
	dir := folder(t)
	rec, err := disktest.New(dir)
	must(t, err)
	c := config(dir)
	c.FS = rec
	s := &story{t: t, rec: rec, now: make(map[uint32]holding)}
	for id := range uint32(4) {
		s.now[id] = holding{keys: make(map[string]string)}
	}
	s.log = mustOpen(t, c)
	s.settle()
	return s
}

func (s *story) settle() {
	groups := make(map[uint32]holding)
	for id, h := range s.now {
		groups[id] = h.clone()
	}
	s.states = append(s.states, state{s.rec.Len(), groups})
}

func (s *story) do(id uint32, fn func(g *Group, h *holding) error) {
	s.t.Helper()
	h := s.now[id]
	must(s.t, fn(mustGroup(s.t, s.log, id), &h))
	s.now[id] = h
	s.settle()
}

func (s *story) append(id uint32, entries ...Entry) {
	s.t.Helper()
	s.do(id, func(g *Group, h *holding) error {
		h.append(entries...)
		return g.Append(entries)
	})
}

func (s *story) set(id uint32, key, value string) {
	s.t.Helper()
	s.do(id, func(g *Group, h *holding) error {
		h.keys[key] = value
		return g.Set(key, []byte(value))
	})
}

func (s *story) front(id uint32, upto uint64) {
	s.t.Helper()
	s.do(id, func(g *Group, h *holding) error {
		for len(h.entries) > 0 && h.entries[0].Index <= upto {
			h.entries = h.entries[1:]
		}
		return g.TruncateFront(upto)
	})
}

func (s *story) back(id uint32, from uint64) {
	s.t.Helper()
	s.do(id, func(g *Group, h *holding) error {
		for n := len(h.entries); n > 0 && h.entries[n-1].Index >= from; n-- {
			h.entries = h.entries[:n-1]
		}
		return g.TruncateBack(from)
	})
}

// allowed is what a crash at a point may have left: what was acknowledged then, and
// perhaps the step that was under way.
func (s *story) allowed(point int) []state {
	last := 0
	for i, st := range s.states {
		if st.point <= point {
			last = i
		}
	}
	return s.states[last:min(last+2, len(s.states))]
}

// check opens what a crash left. It says what is wrong, or nothing. After it a new
// entry and a key must survive a second restart.
func (s *story) check(config func(dir string) Config, dir string, allowed []state) string {
	l, err := Open(config(dir))
	if err != nil {
		return err.Error()
	}
	defer func() { l.Close() }()
	wrong := ""
	var found map[uint32]holding
	for _, st := range allowed {
		if wrong = differs(l, st.groups); wrong == "" {
			found = st.groups
			break
		}
	}
	if wrong != "" {
		return wrong
	}
	g, err := l.Group(1)
	if err != nil {
		return err.Error()
	}
	h := found[1].clone()
	h.keys["again"] = "yes"
	next := uint64(7) // an empty group begins anywhere
	if g.Last() > 0 {
		next = g.Last() + 1
	}
	h.append(entry(next, 99, 10))
	if err := g.Append(h.entries[len(h.entries)-1:]); err != nil {
		return err.Error()
	}
	if err := g.Set("again", []byte("yes")); err != nil {
		return err.Error()
	}
	l.Close()
	if l, err = Open(config(dir)); err != nil {
		return "second start: " + err.Error()
	}
	after := maps.Clone(found)
	after[1] = h
	if d := differs(l, after); d != "" {
		return "second start: " + d
	}
	return ""
}

func differs(l *Log, groups map[uint32]holding) string {
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		g, err := l.Group(id)
		if err != nil {
			return err.Error()
		}
		if d := groups[id].differs(g); d != "" {
			return fmt.Sprintf("group %d: %s", id, d)
		}
	}
	return ""
}

// copyFolder copies a folder's files.
func copyFolder(t testing.TB, from, to string) {
	t.Helper()
	must(t, os.RemoveAll(to))
	must(t, os.MkdirAll(to, 0o700))
	entries, err := os.ReadDir(from)
	must(t, err)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(to, e.Name()), data, 0o600))
	}
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
