package fiber_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"agentd/pkg/fiber"
	"agentd/pkg/storage/storagetest"
)

// world is what should be true of a ledger: plain maps and the rules of the
// specification, written a second time.
type world struct {
	runs   map[string]run
	fibers map[string]managed
}

type run struct {
	seq      int
	snapshot string
	created  int64
}

type managed struct {
	key      string
	status   fiber.Status
	snapshot string
	created  int64
	settled  int64
}

func (w world) clone() world { return world{maps.Clone(w.runs), maps.Clone(w.fibers)} }

func (w world) open() (n int) {
	for _, m := range w.fibers {
		if !m.status.Terminal() {
			n++
		}
	}
	return n
}

// machine drives a Ledger and its model with random operations.
type machine struct {
	db     *storagetest.Memory
	ledger *fiber.Ledger
	now    int64
	seq    int
	world  world           // with the turn's writes
	saved  world           // as committed
	active map[string]bool // in this life of the instance
}

var idGen = rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})

func (m *machine) start(t *rapid.T) {
	id := idGen.Draw(t, "id")
	err := m.ledger.Start(id, "n", at(m.now))
	if _, taken := m.world.runs[id]; taken != (err != nil) {
		t.Fatalf("start %s: %v", id, err)
	}
	if err == nil {
		m.world.runs[id] = run{seq: m.seq, created: m.now}
		m.active[id] = true
	}
}

func (m *machine) stash(t *rapid.T) {
	id := idGen.Draw(t, "id")
	snapshot := fmt.Sprintf(`{"by":%q,"n":%d}`, id, m.seq)
	ok(t, m.ledger.Stash(id, json.RawMessage(snapshot)))
	if r, found := m.world.runs[id]; found {
		r.snapshot = snapshot
		m.world.runs[id] = r
	}
	if f, found := m.world.fibers[id]; found {
		f.snapshot = snapshot
		m.world.fibers[id] = f
	}
}

func (m *machine) finish(t *rapid.T) {
	id := idGen.Draw(t, "id")
	ok(t, m.ledger.Finish(id))
	delete(m.world.runs, id)
	delete(m.active, id)
}

func (m *machine) startManaged(t *rapid.T) {
	id, key := idGen.Draw(t, "id"), rapid.SampledFrom([]string{"", "k1", "k2"}).Draw(t, "key")
	o := fiber.StartOptions{ID: &id, Name: "n"}
	if key != "" {
		o.Key = &key
	}
	in, accepted, err := m.ledger.StartManaged(o, at(m.now))
	holder := ""
	for other, f := range m.world.fibers {
		if key != "" && f.key == key {
			holder = other
		}
	}
	_, exists := m.world.fibers[id]
	switch {
	case holder != "" && holder != id:
		if err == nil {
			t.Fatal("two fibers share a key")
		}
	case exists:
		ok(t, err)
		is(t, accepted, false)
		is(t, in.FiberID, id)
	default:
		ok(t, err)
		is(t, accepted, true)
		m.world.fibers[id] = managed{key: key, status: fiber.StatusPending, created: m.now}
	}
}

// move applies fn to the ledger and changes the model if the fiber is in one of the
// statuses from.
func (m *machine) move(t *rapid.T, to fiber.Status, fn func(id string) (bool, error), from ...fiber.Status) {
	id := idGen.Draw(t, "id")
	moved, err := fn(id)
	ok(t, err)
	f, found := m.world.fibers[id]
	is(t, moved, found && slices.Contains(from, f.status))
	if moved {
		f.status = to
		if to != fiber.StatusRunning {
			f.settled = m.now
		}
		m.world.fibers[id] = f
	}
}

func (m *machine) delete(t *rapid.T) {
	limit := rapid.IntRange(1, 3).Draw(t, "limit")
	before := rapid.Int64Range(0, m.now+1).Draw(t, "before")
	var gone []string
	for id, f := range m.world.fibers {
		if f.status.Terminal() && f.status != fiber.StatusInterrupted && at(f.settled).UnixMilli() < at(before).UnixMilli() {
			gone = append(gone, id)
		}
	}
	// Among equals any may go: look at what the ledger chose.
	n, err := m.ledger.Delete(fiber.DeleteOptions{Limit: limit, SettledBefore: at(before).UnixMilli()})
	ok(t, err)
	is(t, n, min(limit, len(gone)))
	left := m.db.Strings("SELECT fiber_id FROM cf_agents_fibers")
	latest := int64(0)
	for _, id := range gone {
		if !slices.Contains(left, id) {
			latest = max(latest, m.world.fibers[id].settled)
		}
	}
	for _, id := range gone {
		if slices.Contains(left, id) {
			if m.world.fibers[id].settled < latest {
				t.Fatalf("%s was settled before others that were deleted", id)
			}
			continue
		}
		delete(m.world.fibers, id)
		delete(m.world.runs, id)
	}
}

func (m *machine) commit(*rapid.T) { m.db.Commit(); m.saved = m.world.clone() }

// crash ends the instance: memory and the turn's writes are gone.
func (m *machine) crash(t *rapid.T) {
	m.db.Crash()
	m.ledger = open(t, m.db)
	m.world, m.active = m.saved.clone(), map[string]bool{}
}

