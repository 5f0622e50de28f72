package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"agentd/internal/wire"
	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/placement"
	"agentd/pkg/storage"
	agentdv1 "agentd/proto/agentd/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is everything behind the server: one function per thing that a test looks
// at. What is nil answers with nothing.
type world struct {
	call     func(context.Context, agent.Call) (agent.Result, error)
	describe func(agent.ID) (actor.Status, error)
	list     func(namespace, class string, after agent.ID, limit int) ([]storage.Entry, error)
	deploy   func(namespace string, bundle placement.Bundle) ([]placement.ClassVersion, error)
	versions func(namespace, class string) ([]placement.ClassVersion, error)
}

func (w *world) Call(ctx context.Context, call agent.Call) (agent.Result, error) {
	if w.call == nil {
		return agent.Result{}, nil
	}
	return w.call(ctx, call)
}

func (w *world) Describe(_ context.Context, id agent.ID) (actor.Status, error) { return w.describe(id) }

func (w *world) List(_ context.Context, namespace, class string, after agent.ID, limit int) ([]storage.Entry, error) {
	return w.list(namespace, class, after, limit)
}

func (w *world) Delete(_ context.Context, id agent.ID) error {
	return &agent.Error{Op: "delete", Agent: id, Kind: agent.InUse, Msg: "busy"}
}

func (w *world) Lift(context.Context, agent.ID) error { return nil }

func (w *world) Subscribe(id agent.ID, _ string, _ int) (*actor.Subscription, error) {
	return nil, &agent.Error{Op: "watch", Agent: id, Kind: agent.Unavailable, Msg: "no topics here"}
}

func (w *world) Deploy(_ context.Context, namespace string, bundle placement.Bundle) ([]placement.ClassVersion, error) {
	return w.deploy(namespace, bundle)
}

func (w *world) Versions(_ context.Context, namespace, class string) ([]placement.ClassVersion, error) {
	return w.versions(namespace, class)
}

func (w *world) Rollback(_ context.Context, namespace, class string, version uint64) (placement.ClassVersion, error) {
	return placement.ClassVersion{Namespace: namespace, Class: class, Version: version + 1}, nil
}

