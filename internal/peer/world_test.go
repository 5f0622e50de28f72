package peer_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"agentd/internal/peer"
	"agentd/internal/peer/peertest"
	"agentd/pkg/agent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a network with nodes on it, in fake time.
type world struct {
	net  *peertest.Network
	log  *lines
	open []*peer.Port
}

// inWorld runs a test and checks that nothing is left behind.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{net: peertest.New(), log: new(lines)}
		test(t, w)
		for _, p := range w.open {
			p.Close()
		}
		synctest.Wait()
		if n := w.net.Conns(); n != 0 {
			t.Errorf("%d ends of connections are still open", n)
		}
	})
}

// lines is a log.
type lines struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), part)
}

func identity(node string, incarnation uint64) peer.Identity {
	return peer.Identity{Cluster: "test", Node: node, UUID: [16]byte{1, node[0]}, Incarnation: incarnation}
}

// config is that of a node; all nodes are at NAME:7690.
func (w *world) config(t *testing.T, id peer.Identity) peer.Config {
	t.Helper()
	l, err := w.net.Listen(id.Node + ":7690")
	if err != nil {
		t.Fatal(err)
	}
	return peer.Config{Self: id, Listener: l, Dial: w.net.Dialer(id.Node), Lookup: everywhere,
		Now: time.Now, Rand: func() float64 { return 0.5 }, Logger: slog.New(slog.NewTextHandler(w.log, nil))}
}

func newNet() *peertest.Network { return peertest.New() }

func everywhere(node string) (string, bool) { return node + ":7690", node != "nobody" }

func (w *world) start(t *testing.T, c peer.Config) *peer.Port {
	t.Helper()
	p, err := peer.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	w.open = append(w.open, p)
	return p
}

func (w *world) node(t *testing.T, name string) *peer.Port {
	t.Helper()
	return w.start(t, w.config(t, identity(name, 1)))
}

// echo answers with what it was asked.
func echo(_ context.Context, r peer.Request) ([]byte, error) {
	return append([]byte(r.From.Node+":"), r.Body...), nil
}

func ask(t *testing.T, p *peer.Port, to string, class peer.Class, text string) (string, error) {
	t.Helper()
	b, err := p.Call(t.Context(), to, peer.Message{Class: class, Group: 1, Body: []byte(text)})
	return string(b), err
}

func wantKind(t *testing.T, err error, kind agent.Kind, part string) {
	t.Helper()
	if err == nil || agent.KindOf(err) != kind || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v of kind %v; want %v and %q", err, agent.KindOf(err), kind, part)
	}
}
