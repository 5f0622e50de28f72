// Package server is the network edge of a node: gRPC for clients, HTTP for
// probes and metrics. It decodes, checks, hands on and encodes; it knows neither
// where an agent lives nor what it does. Protobuf goes no further than here.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/auth"
	"agentd/pkg/placement"
	"agentd/pkg/storage"
	agentdv1 "agentd/proto/agentd/v1"
)

const (
	// MaxMessageBytes is the largest request: a bundle with room for its envelope.
	// Arguments over their own, smaller limit are therefore refused with a message
	// that says so.
	MaxMessageBytes = placement.MaxBundleBytes + 2<<20

	// maxStreams bounds what one connection has under way; a client waits at its own
	// end for a free place.
	maxStreams = 4096

	// A client may ping this often, also when it has nothing under way.
	minPingInterval = 10 * time.Second
	// The server pings a silent client, and drops it if there is no answer.
	pingAfter   = time.Minute
	pingTimeout = 20 * time.Second
)

// Agents answers calls to agents wherever they live. Every method may be called
// from any goroutine and returns soon after its context ends.
type Agents interface {
	Call(ctx context.Context, call agent.Call) (agent.Result, error)
	Describe(ctx context.Context, id agent.ID) (actor.Status, error)
	// List returns up to limit (at most 1 000) entries after the given ID.
	List(ctx context.Context, namespace, class string, after agent.ID, limit int) ([]storage.Entry, error)
	Delete(ctx context.Context, id agent.ID) error
	// Lift ends a quarantine.
	Lift(ctx context.Context, id agent.ID) error
	// Subscribe follows a topic; "state" carries the JSON of each new state. What was
	// published before the answer of a Call left is in the channel when Call returns.
	Subscribe(id agent.ID, topic string, buffer int) (*actor.Subscription, error)
}

// Classes deploys code.
type Classes interface {
	Deploy(ctx context.Context, namespace string, bundle placement.Bundle) ([]placement.ClassVersion, error)
	// Versions returns the newest version of each class if class is empty, else all
	// kept versions of that class, newest first; none if there is no such class.
	Versions(ctx context.Context, namespace, class string) ([]placement.ClassVersion, error)
	Rollback(ctx context.Context, namespace, class string, version uint64) (placement.ClassVersion, error)
}

// Config is what a server needs. Agents and Classes are required.
type Config struct {
	Agents  Agents
	Classes Classes
	// Log gets failures: those of the server at Warn, those of callers at Debug.
	// Nil discards them.
	Log *slog.Logger
	// Version is told to clients.
	Version string
	// Now is the clock for latencies; nil is time.Now.
	Now func() time.Time
	// Ready says why the node does not accept calls, in words for clients; nil while
	// it does. It is asked by probes, must answer at once and refuses nothing by
	// itself: Agents does. A nil func is always ready.
	Ready func() error
	// Metrics receives the server's metrics and is shown at /metrics; nil for a
	// registry of its own. Two servers need two registries.
	Metrics *prometheus.Registry
	// DevErrors tells callers the full text of internal errors, which may name files
	// of the server. For development only.
	DevErrors bool
	// Auth says who may do what; nil lets everybody do everything. The caller closes
	// it after Stop.
	Auth *auth.Authenticator
	// TLS serves both ports; nil serves plain text. Certificates of clients are asked
	// for on the gRPC port only: probes have none.
	TLS *tls.Config
}

// Server serves one node. New starts nothing; Serve and ServeHTTP run until Stop.
type Server struct {
	grpc    *grpc.Server
	http    *http.Server
	ready   func() error
	drained chan struct{} // closed when Stop begins
	stop    sync.Once     // guards the closing of drained
}

// New builds a server that listens nowhere yet.
func New(cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{drained: make(chan struct{})}
	s.ready = func() error {
		select {
		case <-s.drained:
			return &agent.Error{Kind: agent.Unavailable, Msg: "the server is shutting down"}
		default:
			return cfg.Ready()
		}
	}
	e := newEdge(cfg)
	g := newGuard(cfg, e)
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ChainUnaryInterceptor(e.unary, g.unary),
		grpc.ChainStreamInterceptor(e.stream, g.stream),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
	}
	if cfg.Auth != nil {
		options = append(options, grpc.InTapHandle(g.tap))
	}
	if cfg.TLS != nil {
		options = append(options, grpc.Creds(newHandshakes(cfg)))
	}
	s.grpc = grpc.NewServer(options...)
	agentdv1.RegisterAgentServiceServer(s.grpc, &agentService{agents: cfg.Agents, drained: s.drained})
	agentdv1.RegisterFiberServiceServer(s.grpc, &fiberService{agents: cfg.Agents})
	agentdv1.RegisterClassServiceServer(s.grpc, &classService{classes: cfg.Classes})
	agentdv1.RegisterClusterServiceServer(s.grpc, &clusterService{version: cfg.Version, ready: s.ready})
	health := &health{ready: s.ready, drained: s.drained}
	healthv1.RegisterHealthServer(s.grpc, health)
	reflection.Register(s.grpc)
	for name := range s.grpc.GetServiceInfo() {
		health.services = append(health.services, name)
	}
	s.http = newHTTP(cfg, s.ready, g)
	return s
}

func (cfg Config) withDefaults() Config {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Ready == nil {
		cfg.Ready = func() error { return nil }
	}
	if cfg.Metrics == nil {
		cfg.Metrics = prometheus.NewRegistry()
	}
	return cfg
}

// Serve answers gRPC on lis until Stop; it closes lis. It returns nil after Stop.
func (s *Server) Serve(lis net.Listener) error {
	if err := s.grpc.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve gRPC on %s: %w", lis.Addr(), err)
	}
	return nil
}

// ServeHTTP answers /healthz, /readyz and /metrics on lis until Stop; it closes
// lis. It returns nil after Stop.
func (s *Server) ServeHTTP(lis net.Listener) error {
	serve := s.http.Serve
	if s.http.TLSConfig != nil {
		serve = func(lis net.Listener) error { return s.http.ServeTLS(lis, "", "") } // the certificate is in the configuration
	}
	if err := serve(lis); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", lis.Addr(), err)
	}
	return nil
}

// Stop ends watches, takes no new calls and waits for those under way. When ctx
// ends first, it cuts the connections and returns an error of kind Deadline or
// Canceled: calls may then have been interrupted. Stopping twice is harmless.
func (s *Server) Stop(ctx context.Context) error {
	s.stop.Do(func() { close(s.drained) })
	graceful := make(chan struct{})
	go func() { // ends with the last call; Stop below ends the contexts of all
		defer close(graceful)
		s.grpc.GracefulStop()
	}()
	httpErr := s.http.Shutdown(ctx)
	select {
	case <-graceful:
	case <-ctx.Done():
		s.grpc.Stop()
		return errors.Join(agent.FromContext(ctx, "stop server", agent.ID{}), s.http.Close())
	}
	if httpErr != nil {
		return errors.Join(fmt.Errorf("stop HTTP: %w", httpErr), s.http.Close())
	}
	return nil
}