// start runs a server on a connection in memory and ends it with the test.
func start(t testing.TB, cfg Config) (*grpc.ClientConn, *Server) {
	t.Helper()
	if cfg.Agents == nil {
		cfg.Agents = &world{}
	}
	if cfg.Classes == nil {
		cfg.Classes = &world{}
	}
	s := New(cfg)
	lis := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return conn, s
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func invoke(ctx context.Context, conn *grpc.ClientConn, req *agentdv1.InvokeRequest) (*agentdv1.InvokeResponse, error) {
	return agentdv1.NewAgentServiceClient(conn).Invoke(ctx, req)
}

func add() *agentdv1.InvokeRequest {
	return &agentdv1.InvokeRequest{Agent: &agentdv1.AgentRef{Class: "Counter", Name: "a"}, Method: "add", Args: [][]byte{[]byte("1")}}
}

func wantError(t *testing.T, err error, code codes.Code, kind agent.Kind, text string) {
	t.Helper()
	st := status.Convert(err)
	e, explained := wire.FromStatus(st)
	if st.Code() != code || e.Kind != kind || !explained || !strings.Contains(st.Message(), text) {
		t.Errorf("got %s, %s, %.300q (explained %v)\nwant %s, %s, %q", st.Code(), e.Kind, st.Message(), explained, code, kind, text)
	}
}

func TestInvoke_Answers(t *testing.T) {
	var got agent.Call
	w := &world{call: func(_ context.Context, call agent.Call) (agent.Result, error) {
		got = call
		return agent.Result{Value: json.RawMessage(`{"n":1}`)}, nil
	}}
	conn, _ := start(t, Config{Agents: w})
	req := add()
	req.Args = append(req.Args, []byte(`"x"`))
	req.IdempotencyKey = "k"
	resp, err := invoke(testContext(t), conn, req)
	if err != nil || string(resp.GetResult()) != `{"n":1}` {
		t.Fatalf("%v %v", resp, err)
	}
	if got.Agent != (agent.ID{Namespace: "default", Class: "Counter", Name: "a"}) || got.Method != "add" || got.Key != "k" ||
		got.Surface != agent.SurfaceClass || len(got.Args) != 2 || string(got.Args[1]) != `"x"` {
		t.Errorf("call %+v", got)
	}

	w.call = nil
	if resp, err = invoke(testContext(t), conn, add()); err != nil || resp.Result != nil {
		t.Errorf("undefined became %v %v", resp, err)
	}
}

func TestInvoke_Refused(t *testing.T) {
	conn, _ := start(t, Config{Agents: &world{call: func(context.Context, agent.Call) (agent.Result, error) {
		return agent.Result{}, errors.New("a bad request reached the agent")
	}}})
	long := strings.Repeat("n", 600)
	for _, c := range []struct {
		name   string
		change func(*agentdv1.InvokeRequest)
		code   codes.Code
		kind   agent.Kind
		want   string
	}{
		{"no agent", func(r *agentdv1.InvokeRequest) { r.Agent = nil }, codes.InvalidArgument, agent.Invalid, "names no agent"},
		{"empty name", func(r *agentdv1.InvokeRequest) { r.Agent.Name = "" }, codes.InvalidArgument, agent.Invalid, "agent name is empty"},
		{"long name", func(r *agentdv1.InvokeRequest) { r.Agent.Name = long }, codes.InvalidArgument, agent.Invalid, "has 600 bytes; at most 512"},
		{"NUL in name", func(r *agentdv1.InvokeRequest) { r.Agent.Name = "a\x00" }, codes.InvalidArgument, agent.Invalid, "NUL"},
		{"empty class", func(r *agentdv1.InvokeRequest) { r.Agent.Class = "" }, codes.InvalidArgument, agent.Invalid, `class name "" is empty`},
		{"bad class", func(r *agentdv1.InvokeRequest) { r.Agent.Class = "a-b" }, codes.InvalidArgument, agent.Invalid, "not a JavaScript identifier"},
		{"bad namespace", func(r *agentdv1.InvokeRequest) { r.Agent.Namespace = "A b" }, codes.InvalidArgument, agent.Invalid, "only a-z, 0-9 and dashes"},
		{"empty method", func(r *agentdv1.InvokeRequest) { r.Method = "" }, codes.InvalidArgument, agent.Invalid, "method name is empty"},
		{"long method", func(r *agentdv1.InvokeRequest) { r.Method = long }, codes.InvalidArgument, agent.Invalid, "at most 256"},
		{"long key", func(r *agentdv1.InvokeRequest) { r.IdempotencyKey = long }, codes.InvalidArgument, agent.Invalid, "idempotency key has 600 bytes"},
		{"argument is no JSON", func(r *agentdv1.InvokeRequest) { r.Args = [][]byte{[]byte("1"), []byte("text")} }, codes.InvalidArgument, agent.Invalid, `argument 2 is not JSON: "text"`},
		{"argument is empty", func(r *agentdv1.InvokeRequest) { r.Args = [][]byte{nil} }, codes.InvalidArgument, agent.Invalid, "argument 1 is not JSON"},
		{"17 MB of arguments", func(r *agentdv1.InvokeRequest) { r.Args = [][]byte{bytes.Repeat([]byte("1"), 17e6)} }, codes.ResourceExhausted, agent.TooLarge, "arguments have 17000000 bytes; at most 16777216"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := add()
			c.change(req)
			_, err := invoke(testContext(t), conn, req)
			wantError(t, err, c.code, c.kind, c.want)
		})
	}
	t.Run("beyond any limit", func(t *testing.T) {
		req := add()
		req.Args = [][]byte{bytes.Repeat([]byte("1"), 40e6)}
		_, err := invoke(testContext(t), conn, req)
		if e, _ := wire.FromStatus(status.Convert(err)); status.Code(err) != codes.ResourceExhausted || e.Kind != agent.TooLarge {
			t.Errorf("got %v", err)
		}
	})
}

