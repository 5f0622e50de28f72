package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// answers is everything that the catalog says, or the first error.
func (w *world) answers() (said []any, err error) {
	list, err := w.List(ctx, "default", "", agent.ID{}, 1000)
	if err != nil {
		return nil, err
	}
	due, next, err := w.Due(ctx, at(1_000), 1000)
	if err != nil {
		return nil, err
	}
	n, _ := w.Count(ctx)
	said = []any{list, due, next, n}
	for i := range testShards {
		said = append(said, w.AppliedIndex(i))
	}
	return said, nil
}

func damageWorld(t *testing.T) *world {
	w := newWorld(t)
	for i := range 60 {
		w.apply(name(fmt.Sprintf("%03d", i)), wakeAt(int64(i)))
	}
	w.apply(name("900"), storage.Wake{Resume: true})
	w.quarantineRecord(name("007"), "a secret agent")
	w.checkpoint()
	w.restart() // folds the log
	return w
}

func TestOpen_FlippedByteIsFoundOrHarmless(t *testing.T) {
	w := damageWorld(t)
	want, err := w.answers()
	w.must(err)
	w.must(w.Catalog.Close())
	sound, err := os.ReadFile(w.config.Path)
	w.must(err)
	found, step := 0, 23
	if testing.Short() {
		step = 131
	}
	for i := 0; i < len(sound); i += step {
		bad := append([]byte(nil), sound...)
		bad[i] ^= 1 << (i % 8)
		_ = os.Remove(w.config.Path + markSuffix)
		w.must(os.WriteFile(w.config.Path+logSuffix, nil, 0o600))
		w.must(os.WriteFile(w.config.Path, bad, 0o600))
		if w.Catalog, err = Open(w.config); err != nil {
			if kind := agent.KindOf(err); kind != agent.Corrupt && kind != agent.Invalid {
				t.Fatalf("byte %d: %v", i, err)
			}
			found++
			continue
		}
		r, err := w.Verify(ctx)
		w.must(err)
		got, err := w.answers()
		switch {
		case err != nil:
			w.wantKind(err, agent.Corrupt)
			found++
		case len(r.Problems) > 0:
			found++
		case !reflect.DeepEqual(got, want):
			t.Fatalf("byte %d: silently %v, want %v", i, got, want)
		}
		w.must(w.Catalog.Close())
	}
	if found < len(sound)/step/10 {
		t.Errorf("damage was found %d times of %d", found, len(sound)/step)
	}
}

