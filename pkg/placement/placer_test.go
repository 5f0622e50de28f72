package placement

import (
	"context"
	"os"
	"strings"
	"testing"

	"agentd/pkg/agent"
)

func invalid(err error) bool { return agent.KindOf(err) == agent.Invalid && err != nil }

func TestLocal_WatchSeesEveryChange(t *testing.T) {
	ctx := context.Background()
	l, err := OpenLocal(t.TempDir(), "a")
	if err != nil {
		t.Fatal(err)
	}
	changed := func(ch <-chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	first, second := l.Watch(), l.Watch()
	code := Bundle{Code: []byte("code")}
	if _, err := l.Deploy(ctx, at, "default", code, counter); err != nil {
		t.Fatal(err)
	}
	if !changed(first) || !changed(second) {
		t.Error("a change is not announced to everyone")
	}
	next := l.Watch()
	if _, err := l.Deploy(ctx, at, "default", code, counter); err != nil || changed(next) {
		t.Errorf("the same code again is announced as a change, or fails: %v", err)
	}
	if _, err := l.Propose(ctx, Command{At: at, SetNamespace: &SetNamespace{Name: "team"}}); err != nil || !changed(next) {
		t.Errorf("a namespace is not announced: %v", err)
	}
}

func TestLocal_IsAlone(t *testing.T) {
	dir := t.TempDir()
	l, err := OpenLocal(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Propose(context.Background(), join("b")); agent.KindOf(err) != agent.Unavailable || !strings.Contains(err.Error(), "--bootstrap-expect") {
		t.Errorf("another node joins: %v", err)
	}
	if _, err := l.Propose(context.Background(), Command{}); !invalid(err) {
		t.Errorf("an empty command: %v", err)
	}
	data, err := clusterOf(t, 2, "a", "b").MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.tablePath(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLocal(dir, "a"); agent.KindOf(err) != agent.Conflict || !strings.Contains(err.Error(), "--join") {
		t.Errorf("the folder of a cluster is opened as that of a node alone: %v", err)
	}
}

func TestBundleStore_KeepsWhatIsBeingDeployed(t *testing.T) {
	s, err := OpenBundles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	hash, release, err := s.Put(Bundle{Code: []byte("code")})
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := s.Put(Bundle{Code: []byte("code")}) // by two at once
	if err != nil {
		t.Fatal(err)
	}
	release()
	release() // once is enough, twice is no harm
	s.Sweep(nil)
	if _, err := s.Get(hash); err != nil {
		t.Errorf("swept while it is being deployed: %v", err)
	}
	again()
	s.Sweep(map[string]bool{hash: true})
	if missing := s.Missing(map[string]bool{hash: true, "x": true}); len(missing) != 1 || missing[0] != "x" {
		t.Errorf("missing are %v", missing)
	}
	s.Sweep(nil)
	if _, err := s.Get(hash); agent.KindOf(err) != agent.NotFound {
		t.Errorf("a bundle that nobody needs: %v", err)
	}
	if _, _, err := s.Put(Bundle{Code: make([]byte, MaxBundleBytes+1)}); agent.KindOf(err) != agent.TooLarge {
		t.Errorf("a bundle that is too large: %v", err)
	}
}
