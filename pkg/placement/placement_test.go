package placement

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"agentd/pkg/agent"
)

var counter = []DeployedClass{{Name: "Counter"}}

var at = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func deploy(bundle string, classes ...string) Command {
	d := &Deploy{Namespace: "default", Bundle: bundle}
	for _, c := range classes {
		d.Classes = append(d.Classes, DeployedClass{Name: c, Methods: []string{"add"}})
	}
	return Command{At: at, Deploy: d}
}

func apply(t *testing.T, table *Table, cmd Command) *Table {
	t.Helper()
	next, _, err := table.Apply(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestTable_DeployNumbersVersions(t *testing.T) {
	first := NewTable(4, "a")
	table := apply(t, first, deploy("b1", "Counter", "Room"))
	table = apply(t, table, deploy("b2", "Counter"))
	again := apply(t, table, deploy("b2", "Counter")) // the same code is no new version
	for class, want := range map[string]uint64{"Counter": 2, "Room": 1} {
		v, err := again.Current("default", class)
		if err != nil || v.Version != want {
			t.Errorf("%s: version %d, error %v; want %d", class, v.Version, err, want)
		}
	}
	if got := len(first.Classes("default")); got != 0 {
		t.Errorf("the first table changed: it has %d classes", got)
	}
	if _, err := again.Current("other", "Counter"); agent.KindOf(err) != agent.UnknownClass {
		t.Errorf("a class is seen from another namespace: %v", err)
	}
}

func TestTable_RollbackIsANewVersion(t *testing.T) {
	table := apply(t, NewTable(1, "a"), deploy("b1", "Counter"))
	table = apply(t, table, deploy("b2", "Counter"))
	table = apply(t, table, Command{At: at, Rollback: &Rollback{Namespace: "default", Class: "Counter", Version: 1}})
	v, err := table.Current("default", "Counter")
	if err != nil || v.Version != 3 || v.Bundle != "b1" {
		t.Fatalf("current = %+v, %v; want version 3 of b1", v, err)
	}
	_, _, err = table.Apply(Command{At: at, Rollback: &Rollback{Namespace: "default", Class: "Counter", Version: 9}})
	if agent.KindOf(err) != agent.NotFound {
		t.Errorf("rollback to a version that never was: %v", err)
	}
}

func TestTable_KeepsABoundedHistory(t *testing.T) {
	table := NewTable(1, "a")
	for i := range MaxVersionsKept + 5 {
		table = apply(t, table, deploy(fmt.Sprintf("b%d", i), "Counter"))
	}
	versions, err := table.Versions("default", "Counter")
	if err != nil || len(versions) != MaxVersionsKept || versions[0].Version != MaxVersionsKept+5 {
		t.Fatalf("kept %d versions, newest %d, error %v", len(versions), versions[0].Version, err)
	}
}

func TestTable_RefusesBadCommands(t *testing.T) {
	for name, cmd := range map[string]Command{
		"empty":         {},
		"no class":      deploy("b"),
		"bad class":     deploy("b", "no-dash"),
		"bad namespace": {Deploy: &Deploy{Namespace: "Upper", Bundle: "b", Classes: []DeployedClass{{Name: "A"}}}},
	} {
		if _, _, err := NewTable(1, "a").Apply(cmd); agent.KindOf(err) != agent.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestShardOf_SpreadsAndStays(t *testing.T) {
	counts := make([]int, DefaultShards)
	for i := range 16_000 {
		counts[ShardOf(agent.ID{Namespace: "default", Class: "C", Name: fmt.Sprint(i)}, DefaultShards)]++
	}
	for shard, n := range counts {
		if n < 800 || n > 1200 {
			t.Errorf("shard %d has %d of 16 000 agents", shard, n)
		}
	}
	// Stored data depends on this value.
	if got := ShardOf(agent.ID{Namespace: "default", Class: "Counter", Name: "a"}, 16); got != 6 {
		t.Errorf("shard of Counter/a = %d; the function is part of the format and must not change", got)
	}
}

func TestLocal_SurvivesReopen(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	l, err := OpenLocal(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	code := Bundle{Code: []byte("(function(){})"), SourceMap: []byte("{}")}
	made, err := l.Deploy(ctx, at, "default", code, counter)
	if err != nil {
		t.Fatal(err)
	}
	hash := made[0].Bundle
	l, err = OpenLocal(dir, "b")
	if err != nil {
		t.Fatal(err)
	}
	v, err := l.Table().Current("default", "Counter")
	if err != nil || v.Bundle != hash {
		t.Fatalf("current = %+v, %v", v, err)
	}
	got, err := l.Bundle(ctx, hash)
	if err != nil || string(got.Code) != string(code.Code) {
		t.Fatalf("bundle = %q, %v", got.Code, err)
	}
	if owner := l.Table().Owner(agent.ID{Namespace: "default", Class: "Counter", Name: "a"}); owner != "b" {
		t.Errorf("owner = %s, want the only node", owner)
	}
}

func TestLocal_DropsBundlesThatNobodyNeeds(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	l, err := OpenLocal(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	for i := range MaxVersionsKept + 3 {
		if _, err := l.Deploy(ctx, at, "default", Bundle{Code: fmt.Appendf(nil, "%d", i)}, counter); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "bundles"))
	if err != nil || len(files) != MaxVersionsKept {
		t.Fatalf("%d bundles are kept, error %v; want %d", len(files), err, MaxVersionsKept)
	}
}

func TestLocal_DamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	l, err := OpenLocal(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	made, err := l.Deploy(ctx, at, "default", Bundle{Code: []byte("code")}, counter)
	if err != nil {
		t.Fatal(err)
	}
	hash := made[0].Bundle
	forged, _ := json.Marshal(storedBundle{Code: "other"})
	if err := os.WriteFile(l.bundles.path(hash), forged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Bundle(ctx, hash); agent.KindOf(err) != agent.Corrupt {
		t.Errorf("a forged bundle: %v", err)
	}
	if _, err := l.Bundle(ctx, "../../etc/passwd"); agent.KindOf(err) != agent.Invalid {
		t.Errorf("a path instead of a hash: %v", err)
	}
	for _, text := range []string{"{", `{"format":2,"shards":["a"]}`, `{"format":1}`} {
		if err := os.WriteFile(l.tablePath(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenLocal(dir, "a"); agent.KindOf(err) != agent.Corrupt {
			t.Errorf("table %s: %v", text, err)
		}
	}
}

func FuzzTable_Unmarshal(f *testing.F) {
	f.Add([]byte(`{"format":1,"shards":["a"],"classes":{"default":{"C":[{"version":1}]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		table := new(Table)
		if err := json.Unmarshal(data, table); err != nil {
			return
		}
		_ = table.Classes("default")
		_ = table.Owner(agent.ID{Namespace: "default", Class: "C", Name: "n"})
	})
}
