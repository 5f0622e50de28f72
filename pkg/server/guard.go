package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"agentd/pkg/agent"
	"agentd/pkg/auth"
)

// guard lets requests in: it asks who sends them, looks up what their method needs,
// and compares with what the sender may do. It keeps no state between requests.
type guard struct {
	auth    *auth.Authenticator // nil: everybody may do everything
	edge    *edge
	refused *prometheus.CounterVec
}

func newGuard(cfg Config, e *edge) *guard {
	g := &guard{auth: cfg.Auth, edge: e, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "agentd_auth_refused_total",
		Help: "Requests that were not let in, by reason: missing (no token), unauthenticated, denied, unavailable (keys of the issuer).",
	}, []string{"reason"})}
	cfg.Metrics.MustRegister(g.refused)
	for _, reason := range []string{reasonMissing, reasonUnauthenticated, reasonDenied, reasonUnavailable} {
		g.refused.WithLabelValues(reason) // shows as 0
	}
	return g
}

// Reasons in agentd_auth_refused_total.
const (
	reasonMissing         = "missing"
	reasonUnauthenticated = "unauthenticated"
	reasonDenied          = "denied"
	reasonUnavailable     = "unavailable"
)

// principalKey is where tap leaves the principal for the interceptors.
type principalKey struct{}

// tap authenticates on the headers alone, so that nobody without a token can make the
// server read and hold a message. It runs on the connection's read loop, hence must
// not wait: what only a fetch of keys can decide is left to the interceptors.
func (g *guard) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	need, ok := accessOf[info.FullMethodName]
	if !ok || need.scope == everybody {
		return ctx, nil // gRPC or admit refuses what is unknown
	}
	headers := info.Header["authorization"]
	bearer, err := bearerOf(headers)
	var p auth.Principal
	if err == nil {
		var decided bool
		if p, decided, err = g.auth.CheckNow(ctx, bearer); !decided {
			return ctx, nil
		}
	}
	if err != nil {
		return ctx, g.edge.finish(ctx, info.FullMethodName, 0, g.count(headers, err))
	}
	return context.WithValue(ctx, principalKey{}, p), nil
}

// bearerOf reads the authorization headers of a request. Two would leave open which
// one counts.
func bearerOf(headers []string) (string, error) {
	switch len(headers) {
	case 0:
		return "", nil
	case 1:
		return auth.Bearer(headers[0])
	}
	return "", &agent.Error{Op: "authenticate", Kind: agent.Unauthenticated, Msg: "the request has more than one authorization header"}
}

// admit says who sends a request and what its method needs.
func (g *guard) admit(ctx context.Context, method string, headers []string) (access, auth.Principal, error) {
	need, ok := accessOf[method]
	if !ok {
		return need, auth.Principal{}, g.count(headers, &agent.Error{Op: "authorize", Kind: agent.Denied,
			Msg: fmt.Sprintf("it is not decided who may use %s", method)})
	}
	if g.auth == nil || need.scope == everybody {
		return need, auth.Principal{}, nil
	}
	if p, ok := ctx.Value(principalKey{}).(auth.Principal); ok {
		return need, p, nil
	}
	bearer, err := bearerOf(headers)
	var p auth.Principal
	if err == nil {
		p, err = g.auth.Check(ctx, bearer)
	}
	return need, p, g.count(headers, err)
}

// allow compares what the sender may do with what the request touches.
func (g *guard) allow(ctx context.Context, p auth.Principal, need access, request any) error {
	if g.auth == nil || need.scope == everybody {
		return nil
	}
	namespace, err := need.namespace(request)
	if err != nil {
		return err
	}
	return g.auth.Allow(ctx, p, namespace, need.service, need.write)
}

// count counts a refusal and returns it. headers are those with the token.
func (g *guard) count(headers []string, err error) error {
	if err == nil {
		return nil
	}
	reason := reasonUnavailable
	switch agent.KindOf(err) {
	case agent.Denied:
		reason = reasonDenied
	case agent.Unauthenticated, agent.OutcomeUnknown: // the latter is cutShort's
		reason = reasonUnauthenticated
		if len(headers) == 0 {
			reason = reasonMissing
		}
	}
	g.refused.WithLabelValues(reason).Inc()
	return err
}

