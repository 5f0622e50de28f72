package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"agentd/pkg/agent"
)

// outflow is what the sender of a stream may still send.
type outflow struct {
	moved chan struct{} // there is more room

	mu   sync.Mutex // guards room
	room int
}

func newOutflow() *outflow {
	return &outflow{moved: make(chan struct{}, 1), room: streamWindow}
}

func (o *outflow) credit(body []byte) error {
	if len(body) != 4 {
		return errCredit
	}
	n := int64(binary.LittleEndian.Uint32(body))
	o.mu.Lock()
	defer o.mu.Unlock()
	if int64(o.room)+n > streamWindow {
		return errCredit
	}
	o.room += int(n)
	select {
	case o.moved <- struct{}{}:
	default:
	}
	return nil
}

var errCredit = &agent.Error{Op: "send a stream", Kind: agent.Internal, Msg: "the reader of a stream has acknowledged what was not sent"}

// take waits for room and returns at most most of it.
func (o *outflow) take(ctx context.Context, most int) (int, error) {
	for {
		o.mu.Lock()
		n := min(o.room, most)
		o.room -= n
		o.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-o.moved:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (o *outflow) giveBack(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.room += n
}

// inflow is the content of a stream on its way to its reader, a handler.
type inflow struct {
	ack func(n int) // tells the sender what was taken

	mu     sync.Mutex // guards what follows
	pieces [][]byte
	held   int           // bytes in pieces, and those that are taken and not acknowledged
	taken  int           // not acknowledged yet
	moved  chan struct{} // closed by the next change
	err    error         // after the pieces; io.EOF at the end
}

func newInflow(ack func(int)) *inflow { return &inflow{ack: ack, moved: make(chan struct{})} }

var _ io.Reader = (*inflow)(nil)

func (s *inflow) put(piece []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil // its reader has gone, or it was aborted
	}
	if s.held+len(piece) > streamWindow {
		return &agent.Error{Op: "receive a stream", Kind: agent.Overloaded, Msg: fmt.Sprintf("the other node has sent more than the %d bytes it may", streamWindow)}
	}
	s.pieces, s.held = append(s.pieces, piece), s.held+len(piece)
	s.changedLocked()
	return nil
}

// end is the last change; the first end counts.
func (s *inflow) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	if !errors.Is(err, io.EOF) {
		s.pieces = nil
	}
	s.changedLocked()
}

func (s *inflow) changedLocked() {
	close(s.moved)
	s.moved = make(chan struct{})
}

func (s *inflow) Read(p []byte) (int, error) {
	for len(p) > 0 {
		s.mu.Lock()
		n, err, moved := s.readLocked(p), s.err, s.moved
		ack := 0
		if s.taken >= streamWindow/8 {
			ack, s.held, s.taken = s.taken, s.held-s.taken, 0
		}
		s.mu.Unlock()
		if ack > 0 {
			s.ack(ack)
		}
		switch {
		case n > 0:
			return n, nil
		case err != nil:
			return 0, err
		}
		<-moved
	}
	return 0, nil
}

func (s *inflow) readLocked(p []byte) int {
	n := 0
	for n < len(p) && len(s.pieces) > 0 {
		k := copy(p[n:], s.pieces[0])
		n += k
		if s.pieces[0] = s.pieces[0][k:]; len(s.pieces[0]) == 0 {
			s.pieces = s.pieces[1:]
		}
	}
	s.taken += n
	return n
}

// pace spreads what all streams of a node send over time.
type pace struct {
	perSecond int64
	now       func() time.Time

	mu   sync.Mutex // guards next
	next time.Time  // when the network is free
}

// burst may be sent at once after a pause.
const burst = 100 * time.Millisecond

// wait takes n bytes of the bandwidth.
func (p *pace) wait(ctx context.Context, n int) error {
	p.mu.Lock()
	now := p.now()
	if early := now.Add(-burst); p.next.Before(early) {
		p.next = early
	}
	p.next = p.next.Add(time.Duration(int64(n) * int64(time.Second) / p.perSecond))
	d := p.next.Sub(now)
	p.mu.Unlock()
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Send sends a message of class Bulk whose content follows it, as fast as its reader
// takes it and the node's bandwidth for bulk allows, and returns the reply. content
// is read by the caller's goroutine. It ends with ctx, with the connection, or when
// the other node has answered.
func (p *Port) Send(ctx context.Context, to string, m Message, content io.Reader) ([]byte, error) {
	m.Class = Bulk
	l, err := p.link(to, Bulk)
	if err != nil {
		return nil, err
	}
	type answer struct {
		reply []byte
		err   error
	}
	answers := make(chan answer, 1)
	sending, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	flow := newOutflow()
	id := l.post(m, 0, flow, func(reply []byte, err error) {
		answers <- answer{reply, err}
		stop(errAnswered)
	})
	if id != 0 {
		if err := p.pour(sending, l, id, flow, content); err != nil {
			if ctx.Err() != nil {
				err = agent.FromContext(ctx, "send to node "+to, agent.ID{})
			}
			l.abort(id, err)
		}
	}
	select {
	case a := <-answers:
		return a.reply, a.err
	case <-ctx.Done():
		l.abort(id, agent.FromContext(ctx, "send to node "+to, agent.ID{}))
		a := <-answers
		return a.reply, a.err
	}
}

// abort gives a stream up, unless it is answered.
func (l *link) abort(id uint64, err error) {
	l.more(frame{typ: frameAbort, id: id}) //nolint:errcheck // the connection may be gone
	l.finish(id, nil, err)
}

var errAnswered = errors.New("the other node has answered")

// pour sends content until its end.
func (p *Port) pour(ctx context.Context, l *link, id uint64, flow *outflow, content io.Reader) error {
	for {
		room, err := flow.take(ctx, streamPiece)
		if err != nil {
			return err
		}
		piece := make([]byte, room)
		n, err := io.ReadFull(content, piece)
		flow.giveBack(room - n)
		if n > 0 {
			if err := p.pace.wait(ctx, n); err != nil {
				return err
			}
			if err := l.more(frame{typ: frameContent, id: id, body: piece[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return l.more(frame{typ: frameEnd, id: id})
		case err != nil:
			return fmt.Errorf("read what is to be sent: %w", err)
		}
	}
}
