package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"agentd/pkg/agent"
)

// Local keeps the table of a cluster of one node in a folder: table.json and one
// file per bundle. Every change is on disk before it is seen. All methods may be
// called from any goroutine.
type Local struct {
	latest  Latest
	dir     string
	bundles *BundleStore
	mu      sync.Mutex // one change at a time; held over file writes, which only deploying waits for
}

var _ Placer = (*Local)(nil)

// OpenLocal reads the table in dir or begins one whose shards all belong to node.
// The table of a node that is alone follows a change of its name; one that was part
// of a cluster does not, and is refused with Conflict if it has other nodes.
func OpenLocal(dir, node string) (*Local, error) {
	const op = "read placement table"
	bundles, err := OpenBundles(filepath.Join(dir, "bundles"))
	if err != nil {
		return nil, err
	}
	l := &Local{dir: dir, bundles: bundles}
	data, err := os.ReadFile(l.tablePath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.latest.Set(NewTable(DefaultShards, node))
		return l, nil
	case err != nil:
		return nil, &agent.Error{Op: op, Kind: agent.Denied, Err: err}
	}
	t := new(Table)
	if err = t.UnmarshalJSON(data); err == nil && t.Shards() == 0 {
		err = errors.New("it has no shards")
	}
	if err != nil {
		return nil, &agent.Error{Op: op, Kind: agent.Corrupt,
			Msg: "restore " + l.tablePath() + " from a backup, or remove it and deploy the classes again", Err: err}
	}
	if t.cluster == "" {
		t = t.renamed(node)
	}
	if _, known := t.Node(node); !known || len(t.nodes) != 1 {
		return nil, refuse(op, agent.Conflict, "the folder belongs to a cluster of %d nodes, one of them %s: start it with that name and --join",
			len(t.nodes), t.Nodes()[0].Name)
	}
	l.latest.Set(t)
	return l, nil
}

// renamed is the table of a node alone under another name.
func (t *Table) renamed(node string) *Table {
	next := t.clone()
	n := t.Nodes()[0]
	n.Name = node
	next.nodes = map[string]Node{node: n}
	next.shards = slices.Clone(t.shards)
	for i := range next.shards {
		next.shards[i].Replicas, next.shards[i].Preferred = []string{node}, node
	}
	return next
}

// Table is the newest state.
func (l *Local) Table() *Table { return l.latest.Table() }

// Watch gives a channel that is closed when Table changes next.
func (l *Local) Watch() <-chan struct{} { return l.latest.Watch() }

// Deploy stores a bundle and makes it the newest version of its classes. Deploying
// the same code again changes nothing.
func (l *Local) Deploy(ctx context.Context, at time.Time, namespace string, b Bundle, classes []DeployedClass) ([]ClassVersion, error) {
	hash, release, err := l.bundles.Put(b)
	if err != nil {
		return nil, err
	}
	defer release()
	return l.Propose(ctx, Command{At: at, Deploy: &Deploy{Namespace: namespace, Bundle: hash, Classes: classes}})
}

// Rollback makes an older version of a class its newest again.
func (l *Local) Rollback(ctx context.Context, at time.Time, r Rollback) ([]ClassVersion, error) {
	return l.Propose(ctx, Command{At: at, Rollback: &r})
}

// Bundle reads code by its hash and checks that it is what was stored.
func (l *Local) Bundle(_ context.Context, hash string) (Bundle, error) {
	b, err := l.bundles.Get(hash)
	if agent.KindOf(err) == agent.NotFound { // there is no other node to have it
		return Bundle{}, &agent.Error{Op: "read bundle", Kind: agent.Corrupt, Msg: "deploy the class again", Err: err}
	}
	return b, err
}

// Propose applies a command, makes it durable, and then shows it. Commands about
// other nodes are refused with Unavailable: there is nobody here to carry them out.
func (l *Local) Propose(_ context.Context, cmd Command) ([]ClassVersion, error) {
	if cmd.Deploy == nil && cmd.Rollback == nil && cmd.SetNamespace == nil && cmd.DropNamespace == nil {
		if _, err := cmd.part(); err != nil {
			return nil, err
		}
		return nil, refuse("change placement table", agent.Unavailable, "this node is alone: start it with --peer and --bootstrap-expect 1 to make a cluster of it")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.Table()
	next, made, err := now.Apply(cmd)
	if err != nil || next == now {
		return made, err
	}
	data, err := json.Marshal(next)
	if err != nil {
		return nil, fmt.Errorf("encode placement table: %w", err)
	}
	if err := writeFileSync(l.tablePath(), data); err != nil {
		return nil, err
	}
	l.latest.Set(next)
	l.bundles.Sweep(next.Bundles())
	return made, nil
}

func (l *Local) tablePath() string { return filepath.Join(l.dir, "table.json") }

// writeFileSync replaces a file so that after a power cut it is either the old or
// the new one: write beside, sync, rename, sync the folder.
func writeFileSync(path string, data []byte) (err error) {
	fail := func(err error) error {
		kind := agent.Internal
		switch {
		case errors.Is(err, fs.ErrPermission):
			kind = agent.Denied
		case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
			kind = agent.StorageFull
		}
		return &agent.Error{Op: "write " + path, Kind: kind, Err: err}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
