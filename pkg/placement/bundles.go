package placement

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"agentd/pkg/agent"
)

// maxStoredBundle bounds a bundle's file: JSON takes at most six bytes for one.
const maxStoredBundle = 6*MaxBundleBytes + 1024

// BundleStore keeps bundles in a folder, one file each, named by content. All
// methods may be called from any goroutine.
type BundleStore struct {
	dir  string
	mu   sync.Mutex     // guards held, and that Sweep and Put do not meet; held over file writes, which only deploying waits for
	held map[string]int // by hash: how many want it kept although no table names it yet
}

// OpenBundles opens the folder and creates it if need be.
func OpenBundles(dir string) (*BundleStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &agent.Error{Op: "open bundles", Kind: agent.Denied, Err: err}
	}
	return &BundleStore{dir: dir, held: map[string]int{}}, nil
}

// Put stores a bundle durably and holds it: Sweep keeps it until release is
// called, by when the table names it or the deployment has failed. Error kinds:
// TooLarge, Denied, Internal.
func (s *BundleStore) Put(b Bundle) (hash string, release func(), err error) {
	if err := b.validate(); err != nil {
		return "", nil, err
	}
	hash = b.Hash()
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.path(hash)
	if _, err := os.Stat(path); err != nil {
		data, err := json.Marshal(storedBundle{Code: string(b.Code), SourceMap: string(b.SourceMap)})
		if err != nil {
			return "", nil, fmt.Errorf("encode bundle: %w", err)
		}
		if err := writeFileSync(path, data); err != nil {
			return "", nil, err
		}
	}
	s.held[hash]++
	var once sync.Once
	return hash, func() { once.Do(func() { s.release(hash) }) }, nil
}

func (s *BundleStore) release(hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[hash]--; s.held[hash] == 0 {
		delete(s.held, hash)
	}
}

// Get reads code by its hash and checks that it is what was stored. Error kinds:
// Invalid (not a hash), NotFound (not on this disk), Corrupt.
func (s *BundleStore) Get(hash string) (Bundle, error) {
	fail := func(kind agent.Kind, msg string, err error) (Bundle, error) {
		return Bundle{}, &agent.Error{Op: "read bundle", Kind: kind, Msg: msg, Err: err}
	}
	if _, err := hex.DecodeString(hash); err != nil || len(hash) != 64 {
		return fail(agent.Invalid, fmt.Sprintf("%.80q is no bundle hash", hash), nil)
	}
	path := s.path(hash)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(agent.NotFound, "the code is not on this node; deploy the class again", err)
	case err != nil:
		return fail(agent.Corrupt, "deploy the class again", err)
	case info.Size() > maxStoredBundle:
		return fail(agent.Corrupt, path+" is larger than any bundle; remove it and deploy the class again", nil)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fail(agent.Corrupt, "deploy the class again", err)
	}
	var stored storedBundle
	if err := json.Unmarshal(data, &stored); err != nil {
		return fail(agent.Corrupt, path+" is damaged; deploy the class again", err)
	}
	b := Bundle{Code: []byte(stored.Code), SourceMap: []byte(stored.SourceMap)}
	if b.Hash() != hash {
		return fail(agent.Corrupt, path+" does not match its name; remove it and deploy the class again", nil)
	}
	return b, nil
}

// Missing lists the hashes of used that have no file here, for a node that has to
// fetch them.
func (s *BundleStore) Missing(used map[string]bool) []string {
	var missing []string
	for hash := range used {
		if _, err := os.Stat(s.path(hash)); err != nil {
			missing = append(missing, hash)
		}
	}
	return missing
}

// Sweep removes bundles that are neither used nor held. What cannot be removed now
// is tried again at the next sweep.
func (s *BundleStore) Sweep(used map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if hash := strings.TrimSuffix(e.Name(), ".json"); !used[hash] && s.held[hash] == 0 {
			_ = os.Remove(filepath.Join(s.dir, e.Name()))
		}
	}
}

type storedBundle struct {
	Code      string `json:"code"`
	SourceMap string `json:"sourceMap"`
}

func (s *BundleStore) path(hash string) string { return filepath.Join(s.dir, hash+".json") }
