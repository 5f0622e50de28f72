package single

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

var soak = flag.Duration("soak", 20*time.Second, "how long TestSoak goes on")

const (
	soakAgents  = 5000
	soakOpen    = 200
	soakWorkers = 8
	soakHeld    = soakOpen/soakWorkers - 1 // databases that a worker has open; a deletion counts too
	soakSlots   = 24                       // rows of a table, used in turn
)

// resident is what the model knows of an agent: its rows follow from seq.
type resident struct {
	id     agent.ID
	seq    uint64
	wake   storage.Wake
	reason string

	db   storage.DB      // nil while it is closed
	last *storage.Ticket // of this opening
}

// drudge works on agents of its own, one thing after the other.
type drudge struct {
	s         *Store
	rnd       *rand.Rand
	residents []*resident
	open      []*resident
	steps     *atomic.Int64
}

func (d *drudge) work(ctx context.Context) error {
	for ctx.Err() == nil {
		r := d.residents[d.rnd.IntN(len(d.residents))]
		if len(d.open) > 0 && d.rnd.IntN(2) == 0 {
			r = d.open[d.rnd.IntN(len(d.open))]
		}
		if err := d.step(r); err != nil {
			return fmt.Errorf("agent %s after %d commits: %w", r.id.Name, r.seq, err)
		}
		d.steps.Add(1)
	}
	for len(d.open) > 0 {
		if err := d.close(d.open[0]); err != nil {
			return err
		}
	}
	return nil
}

func (d *drudge) step(r *resident) error {
	switch n := d.rnd.IntN(100); {
	case n < 2:
		return d.delete(r)
	case n < 5:
		return d.judge(r)
	case n < 20:
		return d.close(r)
	case n < 30:
		if err := d.take(r); err != nil {
			return err
		}
		return r.check()
	case n < 33:
		return d.refused(r)
	}
	if err := d.take(r); err != nil {
		return err
	}
	if err := r.commit(d.rnd); err != nil {
		return err
	}
	if d.rnd.IntN(3) == 0 {
		return r.last.Wait()
	}
	return nil
}

// take opens the agent's database, if need be in place of another's.
func (d *drudge) take(r *resident) (err error) {
	if r.db != nil {
		return nil
	}
	if len(d.open) == soakHeld {
		if err := d.close(d.open[d.rnd.IntN(len(d.open))]); err != nil {
			return err
		}
	}
	if r.db, err = d.s.Open(context.Background(), r.id); err != nil {
		return err
	}
	d.open = append(d.open, r)
	if wake := r.db.Wake(); !wake.Equal(r.wake) {
		return fmt.Errorf("it was opened with the wake %v, want %v", wake, r.wake)
	}
	return nil
}

func (d *drudge) close(r *resident) error {
	if r.db == nil {
		return nil
	}
	for i, o := range d.open {
		if o == r {
			d.open[i] = d.open[len(d.open)-1]
			d.open = d.open[:len(d.open)-1]
			break
		}
	}
	err := r.db.Close()
	r.db, r.last = nil, nil
	return err
}

func (d *drudge) delete(r *resident) error {
	if err := d.close(r); err != nil {
		return err
	}
	if err := d.s.Delete(context.Background(), r.id); err != nil {
		return err
	}
	r.seq, r.wake, r.reason = 0, storage.Wake{}, ""
	return nil
}

func (d *drudge) judge(r *resident) error {
	reason := ""
	if d.rnd.IntN(2) == 0 {
		reason = fmt.Sprint("reason ", r.seq)
	}
	err := d.s.Catalog().SetQuarantine(context.Background(), r.id, reason)
	if r.seq == 0 {
		if agent.KindOf(err) != agent.NotFound {
			return fmt.Errorf("the quarantine of an agent that does not exist: %v", err)
		}
		return nil
	}
	if err == nil {
		r.reason = reason
	}
	return err
}

// refused does what must fail or change nothing.
func (d *drudge) refused(r *resident) error {
	if err := d.take(r); err != nil {
		return err
	}
	if _, err := d.s.Open(context.Background(), r.id); agent.KindOf(err) != agent.InUse {
		return fmt.Errorf("a second opening: %v", err)
	}
	if err := d.s.Delete(context.Background(), r.id); agent.KindOf(err) != agent.InUse {
		return fmt.Errorf("the deletion of an open agent: %v", err)
	}
	if r.seq > 0 {
		if _, err := everything(r.db, "DELETE FROM a; DROP TABLE b"); err != nil {
			return err
		}
	}
	return r.db.Rollback()
}