// scan recovers what is lost, with hooks that succeed, fail, or die on the way.
func (m *machine) scan(t *rapid.T) {
	lost, err := m.ledger.Interrupted(func(id string) bool { return m.active[id] })
	ok(t, err)
	m.checkLost(t, lost)
	pending, progress := 0, false
	for _, r := range lost {
		filled, skip, err := m.ledger.Begin(r, at(m.now))
		ok(t, err)
		f, isManaged := m.world.fibers[r.ID]
		settled := isManaged && f.status.Terminal() && f.status != fiber.StatusInterrupted
		is(t, skip, settled)
		if skip {
			delete(m.world.runs, r.ID)
			progress = true
			continue
		}
		want := f.snapshot
		if row, found := m.world.runs[r.ID]; found {
			want = row.snapshot
		} else {
			m.world.runs[r.ID] = run{seq: m.seq, snapshot: f.snapshot, created: f.created}
		}
		is(t, string(filled.Snapshot), want)
		if isManaged {
			if !f.status.Terminal() {
				f.snapshot, f.settled = want, m.now
			}
			f.status = fiber.StatusInterrupted
			m.world.fibers[r.ID] = f
		}
		switch rapid.SampledFrom([]string{"ok", "throw", "crash"}).Draw(t, "hook") {
		case "ok":
			ok(t, m.ledger.Recovered(filled, nil, at(m.now)))
			delete(m.world.runs, r.ID)
			progress = true
		case "throw":
			dropped, err := m.ledger.Failed(filled, "boom", at(m.now), 0)
			ok(t, err)
			is(t, dropped, isManaged)
			if !dropped {
				pending++
				continue
			}
			f.status, f.settled = fiber.StatusError, m.now
			m.world.fibers[r.ID] = f
			delete(m.world.runs, r.ID)
			progress = true
		case "crash":
			if rapid.Bool().Draw(t, "committed") {
				m.commit(t)
			}
			m.crash(t)
			return
		}
	}
	next, err := m.ledger.ScanDone(progress, pending, at(m.now), 1)
	ok(t, err)
	is(t, next.IsZero(), pending == 0)
}

func (m *machine) checkLost(t *rapid.T, lost []fiber.Recovery) {
	var runs, orphans []string
	for id := range m.world.runs {
		if !m.active[id] {
			runs = append(runs, id)
		}
	}
	slices.SortFunc(runs, func(a, b string) int { return cmp.Compare(m.world.runs[a].seq, m.world.runs[b].seq) })
	for id, f := range m.world.fibers {
		if _, found := m.world.runs[id]; !found && !f.status.Terminal() && !m.active[id] {
			orphans = append(orphans, id)
		}
	}
	slices.SortFunc(orphans, func(a, b string) int {
		return cmp.Or(cmp.Compare(m.world.fibers[a].created, m.world.fibers[b].created), cmp.Compare(a, b))
	})
	is(t, ids(lost), strings.Join(append(runs, orphans...), " "))
}

// check compares everything that can be seen.
func (m *machine) check(t *rapid.T) {
	m.seq++
	m.now += int64(m.seq % 2)
	is(t, m.ledger.Runs(), len(m.world.runs))
	is(t, m.ledger.Unfinished(), len(m.world.runs)+m.world.open() > 0)
	list, err := m.ledger.List(fiber.ListOptions{})
	ok(t, err)
	is(t, len(list), len(m.world.fibers))
	for _, in := range list {
		f := m.world.fibers[in.FiberID]
		got := fmt.Sprint(in.IdempotencyKey, in.Status, string(in.Snapshot), in.SettledAt != 0)
		is(t, got, fmt.Sprint(f.key, f.status, f.snapshot, f.status.Terminal()))
	}
}

func TestLedger_AgreesWithModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		db := storagetest.NewMemory(t)
		empty := world{map[string]run{}, map[string]managed{}}
		m := &machine{db: db, ledger: open(t, db), world: empty, saved: empty.clone(), active: map[string]bool{}}
		open := []fiber.Status{fiber.StatusPending, fiber.StatusRunning}
		rt.Repeat(map[string]func(*rapid.T){
			"start":        m.start,
			"stash":        m.stash,
			"finish":       m.finish,
			"startManaged": m.startManaged,
			"delete":       m.deleteIfAny,
			"commit":       m.commit,
			"crash":        m.crash,
			"scan":         m.scan,
			"":             m.check,
			"markRunning": func(t *rapid.T) {
				m.move(t, fiber.StatusRunning, func(id string) (bool, error) { return m.ledger.MarkRunning(id, at(m.now)) }, fiber.StatusPending)
			},
			"settle": func(t *rapid.T) {
				m.move(t, fiber.StatusCompleted, func(id string) (bool, error) {
					return m.ledger.Settle(id, fiber.Outcome{Status: fiber.StatusCompleted}, at(m.now))
				}, fiber.StatusRunning)
			},
			"cancel": func(t *rapid.T) {
				m.move(t, fiber.StatusAborted, func(id string) (bool, error) { return m.ledger.Cancel(id, "", at(m.now)) }, open...)
			},
			"refuse": func(t *rapid.T) {
				m.move(t, fiber.StatusError, func(id string) (bool, error) { return m.ledger.Refuse(id, "", at(m.now)) }, open...)
			},
			"resolve": func(t *rapid.T) {
				m.move(t, fiber.StatusCompleted, func(id string) (bool, error) {
					return m.ledger.Resolve(id, fiber.Result{Status: fiber.StatusCompleted}, at(m.now))
				}, fiber.StatusInterrupted)
			},
		})
	})
}

func (m *machine) deleteIfAny(t *rapid.T) {
	if len(m.world.fibers) == 0 {
		t.Skip("no table to look at")
	}
	m.delete(t)
}
