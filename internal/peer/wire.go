package peer

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"agentd/pkg/agent"
)

// wire moves frames over one connection that has greeted, at either end. It notices
// when the other side is gone: both say something every pingEvery, on their own, so
// that a large frame under way in one direction does not hide life in the other.
type wire struct {
	conn  net.Conn
	class Class
	peer  Identity
	now   func() time.Time
	count *counters

	wake  chan struct{} // the writer has something to do
	ended chan struct{}

	mu     sync.Mutex // guards what follows; nothing is called under it
	queue  [][]byte
	queued int // bytes in queue and with the writer
	err    error
	later  *time.Timer // wakes the writer for lazy frames; nil before the first
	armed  bool        // later will
}

// counters of all connections of one class with one node, in one direction.
type counters struct {
	sent, received atomic.Uint64 // bytes
	rtt            atomic.Int64  // the last one, in nanoseconds
	dials          atomic.Uint64 // attempts, or accepted connections
}

func newWire(conn net.Conn, class Class, peer Identity, now func() time.Time, count *counters) *wire {
	return &wire{conn: conn, class: class, peer: peer, now: now, count: count, wake: make(chan struct{}, 1), ended: make(chan struct{})}
}

// push queues a frame, in order; its body is the wire's from then on. It does not wait:
// what a slow node does not take ends the connection.
func (w *wire) push(f frame) error { return w.send(f, false) }

// send is push, but a lazy frame goes with the next that is not, or after linger.
func (w *wire) send(f frame, lazy bool) error {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return w.err
	}
	if w.queued > 0 && w.queued+f.size() > bounds[w.class].queue {
		queued := w.queued
		w.mu.Unlock()
		err := overflow(w.peer.Node, w.class, queued)
		w.fail(err)
		return err
	}
	w.queue, w.queued = append(w.queue, f.header()), w.queued+f.size()
	if len(f.body) > 0 {
		w.queue = append(w.queue, f.body)
	}
	if lazy {
		w.wakeLaterLocked()
		w.mu.Unlock()
		return nil
	}
	w.mu.Unlock()
	w.wakeNow()
	return nil
}

func (w *wire) wakeNow() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *wire) wakeLaterLocked() {
	switch {
	case w.armed:
		return
	case w.later == nil:
		w.later = time.AfterFunc(linger, w.wakeNow)
	default:
		w.later.Reset(linger)
	}
	w.armed = true
}

func overflow(node string, class Class, queued int) error {
	return &agent.Error{Op: "send to node " + node, Kind: agent.Overloaded,
		Msg: fmt.Sprintf("node %q takes too little: %d bytes of class %s wait for it, which is the bound; the connection was dropped", node, queued, class)}
}

// fail ends the wire; the first reason counts.
func (w *wire) fail(err error) {
	w.mu.Lock()
	first := w.err == nil
	if first {
		w.err = err
		if w.later != nil {
			w.later.Stop()
		}
	}
	w.mu.Unlock()
	if first {
		close(w.ended)
		plain(w.conn).Close() //nolint:errcheck // it is given up
	}
}

// plain is the connection beneath TLS: closing that never waits to say goodbye.
func plain(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// run moves frames until the connection ends and returns why. take gets all but
// pings, on this goroutine, and must not block.
func (w *wire) run(take func(frame) error) error {
	var writer sync.WaitGroup
	writer.Go(func() { w.fail(w.write()) })
	w.fail(w.read(take))
	writer.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *wire) read(take func(frame) error) error {
	r := bufio.NewReaderSize(listening{w}, 64<<10)
	for {
		f, err := readFrame(r, bounds[w.class].body)
		if err != nil {
			return w.explain(err)
		}
		switch f.typ {
		case framePing:
			err = w.push(frame{typ: framePong, id: f.id})
		case framePong:
			w.count.rtt.Store(w.now().UnixNano() - int64(f.id)) //nolint:gosec // the clock that ping has sent
		default:
			err = take(f)
		}
		if err != nil {
			return err
		}
	}
}

func (w *wire) explain(err error) error {
	e := &agent.Error{Op: "hear from node " + w.peer.Node, Kind: agent.Unavailable, Err: err}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		e.Msg = fmt.Sprintf("node %q was silent for %s", w.peer.Node, silence)
	case errors.Is(err, io.EOF):
		e.Msg = fmt.Sprintf("node %q has closed the connection", w.peer.Node)
	default:
		e.Msg = fmt.Sprintf("the connection with node %q broke", w.peer.Node)
	}
	return e
}

// listening reads from the connection as long as the other side is not silent.
type listening struct{ *wire }

func (l listening) Read(p []byte) (int, error) {
	if err := l.conn.SetReadDeadline(l.now().Add(silence)); err != nil {
		return 0, err
	}
	n, err := l.conn.Read(p)
	l.count.received.Add(uint64(n)) //nolint:gosec // not negative
	return n, err
}

// write gathers what is queued into few large writes.
func (w *wire) write() error {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	out := bufio.NewWriterSize(talking{w}, 64<<10)
	for {
		select {
		case <-w.wake:
		case <-ticker.C:
			if err := w.push(frame{typ: framePing, id: uint64(w.now().UnixNano())}); err != nil { //nolint:gosec // returned as it is
				return err
			}
		case <-w.ended:
			return net.ErrClosed
		}
		if err := w.flush(out); err != nil {
			return &agent.Error{Op: "send to node " + w.peer.Node, Kind: agent.Unavailable, Msg: fmt.Sprintf("node %q takes nothing any more", w.peer.Node), Err: err}
		}
	}
}

func (w *wire) flush(out *bufio.Writer) error {
	w.mu.Lock()
	batch := w.queue
	w.queue, w.armed = nil, false
	w.mu.Unlock()
	size := 0
	for i, b := range batch {
		size += len(b)
		if _, err := out.Write(b); err != nil {
			return err
		}
		batch[i] = nil
	}
	if err := out.Flush(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queued -= size
	return nil
}

// waiting is how many bytes are queued.
func (w *wire) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued
}

// talking writes to the connection, in pieces of which each must get on.
type talking struct{ *wire }

func (t talking) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if err := t.conn.SetWriteDeadline(t.now().Add(writePatience)); err != nil {
			return done, err
		}
		n, err := t.conn.Write(p[done:min(len(p), done+writePiece)])
		done += n
		t.count.sent.Add(uint64(n)) //nolint:gosec // not negative
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