// commit writes the same slot of two tables.
func (r *resident) commit(rnd *rand.Rand) error {
	n := r.seq + 1
	if n == 1 {
		const tables = "CREATE TABLE a(slot INTEGER PRIMARY KEY, n INTEGER, body BLOB); CREATE TABLE b(slot INTEGER PRIMARY KEY, n INTEGER, body BLOB)"
		if _, err := everything(r.db, tables); err != nil {
			return err
		}
	}
	for _, table := range []string{"a", "b"} {
		_, err := everything(r.db, "INSERT OR REPLACE INTO "+table+" VALUES(?,?,?)", int64(n%soakSlots), int64(n), soakBody(n))
		if err != nil {
			return err
		}
	}
	wake := storage.Wake{}
	if rnd.IntN(3) == 0 {
		wake = storage.Wake{At: time.UnixMilli(rnd.Int64N(1 << 40)), Resume: rnd.IntN(2) == 0}
	}
	ticket, err := r.db.Commit(wake)
	if err != nil {
		return err
	}
	if ticket.Seq() != n {
		return fmt.Errorf("commit %d became commit %d", n, ticket.Seq())
	}
	r.seq, r.wake, r.last = n, wake, ticket
	return nil
}

var soakBytes = noise(7, 16<<10)

func soakBody(n uint64) []byte { return soakBytes[:[]int{20, 300, 50, 1200, 100, 6000}[n%6]] }

// check compares every row.
func (r *resident) check() error {
	if r.seq == 0 {
		rows, err := everything(r.db, "SELECT count(*) FROM sqlite_schema")
		if err == nil && rows.([]any)[0].([][]storage.Value)[0][0] != int64(0) {
			err = errors.New("it does not exist and has tables")
		}
		return err
	}
	rows, err := everything(r.db, "SELECT a.slot, a.n, b.n, a.body, b.body FROM a LEFT JOIN b USING(slot) ORDER BY a.n")
	if err != nil {
		return err
	}
	list := rows.([]any)[0].([][]storage.Value)
	if len(list) != int(min(r.seq, soakSlots)) {
		return fmt.Errorf("it has %d rows", len(list))
	}
	for i, v := range list {
		n := r.seq - uint64(len(list)-1-i)
		body := string(soakBody(n))
		if v[0] != int64(n%soakSlots) || v[1] != int64(n) || v[2] != int64(n) || string(v[3].([]byte)) != body || string(v[4].([]byte)) != body {
			return fmt.Errorf("the row of commit %d is another: slot %v, numbers %v and %v", n, v[0], v[1], v[2])
		}
	}
	return nil
}

// burden is what the process takes.
type burden struct {
	rss, heap   int64
	descriptors int
}

func weigh() (b burden, err error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return b, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return b, err
	}
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return b, err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return burden{resident * int64(os.Getpagesize()), int64(m.HeapAlloc), len(links)}, nil
}

func (b burden) most(o burden) burden {
	return burden{max(b.rss, o.rss), max(b.heap, o.heap), max(b.descriptors, o.descriptors)}
}

// observe weighs until ctx ends: the most of each quarter.
func observe(t *testing.T, ctx context.Context, length time.Duration, steps *atomic.Int64) (quarters [4]burden) {
	const weighings = 80
	tick := time.NewTicker(length / weighings)
	defer tick.Stop()
	report := max(1, int(int64(weighings)*int64(time.Minute)/max(1, int64(length)))) // each minute
	for i := 0; i < weighings && ctx.Err() == nil; i++ {
		<-tick.C
		b, err := weigh()
		if err != nil {
			t.Error(err)
			return quarters
		}
		quarters[i*4/weighings] = quarters[i*4/weighings].most(b)
		if i%min(report, weighings/4) == min(report, weighings/4)-1 {
			t.Logf("%5.1f min: RSS %d MiB, Go heap %d MiB, %d descriptors, %d steps", (time.Duration(i+1) * length / weighings).Minutes(),
				b.rss>>20, b.heap>>20, b.descriptors, steps.Load())
		}
	}
	return quarters
}

