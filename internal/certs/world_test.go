package certs

import (
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"agentd/pkg/agent"
)

// epoch is far enough from the machine's date that a clock which is not handed in
// shows as an expired certificate.
var epoch = time.Date(2051, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: epoch} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// reports collects what Options.Report hears.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) hear(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) all() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.errs...)
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newCA(t testing.TB, cluster string) (*CA, string) {
	t.Helper()
	dir := t.TempDir()
	return must[*CA](t)(InitCA(dir, cluster, epoch, rand.Reader)), dir
}

// newNode gives the folder of a new node.
func newNode(t testing.TB, ca *CA, req Request) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	must[time.Time](t)(ca.NewNode(dir, req, epoch, rand.Reader))
	return dir
}

// newPeer is a running node's side, with a certificate from ca.
func newPeer(t testing.TB, ca *CA, name string, c *clock) *Peer {
	t.Helper()
	return must[*Peer](t)(PeerTLS(Dir(newNode(t, ca, Request{Name: name})), "", Options{Now: c.Now}))
}

// put writes a file in place, as an editor may.
func put(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, path string) []byte {
	t.Helper()
	return must[[]byte](t)(os.ReadFile(path))
}

// met is what both ends learned from one connection.
type met struct {
	server, client       error // of the handshake, or of the first byte
	serverSaw, clientSaw tls.ConnectionState
}

func (m met) err() error {
	if m.server != nil {
		return m.server
	}
	return m.client
}

// handshake connects two configurations over a pipe and carries one byte.
func handshake(t testing.TB, server, client *tls.Config) met {
	t.Helper()
	left, right := net.Pipe()
	var m met
	var wg sync.WaitGroup
	wg.Go(func() {
		defer left.Close()
		conn := tls.Server(left, server)
		if m.server = conn.Handshake(); m.server == nil {
			m.serverSaw = conn.ConnectionState()
			_, m.server = conn.Write([]byte{1})
		}
	})
	wg.Go(func() {
		defer right.Close()
		conn := tls.Client(right, client)
		if m.client = conn.Handshake(); m.client == nil {
			m.clientSaw = conn.ConnectionState()
			_, m.client = io.ReadFull(conn, make([]byte, 1))
		}
	})
	wg.Wait()
	return m
}

func wantKind(t testing.TB, err error, kind agent.Kind) {
	t.Helper()
	if err == nil || agent.KindOf(err) != kind {
		t.Errorf("error %v of kind %v; want %v", err, agent.KindOf(err), kind)
	}
}