func TestList_Refused(t *testing.T) {
	conn, _ := start(t, Config{})
	agents := agentdv1.NewAgentServiceClient(conn)
	for want, req := range map[string]*agentdv1.AgentServiceListRequest{
		"limit is 1001; 1 to 1000":      {Limit: 1001},
		"begins or ends with a dash":    {Namespace: "-a"},
		"not a JavaScript identifier":   {Class: "9"},
		`after names namespace "other"`: {After: &agentdv1.AgentRef{Namespace: "other", Class: "C", Name: "n"}},
		"agent name is empty":           {After: &agentdv1.AgentRef{Class: "C"}},
	} {
		_, err := agents.List(testContext(t), req)
		wantError(t, err, codes.InvalidArgument, agent.Invalid, want)
	}
}

func TestClasses_Refused(t *testing.T) {
	conn, _ := start(t, Config{Classes: &world{versions: func(string, string) ([]placement.ClassVersion, error) { return nil, nil }}})
	classes := agentdv1.NewClassServiceClient(conn)
	ctx := testContext(t)
	_, err := classes.Deploy(ctx, &agentdv1.DeployRequest{})
	wantError(t, err, codes.InvalidArgument, agent.Invalid, "the bundle has no code")
	_, err = classes.Deploy(ctx, &agentdv1.DeployRequest{Namespace: "_", Code: []byte("x")})
	wantError(t, err, codes.InvalidArgument, agent.Invalid, "namespace")
	_, err = classes.Deploy(ctx, &agentdv1.DeployRequest{Code: make([]byte, placement.MaxBundleBytes), SourceMap: []byte("{}")})
	wantError(t, err, codes.ResourceExhausted, agent.TooLarge, "at most 33554432")
	_, err = classes.Get(ctx, &agentdv1.ClassServiceGetRequest{Class: "Nobody"})
	wantError(t, err, codes.NotFound, agent.UnknownClass, "no class Nobody is deployed")
	_, err = classes.Rollback(ctx, &agentdv1.RollbackRequest{Class: "C"})
	wantError(t, err, codes.InvalidArgument, agent.Invalid, "version must be 1 or more")
	_, err = classes.Rollback(ctx, &agentdv1.RollbackRequest{Class: "", Version: 1})
	wantError(t, err, codes.InvalidArgument, agent.Invalid, "class name")
}

func TestInvoke_DeadlineAndCancelReachTheAgent(t *testing.T) {
	entered, left := make(chan bool, 1), make(chan struct{}, 1)
	conn, _ := start(t, Config{Agents: &world{call: func(ctx context.Context, call agent.Call) (agent.Result, error) {
		_, limited := ctx.Deadline()
		entered <- limited
		<-ctx.Done()
		left <- struct{}{}
		return agent.Result{}, agent.FromContext(ctx, "call "+call.Method, call.Agent)
	}}})

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := invoke(ctx, conn, add())
	if took := time.Since(begun); status.Code(err) != codes.DeadlineExceeded || took > 100*time.Millisecond {
		t.Errorf("after %v: %v", took, err)
	}
	if !<-entered {
		t.Error("the agent saw no deadline")
	}
	<-left

	ctx, cancel = context.WithCancel(context.Background())
	go func() {
		<-entered
		cancel()
	}()
	if _, err = invoke(ctx, conn, add()); status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	<-left
}

