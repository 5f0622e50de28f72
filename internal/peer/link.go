package peer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"agentd/pkg/agent"
)

// link is this node's connection of one class to one other node. It connects when
// there is something to send. While it does, messages wait; for a while after a failure
// they are refused at once.
type link struct {
	port  *Port
	to    string
	class Class
	count counters

	mu       sync.Mutex // guards what follows; taken before a wire's; no callback under it
	wire     *wire      // nil unless connected
	dialing  bool
	waiting  []frame // sent when connected
	queued   int     // their bytes
	pending  map[uint64]*call
	last     uint64 // id of a call
	failures int
	rest     time.Time // no attempt before this
	reason   error     // of the last failure
}

// call is a message that is not answered yet.
type call struct {
	done  func([]byte, error) // exactly once
	sent  bool                // the other node may have it
	timer *time.Timer         // nil without a limit of its own
	flow  *outflow            // of a stream, else nil
}

// post sends a message. done is called once, perhaps before post returns, and must
// not block. The id is for forget, 0 when the message was refused.
func (l *link) post(m Message, limit time.Duration, flow *outflow, done func([]byte, error)) uint64 {
	c := &call{done: done, flow: flow}
	l.mu.Lock()
	if err := l.refusalLocked(m); err != nil {
		l.mu.Unlock()
		done(nil, err)
		return 0
	}
	l.last++
	id := l.last
	l.pending[id] = c
	if limit > 0 {
		c.timer = time.AfterFunc(limit, func() { l.finish(id, nil, l.late(limit)) })
	}
	f := frame{typ: frameRequest, kind: m.Kind, group: m.Group, id: id, body: m.Body}
	if flow != nil {
		f.typ = frameOpen
	}
	if l.wire != nil {
		c.sent = true
		l.wire.send(f, m.Lazy) //nolint:errcheck // a wire that fails fails its calls
	} else {
		l.waiting, l.queued = append(l.waiting, f), l.queued+f.size()
	}
	connect := l.wire == nil && !l.dialing
	if connect {
		l.dialing = true
	}
	l.mu.Unlock()
	if connect && !l.port.spawn(l.connect) {
		l.broke(nil, errClosed, 0)
	}
	return id
}

// refusalLocked is why a message cannot even wait.
func (l *link) refusalLocked(m Message) error {
	size, most := headerBytes+len(m.Body), maxPending
	if l.class == Bulk {
		most = maxStreams
	}
	switch {
	case len(m.Body) > bounds[l.class].body:
		return &agent.Error{Op: "send to node " + l.to, Kind: agent.TooLarge,
			Msg: fmt.Sprintf("a message of class %s has %d bytes; %d are the most", l.class, len(m.Body), bounds[l.class].body)}
	case len(l.pending) >= most, l.queued > 0 && l.queued+size > bounds[l.class].queue:
		return &agent.Error{Op: "send to node " + l.to, Kind: agent.Overloaded,
			Msg: fmt.Sprintf("%d messages of class %s wait for node %q; retry later", len(l.pending), l.class, l.to)}
	case l.wire == nil && !l.dialing && l.port.now().Before(l.rest):
		return &agent.Error{Op: "send to node " + l.to, Kind: agent.Unavailable, Msg: fmt.Sprintf("node %q cannot be reached", l.to), Err: l.reason}
	}
	return nil
}

func (l *link) late(limit time.Duration) error {
	return &agent.Error{Op: "ask node " + l.to, Kind: agent.Deadline, Msg: fmt.Sprintf("node %q has not answered within %s", l.to, limit)}
}

// finish answers a call; it is harmless for one that is answered.
func (l *link) finish(id uint64, reply []byte, err error) {
	l.mu.Lock()
	c := l.pending[id]
	delete(l.pending, id)
	l.mu.Unlock()
	if c == nil {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.done(reply, err)
}

// more sends a further frame of a stream that is not answered yet.
func (l *link) more(f frame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.pending[f.id] == nil:
		return errAnswered
	case l.wire != nil:
		return l.wire.push(f)
	}
	l.waiting, l.queued = append(l.waiting, f), l.queued+f.size() // at most the stream's window
	return nil
}

// take gets the frames of the other node.
func (l *link) take(f frame) error {
	switch f.typ {
	case frameReply:
		l.finish(f.id, f.body, nil)
	case frameFailure:
		l.finish(f.id, nil, decodeFailure(l.to, f.body))
	case frameCredit:
		l.mu.Lock()
		c := l.pending[f.id]
		l.mu.Unlock()
		if c != nil && c.flow != nil {
			return c.flow.credit(f.body)
		}
	default:
		return &agent.Error{Op: "hear from node " + l.to, Kind: agent.Internal, Msg: fmt.Sprintf("node %q has answered with a frame of type %d", l.to, f.typ)}
	}
	return nil
}

// connect makes one attempt and, if it succeeds, serves the connection to its end.
func (l *link) connect() {
	begin := l.port.now()
	l.count.dials.Add(1)
	ctx, cancel := context.WithTimeout(l.port.ctx, helloPatience)
	conn, peer, err := l.port.dial(ctx, l.to, l.class)
	cancel()
	if err != nil {
		l.broke(nil, err, 0)
		return
	}
	w := newWire(conn, l.class, peer, l.port.now, &l.count)
	if !l.port.own(w) {
		w.fail(errClosed)
	}
	l.mu.Lock()
	l.wire, l.dialing = w, false
	for _, c := range l.pending {
		c.sent = true
	}
	for _, f := range l.waiting {
		w.push(f) //nolint:errcheck // a wire that fails fails its calls
	}
	l.waiting, l.queued = nil, 0
	l.mu.Unlock()
	l.port.log.Debug("connected to a node", "peer", l.to, "class", l.class.String())
	err = w.run(l.take)
	l.port.disown(w)
	l.broke(w, err, l.port.now().Sub(begin))
}

// broke ends a connection or an attempt: whoever waits is told, and the next attempt
// has to wait for longer the more of them have failed.
func (l *link) broke(w *wire, err error, lasted time.Duration) {
	l.mu.Lock()
	l.wire, l.dialing, l.waiting, l.queued = nil, false, nil, 0
	pending := l.pending
	l.pending = make(map[uint64]*call)
	if lasted >= settled {
		l.failures = 0
	}
	rest := min(restFirst<<min(l.failures, 10), restMost)
	rest -= time.Duration(float64(rest) / 2 * l.port.rand())
	l.rest, l.reason = l.port.now().Add(rest), err
	l.failures++
	first := l.failures == 1
	l.mu.Unlock()
	if first && !l.port.over() {
		l.port.log.Warn("a node cannot be reached", "peer", l.to, "class", l.class.String(), "error", err)
	}
	for _, c := range pending {
		if c.timer != nil {
			c.timer.Stop()
		}
		c.done(nil, lost(l.to, c.sent, err))
	}
}

// lost is what the sender of an unanswered message learns.
func lost(to string, sent bool, err error) error {
	if sent {
		return &agent.Error{Op: "ask node " + to, Kind: agent.OutcomeUnknown, Msg: fmt.Sprintf("node %q was lost before it answered", to), Err: err}
	}
	return &agent.Error{Op: "ask node " + to, Kind: agent.Unavailable, Msg: fmt.Sprintf("node %q cannot be reached", to), Err: err}
}