// authorization are the authorization headers of a request.
func authorization(ctx context.Context) []string {
	return metadata.ValueFromIncomingContext(ctx, "authorization")
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	need, p, err := g.admit(ctx, info.FullMethod, authorization(ctx))
	if err == nil {
		err = g.count(nil, g.allow(ctx, p, need, req))
	}
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// errTokenEnded ends the context of a stream whose token has expired.
var errTokenEnded = errors.New("the token has expired")

// stream authorizes each message of a stream and ends it when the token expires. A
// token that is withdrawn meanwhile ends it at its next message: a watch must not
// outlive what it was begun with.
func (g *guard) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx := stream.Context()
	headers := authorization(ctx)
	need, p, err := g.admit(ctx, info.FullMethod, headers)
	if err != nil {
		return err
	}
	if g.auth == nil || need.scope == everybody {
		return handler(srv, stream)
	}
	if end := p.Expires(); !end.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, end.Sub(g.edge.now()), errTokenEnded)
		defer cancel()
	}
	guarded := &guardedStream{ServerStream: stream, ctx: ctx, guard: g, need: need, principal: p}
	guarded.bearer, _ = bearerOf(headers) // admit has read it
	err = handler(srv, guarded)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errTokenEnded):
		return g.count(headers, cutShort(need, errTokenEnded))
	case guarded.refused != nil:
		return g.count(headers, cutShort(need, guarded.refused))
	}
	return err
}

// cutShort is what the client of an ended stream learns. A call that was under way
// may have done its work.
func cutShort(need access, why error) error {
	if need.write {
		return &agent.Error{Op: "authenticate", Kind: agent.OutcomeUnknown, Err: why,
			Msg: "the stream was ended while the call was under way; whether it took effect is unknown"}
	}
	return &agent.Error{Op: "authenticate", Kind: agent.Unauthenticated, Err: why, Msg: "the stream was ended; open it again with a good token"}
}

// guardedStream checks what the client sends, and before it is sent anything whether
// it still may have it. Like any stream it has one reader and one writer; ours are
// the same goroutine.
type guardedStream struct {
	grpc.ServerStream
	ctx       context.Context
	guard     *guard
	need      access
	principal auth.Principal
	bearer    string
	request   any   // the last that was let in
	refused   error // why nothing more is sent
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if err := s.guard.allow(s.ctx, s.principal, s.need, m); err != nil {
		return s.guard.count(nil, err)
	}
	s.request = m
	return nil
}

func (s *guardedStream) SendMsg(m any) error {
	p, decided, err := s.guard.auth.CheckNow(s.ctx, s.bearer)
	if err == nil && decided && s.request != nil {
		err = s.guard.allow(s.ctx, p, s.need, s.request)
	}
	if err != nil {
		s.refused = err
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// scrape guards /metrics, which tells of all tenants: reading it needs what
// ClusterService.Status needs.
func (g *guard) scrape(next http.Handler) http.Handler {
	if g.auth == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := peer.NewContext(r.Context(), &peer.Peer{Addr: remote(r.RemoteAddr)})
		headers := r.Header.Values("Authorization")
		bearer, err := bearerOf(headers)
		if err == nil {
			var p auth.Principal
			if p, err = g.auth.Check(ctx, bearer); err == nil {
				err = g.auth.Allow(ctx, p, "", auth.ServiceCluster, false)
			}
		}
		if g.count(headers, err) == nil {
			next.ServeHTTP(w, r)
			return
		}
		switch agent.KindOf(err) {
		case agent.Denied:
			writeText(w, http.StatusForbidden, err.Error()+"\n")
		case agent.Unauthenticated:
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeText(w, http.StatusUnauthorized, err.Error()+"\n")
		default:
			writeText(w, http.StatusServiceUnavailable, err.Error()+"\n")
		}
	})
}

// remote is the address of an HTTP client, for the audit.
type remote string

func (remote) Network() string  { return "tcp" }
func (r remote) String() string { return string(r) }

// handshakeTimeout bounds how long a connection may take to say who it is.
const handshakeTimeout = 10 * time.Second
