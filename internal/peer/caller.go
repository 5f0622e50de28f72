package peer

import (
	"fmt"
	"net"
	"sync"

	"agentd/pkg/agent"
)

// caller is another node as it has connected to this one. It lives as long as it has
// a connection; Port.mu guards it.
type caller struct {
	id    Identity
	wires map[Class]*wire
	raw   map[*Conn]struct{}
}

// compare refuses a second node of the same name, and an older process of a node.
func (p *Port) compare(id Identity) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.compareLocked(id)
}

func (p *Port) compareLocked(id Identity) error {
	c := p.callers[id.Node]
	switch {
	case c == nil:
		return nil
	case c.id.UUID != id.UUID:
		return &agent.Error{Op: "greet", Kind: agent.Conflict, Msg: fmt.Sprintf("two nodes have the name %q: give one of them another", id.Node)}
	case id.Incarnation < c.id.Incarnation:
		return &agent.Error{Op: "greet", Kind: agent.Conflict, Msg: fmt.Sprintf("node %q runs in a newer process", id.Node)}
	}
	return nil
}

// callerLocked is the entry of a node. A newer process of it takes the older one's place;
// what that had is ended.
func (p *Port) callerLocked(id Identity) (*caller, error) {
	if p.closed {
		return nil, errClosed
	}
	if err := p.compareLocked(id); err != nil {
		return nil, err
	}
	c := p.callers[id.Node]
	if c != nil && c.id.Incarnation == id.Incarnation {
		return c, nil
	}
	if c != nil {
		for _, w := range c.wires {
			w.fail(errNewer)
		}
		for raw := range c.raw {
			plain(raw.Conn).Close() //nolint:errcheck // it is given up
		}
	}
	c = &caller{id: id, wires: make(map[Class]*wire), raw: make(map[*Conn]struct{})}
	p.callers[id.Node] = c
	return c, nil
}

var errNewer = &agent.Error{Op: "hear from a node", Kind: agent.Unavailable, Msg: "a newer process of the node has connected"}

// register makes the wire the one of its node and class.
func (p *Port) register(w *wire) (replaced *wire, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.callerLocked(w.peer)
	if err != nil {
		return nil, err
	}
	replaced = c.wires[w.class]
	c.wires[w.class] = w
	p.wires[w] = struct{}{}
	return replaced, nil
}

func (p *Port) unregister(w *wire) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.wires, w)
	c := p.callers[w.peer.Node]
	if c == nil || c.wires[w.class] != w {
		return
	}
	delete(c.wires, w.class)
	p.forgetLocked(c)
}

func (p *Port) forgetLocked(c *caller) {
	if len(c.wires) == 0 && len(c.raw) == 0 && p.callers[c.id.Node] == c {
		delete(p.callers, c.id.Node)
	}
}

// Conn is a raw connection with another node.
type Conn struct {
	net.Conn
	Peer Identity

	port *Port // nil on the dialling side
	once sync.Once
}

// Close may be called more than once.
func (c *Conn) Close() error {
	c.once.Do(func() {
		if c.port != nil {
			c.port.dropped(c)
		}
	})
	return c.Conn.Close()
}

// abort closes the connection without a farewell.
func (c *Conn) abort() {
	c.once.Do(func() { c.port.dropped(c) })
	plain(c.Conn).Close() //nolint:errcheck // it is given up
}

func (p *Port) dropped(raw *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.callers[raw.Peer.Node]; c != nil {
		delete(c.raw, raw)
		p.forgetLocked(c)
	}
}

// offer hands a raw connection to whoever accepts from Listener.
func (p *Port) offer(conn net.Conn, from Identity) error {
	p.mu.Lock()
	c, err := p.callerLocked(from)
	if err == nil && len(c.raw) >= maxRaw {
		err = &agent.Error{Op: "greet", Kind: agent.Overloaded, Msg: fmt.Sprintf("node %q has %d raw connections, which is the most", from.Node, len(c.raw))}
	}
	if err != nil {
		p.mu.Unlock()
		return err
	}
	raw := &Conn{Conn: conn, Peer: from, port: p}
	c.raw[raw] = struct{}{}
	p.mu.Unlock()
	if p.raw.put(raw) {
		return nil
	}
	raw.Close() //nolint:errcheck // it is given up
	return &agent.Error{Op: "greet", Kind: agent.Unavailable, Msg: "nobody takes raw connections"}
}

func (p *Port) rawConns() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*Conn
	for _, c := range p.callers {
		for raw := range c.raw {
			list = append(list, raw)
		}
	}
	return list
}

// rawListener yields the raw connections that other nodes open.
type rawListener struct {
	addr   net.Addr
	conns  chan *Conn
	closed chan struct{}
	once   sync.Once
}

func newRawListener(addr net.Addr) *rawListener {
	return &rawListener{addr: addr, conns: make(chan *Conn, maxRaw), closed: make(chan struct{})}
}

func (l *rawListener) put(c *Conn) bool {
	select {
	case <-l.closed:
		return false
	default:
	}
	select {
	case l.conns <- c:
		return true
	default:
		return false
	}
}

func (l *rawListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *rawListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *rawListener) Addr() net.Addr { return l.addr }