func TestErrors_LoggedOnceAndNotLeaked(t *testing.T) {
	var log lockedBuffer
	var fail func() error
	conn, _ := start(t, Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Agents: &world{
		call: func(context.Context, agent.Call) (agent.Result, error) { return agent.Result{}, fail() }}})
	for _, c := range []struct {
		name  string
		fail  func() error
		code  codes.Code
		kind  agent.Kind
		tells string
		logs  string
	}{
		{"unknown error", func() error { return errors.New("secret /etc/x") }, codes.Internal, agent.Internal, "internal error; the server's log has the details", "secret /etc/x"},
		{"panic", func() error { panic("secret panic") }, codes.Internal, agent.Internal, "internal error; the server's log has the details", "secret panic"},
		{"exception", func() error { return &agent.Error{Kind: agent.Exception, Name: "RangeError", Msg: "too far"} }, codes.Unknown, agent.Exception, "too far", ""},
		{"damage", func() error { return &agent.Error{Kind: agent.Corrupt, Msg: "file x is damaged"} }, codes.DataLoss, agent.Corrupt, "file x", "file x is damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			log.Reset()
			fail = c.fail
			_, err := invoke(testContext(t), conn, add())
			wantError(t, err, c.code, c.kind, c.tells)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("leaked: %v", err)
			}
			text := log.String()
			if c.logs == "" && text != "" || strings.Count(text, "request failed") > 1 || !strings.Contains(text, c.logs) {
				t.Errorf("log: %s", text)
			}
			if c.name == "panic" && !strings.Contains(text, "goroutine") {
				t.Errorf("no stack in the log: %s", text)
			}
		})
	}
}

// lockedBuffer is written by the server and read by the test.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func TestAgents_ListDescribeDelete(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_123)
	entry := storage.Entry{ID: agent.ID{Namespace: "n", Class: "C", Name: "x"}, Wake: storage.Wake{At: at, Resume: true}, Seq: 7,
		SizeBytes: 4096, CreatedAt: at, Quarantine: "looped", Live: true}
	var asked string
	conn, _ := start(t, Config{Agents: &world{
		list: func(namespace, class string, after agent.ID, limit int) ([]storage.Entry, error) {
			asked = fmt.Sprint(namespace, " ", class, " ", after.Key(), " ", limit)
			return []storage.Entry{entry}, nil
		},
		describe: func(agent.ID) (actor.Status, error) {
			return actor.Status{Phase: actor.PhaseBroken, Reason: "damaged \xff", Entry: entry, Mailbox: 3, Resets: 2, LastReset: "cpu", StartedAt: at, Turns: 9, Exists: true}, nil
		},
	}})
	agents := agentdv1.NewAgentServiceClient(conn)
	ctx := testContext(t)
	page, err := agents.List(ctx, &agentdv1.AgentServiceListRequest{Namespace: "n", Class: "C", After: &agentdv1.AgentRef{Class: "C", Name: "w"}})
	if err != nil {
		t.Fatal(err)
	}
	if asked != "n C n/C/w 100" {
		t.Errorf("asked for %s", asked)
	}
	a := page.GetAgents()[0]
	if a.GetAgent().GetName() != "x" || !a.GetExists() || !a.GetLive() || !a.GetResume() || a.GetSeq() != 7 || a.GetSizeBytes() != 4096 ||
		!a.GetWakeTime().AsTime().Equal(at) || a.GetReason() != "looped" || a.GetPhase() != agentdv1.AgentPhase_AGENT_PHASE_UNSPECIFIED {
		t.Errorf("entry %v", a)
	}
	d, err := agents.Describe(ctx, &agentdv1.AgentServiceDescribeRequest{Agent: &agentdv1.AgentRef{Class: "C", Name: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	if a = d.GetAgent(); a.GetPhase() != agentdv1.AgentPhase_AGENT_PHASE_BROKEN || a.GetReason() != "damaged ?" || a.GetMailbox() != 3 ||
		a.GetResets() != 2 || a.GetLastReset() != "cpu" || a.GetTurns() != 9 || !a.GetStartTime().AsTime().Equal(at) {
		t.Errorf("status %v", a)
	}
	_, err = agents.Delete(ctx, &agentdv1.AgentServiceDeleteRequest{Agent: &agentdv1.AgentRef{Class: "C", Name: "x"}})
	wantError(t, err, codes.FailedPrecondition, agent.InUse, "busy")
	if _, err = agents.Unquarantine(ctx, &agentdv1.UnquarantineRequest{Agent: &agentdv1.AgentRef{Class: "C", Name: "x"}}); err != nil {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	var mu sync.Mutex
	var reason error
	set := func(err error) { mu.Lock(); reason = err; mu.Unlock() }
	conn, s := start(t, Config{Version: "1.2.3", Ready: func() error { mu.Lock(); defer mu.Unlock(); return reason }})
	health := healthv1.NewHealthClient(conn)
	ctx := testContext(t)
	check := func(service string) healthv1.HealthCheckResponse_ServingStatus {
		t.Helper()
		resp, err := health.Check(ctx, &healthv1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus()
	}
	for _, service := range []string{"", "agentd.v1.AgentService", "agentd.v1.FiberService"} {
		if got := check(service); got != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %s", service, got)
		}
	}
	_, err := health.Check(ctx, &healthv1.HealthCheckRequest{Service: "x.Y"})
	wantError(t, err, codes.NotFound, agent.NotFound, "no service")

	watch, err := health.Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() healthv1.HealthCheckResponse_ServingStatus {
		t.Helper()
		resp, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus()
	}
	if got := next(); got != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("watch begins with %s", got)
	}
	set(errors.New("the log is being read"))
	if got := next(); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watch goes on with %s", got)
	}
	if got := check("agentd.v1.ClassService"); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("not ready: %s", got)
	}
	st, err := agentdv1.NewClusterServiceClient(conn).Status(ctx, &agentdv1.StatusRequest{})
	if err != nil || st.GetReady() || st.GetReason() != "the log is being read" || st.GetVersion() != "1.2.3" {
		t.Errorf("%v %v", st, err)
	}
	set(nil)
	if got := next(); got != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("watch goes on with %s", got)
	}
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
	if got := next(); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("watch ends with %s", got)
	}
	_, err = watch.Recv()
	wantError(t, err, codes.Unavailable, agent.Unavailable, "shutting down")
}

