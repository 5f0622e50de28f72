package server

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"agentd/pkg/agent"
	"agentd/pkg/auth"
	"agentd/pkg/placement"
	"agentd/pkg/storage"
	agentdv1 "agentd/proto/agentd/v1"
)

// locked is an authenticator over a file with tokens, and what it told its audit.
type locked struct {
	*auth.Authenticator
	tokens map[string]string // by name

	mu       sync.Mutex // guards refusals
	refusals []auth.Refusal
}

func lock(t *testing.T, now func() time.Time, specs ...auth.TokenSpec) *locked {
	t.Helper()
	l := &locked{tokens: map[string]string{}}
	text := "tokens:\n"
	if len(specs) == 0 {
		text = "tokens: []\n"
	}
	for _, spec := range specs {
		token, entry, err := auth.NewToken(spec, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		l.tokens[spec.Name], text = token, text+entry
	}
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	l.Authenticator, err = auth.New(auth.Config{TokensFile: path, Now: now, Audit: func(_ context.Context, r auth.Refusal) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.refusals = append(l.refusals, r)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func (l *locked) as(ctx context.Context, name string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+l.tokens[name])
}

var everything = []string{"*"}

func TestGuard_TokenDecides(t *testing.T) {
	l := lock(t, time.Now,
		auth.TokenSpec{Name: "root", Namespaces: everything, Services: everything, Access: auth.Admin},
		auth.TokenSpec{Name: "reader", Namespaces: []string{"default"}, Services: everything, Access: auth.Read},
		auth.TokenSpec{Name: "team-a", Namespaces: []string{"team-a"}, Services: []string{auth.ServiceAgent}, Access: auth.Write},
		auth.TokenSpec{Name: "ended", Namespaces: everything, Services: everything, Access: auth.Admin, Expires: time.Unix(1e9, 0)})
	w := &world{
		list:   func(string, string, agent.ID, int) ([]storage.Entry, error) { return nil, nil },
		deploy: func(string, placement.Bundle) ([]placement.ClassVersion, error) { return nil, nil },
	}
	metrics := prometheus.NewRegistry()
	conn, _ := start(t, Config{Agents: w, Classes: w, Auth: l.Authenticator, Metrics: metrics})
	agents, classes, cluster := agentdv1.NewAgentServiceClient(conn), agentdv1.NewClassServiceClient(conn), agentdv1.NewClusterServiceClient(conn)
	invoke := func(namespace string) func(context.Context) error {
		return func(ctx context.Context) error {
			req := add()
			req.Agent.Namespace = namespace
			_, err := agents.Invoke(ctx, req)
			return err
		}
	}
	kvDelete := func(ctx context.Context) error {
		_, err := agents.KVDelete(ctx, &agentdv1.KVDeleteRequest{Agent: add().GetAgent(), Keys: []string{"k"}})
		return err
	}
	list := func(ctx context.Context) error {
		_, err := agents.List(ctx, &agentdv1.AgentServiceListRequest{})
		return err
	}
	watch := func(ctx context.Context) error {
		stream, err := agents.WatchState(ctx, &agentdv1.WatchStateRequest{Agent: &agentdv1.AgentRef{Namespace: "other", Class: "C", Name: "n"}})
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	deploy := func(ctx context.Context) error {
		_, err := classes.Deploy(ctx, &agentdv1.DeployRequest{Namespace: "team-a", Code: []byte("x")})
		return err
	}
	status := func(ctx context.Context) error {
		_, err := cluster.Status(ctx, &agentdv1.StatusRequest{})
		return err
	}
	for _, c := range []struct {
		name, token string
		do          func(context.Context) error
		code        codes.Code
		kind        agent.Kind
		say         string
	}{
		{"all rights", "root", invoke(""), codes.OK, 0, ""},
		{"all namespaces", "root", invoke("team-z"), codes.OK, 0, ""},
		{"its own namespace", "team-a", invoke("team-a"), codes.OK, 0, ""},
		{"read in the default namespace", "reader", list, codes.OK, 0, ""},
		{"read what belongs to nobody", "reader", status, codes.OK, 0, ""},
		{"no token", "", invoke(""), codes.Unauthenticated, agent.Unauthenticated, "a token is needed"},
		{"unknown token", "?", invoke(""), codes.Unauthenticated, agent.Unauthenticated, "not known here"},
		{"expired token", "ended", invoke(""), codes.Unauthenticated, agent.Unauthenticated, "expired on 2001-09-09"},
		{"another namespace", "team-a", invoke("team-b"), codes.PermissionDenied, agent.Denied, `"team-a" may not use the namespace "team-b"`},
		{"the default namespace, unnamed", "team-a", invoke(""), codes.PermissionDenied, agent.Denied, `namespace "default"`},
		{"the default namespace, listed", "team-a", list, codes.PermissionDenied, agent.Denied, `namespace "default"`},
		{"a stream in another namespace", "team-a", watch, codes.PermissionDenied, agent.Denied, `namespace "other"`},
		{"another service", "team-a", deploy, codes.PermissionDenied, agent.Denied, `may not use the service "class"`},
		{"a write with read access", "reader", invoke(""), codes.PermissionDenied, agent.Denied, "this needs write access"},
		{"a deletion with read access", "reader", kvDelete, codes.PermissionDenied, agent.Denied, "this needs write access"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := testContext(t)
			switch c.token {
			case "":
			case "?":
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer agentd_guessed")
			default:
				ctx = l.as(ctx, c.token)
			}
			err := c.do(ctx)
			if c.code == codes.OK {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, c.code, c.kind, c.say)
		})
	}
	t.Run("two tokens", func(t *testing.T) {
		wantError(t, invoke("")(l.as(l.as(testContext(t), "root"), "root")), codes.Unauthenticated, agent.Unauthenticated, "more than one")
	})
	for reason, want := range map[string]float64{"missing": 1, "unauthenticated": 3, "denied": 7} {
		if got := counted(t, metrics, reason); got != want {
			t.Errorf("refused as %s: %v, want %v", reason, got, want)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refusals) != 10 {
		t.Errorf("the audit heard of %d refusals, want 10: all but the malformed one", len(l.refusals))
	}
	for _, r := range l.refusals {
		if strings.Contains(r.Reason, "agentd_") {
			t.Errorf("the audit holds a token: %q", r.Reason)
		}
	}
}

// counted reads agentd_auth_refused_total.
func counted(t *testing.T, metrics *prometheus.Registry, reason string) float64 {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "agentd_auth_refused_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// Who has no token is refused on the headers: the server does not wait for a message,
// nor hold one.
func TestGuard_RefusesBeforeTheMessage(t *testing.T) {
	l := lock(t, time.Now)
	conn, _ := start(t, Config{Auth: l.Authenticator})
	stream, err := conn.NewStream(testContext(t), &grpc.StreamDesc{ClientStreams: true}, agentdv1.AgentService_Invoke_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, stream.RecvMsg(&agentdv1.InvokeResponse{}), codes.Unauthenticated, agent.Unauthenticated, "a token is needed")
}

// A method that nobody has placed is refused, also where no tokens are asked for.
func TestGuard_RefusesUnplacedMethods(t *testing.T) {
	cfg := Config{}.withDefaults()
	g := newGuard(cfg, newEdge(cfg))
	_, err := g.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/agentd.v1.AgentService/New"},
		func(context.Context, any) (any, error) { return nil, nil })
	if agent.KindOf(err) != agent.Denied || !strings.Contains(err.Error(), "not decided") {
		t.Errorf("%v", err)
	}
	err = g.stream(nil, &silentStream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: "/agentd.v1.AgentService/New"},
		func(any, grpc.ServerStream) error { return nil })
	if agent.KindOf(err) != agent.Denied {
		t.Errorf("%v", err)
	}
}

// silentStream is a client that has sent one request and then only listens.
type silentStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *silentStream) Context() context.Context { return s.ctx }
func (s *silentStream) RecvMsg(any) error        { return nil }

func TestGuard_EndsStreamsWhenTheTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for method, kind := range map[string]agent.Kind{
			agentdv1.AgentService_WatchState_FullMethodName:   agent.Unauthenticated,
			agentdv1.AgentService_InvokeStream_FullMethodName: agent.OutcomeUnknown,
		} {
			end := time.Now().Add(time.Hour).Truncate(time.Second)
			l := lock(t, time.Now, auth.TokenSpec{Name: "hour", Namespaces: everything, Services: everything, Access: auth.Admin, Expires: end})
			cfg := Config{Auth: l.Authenticator}.withDefaults()
			g := newGuard(cfg, newEdge(cfg))
			ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+l.tokens["hour"]))
			err := g.stream(nil, &silentStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: method}, func(_ any, s grpc.ServerStream) error {
				<-s.Context().Done()
				return agent.FromContext(s.Context(), "wait", agent.ID{})
			})
			if agent.KindOf(err) != kind || !strings.Contains(err.Error(), "expired") || !time.Now().Equal(end) {
				t.Errorf("%s: %v at %v, want kind %v at %v", method, err, time.Now(), kind, end)
			}
		}
	})
}