func TestOpen_UnfitFileIsCorrupt(t *testing.T) {
	w := damageWorld(t)
	w.must(w.Catalog.Close())
	sound, err := os.ReadFile(w.config.Path)
	w.must(err)
	for what, content := range map[string][]byte{
		"nothing": {}, "no database": []byte(strings.Repeat("x", 9000)), "half": sound[:len(sound)/2/4096*4096], "one page": sound[:4096],
	} {
		w.must(os.WriteFile(w.config.Path, content, 0o600))
		if cat, err := Open(w.config); err == nil {
			_ = cat.Close()
			t.Errorf("%s is taken for a catalog", what)
		} else if agent.KindOf(err) != agent.Corrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.must(os.Remove(w.config.Path))
	_, err = Open(w.config)
	w.wantKind(err, agent.Corrupt)
	w.must(os.WriteFile(w.config.Path, sound, 0o600))
	other := w.config
	other.Shards++
	_, err = Open(other)
	w.wantKind(err, agent.Invalid)
	w.start()
	for _, pragma := range []string{"user_version=2", "application_id=1"} {
		w.must(w.file.conn.Exec("PRAGMA " + pragma))
		w.must(w.Catalog.Close())
		_, err = Open(w.config)
		w.wantKind(err, agent.Corrupt)
		w.must(os.WriteFile(w.config.Path+logSuffix, nil, 0o600))
		w.must(os.WriteFile(w.config.Path, sound, 0o600))
		w.start()
	}
}

func TestOpen_DamagedRowsThatItReadsAreFound(t *testing.T) {
	for _, sql := range []string{"UPDATE applied SET log_index=log_index+1", "UPDATE applied SET shard=shard+1 WHERE shard=3",
		"UPDATE quarantines SET reason='another'", "UPDATE quarantines SET name='008'", "DELETE FROM facts"} {
		w := damageWorld(t)
		w.must(w.file.conn.Exec(sql))
		w.must(w.Catalog.Close())
		_, err := Open(w.config)
		w.wantKind(err, agent.Corrupt)
		w.Catalog = nil
	}
}

// TestCatalog_DamageFoundInUseIsRememberedAndRebuilt: Open reads no rows.
func TestCatalog_DamageFoundInUseIsRememberedAndRebuilt(t *testing.T) {
	w := damageWorld(t)
	w.must(w.file.conn.Exec("UPDATE agents SET seq=2 WHERE name='010'"))
	_, err := w.Get(ctx, name("010"))
	w.wantKind(err, agent.Corrupt)
	r, err := w.Verify(ctx)
	if err != nil || len(r.Problems) == 0 {
		t.Errorf("%+v %v", r, err)
	}
	w.must(w.Catalog.Close())
	_, err = Open(w.config)
	w.wantKind(err, agent.Corrupt)
	w.must(Rebuild(w.config, func(yield func(storage.Entry) error) error {
		for i := range 5 {
			for range 2 { // twice: the second counts
				if err := yield(storage.Entry{ID: name(fmt.Sprint(i)), Seq: uint64(i + 1), Wake: wakeAt(int64(i)), SizeBytes: 4096, CreatedAt: at(7)}); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	w.start()
	w.wantCount(5)
	w.wantDue(100, 0, "0", "1", "2", "3", "4")
	for i := range testShards {
		if w.AppliedIndex(i) != 0 {
			t.Errorf("shard %d is applied up to %d", i, w.AppliedIndex(i))
		}
	}
	if e, err := w.Get(ctx, name("3")); err != nil || e.Seq != 4 || e.SizeBytes != 4096 || !e.CreatedAt.Equal(at(7)) {
		t.Errorf("%+v %v", e, err)
	}
	// The log repeats what the files held already; the count is right after a checkpoint.
	w.applyAs(name("0"), 1, storage.Wake{})
	w.checkpoint()
	w.wantCount(5)
	if r, err := w.Verify(ctx); err != nil || len(r.Problems) > 0 || r.Agents != 5 {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := os.Stat(w.config.Path + ".old"); err != nil {
		t.Errorf("the old file is gone: %v", err)
	}
}

func TestRebuild_ThatFailsLeavesTheOld(t *testing.T) {
	w := damageWorld(t)
	want, err := w.answers()
	w.must(err)
	w.must(w.Catalog.Close())
	for _, bad := range []storage.Entry{{}, {ID: name("a")}} {
		err = Rebuild(w.config, func(yield func(storage.Entry) error) error {
			_ = yield(storage.Entry{ID: name("b"), Seq: 1, CreatedAt: time.UnixMilli(1)})
			return yield(bad)
		})
		w.wantKind(err, agent.Invalid)
	}
	w.start()
	if got, err := w.answers(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v %v, want %v", got, err, want)
	}
}

// killed fails every operation after the first few, as for a process that is gone.
type killed struct {
	syncless
	left int
}

func (k *killed) op() error {
	if k.left--; k.left < 0 {
		return errKilled
	}
	return nil
}

var errKilled = errors.New("killed")

func (k *killed) Open(path string, flags int) (disk.File, error) {
	if err := k.op(); err != nil {
		return nil, err
	}
	return k.syncless.Open(path, flags)
}

func (k *killed) Rename(from, to string) error { return cmp.Or(k.op(), k.syncless.Rename(from, to)) }
func (k *killed) Remove(path string) error     { return cmp.Or(k.op(), k.syncless.Remove(path)) }
func (k *killed) SyncDir(path string) error    { return cmp.Or(k.op(), k.syncless.SyncDir(path)) }

func TestRebuild_KilledAnywhereCanBeRepeated(t *testing.T) {
	scan := func(yield func(storage.Entry) error) error {
		return yield(storage.Entry{ID: name("new"), Seq: 1, CreatedAt: at(1)})
	}
	for kill, done := 0, false; !done; kill++ {
		w := damageWorld(t)
		w.apply(name("in the log"), storage.Wake{})
		w.checkpoint()
		old, err := w.answers()
		w.must(err)
		w.must(w.Catalog.Close())
		sound := w.config
		w.config.FS = &killed{left: kill}
		err = Rebuild(w.config, scan)
		if done = err == nil; !done && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		w.config = sound
		if w.Catalog, err = Open(w.config); err == nil {
			got, err := w.answers()
			w.must(err)
			if n, _ := w.Count(ctx); n != 1 && !reflect.DeepEqual(got, old) {
				t.Errorf("killed at operation %d: it is neither old nor new; %d agents", kill, n)
			}
			w.must(w.Catalog.Close())
		} else {
			w.wantKind(err, agent.Corrupt)
		}
		w.must(Rebuild(w.config, scan))
		w.start()
		w.wantCount(1)
	}
}

func TestVerify_EndsWithItsContext(t *testing.T) {
	w := damageWorld(t)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := w.Verify(cancelled)
	w.wantKind(err, agent.Canceled)
	r, err := w.Verify(ctx)
	if err != nil || len(r.Problems) > 0 || r.Agents != 61 || r.Quarantined != 1 || !slices.Equal(r.Applied, w.index[:]) {
		t.Errorf("%+v %v", r, err)
	}
}

func TestCatalog_QueriesUseTheirIndexes(t *testing.T) {
	w := newWorld(t)
	for sql, want := range map[string]string{
		`SELECT * FROM agents INDEXED BY agents_due WHERE due_at IS NOT NULL AND (due_at, namespace, class, name)>(1,'a','b','c') ORDER BY due_at, namespace, class, name LIMIT 3`: "SEARCH agents USING INDEX agents_due ((due_at,namespace,class,name)>(?,?,?,?))",
		`SELECT * FROM agents WHERE namespace='a' AND (class, name)>('b','c') ORDER BY class, name`:                                                                                "SEARCH agents USING PRIMARY KEY (namespace=? AND (class,name)>(?,?))",
		`SELECT * FROM agents WHERE namespace='a' AND class='b' AND name>'c' ORDER BY name`:                                                                                        "SEARCH agents USING PRIMARY KEY (namespace=? AND class=? AND name>?)",
	} {
		var plan []string
		w.must(w.file.each("EXPLAIN QUERY PLAN "+sql, nil, func(row []any) (bool, error) {
			plan = append(plan, row[3].(string))
			return true, nil
		}))
		if len(plan) != 1 || plan[0] != want {
			t.Errorf("%s: %v", sql, plan)
		}
	}
}