// TestSoak works on many agents through few open databases, compares all with a model
// in memory, also after a restart, and wants the process to stay as it is.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the flag -soak says")
	}
	config := Config{Dir: t.TempDir(), Now: time.Now, MaxOpen: soakOpen, SegmentBytes: 8 << 20, CheckpointEvery: 2 * time.Second, CheckpointBytes: 32 << 20}
	s, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	before, err := weigh()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), *soak)
	defer cancel()
	var steps atomic.Int64
	drudges := make([]*drudge, soakWorkers)
	for i := range drudges {
		drudges[i] = &drudge{s: s, steps: &steps, rnd: rand.New(rand.NewPCG(11, uint64(i)))}
	}
	for i := range soakAgents {
		d := drudges[i%soakWorkers]
		d.residents = append(d.residents, &resident{id: agent.ID{Namespace: "default", Class: "Soak", Name: fmt.Sprint(i)}})
	}
	var wg sync.WaitGroup
	for _, d := range drudges {
		wg.Go(func() {
			if err := d.work(ctx); err != nil {
				t.Error(err)
				cancel()
			}
		})
	}
	wg.Go(func() { checkpoints(t, ctx, s) })
	quarters := observe(t, ctx, *soak, &steps)
	wg.Wait()
	if t.Failed() {
		_ = s.Close()
		return
	}
	flat(t, quarters, before)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d steps", steps.Load())
	compareSoak(t, config, drudges)
}

// checkpoints asks for one after the other, beside those that the store takes itself.
func checkpoints(t *testing.T, ctx context.Context, s *Store) {
	tick := time.NewTicker(700 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := s.groups.Snapshot(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// flat compares the second half with the second quarter: by then all agents exist
// in a long run, and in a short one a share is allowed for those that are new.
func flat(t *testing.T, q [4]burden, before burden) {
	t.Helper()
	late := q[2].most(q[3])
	t.Logf("RSS %d, %d, %d, %d MiB by quarters; heap %d, %d, %d, %d MiB; descriptors %d, %d, %d, %d",
		q[0].rss>>20, q[1].rss>>20, q[2].rss>>20, q[3].rss>>20, q[0].heap>>20, q[1].heap>>20, q[2].heap>>20, q[3].heap>>20,
		q[0].descriptors, q[1].descriptors, q[2].descriptors, q[3].descriptors)
	if most := q[1].rss + q[1].rss/5 + 32<<20; late.rss > most {
		t.Errorf("the process grew from %d to %d MiB", q[1].rss>>20, late.rss>>20)
	}
	if most := q[1].heap + q[1].heap/5 + 32<<20; late.heap > most {
		t.Errorf("the Go heap grew from %d to %d MiB", q[1].heap>>20, late.heap>>20)
	}
	// One for each open database, the spare ones of engine.Open, and what the log opens
	// and closes.
	if most := before.descriptors + soakOpen + soakOpen/4 + 64 + 80; late.descriptors > most {
		t.Errorf("%d descriptors are open, %d at most should be", late.descriptors, most)
	}
}

// compareSoak opens the store again and compares every agent, then has it verified.
func compareSoak(t *testing.T, config Config, drudges []*drudge) {
	t.Helper()
	began := time.Now()
	s, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("opened in %v", time.Since(began).Round(time.Millisecond))
	exist, wrong := 0, 0
	for _, d := range drudges {
		d.s = s
		for _, r := range d.residents {
			if r.seq > 0 {
				exist++
			}
			if err := errors.Join(r.listed(t.Context(), s), d.take(r), r.check(), d.close(r)); err != nil {
				t.Errorf("agent %s after %d commits: %v", r.id.Name, r.seq, err)
				if wrong++; wrong > 10 {
					t.FailNow()
				}
			}
		}
	}
	if n, err := s.Catalog().Count(t.Context()); err != nil || n != exist {
		t.Errorf("%d agents are counted (%v), there are %d", n, err, exist)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := verifies(t.Context(), config); err != nil {
		t.Error(strings.ReplaceAll(err.Error(), "\n", "\n\t"))
	}
}

// listed compares the agent with its entry in the catalog.
func (r *resident) listed(ctx context.Context, s *Store) error {
	e, err := s.Catalog().Get(ctx, r.id)
	if r.seq == 0 {
		if agent.KindOf(err) != agent.NotFound {
			return fmt.Errorf("it does not exist, but is listed: %+v, %v", e, err)
		}
		return nil
	}
	if err == nil && (e.Seq != r.seq || !e.Wake.Equal(r.wake) || e.Quarantine != r.reason || e.Live) {
		err = fmt.Errorf("listed as %+v, want commit %d, wake %v, quarantine %q", e, r.seq, r.wake, r.reason)
	}
	return err
}
