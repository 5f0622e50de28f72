package raftgroup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

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
	store    *store
	trailing uint64

	taking  sync.Mutex // one Group.Snapshot at a time; guards pending
	pending chan error // of capacity 1: the answer that a Snapshot did not wait for; nil if there is none
	ctx     atomic.Pointer[context.Context]

	mu     sync.Mutex // guards latest
	latest *manifest  // nil before the first
}

var _ raft.SnapshotStore = (*snapshots)(nil)

func openSnapshots(s *store, trailing uint64) (*snapshots, error) {
	list := &snapshots{store: s, trailing: trailing}
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
		if !full(err) {
			k.snapshots.store.fail(fmt.Errorf("write the snapshot's manifest: %w", err))
		}
		return err // raft heeds it
	}
	k.snapshots.mu.Lock()
	defer k.snapshots.mu.Unlock()
	k.snapshots.latest = k.manifest
	return nil
}

// Snapshot has the machine checkpoint what was applied before the call and lets the
// log forget it. Nothing is done when nothing was applied since the last one. When ctx
// ends first, raft finishes by itself.
func (g *Group) Snapshot(ctx context.Context) error {
	list := g.snapshots
	list.taking.Lock()
	defer list.taking.Unlock()
	if err := g.Err(); err != nil {
		return err
	}
	if seen := g.fsm.seen.Load(); seen == 0 || seen == list.index() {
		return list.trim()
	}
	if err := list.await(ctx); ctx.Err() != nil {
		return fmt.Errorf("snapshot of %s: %w", g.name, errors.Join(context.Cause(ctx), err))
	}
	done := make(chan error, 1)
	list.pending = done
	list.ctx.Store(&ctx)
	g.wg.Go(func() { done <- g.raft.Load().Snapshot().Error() })
	err := list.await(ctx)
	switch {
	case err == nil, errors.Is(err, raft.ErrNothingNewToSnapshot):
		return nil
	case g.Err() != nil:
		return g.Err()
	}
	return fmt.Errorf("snapshot of %s: %w", g.name, err)
}

// await returns raft's answer to the snapshot under way, if there is one that nobody
// has waited for.
func (s *snapshots) await(ctx context.Context) error {
	if s.pending == nil {
		return nil
	}
	select {
	case err := <-s.pending:
		s.pending = nil
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// trim truncates what a log without room would not let go after the last snapshot.
func (s *snapshots) trim() error {
	first, covered := s.store.log.First(), s.index()
	if s.trailing > 0 || first == 0 || first > covered {
		return nil
	}
	return s.store.DeleteRange(first, covered)
}
