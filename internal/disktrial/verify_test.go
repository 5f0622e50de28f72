package disktrial

import (
	"testing"
	"time"

	"agentd/pkg/replication/single"
	"agentd/pkg/storage/engine"
)

// Verify compares files with what the catalog says now, not at its last checkpoint:
// an agent that was deleted since is not missing.
func TestVerify_CountsAgentsAsOfNow(t *testing.T) {
	dir := t.TempDir() + "/data"
	aStore(t, dir, 2)
	p := plan{Dir: dir, CheckpointEvery: time.Hour}
	s, err := single.Open(t.Context(), p.config())
	must(t, err)
	defer s.Close()
	must(t, s.Delete(t.Context(), agentID(0)))
	_, err = s.Store.Verify(t.Context(), func(p engine.Problem) { t.Errorf("%s: %s", p.Path, p.What) })
	must(t, err)
}
