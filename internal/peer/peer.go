// Package peer is the way between the nodes of a cluster: one port that accepts the
// other nodes, and connections that this node opens to them. A connection carries
// messages of one class, so that a heartbeat never waits behind data.
//
// It knows who the other node is, and when it is gone. It does not know what the
// messages say: groups, forwarded calls and the placement table are handlers.
package peer

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"agentd/pkg/agent"
)

// Class is what a connection is for. Every class has connections, buffers and bounds
// of its own.
type Class uint8

const (
	Control Class = 1 // heartbeats and votes: small, and never behind anything else
	Data    Class = 2 // appends of groups; in order per group
	Bulk    Class = 3 // streams: snapshots; limited in bandwidth
	Calls   Class = 4 // questions to another node, in no order
	Raw     Class = 5 // a plain connection for another protocol, gRPC; see Listener and Dial
)

func (c Class) String() string {
	if c < Control || c > Raw {
		return fmt.Sprintf("class %d", uint8(c))
	}
	return [...]string{"control", "data", "bulk", "calls", "raw"}[c-1]
}

// bounds of one class: body is the largest body of a frame; queue is what may wait to be
// written, and be held for a handler, in bytes: together below 64 MiB per peer. One
// message alone may be larger than its queue.
var bounds = [...]struct{ body, queue int }{
	Control: {64 << 10, 1 << 20},
	Data:    {MaxDataBytes, 40 << 20},
	Bulk:    {1 << 20, 8 << 20},
	Calls:   {8 << 20, 14 << 20},
	Raw:     {0, 0},
}

// MaxDataBytes is the size of the largest message of class Data.
const MaxDataBytes = 80 << 20

const (
	pingEvery     = 250 * time.Millisecond // either side says something this often
	silence       = time.Second            // without a byte for so long, the other side is gone
	writePatience = 2 * time.Second        // for a piece of writePiece bytes to be taken by the network
	writePiece    = 256 << 10
	helloPatience = time.Second // from accepting a connection, or dialling one, to knowing who is there

	restFirst = 50 * time.Millisecond // between two attempts to connect, doubled up to restMost, less up to half by chance
	restMost  = time.Second
	settled   = 10 * time.Second // a connection that lasted so long was no failure

	maxGreeting  = 64  // connections that have not said who they are
	maxRaw       = 32  // raw connections of one node
	maxCalls     = 256 // calls of one node that are being answered
	maxPending   = 16 << 10
	maxStreams   = 4       // streams of one node at a time
	streamWindow = 1 << 20 // bytes of a stream that its reader has not taken yet
	streamPiece  = 64 << 10

	linger = 20 * time.Millisecond // a lazy message waits so long for others to go with

	// DefaultBulkBytesPerSecond is what snapshots may take of the network.
	DefaultBulkBytesPerSecond = 50 << 20

	// defaultLimit is the time that a message without one gets.
	defaultLimit = 10 * time.Second
)

// Identity is who a node is.
type Identity struct {
	Cluster     string   // 1 to 64 bytes
	Node        string   // its name, 1 to 64 bytes
	UUID        [16]byte // of its data folder: a node that returns with an empty disk has another
	Incarnation uint64   // of its process; ascends
}

func (id Identity) String() string {
	return fmt.Sprintf("node %q of cluster %q (%s, incarnation %d)", id.Node, id.Cluster, hex.EncodeToString(id.UUID[:]), id.Incarnation)
}

// TLS is what package certs makes.
type TLS struct {
	Server func() *tls.Config
	Client func(node string) *tls.Config
	// Who reads cluster and node from the certificate of a finished handshake.
	Who func(tls.ConnectionState) (cluster, node string, err error)
}

// Config says what a port is made of. It is not changed after Open.
type Config struct {
	Self     Identity
	Listener net.Listener // the port closes it

	// Dial opens a connection to an address that Lookup has given.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Lookup is asked before every attempt, so addresses may change. It must not block.
	Lookup func(node string) (address string, ok bool)
	// TLS of both directions; nil sends everything in the clear: loopback and tests.
	TLS *TLS
	// Admit may refuse a node that has proved its name: one that was removed, or whose UUID
	// is not the one of its name. nil admits all of the cluster. It must not block.
	Admit func(Identity) error

	Now  func() time.Time // required
	Rand func() float64   // in [0,1), from any goroutine; required

	BulkBytesPerSecond int64 // over all streams; default DefaultBulkBytesPerSecond
	Logger             *slog.Logger
}

func (c *Config) validate() error {
	bad := func(format string, args ...any) error {
		return &agent.Error{Op: "open peer port", Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
	}
	switch {
	case !validName(c.Self.Cluster) || !validName(c.Self.Node):
		return bad("the cluster %.80q and the node %.80q need names of 1 to %d printable bytes", c.Self.Cluster, c.Self.Node, maxName)
	case c.Listener == nil || c.Dial == nil || c.Lookup == nil || c.Now == nil || c.Rand == nil:
		return bad("a listener, a dialler, addresses, a clock and a source of chance are needed")
	case c.TLS != nil && (c.TLS.Server == nil || c.TLS.Client == nil || c.TLS.Who == nil):
		return bad("TLS needs both configurations and a reader of certificates")
	case c.BulkBytesPerSecond < 0:
		return bad("a bandwidth of %d bytes per second is impossible", c.BulkBytesPerSecond)
	}
	if c.BulkBytesPerSecond == 0 {
		c.BulkBytesPerSecond = DefaultBulkBytesPerSecond
	}
	if c.Admit == nil {
		c.Admit = func(Identity) error { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Message is what one node sends another.
type Message struct {
	Class Class
	Group uint32        // whose handler gets it
	Kind  uint8         // the handler's business
	Body  []byte        // the port's from then on, not to be changed
	Limit time.Duration // for the answer; default 10 s. A context with a deadline needs none

	// Lazy messages may wait up to 20 ms, so that those of many groups go together.
	Lazy bool
}

// Request is a Message as its handler sees it.
type Request struct {
	From  Identity
	Class Class
	Group uint32
	Kind  uint8
	Body  []byte // the handler's to keep

	// Content of a stream, nil for other messages. Not reading it stops the sender.
	Content io.Reader
}

// Handler answers requests of one group. Those of one node, group and class Control
// or Data come one after the other, in the order in which they were sent; others side
// by side. ctx ends with the connection. The reply is the port's, not to be changed. An *agent.Error reaches the caller with its
// kind and message. A handler may end its goroutine (runtime.Goexit): the request is
// then answered as failed.
type Handler func(ctx context.Context, r Request) ([]byte, error)
