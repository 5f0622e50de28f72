// Package client speaks to an agentd server: calls to agents, their state, data
// and fibers, and the deployment of classes.
//
// Every failure is an *agent.Error with the kind, message and stack that the
// server sent; agent.KindOf works as it does on the server. A server that cannot
// be reached is kind Unavailable, the end of a context is Deadline or Canceled, a
// connection that broke under a request with effects is OutcomeUnknown. Nothing is
// repeated behind the caller's back except calls that carry an idempotency key
// (WithKey).
//
// All methods may be called from any goroutine.
package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// DefaultAddr is where `agentd serve` listens when it is not told otherwise.
const DefaultAddr = "127.0.0.1:7600"

const (
	// maxAnswerBytes is the largest answer that is accepted: 16 MiB of JSON can grow
	// when rows become messages.
	maxAnswerBytes = 64 << 20

	// A connection that failed is tried again after reconnectMin, later reconnectMax.
	reconnectMin   = 100 * time.Millisecond
	reconnectMax   = 5 * time.Second
	connectTimeout = 10 * time.Second

	// While something is under way a silent server is pinged, so that a watch notices
	// a machine that vanished.
	pingAfter   = 30 * time.Second
	pingTimeout = 10 * time.Second
)

// Client is a connection to one server, opened when it is first needed and opened
// again after a failure. It belongs to whoever called Dial, who closes it.
type Client struct {
	addr      string
	namespace string
	conn      *grpc.ClientConn
	agents    agentdv1.AgentServiceClient
	fibers    agentdv1.FiberServiceClient
	classes   agentdv1.ClassServiceClient
	cluster   agentdv1.ClusterServiceClient
	dials     *dials
	tls       bool
}

// Option changes what Dial sets up.
type Option func(*settings)

// settings are what the options gather.
type settings struct {
	addr      string
	namespace string
	token     string
	tls       *tls.Config // nil: plain text
	plain     bool        // a token may travel in plain text
	dial      func(context.Context, string) (net.Conn, error)
}

// WithAddr names the server as host:port; DefaultAddr if it is not given.
func WithAddr(addr string) Option { return func(s *settings) { s.addr = addr } }

// WithNamespace chooses the tenant; agent.DefaultNamespace if it is not given.
func WithNamespace(namespace string) Option { return func(s *settings) { s.namespace = namespace } }

// WithTLS encrypts the connection and checks the server's certificate against cfg,
// for the host of the address unless cfg says ServerName. The client copies cfg. Nil
// is plain text, which is the default.
func WithTLS(cfg *tls.Config) Option { return func(s *settings) { s.tls = cfg } }

// WithPlainToken allows a token to travel to another machine without TLS, for
// networks that are trusted.
func WithPlainToken() Option { return func(s *settings) { s.plain = true } }

// WithToken sends a bearer token with every request. Without TLS it goes to the
// loopback address only; see WithPlainToken.
func WithToken(token string) Option { return func(s *settings) { s.token = token } }

// WithDialer replaces the TCP connection, for example by one in memory.
func WithDialer(dial func(ctx context.Context, addr string) (net.Conn, error)) Option {
	return func(s *settings) { s.dial = dial }
}

// Dial prepares a connection without opening it, so it succeeds also while no
// server is there. It fails with kind Invalid on a malformed address, namespace or
// token, with kind Denied where a token would leave the machine unencrypted, and when
// ctx has ended; ctx is not kept.
func Dial(ctx context.Context, opts ...Option) (*Client, error) {
	s := settings{addr: DefaultAddr, namespace: agent.DefaultNamespace, dial: dialTCP}
	for _, opt := range opts {
		opt(&s)
	}
	if err := s.validate(); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, agent.FromContext(ctx, "connect", agent.ID{})
	}
	d := &dials{dial: s.dial}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(handshakes{s.credentials(), d}),
		grpc.WithContextDialer(d.open),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectMin, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectMax},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
	}
	if s.token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(s.token)))
	}
	conn, err := grpc.NewClient("passthrough:///"+s.addr, options...)
	if err != nil {
		return nil, &agent.Error{Op: "connect", Kind: agent.Invalid, Msg: fmt.Sprintf("address %.200q cannot be used", s.addr), Err: err}
	}
	return &Client{
		addr: s.addr, namespace: s.namespace, conn: conn, dials: d, tls: s.tls != nil,
		agents:  agentdv1.NewAgentServiceClient(conn),
		fibers:  agentdv1.NewFiberServiceClient(conn),
		classes: agentdv1.NewClassServiceClient(conn),
		cluster: agentdv1.NewClusterServiceClient(conn),
	}, nil
}

func (s settings) validate() error {
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil || host == "" || port == "" {
		return &agent.Error{Op: "connect", Kind: agent.Invalid,
			Msg: fmt.Sprintf("%.200q is no address: write host:port, for example %s", s.addr, DefaultAddr)}
	}
	if strings.ContainsFunc(s.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return &agent.Error{Op: "connect", Kind: agent.Invalid,
			Msg: "the token holds a space, a line break or a character beyond ASCII; was it copied whole?"}
	}
	if s.token != "" && s.tls == nil && !s.plain && !isLoopback(host) {
		return &agent.Error{Op: "connect", Kind: agent.Denied, Msg: fmt.Sprintf(
			"the token would travel to %s unencrypted: use TLS (WithTLS; --tls, --tls-ca FILE), or allow it (WithPlainToken; --insecure) if the network is trusted", s.addr)}
	}
	return agent.ValidateNamespace(s.namespace)
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

func (s settings) credentials() credentials.TransportCredentials {
	if s.tls == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(s.tls)
}

// Close ends the connection; requests under way fail with kind Canceled. Closing
// twice is harmless.
func (c *Client) Close() error {
	_ = c.conn.Close() // its only error says that it is closed already
	return nil
}

// Addr is the server's address as it was given to Dial.
func (c *Client) Addr() string { return c.addr }

// Namespace is the tenant that the client speaks for.
func (c *Client) Namespace() string { return c.namespace }

// Agent addresses an agent of the client's namespace. Nothing is sent; malformed
// names are reported by the first use.
func (c *Client) Agent(class, name string) *Agent {
	return &Agent{client: c, id: agent.ID{Namespace: c.namespace, Class: class, Name: name}}
}

// bearer is a token as gRPC credentials.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity is false because validate has decided.
func (b bearer) RequireTransportSecurity() bool { return false }

// dials opens connections and remembers why the last try failed, in fewer words
// than gRPC has for it.
type dials struct {
	dial func(context.Context, string) (net.Conn, error)

	mu  sync.Mutex // guards err
	err error
}

func (d *dials) open(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := d.dial(ctx, addr)
	if err != nil {
		d.note(err)
	}
	return conn, err
}

// note keeps how the newest try ended: nil if it got as far as gRPC.
func (d *dials) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *dials) lastError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// handshakes are the connection's credentials; dials remembers how theirs went.
type handshakes struct {
	credentials.TransportCredentials
	dials *dials
}

func (h handshakes) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ClientHandshake(ctx, authority, raw)
	h.dials.note(err)
	return conn, info, err
}

func (h handshakes) Clone() credentials.TransportCredentials {
	return handshakes{h.TransportCredentials.Clone(), h.dials}
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	return dialer.DialContext(ctx, "tcp", addr)
}