// A message that comes after the end is not heard.
func TestGuard_HearsNothingAfterTheTokenExpired(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTokenEnded)
	s := &guardedStream{ServerStream: &silentStream{}, ctx: ctx, guard: &guard{}}
	if err := s.RecvMsg(nil); !errors.Is(err, errTokenEnded) {
		t.Errorf("%v", err)
	}
}

func TestGuard_Scrape(t *testing.T) {
	l := lock(t, time.Now,
		auth.TokenSpec{Name: "metrics", Namespaces: []string{"none"}, Services: []string{auth.ServiceCluster}, Access: auth.Read},
		auth.TokenSpec{Name: "tenant", Namespaces: []string{"team-a"}, Services: []string{auth.ServiceAgent}, Access: auth.Write})
	s := New(Config{Agents: &world{}, Classes: &world{}, Auth: l.Authenticator})
	for _, c := range []struct {
		path, header string
		code         int
		say          string
	}{
		{"/healthz", "", http.StatusOK, "ok"},
		{"/readyz", "", http.StatusOK, "ready"},
		{"/metrics", "Bearer " + l.tokens["metrics"], http.StatusOK, "agentd_auth_refused_total"},
		{"/metrics", "", http.StatusUnauthorized, "a token is needed"},
		{"/metrics", "Basic eDp5", http.StatusUnauthorized, "Bearer TOKEN"},
		{"/metrics", "Bearer agentd_guessed", http.StatusUnauthorized, "not known"},
		{"/metrics", "Bearer " + l.tokens["tenant"], http.StatusForbidden, `"cluster"`},
	} {
		r := httptest.NewRequest(http.MethodGet, c.path, nil)
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		answer := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(answer, r)
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.Code != c.code || !strings.Contains(string(body), c.say) {
			t.Errorf("%s with %q: %d %.200s, want %d and %q", c.path, c.header, answer.Code, body, c.code, c.say)
		}
		if (answer.Code == http.StatusUnauthorized) != (answer.Header().Get("WWW-Authenticate") == "Bearer") {
			t.Errorf("%s: WWW-Authenticate is %q", c.path, answer.Header().Get("WWW-Authenticate"))
		}
	}
}
