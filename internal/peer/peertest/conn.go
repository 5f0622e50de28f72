package peertest

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// bufferBytes is what a connection holds in each direction before writers wait, as
// the buffers of both kernels do.
const bufferBytes = 1 << 20

// Conn is one end of a connection.
type Conn struct {
	network       *Network
	way           way // in which this end sends
	in, out       *half
	local, remote addr
	closing       sync.Once
}

var _ net.Conn = (*Conn)(nil)

func (c *Conn) Read(p []byte) (int, error) {
	return c.in.read(p, func() condition { return c.network.condition(c.way.back()) })
}

func (c *Conn) Write(p []byte) (int, error) {
	return c.out.write(p, func() (condition, bool) {
		there := c.network.condition(c.way)
		return there, there.cut || c.network.condition(c.way.back()).cut
	})
}

// Close sends the end after what was written; nothing is read any more.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		c.network.forget(c)
		c.in.abandon()
		c.out.finish(func() condition { return c.network.condition(c.way) })
	})
	return nil
}

func (c *Conn) LocalAddr() net.Addr  { return c.local }
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

func (c *Conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// half is one direction of a connection.
type half struct {
	mu        sync.Mutex // guards what follows
	changed   chan struct{}
	pieces    []piece
	held      int
	free      time.Time // when the last byte has left
	readBy    time.Time
	writeBy   time.Time
	abandoned bool  // by its reader
	closed    bool  // by its writer
	err       error // of both
}

// piece is what was written at once; end is the end of the connection.
type piece struct {
	data []byte
	at   time.Time // of arrival
	end  bool
}

func newHalf() *half { return &half{changed: make(chan struct{})} }

func (h *half) changedLocked() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *half) poke() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changedLocked()
}

func (h *half) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	h.pieces, h.held = nil, 0
	h.changedLocked()
}

func (h *half) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandoned = true
	h.pieces, h.held = nil, 0
	h.changedLocked()
}

func (h *half) setDeadline(which *time.Time, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*which = t
	h.changedLocked()
}

// arrivalLocked is when n more bytes are there.
func (h *half) arrivalLocked(n int, c condition) time.Time {
	now := time.Now()
	if h.free.Before(now) {
		h.free = now
	}
	if c.perSecond > 0 {
		h.free = h.free.Add(time.Duration(int64(n) * int64(time.Second) / c.perSecond))
	}
	return h.free.Add(c.delay)
}

func (h *half) finish(now func() condition) {
	c := now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.pieces = append(h.pieces, piece{at: h.arrivalLocked(0, c), end: true})
	h.changedLocked()
}

// watch is closed by the next change. It is taken before a condition is looked at, so
// that no change of that is missed.
func (h *half) watch() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// write does not learn of a reader that has gone while either way is cut.
func (h *half) write(p []byte, now func() (c condition, untold bool)) (int, error) {
	done := 0
	for {
		changed := h.watch()
		c, untold := now()
		h.mu.Lock()
		switch {
		case h.err != nil:
			h.mu.Unlock()
			return done, h.err
		case h.closed:
			h.mu.Unlock()
			return done, net.ErrClosed
		case h.abandoned && !untold:
			h.mu.Unlock()
			return done, ErrReset
		}
		if n := min(len(p)-done, bufferBytes-h.held); n > 0 {
			h.pieces = append(h.pieces, piece{data: append([]byte(nil), p[done:done+n]...), at: h.arrivalLocked(n, c)})
			h.held, done = h.held+n, done+n
			h.changedLocked()
		}
		by := h.writeBy
		h.mu.Unlock()
		if done == len(p) {
			return done, nil
		}
		if !wait(changed, by, time.Time{}) {
			return done, os.ErrDeadlineExceeded
		}
	}
}

func (h *half) read(p []byte, now func() condition) (int, error) {
	for {
		changed := h.watch()
		c := now()
		h.mu.Lock()
		switch {
		case h.err != nil:
			h.mu.Unlock()
			return 0, h.err
		case h.abandoned:
			h.mu.Unlock()
			return 0, net.ErrClosed
		}
		var until time.Time
		if len(h.pieces) > 0 && !c.cut {
			if until = h.pieces[0].at; !until.After(time.Now()) {
				n, err := h.takeLocked(p)
				h.mu.Unlock()
				return n, err
			}
		}
		by := h.readBy
		h.mu.Unlock()
		if !wait(changed, by, until) {
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (h *half) takeLocked(p []byte) (int, error) {
	first := &h.pieces[0]
	if first.end {
		return 0, io.EOF
	}
	n := copy(p, first.data)
	if first.data = first.data[n:]; len(first.data) == 0 {
		h.pieces = h.pieces[1:]
	}
	h.held -= n
	h.changedLocked()
	return n, nil
}

// wait returns at a change or at until; false when the deadline has passed.
func wait(changed <-chan struct{}, deadline, until time.Time) bool {
	now := time.Now()
	if !deadline.IsZero() && !deadline.After(now) {
		return false
	}
	next := deadline
	if !until.IsZero() && (next.IsZero() || until.Before(next)) {
		next = until
	}
	if next.IsZero() {
		<-changed
		return true
	}
	timer := time.NewTimer(next.Sub(now))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
	return true
}