func TestHTTP(t *testing.T) {
	var reason error
	conn, s := start(t, Config{Ready: func() error { return reason }})
	if _, err := invoke(testContext(t), conn, add()); err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.ServeHTTP(lis) }()
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + lis.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("healthz %d %s", code, body)
	}
	if code, body := get("/readyz"); code != 200 || body != "ready\n" {
		t.Errorf("readyz %d %s", code, body)
	}
	reason = errors.New("replaying")
	if code, body := get("/readyz"); code != 503 || body != "replaying\n" {
		t.Errorf("readyz %d %s", code, body)
	}
	if code, body := get("/metrics"); code != 200 ||
		!strings.Contains(body, `agentd_rpc_requests_total{code="OK",method="/agentd.v1.AgentService/Invoke"} 1`) ||
		!strings.Contains(body, `agentd_rpc_seconds_count{method="/agentd.v1.AgentService/Invoke"} 1`) {
		t.Errorf("metrics %d %s", code, body)
	}
	if code, _ := get("/other"); code != 404 {
		t.Errorf("other %d", code)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := s.Stop(testContext(t)); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestStop_WaitsForCalls(t *testing.T) {
	entered, proceed := make(chan struct{}), make(chan struct{})
	conn, s := start(t, Config{Agents: &world{call: func(context.Context, agent.Call) (agent.Result, error) {
		close(entered)
		<-proceed
		return agent.Result{Value: json.RawMessage("1")}, nil
	}}})
	answered := make(chan error, 1)
	go func() { _, err := invoke(testContext(t), conn, add()); answered <- err }()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(testContext(t)) }()
	<-s.drained
	close(proceed)
	if err := <-answered; err != nil {
		t.Errorf("the call under way got %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStop_EndsWithItsContext(t *testing.T) {
	entered := make(chan struct{})
	conn, s := start(t, Config{Agents: &world{call: func(ctx context.Context, call agent.Call) (agent.Result, error) {
		close(entered)
		<-ctx.Done()
		return agent.Result{}, agent.FromContext(ctx, "call", call.Agent)
	}}})
	answered := make(chan error, 1)
	go func() { _, err := invoke(testContext(t), conn, add()); answered <- err }()
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); agent.KindOf(err) != agent.Deadline {
		t.Errorf("stop: %v", err)
	}
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the call got %v", err)
	}
}
