package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"agentd/pkg/agent"
)

// accept takes connections until the listener ends.
func (p *Port) accept() {
	for {
		conn, err := p.c.Listener.Accept()
		switch {
		case err == nil:
		case p.over() || errors.Is(err, net.ErrClosed):
			return
		default: // out of descriptors, for example
			p.refusals.say("cannot accept connections on the peer port", "error", err)
			if !p.pause(restFirst) {
				return
			}
			continue
		}
		select {
		case p.greeting <- struct{}{}:
		default:
			p.refusals.say("too many connections at once on the peer port", "remote", conn.RemoteAddr().String())
			conn.Close() //nolint:errcheck // it is given up
			continue
		}
		if !p.spawn(func() { p.welcome(conn) }) {
			conn.Close() //nolint:errcheck // it is given up
			return
		}
	}
}

func (p *Port) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// welcome finds out who has connected and serves the connection.
func (p *Port) welcome(conn net.Conn) {
	ctx, cancel := context.WithTimeout(p.ctx, helloPatience)
	stop := context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // it is given up
	secured, h, err := p.greet(ctx, conn)
	<-p.greeting
	inTime := stop()
	cancel()
	if err != nil || !inTime {
		conn.Close() //nolint:errcheck // it is given up
		if !p.over() {
			p.refusals.say("refused a connection on the peer port", "remote", conn.RemoteAddr().String(), "error", err)
		}
		return
	}
	if h.class == Raw {
		return // the raw listener has it
	}
	p.attend(secured, h)
}

// attend serves a connection to its end.
func (p *Port) attend(conn net.Conn, h hello) {
	w := newWire(conn, h.class, h.from, p.now, new(counters))
	replaced, err := p.register(w)
	if err != nil {
		w.fail(err)
		return
	}
	if replaced != nil {
		replaced.fail(&agent.Error{Op: "hear from node " + h.from.Node, Kind: agent.Unavailable, Msg: "the node has connected anew"})
	}
	p.serve(w) //nolint:errcheck // the other node tells, it has to connect anew
	p.unregister(w)
}

// greet secures the connection and exchanges hellos. Every refusal is told to those
// that speak the protocol.
func (p *Port) greet(ctx context.Context, conn net.Conn) (net.Conn, hello, error) {
	cluster, node := "", ""
	if p.c.TLS != nil {
		secured := tls.Server(conn, p.c.TLS.Server())
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, hello{}, err
		}
		conn = secured
		var err error
		if cluster, node, err = p.c.TLS.Who(secured.ConnectionState()); err != nil {
			return nil, hello{}, err
		}
	}
	h, err := readHello(conn)
	if err != nil {
		return nil, hello{}, err
	}
	if p.c.TLS != nil && (h.from.Cluster != cluster || h.from.Node != node) {
		err = &agent.Error{Op: "greet", Kind: agent.Denied, Msg: fmt.Sprintf("node %q of cluster %q says that it is %s", node, cluster, h.from)}
	}
	if err == nil {
		err = p.check(h)
	}
	if err != nil {
		conn.Write(encodeRefusal(err)) //nolint:errcheck // it is refused all the same
		return nil, h, err
	}
	answer := hello{oldest: oldestVersion, newest: newestVersion, class: h.class, from: p.self, to: h.from.Node}
	if _, err = conn.Write(answer.encode()); err != nil {
		return nil, h, err
	}
	if h.class == Raw {
		err = p.offer(conn, h.from)
	}
	return conn, h, err
}

// check says whether the node may connect.
func (p *Port) check(h hello) error {
	refuse := func(kind agent.Kind, format string, args ...any) error {
		return &agent.Error{Op: "greet", Kind: kind, Msg: fmt.Sprintf(format, args...)}
	}
	if _, err := negotiate(h); err != nil {
		return err
	}
	switch {
	case h.from.Cluster != p.self.Cluster:
		return refuse(agent.Denied, "node %q belongs to cluster %q, this node to %q: correct its addresses or empty its data folder", h.from.Node, h.from.Cluster, p.self.Cluster)
	case h.from.Node == p.self.Node:
		return refuse(agent.Conflict, "two nodes have the name %q: give one of them another", h.from.Node)
	case h.to != p.self.Node:
		return refuse(agent.Denied, "node %q is meant, this is node %q: correct the addresses of the nodes", h.to, p.self.Node)
	case h.class < Control || h.class > Raw:
		return refuse(agent.Invalid, "connections of %s are not known", h.class)
	}
	if err := p.c.Admit(h.from); err != nil {
		return err
	}
	return p.compare(h.from)
}

// dial connects to a node and makes sure that it is the one.
func (p *Port) dial(ctx context.Context, to string, class Class) (net.Conn, Identity, error) {
	address, ok := p.c.Lookup(to)
	if !ok {
		return nil, Identity{}, unknown(to)
	}
	conn, err := p.c.Dial(ctx, address)
	if err != nil {
		return nil, Identity{}, &agent.Error{Op: "connect to node " + to, Kind: agent.Unavailable, Msg: fmt.Sprintf("node %q does not answer at %s", to, address), Err: err}
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() }) //nolint:errcheck // it is given up
	secured, peer, err := p.present(ctx, conn, to, class)
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		stop()
		conn.Close() //nolint:errcheck // it is given up
		return nil, Identity{}, fmt.Errorf("greet node %q at %s: %w", to, address, err)
	}
	return secured, peer, nil
}

func (p *Port) present(ctx context.Context, conn net.Conn, to string, class Class) (net.Conn, Identity, error) {
	if p.c.TLS != nil {
		secured := tls.Client(conn, p.c.TLS.Client(to))
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, Identity{}, err
		}
		conn = secured
	}
	mine := hello{oldest: oldestVersion, newest: newestVersion, class: class, from: p.self, to: to}
	if _, err := conn.Write(mine.encode()); err != nil {
		return nil, Identity{}, err
	}
	h, err := readHello(conn)
	if err != nil {
		return nil, Identity{}, err
	}
	if _, err := negotiate(h); err != nil {
		return nil, Identity{}, err
	}
	if h.from.Node != to || h.from.Cluster != p.self.Cluster || h.to != p.self.Node {
		return nil, Identity{}, &agent.Error{Op: "greet", Kind: agent.Denied, Msg: fmt.Sprintf("%s answers in its place", h.from)}
	}
	if err := p.c.Admit(h.from); err != nil {
		return nil, Identity{}, err
	}
	return conn, h.from, nil
}

// quiet logs what strangers cause, at most once in a while.
type quiet struct {
	now func() time.Time
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	last    time.Time
	skipped int
}

// quietFor is the time between two lines about refusals.
const quietFor = 5 * time.Second

func (q *quiet) say(msg string, args ...any) {
	q.mu.Lock()
	now := q.now()
	if !q.last.IsZero() && now.Sub(q.last) < quietFor {
		q.skipped++
		q.mu.Unlock()
		return
	}
	skipped := q.skipped
	q.last, q.skipped = now, 0
	q.mu.Unlock()
	q.log.Warn(msg, append(args, "more", skipped)...)
}
