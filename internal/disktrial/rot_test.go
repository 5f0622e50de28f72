package disktrial

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage/engine"
)

const rotAgents = 4

// flip changes one bit of a file.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], off)
	must(t, err)
}

// copyOf is the folder once more, with the modes that it needs.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir() + "/data"
	must(t, os.CopyFS(to, os.DirFS(dir)))
	must(t, os.Chmod(to, 0o700))
	return to
}

// fileOf finds the agent's file by what is in it.
func fileOf(t *testing.T, dir string, k int) (found string) {
	t.Helper()
	key := agentID(k).Key()
	must(t, filepath.WalkDir(filepath.Join(dir, "agents"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(key)) {
			found = path
		}
		return err
	}))
	if found == "" {
		t.Fatalf("agent %d has no file", k)
	}
	return found
}

// opened is a store of a damaged folder, and what it said.
type opened struct {
	*single.Store
	log      *bytes.Buffer
	problems []string
}

func open(t *testing.T, dir string) *opened {
	t.Helper()
	o := &opened{log: new(bytes.Buffer)}
	c := plan{Dir: dir}.config()
	c.Log = slog.New(slog.NewTextHandler(o.log, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var err error
	if o.Store, err = single.Open(ctx, c); err != nil {
		t.Fatalf("open: %v\n%s", err, o.log)
	}
	t.Cleanup(func() { _ = o.Close() })
	_, err = o.Verify(t.Context(), func(p engine.Problem) { o.problems = append(o.problems, p.Path+": "+p.What) })
	must(t, err)
	return o
}

// whole fails unless the agents hold all that aStore wrote.
func (o *opened) whole(t *testing.T, agents ...int) {
	t.Helper()
	for _, k := range agents {
		if c, err := readAgent(t.Context(), o.Store, k); err != nil || c != (content{int64(k + 1), 20}) {
			t.Errorf("agent %d holds %v: %v\n%s", k, c, err, o.log)
		}
	}
}

func TestBitRot_InAPageOfAFile(t *testing.T) {
	sound := t.TempDir() + "/data"
	aStore(t, sound, rotAgents)
	info, err := os.Stat(fileOf(t, sound, 0))
	must(t, err)
	for page := range info.Size() / 4096 {
		dir := copyOf(t, sound)
		path := fileOf(t, dir, 0)
		flip(t, path, page*4096+rand.Int64N(4096))
		o := open(t, dir)
		if found := strings.Join(o.problems, "\n"); len(o.problems) != 1 || !strings.Contains(found, path) {
			t.Errorf("page %d: verify says %q", page, found)
		}
		if _, err := readAgent(t.Context(), o.Store, 0); agent.KindOf(err) != agent.Corrupt {
			t.Errorf("page %d: the agent is read with kind %v: %v", page, agent.KindOf(err), err)
		}
		o.whole(t, 1, 2, 3)
		must(t, o.Close())
	}
}

// A damaged catalog is rebuilt when the store is opened. Damage that shows only when
// a row is read is an error of kind Corrupt until the next start.
func TestBitRot_InTheCatalog(t *testing.T) {
	sound := t.TempDir() + "/data"
	aStore(t, sound, rotAgents)
	info, err := os.Stat(filepath.Join(sound, "catalog.db"))
	must(t, err)
	rebuilt, late, tries := 0, 0, 0
	for off := int64(0); off < info.Size(); off += 1 + rand.Int64N(info.Size()/24) {
		dir := copyOf(t, sound)
		flip(t, filepath.Join(dir, "catalog.db"), off)
		o := open(t, dir)
		if o.doubted(t) {
			late++
			must(t, o.Close())
			o = open(t, dir)
		}
		o.whole(t, 0, 1, 2, 3)
		if len(o.problems) > 0 {
			t.Errorf("bit at %d: verify: %q", off, o.problems)
		}
		due, next, err := o.Catalog().Due(t.Context(), time.UnixMilli(5_000_000_000_000), 10)
		if err != nil || len(due) != rotAgents {
			t.Errorf("bit at %d: due are %v (next %v): %v", off, due, next, err)
		}
		tries++
		if strings.Contains(o.log.String(), "rebuilt") {
			rebuilt++
		}
		must(t, o.Close())
	}
	if rebuilt == 0 {
		t.Error("the log never says that the catalog was rebuilt")
	}
	t.Logf("%d of %d catalogs were rebuilt, %d of them at the second start", rebuilt, tries, late)
}

// doubted says whether agents are refused because of the catalog, which verify must
// name then.
func (o *opened) doubted(t *testing.T) bool {
	t.Helper()
	refused := 0
	for k := range rotAgents {
		if _, err := readAgent(t.Context(), o.Store, k); agent.KindOf(err) == agent.Corrupt {
			refused++
		}
	}
	if refused > 0 && !strings.Contains(strings.Join(o.problems, "\n"), "catalog.db") {
		t.Errorf("%d agents are refused, verify says %q", refused, o.problems)
	}
	return refused > 0
}

func TestBitRot_MissingCatalogIsRebuilt(t *testing.T) {
	dir := t.TempDir() + "/data"
	aStore(t, dir, rotAgents)
	must(t, os.Remove(filepath.Join(dir, "catalog.db")))
	o := open(t, dir)
	o.whole(t, 0, 1, 2, 3)
	if !strings.Contains(o.log.String(), "rebuilt") || len(o.problems) > 0 {
		t.Errorf("the log says %s, verify %q", o.log, o.problems)
	}
}

// A bit of FORMAT is either noticed or does no harm.
func TestBitRot_InFormat(t *testing.T) {
	sound := t.TempDir() + "/data"
	aStore(t, sound, 1)
	text, err := os.ReadFile(filepath.Join(sound, "FORMAT"))
	must(t, err)
	for off := range text {
		dir := copyOf(t, sound)
		flip(t, filepath.Join(dir, "FORMAT"), int64(off))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		s, err := single.Open(ctx, plan{Dir: dir}.config())
		cancel()
		if err == nil {
			if c, err := readAgent(t.Context(), s, 0); err != nil || c.n != 20 {
				t.Errorf("bit of byte %d: the agent holds %v: %v", off, c, err)
			}
			must(t, s.Close())
		} else if kind := agent.KindOf(err); kind != agent.Invalid && kind != agent.Corrupt {
			t.Fatalf("bit of byte %d (%q): kind %v: %.300v", off, text[max(0, off-8):off+1], kind, err)
		}
	}
}

// Damage in the middle of the log stops the shards whose entries it hit, and no other.
func TestBitRot_InTheLog(t *testing.T) {
	tr := newTrial(t, t.TempDir()+"/data")
	tr.vary()
	tr.InTurn, tr.CheckpointEvery, tr.CheckpointBytes = true, time.Hour, 1<<40
	child := tr.start()
	child.await("the store was open", child.ready)
	child.await("enough commits", tr.ledger.await(trialAgents*turnsInTurn))
	child.kill()
	tr.settle()
	segment, off := middle(t, filepath.Join(tr.Dir, "log"))
	flip(t, segment, off)

	ctx, cancel := context.WithTimeout(t.Context(), childTimeout)
	defer cancel()
	var problems []string
	if _, err := single.Verify(ctx, tr.config(), func(p engine.Problem) { problems = append(problems, p.Path+": "+p.What) }); err != nil {
		t.Errorf("verify: %v", err)
	}
	if said := strings.Join(problems, "\n"); !strings.Contains(said, segment) || !strings.Contains(said, "shard") {
		t.Errorf("verify says %q; it should name %s and the shards", said, segment)
	}
	s, err := single.Open(ctx, tr.config())
	if err != nil {
		t.Fatalf("the whole store is refused: %v", err)
	}
	defer s.Close()
	stopped := 0
	for k := range tr.Agents {
		c, err := readAgent(ctx, s, k)
		switch {
		case agent.KindOf(err) == agent.Corrupt:
			stopped++
		case err != nil:
			t.Errorf("agent %d: kind %v: %v", k, agent.KindOf(err), err)
		default:
			tr.ledger.found(k, c)
		}
	}
	if stopped == 0 || stopped > 3 {
		t.Errorf("%d of %d agents are out of service", stopped, tr.Agents)
	}
	tr.settle()
}

// middle is a place in the middle of what was written to the log.
func middle(t *testing.T, dir string) (path string, off int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	type block struct {
		path string
		off  int64
	}
	var used []block
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		for off := 4096; off+4096 <= len(data); off += 4096 {
			if bytes.ContainsFunc(data[off+2000:off+2100], func(r rune) bool { return r != 0 }) {
				used = append(used, block{filepath.Join(dir, e.Name()), int64(off)})
			}
		}
	}
	if len(used) < 20 {
		t.Fatalf("only %d blocks of the log are used", len(used))
	}
	b := used[len(used)/2]
	return b.path, b.off + 2050
}

// A catalog that is lost in the same crash comes back from the files, which are ahead
// of the place where the log begins.
func TestBitRot_CatalogLostInACrash(t *testing.T) {
	tr := newTrial(t, t.TempDir()+"/data")
	tr.rebuilt = true
	for end := time.Now().Add(budget() / 3); time.Now().Before(end) || tr.rounds < 3; {
		tr.vary()
		child := tr.start()
		child.await("the store was open", child.ready)
		child.await("enough commits", tr.ledger.await(1+tr.random.IntN(600)))
		child.kill()
		tr.settle()
		for _, name := range []string{"catalog.db", "catalog.db-wal", "catalog.db-shm"} {
			if err := os.Remove(filepath.Join(tr.Dir, name)); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		tr.check()
	}
	t.Log(tr.summary())
}
