package peer

import (
	"context"
	"fmt"
	"io"
	"sync"

	"agentd/pkg/agent"
)

// inbound answers the requests of one connection that another node has opened.
type inbound struct {
	port *Port
	wire *wire
	ctx  context.Context // ends with the connection
	stop context.CancelCauseFunc

	mu      sync.Mutex // guards what follows
	lanes   map[uint32]*lane
	streams map[uint64]*inflow
	held    int // bytes of requests that are not answered
	running int // calls and streams
}

// lane keeps the requests of one group in order. It has a goroutine while it is not empty.
type lane struct{ waiting []frame }

func (p *Port) serve(w *wire) error {
	in := &inbound{port: p, wire: w, lanes: make(map[uint32]*lane), streams: make(map[uint64]*inflow)}
	in.ctx, in.stop = context.WithCancelCause(p.ctx)
	err := w.run(in.take)
	in.stop(err)
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, s := range in.streams {
		s.end(err)
	}
	return err
}

// take gets the frames of the other node, on the connection's goroutine.
func (in *inbound) take(f frame) error {
	switch f.typ {
	case frameRequest:
		if in.wire.class == Calls {
			return in.admit(f, maxCalls, nil)
		}
		return in.enqueue(f)
	case frameOpen:
		if in.wire.class == Bulk {
			return in.open(f)
		}
	case frameContent:
		if s := in.stream(f.id); s != nil {
			return s.put(f.body)
		}
		return nil // its handler has answered
	case frameEnd:
		if s := in.stream(f.id); s != nil {
			s.end(io.EOF)
		}
		return nil
	case frameAbort:
		if s := in.stream(f.id); s != nil {
			s.end(&agent.Error{Op: "receive a stream", Kind: agent.Canceled, Msg: "the sender has given up"})
		}
		return nil
	}
	return &agent.Error{Op: "hear from node " + in.wire.peer.Node, Kind: agent.Invalid,
		Msg: fmt.Sprintf("a frame of type %d does not belong on a connection of class %s", f.typ, in.wire.class)}
}

func (in *inbound) stream(id uint64) *inflow {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.streams[id]
}

func (in *inbound) overloaded(f frame) error {
	return in.fail(f.id, &agent.Error{Op: "take a request", Kind: agent.Overloaded,
		Msg: fmt.Sprintf("node %q has too many requests of class %s from node %q; retry later", in.port.self.Node, in.wire.class, in.wire.peer.Node)})
}

func (in *inbound) fail(id uint64, err error) error {
	return in.wire.push(frame{typ: frameFailure, id: id, body: encodeFailure(err)})
}

// enqueue gives a request its turn after the others of its group.
func (in *inbound) enqueue(f frame) error {
	size := f.size()
	in.mu.Lock()
	if in.held > 0 && in.held+size > bounds[in.wire.class].queue {
		in.mu.Unlock()
		return in.overloaded(f)
	}
	in.held += size
	l := in.lanes[f.group]
	begin := l == nil
	if begin {
		l = new(lane)
		in.lanes[f.group] = l
	}
	l.waiting = append(l.waiting, f)
	in.mu.Unlock()
	if begin && !in.port.spawn(func() { in.drain(f.group, l) }) {
		return errClosed
	}
	return nil
}

// drain answers what waits in a lane. A handler that ends the goroutine does not end
// the lane.
func (in *inbound) drain(group uint32, l *lane) {
	empty := false
	defer func() {
		if !empty {
			in.port.spawn(func() { in.drain(group, l) })
		}
	}()
	for {
		in.mu.Lock()
		if len(l.waiting) == 0 {
			empty = true
			delete(in.lanes, group)
			in.mu.Unlock()
			return
		}
		f := l.waiting[0]
		l.waiting[0] = frame{}
		l.waiting = l.waiting[1:]
		in.mu.Unlock()
		in.answer(f, nil)
	}
}

// admit answers a request on a goroutine of its own, if not too many do.
func (in *inbound) admit(f frame, most int, content *inflow) error {
	size := f.size()
	in.mu.Lock()
	if in.running >= most || in.held > 0 && in.held+size > bounds[in.wire.class].queue {
		in.mu.Unlock()
		return in.overloaded(f)
	}
	in.running++
	in.held += size
	if content != nil {
		in.streams[f.id] = content
	}
	in.mu.Unlock()
	ok := in.port.spawn(func() {
		defer func() {
			in.mu.Lock()
			defer in.mu.Unlock()
			in.running--
			delete(in.streams, f.id)
			if content != nil {
				content.end(io.ErrClosedPipe)
			}
		}()
		if content == nil {
			in.answer(f, nil)
		} else {
			in.answer(f, content)
		}
	})
	if !ok {
		return errClosed
	}
	return nil
}

// open begins a stream.
func (in *inbound) open(f frame) error {
	if in.stream(f.id) != nil {
		return &agent.Error{Op: "receive a stream", Kind: agent.Invalid, Msg: "a stream was begun twice"}
	}
	return in.admit(f, maxStreams, newInflow(func(n int) {
		in.wire.push(frame{typ: frameCredit, id: f.id, body: []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}}) //nolint:errcheck // the wire ends by itself
	}))
}

// answer has the handler answer a request.
func (in *inbound) answer(f frame, content io.Reader) {
	reply, err := []byte(nil), error(&agent.Error{Op: "answer", Kind: agent.Unavailable, Msg: "the group has failed on this node"})
	defer func() {
		in.mu.Lock()
		in.held -= f.size()
		in.mu.Unlock()
		if err == nil && len(reply) > bounds[in.wire.class].body {
			err = &agent.Error{Op: "answer", Kind: agent.TooLarge, Msg: fmt.Sprintf("the answer has %d bytes; %d are the most", len(reply), bounds[in.wire.class].body)}
		}
		if err != nil {
			in.fail(f.id, err) //nolint:errcheck // the wire ends by itself
			return
		}
		in.wire.push(frame{typ: frameReply, id: f.id, body: reply}) //nolint:errcheck // as above
	}()
	h := in.port.handler(f.group)
	if h == nil {
		err = &agent.Error{Op: "answer", Kind: agent.NotFound, Msg: fmt.Sprintf("group %d is not on node %q", f.group, in.port.self.Node)}
		return
	}
	reply, err = h(in.ctx, Request{From: in.wire.peer, Class: in.wire.class, Group: f.group, Kind: f.kind, Body: f.body, Content: content})
}
