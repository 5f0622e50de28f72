package peer

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"agentd/pkg/agent"
)

// Port is a node's place on the network of its cluster. All methods may be called
// from any goroutine.
type Port struct {
	c    Config
	self Identity
	now  func() time.Time
	rand func() float64
	log  *slog.Logger

	ctx      context.Context // ends with Close
	cancel   context.CancelCauseFunc
	tasks    sync.WaitGroup // every goroutine of the port
	pace     pace
	greeting chan struct{} // a token for each connection that has not said who it is
	refusals quiet
	raw      *rawListener

	mu       sync.Mutex // guards what follows
	closed   bool
	handlers map[uint32]*Handler
	links    map[linkKey]*link
	callers  map[string]*caller
	wires    map[*wire]struct{}
}

type linkKey struct {
	to    string
	class Class
}

var errClosed = &agent.Error{Op: "use peer port", Kind: agent.Unavailable, Msg: "the node is stopping"}

// Open starts to accept other nodes. Errors are of kind Invalid.
func Open(c Config) (*Port, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	p := &Port{c: c, self: c.Self, now: c.Now, rand: c.Rand, log: c.Logger,
		pace: pace{perSecond: c.BulkBytesPerSecond, now: c.Now}, greeting: make(chan struct{}, maxGreeting),
		refusals: quiet{now: c.Now, log: c.Logger}, raw: newRawListener(c.Listener.Addr()),
		handlers: make(map[uint32]*Handler), links: make(map[linkKey]*link), callers: make(map[string]*caller), wires: make(map[*wire]struct{})}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	p.spawn(p.accept)
	return p, nil
}

// Close drops all connections and waits for all handlers, whose contexts end. Calls
// that wait for an answer fail. Accepted raw connections are closed too.
func (p *Port) Close() {
	p.mu.Lock()
	p.closed = true
	wires := make([]*wire, 0, len(p.wires))
	for w := range p.wires {
		wires = append(wires, w)
	}
	p.mu.Unlock()
	p.cancel(errClosed)
	p.c.Listener.Close() //nolint:errcheck // nothing is to be done about it
	p.raw.Close()        //nolint:errcheck // never fails
	for _, w := range wires {
		w.fail(errClosed)
	}
	for _, c := range p.rawConns() {
		c.abort()
	}
	p.tasks.Wait()
}

// spawn runs fn unless the port is closed; Close waits for it.
func (p *Port) spawn(fn func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.tasks.Go(fn)
	return true
}

func (p *Port) over() bool { return p.ctx.Err() != nil }

// own makes Close end the wire.
func (p *Port) own(w *wire) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wires[w] = struct{}{}
	return !p.closed
}

func (p *Port) disown(w *wire) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.wires, w)
}

// Handle sets who answers a group's requests, in place of any before it. remove takes
// it away again, unless another has taken its place, and does not wait for it.
func (p *Port) Handle(group uint32, h Handler) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handlers[group] = &h
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.handlers[group] == &h {
			delete(p.handlers, group)
		}
	}
}

func (p *Port) handler(group uint32) Handler {
	p.mu.Lock()
	defer p.mu.Unlock()
	if h := p.handlers[group]; h != nil {
		return *h
	}
	return nil
}

// Self is who this node is.
func (p *Port) Self() Identity { return p.self }

