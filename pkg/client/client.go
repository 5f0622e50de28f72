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
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
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
}

// Option changes what Dial sets up.
type Option func(*settings)

// settings are what the options gather.
type settings struct {
	addr      string
	namespace string
	token     string
	dial      func(context.Context, string) (net.Conn, error)
}

// WithAddr names the server as host:port; DefaultAddr if it is not given.
func WithAddr(addr string) Option { return func(s *settings) { s.addr = addr } }

// WithNamespace chooses the tenant; agent.DefaultNamespace if it is not given.
func WithNamespace(namespace string) Option { return func(s *settings) { s.namespace = namespace } }

// WithToken sends a bearer token with every request, in the clear: use it on
// connections that nobody else can read.
func WithToken(token string) Option { return func(s *settings) { s.token = token } }

// WithDialer replaces the TCP connection, for example by one in memory.
func WithDialer(dial func(ctx context.Context, addr string) (net.Conn, error)) Option {
	return func(s *settings) { s.dial = dial }
}

// Dial prepares a connection without opening it, so it succeeds also while no
// server is there. It fails with kind Invalid on a malformed address, namespace or
// token, and when ctx has ended; ctx is not kept.
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
		grpc.WithTransportCredentials(insecure.NewCredentials()),
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
		addr: s.addr, namespace: s.namespace, conn: conn, dials: d,
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
	return agent.ValidateNamespace(s.namespace)
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

// RequireTransportSecurity is false because agentd has no TLS yet.
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
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	return conn, err
}

func (d *dials) lastError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	return dialer.DialContext(ctx, "tcp", addr)
}
