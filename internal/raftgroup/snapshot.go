package raftgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// manifestKey is where a group's manifest is kept among its stable values.
const manifestKey = "Snapshot"

// manifest is all that a snapshot consists of here: the data is in the machine, which
// made it durable before the manifest is written.
type manifest struct {
	Version    int    `json:"version"` // 1
	Index      uint64 `json:"index"`   // everything up to here survives without the log
	Term       uint64 `json:"term"`
	Peers      []Peer `json:"peers"`
	PeersIndex uint64 `json:"peersIndex"`
}

const manifestVersion = 1

// maxPeers bounds a group's configuration.
const maxPeers = 64

func (m *manifest) encode() ([]byte, error) { return json.Marshal(m) }

func decodeManifest(b []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("the snapshot's manifest is damaged: %w", err)
	}
	switch {
	case m.Version != manifestVersion:
		return nil, fmt.Errorf("the snapshot's manifest has version %d; this release knows version %d", m.Version, manifestVersion)
	case m.Index == 0 || m.Term == 0 || m.PeersIndex > m.Index:
		return nil, fmt.Errorf("the snapshot's manifest is damaged: index %d, term %d, peers of index %d", m.Index, m.Term, m.PeersIndex)
	}
	if err := validatePeers(m.Peers); err != nil {
		return nil, fmt.Errorf("the snapshot's manifest is damaged: %w", err)
	}
	return &m, nil
}

func (m *manifest) id() string { return fmt.Sprintf("%d-%d", m.Term, m.Index) }

// snapshots is raft's SnapshotStore: the newest manifest in the group's stable values.
type snapshots struct {
	store *store

	mu     sync.Mutex // guards latest
	latest *manifest  // nil before the first
}

var _ raft.SnapshotStore = (*snapshots)(nil)

func openSnapshots(s *store) (*snapshots, error) {
	list := &snapshots{store: s}
	b, ok := s.log.Lookup(manifestKey)
	if !ok {
		return list, nil
	}
	var err error
	list.latest, err = decodeManifest(b)
	return list, err
}

// index is that of the newest snapshot; 0 for none.
func (s *snapshots) index() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil {
		return 0
	}
	return s.latest.Index
}

func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, peersIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != raft.SnapshotVersionMax {
		return nil, fmt.Errorf("snapshots of version %d are not known", version)
	}
	return &sink{snapshots: s, manifest: &manifest{Version: manifestVersion, Index: index, Term: term, Peers: peersOf(c), PeersIndex: peersIndex}}, nil
}

func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil {
		return nil, nil
	}
	m := s.latest
	return []*raft.SnapshotMeta{{Version: raft.SnapshotVersionMax, ID: m.id(), Index: m.Index, Term: m.Term,
		Configuration: configurationOf(m.Peers), ConfigurationIndex: m.PeersIndex}}, nil
}

// errNoImage is what a replica meets that needs entries which are no longer in the
// log.
var errNoImage = errors.New("a snapshot's content cannot be sent to another replica by this release: bring the replica back before its entries leave the log")

func (s *snapshots) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	return nil, nil, errNoImage
}

// sink publishes a manifest. raft asks for one also to receive another replica's
// snapshot; that one is never checkpointed and is refused.
type sink struct {
	snapshots    *snapshots
	manifest     *manifest
	checkpointed bool
}

func (k *sink) ID() string                { return k.manifest.id() }
func (k *sink) Write([]byte) (int, error) { return 0, errNoImage }
func (k *sink) Cancel() error             { return nil }

func (k *sink) Close() error {
	if !k.checkpointed {
		return errNoImage
	}
	b, err := k.manifest.encode()
	if err != nil {
		return err
	}
	if err := k.snapshots.store.log.Set(manifestKey, b); err != nil {
		k.snapshots.store.fail(fmt.Errorf("write the snapshot's manifest: %w", err))
		return err // raft heeds it
	}
	k.snapshots.mu.Lock()
	defer k.snapshots.mu.Unlock()
	k.snapshots.latest = k.manifest
	return nil
}