func (p *Port) link(to string, class Class) (*link, error) {
	switch {
	case class < Control || class > Calls:
		return nil, &agent.Error{Op: "send to node " + to, Kind: agent.Invalid, Msg: "messages have no class " + class.String()}
	case to == p.self.Node:
		return nil, &agent.Error{Op: "send to node " + to, Kind: agent.Invalid, Msg: "a node does not send to itself"}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	key := linkKey{to, class}
	l := p.links[key]
	if l == nil {
		if _, known := p.c.Lookup(to); !known { // so that the table holds members only
			return nil, unknown(to)
		}
		l = &link{port: p, to: to, class: class, pending: make(map[uint64]*call)}
		p.links[key] = l
	}
	return l, nil
}

func unknown(to string) error {
	return &agent.Error{Op: "send to node " + to, Kind: agent.Unavailable, Msg: "the address of node " + to + " is not known"}
}

// Post sends a message and does not wait. Messages of one class to one node arrive in
// the order of Post, as long as the connection lives. done is called exactly once,
// perhaps before Post returns, on a goroutine that it must not block. Errors:
// Unavailable (never sent), OutcomeUnknown (the node was lost), Deadline, Overloaded,
// TooLarge, or what the handler returned.
func (p *Port) Post(to string, m Message, done func(reply []byte, err error)) {
	l, err := p.link(to, m.Class)
	if err != nil {
		done(nil, err)
		return
	}
	limit := m.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	l.post(m, limit, nil, done)
}

// Call sends a message and waits for the reply until ctx ends. Errors are those of
// Post.
func (p *Port) Call(ctx context.Context, to string, m Message) ([]byte, error) {
	l, err := p.link(to, m.Class)
	if err != nil {
		return nil, err
	}
	type answer struct {
		reply []byte
		err   error
	}
	answers := make(chan answer, 1)
	limit := m.Limit
	if _, has := ctx.Deadline(); !has && limit <= 0 {
		limit = defaultLimit
	}
	id := l.post(m, limit, nil, func(reply []byte, err error) { answers <- answer{reply, err} })
	select {
	case a := <-answers:
		return a.reply, a.err
	case <-ctx.Done():
		l.finish(id, nil, agent.FromContext(ctx, "ask node "+to, agent.ID{}))
		a := <-answers
		return a.reply, a.err
	}
}

// Stats is a picture of the connections of one class to another node.
type Stats struct {
	Node      string
	Class     Class
	Connected bool
	Sent      uint64 // bytes, over all connections so far
	Received  uint64
	RTT       time.Duration // of the last ping; 0 before the first
	Queued    int           // bytes that wait to be sent
	Pending   int           // messages without an answer
	Attempts  uint64        // to connect
	Failure   string        // the last one; "" before the first
}

// Stats lists the connections that this node has opened, by node and class.
func (p *Port) Stats() []Stats {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for _, l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	list := make([]Stats, 0, len(links))
	for _, l := range links {
		list = append(list, l.stats())
	}
	slices.SortFunc(list, func(a, b Stats) int {
		if c := strings.Compare(a.Node, b.Node); c != 0 {
			return c
		}
		return int(a.Class) - int(b.Class)
	})
	return list
}

func (l *link) stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Stats{Node: l.to, Class: l.class, Connected: l.wire != nil, Sent: l.count.sent.Load(), Received: l.count.received.Load(),
		RTT: time.Duration(l.count.rtt.Load()), Queued: l.queued, Pending: len(l.pending), Attempts: l.count.dials.Load()}
	if l.wire != nil {
		s.Queued += l.wire.waiting()
	}
	if l.reason != nil {
		s.Failure = l.reason.Error()
	}
	return s
}

var _ net.Listener = (*rawListener)(nil)

// Listener yields the connections that other nodes open with Dial, as *Conn: their Peer
// has proved who it is. It is for a gRPC server, which may close it; the port lives on.
func (p *Port) Listener() net.Listener { return p.raw }

// Dial opens a connection that comes out of the other node's Listener, as a *Conn. It
// is the caller's, who must also notice when the other side is gone.
func (p *Port) Dial(ctx context.Context, to string) (net.Conn, error) {
	if p.over() {
		return nil, errClosed
	}
	ctx, cancel := context.WithTimeout(ctx, helloPatience)
	defer cancel()
	conn, peer, err := p.dial(ctx, to, Raw)
	if err != nil {
		return nil, err
	}
	return &Conn{Conn: conn, Peer: peer}, nil
}
