package placement

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
)

// Local keeps the table of a cluster of one node in a folder: table.json and one
// file per bundle. Every change is on disk before it is seen. All methods may be
// called from any goroutine.
type Local struct {
	dir   string
	table atomic.Pointer[Table]
	mu    sync.Mutex // one change at a time; held over file writes, which only deploying waits for
}

// OpenLocal reads the table in dir or begins one whose shards all belong to node.
// A table of another node is kept as it is apart from the owner: a cluster of one
// has no other.
func OpenLocal(dir, node string) (*Local, error) {
	l := &Local{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, "bundles"), 0o700); err != nil {
		return nil, &agent.Error{Op: "open placement table", Kind: agent.Denied, Err: err}
	}
	data, err := os.ReadFile(l.tablePath())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.table.Store(NewTable(DefaultShards, node))
		return l, nil
	case err != nil:
		return nil, &agent.Error{Op: "read placement table", Kind: agent.Denied, Err: err}
	}
	t := new(Table)
	if err := json.Unmarshal(data, t); err != nil {
		return nil, &agent.Error{Op: "read placement table", Kind: agent.Corrupt,
			Msg: "restore " + l.tablePath() + " from a backup, or remove it and deploy the classes again", Err: err}
	}
	for i := range t.shards {
		t.shards[i] = node
	}
	l.table.Store(t)
	return l, nil
}

// Table is the newest state.
func (l *Local) Table() *Table { return l.table.Load() }

// Deploy stores a bundle and makes it the newest version of its classes. Deploying
// the same code again changes nothing.
func (l *Local) Deploy(_ context.Context, at time.Time, namespace string, b Bundle, classes []DeployedClass) ([]ClassVersion, error) {
	if n := len(b.Code) + len(b.SourceMap); n > MaxBundleBytes {
		return nil, &agent.Error{Op: "deploy", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("the bundle has %d bytes with its source map; at most %d are allowed", n, MaxBundleBytes)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	hash, err := l.putLocked(b)
	if err != nil {
		return nil, err
	}
	return l.proposeLocked(Command{At: at, Deploy: &Deploy{Namespace: namespace, Bundle: hash, Classes: classes}})
}

// Rollback makes an older version of a class its newest again.
func (l *Local) Rollback(_ context.Context, at time.Time, r Rollback) ([]ClassVersion, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proposeLocked(Command{At: at, Rollback: &r})
}

func (l *Local) putLocked(b Bundle) (hash string, err error) {
	hash = b.Hash()
	path := l.bundlePath(hash)
	if _, err := os.Stat(path); err == nil {
		return hash, nil
	}
	data, err := json.Marshal(storedBundle{Code: string(b.Code), SourceMap: string(b.SourceMap)})
	if err != nil {
		return "", fmt.Errorf("encode bundle: %w", err)
	}
	return hash, writeFileSync(path, data)
}

// Bundle reads code by its hash and checks that it is what was stored.
func (l *Local) Bundle(_ context.Context, hash string) (Bundle, error) {
	fail := func(kind agent.Kind, msg string, err error) (Bundle, error) {
		return Bundle{}, &agent.Error{Op: "read bundle", Kind: kind, Msg: msg, Err: err}
	}
	if _, err := hex.DecodeString(hash); err != nil || len(hash) != 64 {
		return fail(agent.Invalid, fmt.Sprintf("%.80q is no bundle hash", hash), nil)
	}
	data, err := os.ReadFile(l.bundlePath(hash))
	if err != nil {
		return fail(agent.Corrupt, "deploy the class again", err)
	}
	var s storedBundle
	if err := json.Unmarshal(data, &s); err != nil {
		return fail(agent.Corrupt, l.bundlePath(hash)+" is damaged; deploy the class again", err)
	}
	b := Bundle{Code: []byte(s.Code), SourceMap: []byte(s.SourceMap)}
	if b.Hash() != hash {
		return fail(agent.Corrupt, l.bundlePath(hash)+" does not match its name; remove it and deploy the class again", nil)
	}
	return b, nil
}

// proposeLocked applies a command, makes it durable, and then shows it.
func (l *Local) proposeLocked(cmd Command) ([]ClassVersion, error) {
	next, made, err := l.Table().Apply(cmd)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(next)
	if err != nil {
		return nil, fmt.Errorf("encode placement table: %w", err)
	}
	if err := writeFileSync(l.tablePath(), data); err != nil {
		return nil, err
	}
	l.table.Store(next)
	l.dropUnusedLocked(next)
	return made, nil
}

// dropUnusedLocked removes bundles that no kept version needs. What cannot be
// removed now is tried again at the next change.
func (l *Local) dropUnusedLocked(t *Table) {
	used := t.Bundles()
	entries, err := os.ReadDir(filepath.Join(l.dir, "bundles"))
	if err != nil {
		return
	}
	for _, e := range entries {
		if hash := strings.TrimSuffix(e.Name(), ".json"); !used[hash] {
			_ = os.Remove(filepath.Join(l.dir, "bundles", e.Name()))
		}
	}
}

type storedBundle struct {
	Code      string `json:"code"`
	SourceMap string `json:"sourceMap"`
}

func (l *Local) tablePath() string { return filepath.Join(l.dir, "table.json") }

func (l *Local) bundlePath(hash string) string {
	return filepath.Join(l.dir, "bundles", hash+".json")
}

// writeFileSync replaces a file so that after a power cut it is either the old or
// the new one: write beside, sync, rename, sync the folder.
func writeFileSync(path string, data []byte) (err error) {
	fail := func(err error) error {
		kind := agent.Internal
		if errors.Is(err, fs.ErrPermission) {
			kind = agent.Denied
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
