// Package peertest is a network in memory: connections with buffers, delay and
// bandwidth that can be cut, also in one direction only. It behaves as TCP does: what
// is sent over a cut way waits and arrives after it heals, and neither side is told.
// It is for tests in a synctest bubble.
package peertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// Network joins hosts. All methods may be called from any goroutine.
type Network struct {
	mu        sync.Mutex // guards what follows
	listeners map[string]*listener
	ways      map[way]*condition
	conns     map[*Conn]struct{}
	dials     map[string]int
	ports     int
}

// way is one direction between two hosts.
type way struct{ from, to string }

func (w way) back() way { return way{w.to, w.from} }

// condition of a way.
type condition struct {
	cut       bool
	delay     time.Duration
	perSecond int64 // bytes; 0 is no limit
}

// New is a network on which everything arrives at once.
func New() *Network {
	return &Network{listeners: make(map[string]*listener), ways: make(map[way]*condition), conns: make(map[*Conn]struct{}), dials: make(map[string]int)}
}

// Listen makes a host reachable at the address HOST:PORT.
func (n *Network) Listen(address string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, fmt.Errorf("listen on %s: address in use", address)
	}
	l := &listener{network: n, address: address, conns: make(chan *Conn, 128), closed: make(chan struct{})}
	n.listeners[address] = l
	return l, nil
}

// Dialer makes connections from a host. Over a cut way it waits until ctx ends.
func (n *Network) Dialer(host string) func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) { return n.dial(ctx, host, address) }
}

func (n *Network) dial(ctx context.Context, from, address string) (net.Conn, error) {
	to, _, _ := strings.Cut(address, ":")
	n.mu.Lock()
	n.dials[from]++
	n.ports++
	local := fmt.Sprintf("%s:%d", from, 30000+n.ports)
	n.mu.Unlock()
	for _, w := range []way{{from, to}, {to, from}} {
		if err := n.cross(ctx, w); err != nil {
			return nil, fmt.Errorf("dial %s: %w", address, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[address]
	if l == nil {
		return nil, fmt.Errorf("dial %s: %w", address, ErrRefused)
	}
	there, back := newHalf(), newHalf()
	near := &Conn{network: n, way: way{from, to}, in: back, out: there, local: addr(local), remote: addr(address)}
	far := &Conn{network: n, way: way{to, from}, in: there, out: back, local: addr(address), remote: addr(local)}
	select {
	case l.conns <- far:
	default:
		return nil, fmt.Errorf("dial %s: %w", address, ErrRefused)
	}
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	return near, nil
}

// ErrRefused is what a dialler meets where nobody listens.
var ErrRefused = errors.New("connection refused")

// ErrReset is what a connection meets whose other host has died.
var ErrReset = errors.New("connection reset by peer")

// cross waits until a packet has gone one way.
func (n *Network) cross(ctx context.Context, w way) error {
	for {
		c := n.condition(w)
		wait := c.delay
		if c.cut {
			wait = 50 * time.Millisecond // the next attempt to send it
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		if !c.cut {
			return nil
		}
	}
}

func (n *Network) condition(w way) condition {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.ways[w]; c != nil {
		return *c
	}
	return condition{}
}

// change sets the condition of a way and has the connections see it.
func (n *Network) change(w way, fn func(*condition)) {
	n.mu.Lock()
	c := n.ways[w]
	if c == nil {
		c = new(condition)
		n.ways[w] = c
	}
	fn(c)
	var halves []*half
	for conn := range n.conns {
		if conn.way == w || conn.way.back() == w {
			halves = append(halves, conn.in, conn.out) // the other end may be closed
		}
	}
	n.mu.Unlock()
	for _, h := range halves {
		h.poke()
	}
}

// CutOneWay stops everything from one host to another.
func (n *Network) CutOneWay(from, to string) {
	n.change(way{from, to}, func(c *condition) { c.cut = true })
}

// HealOneWay ends CutOneWay.
func (n *Network) HealOneWay(from, to string) {
	n.change(way{from, to}, func(c *condition) { c.cut = false })
}

// Cut stops everything between two hosts.
func (n *Network) Cut(a, b string) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// Heal ends Cut.
func (n *Network) Heal(a, b string) {
	n.HealOneWay(a, b)
	n.HealOneWay(b, a)
}

// Delay is how long everything takes from one host to another, from now on.
func (n *Network) Delay(from, to string, d time.Duration) {
	n.change(way{from, to}, func(c *condition) { c.delay = d })
}

// Bandwidth of each connection from one host to another, in bytes per second; 0 is no limit.
func (n *Network) Bandwidth(from, to string, perSecond int64) {
	n.change(way{from, to}, func(c *condition) { c.perSecond = perSecond })
}

// Reset breaks all connections of a host, as its death would, but for those over a cut
// way: nobody is told there.
func (n *Network) Reset(host string) {
	n.mu.Lock()
	var list []*Conn
	for c := range n.conns {
		if at := n.ways[c.way]; c.way.from == host && (at == nil || !at.cut) {
			list = append(list, c)
		}
	}
	n.mu.Unlock()
	for _, c := range list {
		c.in.fail(ErrReset)
		c.out.fail(ErrReset)
	}
}

// Dials is how many connections a host has tried to open.
func (n *Network) Dials(host string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[host]
}

// Conns is how many ends of connections are open, which is 0 when nothing was left behind.
func (n *Network) Conns() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

func (n *Network) forget(c *Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// listener is a net.Listener.
type listener struct {
	network *Network
	address string
	conns   chan *Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.network.mu.Lock()
		delete(l.network.listeners, l.address)
		l.network.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.conns:
				c.Close() //nolint:errcheck // never fails
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return addr(l.address) }

type addr string

func (a addr) Network() string { return "memory" }
func (a addr) String() string  { return string(a) }
