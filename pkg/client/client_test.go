package client_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/client"
	"agentd/pkg/placement"
	"agentd/pkg/server"
	"agentd/pkg/storage"
	agentdv1 "agentd/proto/agentd/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world answers what the server asks. Platform calls get the text in results.
type world struct {
	call    func(context.Context, agent.Call) (agent.Result, error)
	results map[string]string
	calls   []agent.Call
	entries []storage.Entry
}

func (w *world) Call(ctx context.Context, call agent.Call) (agent.Result, error) {
	if call.Surface == agent.SurfacePlatform {
		w.calls = append(w.calls, call)
		return agent.Result{Value: json.RawMessage(w.results[call.Method])}, nil
	}
	return w.call(ctx, call)
}

func (w *world) Describe(_ context.Context, id agent.ID) (actor.Status, error) {
	return actor.Status{ID: id, Phase: actor.PhaseLive, Turns: 3, Exists: true}, nil
}

func (w *world) List(_ context.Context, _, _ string, after agent.ID, limit int) ([]storage.Entry, error) {
	from := 0
	for i, e := range w.entries {
		if e.ID == after {
			from = i + 1
		}
	}
	return w.entries[from:min(from+limit, len(w.entries))], nil
}

func (w *world) Delete(context.Context, agent.ID) error { return nil }

func (w *world) Lift(context.Context, agent.ID) error { return nil }

func (w *world) Subscribe(id agent.ID, _ string, _ int) (*actor.Subscription, error) {
	return nil, &agent.Error{Op: "watch", Agent: id, Kind: agent.Overloaded, Msg: "too many watch"}
}

func (w *world) Deploy(_ context.Context, namespace string, b placement.Bundle) ([]placement.ClassVersion, error) {
	return []placement.ClassVersion{{Namespace: namespace, Class: "C", Version: 1, Bundle: b.Hash(), Methods: []string{"add"}, DeployedAt: time.UnixMilli(5)}}, nil
}

func (w *world) Versions(_ context.Context, namespace, class string) ([]placement.ClassVersion, error) {
	return []placement.ClassVersion{{Namespace: namespace, Class: "C", Version: 2}, {Namespace: namespace, Class: "C", Version: 1}}, nil
}

func (w *world) Rollback(_ context.Context, namespace, class string, version uint64) (placement.ClassVersion, error) {
	return placement.ClassVersion{Namespace: namespace, Class: class, Version: version + 2}, nil
}

// connect is a client of a server over w, on a connection in memory.
func connect(t testing.TB, w *world, cfg server.Config) *client.Client {
	t.Helper()
	return connectTo(t, w, w, cfg)
}

func connectTo(t testing.TB, agents server.Agents, classes server.Classes, cfg server.Config) *client.Client {
	t.Helper()
	cfg.Agents, cfg.Classes = agents, classes
	s := server.New(cfg)
	lis := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	c := dial(t, client.WithDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(c.Close(), s.Stop(ctx), <-served); err != nil {
			t.Error(err)
		}
	})
	return c
}

func dial(t testing.TB, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.Dial(context.Background(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func wantError(t *testing.T, err error, kind agent.Kind, text string) {
	t.Helper()
	var e *agent.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(err.Error(), text) {
		t.Errorf("got %s: %v\nwant %s: %s", agent.KindOf(err), err, kind, text)
	}
}

func TestCall(t *testing.T) {
	c := connect(t, &world{call: func(_ context.Context, call agent.Call) (agent.Result, error) {
		switch call.Method {
		case "add":
			return agent.Result{Value: json.RawMessage(fmt.Sprintf(`{"sum":%s,"name":%q,"key":%q}`, call.Args[0], call.Agent.Name, call.Key))}, nil
		case "fail":
			return agent.Result{}, &agent.Error{Op: "call fail", Agent: call.Agent, Kind: agent.Exception, Name: "RangeError", Msg: "too far", Stack: "at fail (a.ts:1:2)"}
		}
		return agent.Result{}, nil
	}}, server.Config{})
	ctx := testContext(t)
	a := c.Agent("Counter", "ä/b")

	value, err := a.Call(ctx, "add", []json.RawMessage{json.RawMessage("2")}, client.WithKey("k"))
	if err != nil || string(value) != `{"sum":2,"name":"ä/b","key":"k"}` {
		t.Errorf("%s %v", value, err)
	}
	var sum struct{ Sum int }
	if err := a.Invoke(ctx, "add", &sum, 5); err != nil || sum.Sum != 5 {
		t.Errorf("%v %v", sum, err)
	}
	if value, err = a.Call(ctx, "nothing", nil); err != nil || value != nil {
		t.Errorf("undefined is %q %v", value, err)
	}
	var untouched = 7
	if err := a.Invoke(ctx, "nothing", &untouched); err != nil || untouched != 7 {
		t.Errorf("undefined became %d %v", untouched, err)
	}

	_, err = a.Call(ctx, "fail", nil)
	var e *agent.Error
	if !errors.As(err, &e) || e.Kind != agent.Exception || e.Name != "RangeError" || e.Stack != "at fail (a.ts:1:2)" || e.Agent != a.ID() {
		t.Errorf("exception came as %#v", err)
	}
	if err.Error() != "call fail Counter/ä/b: too far" {
		t.Errorf("text %q", err)
	}
	wantError(t, a.Invoke(ctx, "add", nil, func() {}), agent.Unserializable, "argument 1 has no JSON form")
	wantError(t, a.Invoke(ctx, "add", &untouched, 1), agent.Unserializable, "does not fit into *int")
	_, err = a.Call(ctx, "add", []json.RawMessage{json.RawMessage("x")})
	wantError(t, err, agent.Invalid, "argument 1 is not JSON")
	_, err = a.Call(ctx, "\xff", nil)
	wantError(t, err, agent.Invalid, "not UTF-8")
	_, _, err = c.Agent("Counter", "").State(ctx)
	wantError(t, err, agent.Invalid, "agent name is empty")
	for _, err := range c.Agent("Counter", "\xff").WatchState(ctx) {
		wantError(t, err, agent.Invalid, "not valid UTF-8")
	}
}

// platform is a client of agents that answer the platform's methods with fixed
// results; last tells what they were asked last.
func platform(t *testing.T) (w *world, a *client.Agent, last func() string) {
	w = &world{results: map[string]string{
		agent.MethodStateGet:    `{"state":{"n":1}}`,
		agent.MethodStateSet:    `null`,
		agent.MethodSQLQuery:    `{"columns":["a","b"],"rows":[[1,"x"],[1.5,null],[{"$base64":"AP8="},9007199254740993]],"truncated":true}`,
		agent.MethodKVGet:       `{"entries":{"a":1}}`,
		agent.MethodKVPut:       `null`,
		agent.MethodKVDelete:    `{"deleted":1}`,
		agent.MethodKVList:      `{"entries":[{"key":"a","value":[1]}]}`,
		agent.MethodFiberList:   `{"fibers":[{"fiberId":"f","name":"n","status":"running","createdAt":1700000000000}]}`,
		agent.MethodFiberGet:    `{"fiberId":"f","name":"n","status":"completed","snapshot":{"step":2},"createdAt":1700000000000,"settledAt":1700000000001}`,
		agent.MethodFiberCancel: `{"cancelled":true}`,
	}}
	return w, connect(t, w, server.Config{}).Agent("C", "n"), func() string {
		call := w.calls[len(w.calls)-1]
		return call.Method + string(call.Args[0])
	}
}

func TestStateAndQuery(t *testing.T) {
	w, a, last := platform(t)
	ctx := testContext(t)
	state, ok, err := a.State(ctx)
	if err != nil || !ok || string(state) != `{"n":1}` {
		t.Errorf("%s %v %v", state, ok, err)
	}
	w.results[agent.MethodStateGet] = `{}`
	if state, ok, err = a.State(ctx); err != nil || ok || state != nil {
		t.Errorf("%s %v %v", state, ok, err)
	}
	if err := a.SetState(ctx, json.RawMessage("[]")); err != nil || last() != `state.set{"state":[]}` {
		t.Errorf("%v %s", err, last())
	}
	table, err := a.Query(ctx, "SELECT ?", nil, true, 1, 2.0, "x", []byte{1}, uint64(3))
	if err != nil || last() != `sql.query{"query":"SELECT ?","args":[null,1,1,2.0,"x",{"$base64":"AQ=="},3],"maxRows":1000}` {
		t.Errorf("%v %s", err, last())
	}
	if got := fmt.Sprintf("%#v", table); got != `&client.Table{Columns:[]string{"a", "b"}, Rows:[][]interface {}{[]interface {}{1, "x"}, []interface {}{1.5, interface {}(nil)}, []interface {}{[]uint8{0x0, 0xff}, 9007199254740993}}, Truncated:true}` {
		t.Errorf("table %s", got)
	}
	_, err = a.Query(ctx, "SELECT ?", struct{}{})
	wantError(t, err, agent.Invalid, "SQL parameter 1 has type struct {}")
	_, err = a.Query(ctx, "SELECT ?", uint64(1<<63))
	wantError(t, err, agent.Invalid, "63 bits")
	_, err = a.Query(ctx, "SELECT ?", "\xff")
	wantError(t, err, agent.Invalid, "pass []byte for a blob")
}

func TestKV(t *testing.T) {
	_, a, last := platform(t)
	ctx := testContext(t)
	values, err := a.KVGet(ctx, "a", "b")
	if err != nil || string(values["a"]) != "1" || len(values) != 1 || last() != `kv.get{"keys":["a","b"]}` {
		t.Errorf("%v %v %s", values, err, last())
	}
	if err := a.KVPut(ctx, map[string]json.RawMessage{"a": json.RawMessage("1")}); err != nil || last() != `kv.put{"entries":{"a":1}}` {
		t.Errorf("%v %s", err, last())
	}
	if n, err := a.KVDelete(ctx, "a"); err != nil || n != 1 {
		t.Errorf("%d %v", n, err)
	}
	list, err := a.KVList(ctx, client.KVRange{Prefix: "a", Limit: 5, Reverse: true})
	if err != nil || len(list) != 1 || list[0].Key != "a" || last() != `kv.list{"prefix":"a","limit":5,"reverse":true}` {
		t.Errorf("%v %v %s", list, err, last())
	}
	_, err = a.KVGet(ctx)
	wantError(t, err, agent.Invalid, "names no key")
	_, err = a.KVList(ctx, client.KVRange{Limit: -1})
	wantError(t, err, agent.Invalid, "limit is -1")
	_, err = a.KVGet(ctx, "\xff")
	wantError(t, err, agent.Invalid, "not UTF-8")
}

func TestFibersAndAdministration(t *testing.T) {
	_, a, last := platform(t)
	ctx := testContext(t)
	fibers, err := a.Fibers(ctx, client.FiberFilter{Status: []string{"running"}})
	if err != nil || len(fibers) != 1 || fibers[0].Status != "running" || !fibers[0].CreatedAt.Equal(time.UnixMilli(1_700_000_000_000)) || last() != `fiber.list{"status":["running"]}` {
		t.Errorf("%v %v %s", fibers, err, last())
	}
	_, err = a.Fibers(ctx, client.FiberFilter{Status: []string{"done"}})
	wantError(t, err, agent.Invalid, `fiber status "done" is not known; it is one of`)
	fiber, err := a.Fiber(ctx, "f")
	if err != nil || string(fiber.Snapshot) != `{"step":2}` || fiber.Metadata != nil || fiber.SettledAt.IsZero() || !fiber.StartedAt.IsZero() {
		t.Errorf("%+v %v", fiber, err)
	}
	if ok, err := a.CancelFiber(ctx, "f", "why"); err != nil || !ok || last() != `fiber.cancel{"id":"f","reason":"why"}` {
		t.Errorf("%v %v %s", ok, err, last())
	}
	info, err := a.Describe(ctx)
	if err != nil || info.ID() != a.ID() || info.Phase != "live" || info.Turns != 3 {
		t.Errorf("%+v %v", info, err)
	}
	if err := errors.Join(a.Delete(ctx), a.Unquarantine(ctx)); err != nil {
		t.Error(err)
	}
}

func TestCluster(t *testing.T) {
	w := &world{}
	for i := range 2500 {
		w.entries = append(w.entries, storage.Entry{ID: agent.ID{Namespace: "default", Class: "C", Name: fmt.Sprintf("%05d", i)}})
	}
	var notReady error
	c := connect(t, w, server.Config{Version: "1.2.3", Ready: func() error { return notReady }})
	ctx := testContext(t)

	page, err := c.List(ctx, client.ListOptions{After: w.entries[9].ID, Limit: 2})
	if err != nil || len(page) != 2 || page[0].Name != "00010" || !page[0].Exists {
		t.Errorf("%v %v", page, err)
	}
	seen := 0
	for info, err := range c.ListAll(ctx, "C") {
		if err != nil || info.ID() != w.entries[seen].ID {
			t.Fatalf("agent %d is %v %v", seen, info, err)
		}
		seen++
	}
	if seen != len(w.entries) {
		t.Errorf("saw %d agents of %d", seen, len(w.entries))
	}
	_, err = c.List(ctx, client.ListOptions{Limit: 1001})
	wantError(t, err, agent.Invalid, "limit is 1001")

	deployed, err := c.Deploy(ctx, client.Deployment{Code: []byte("x")})
	if err != nil || len(deployed) != 1 || deployed[0].Class != "C" || len(deployed[0].Bundle) != 64 || deployed[0].DeployedAt.UnixMilli() != 5 {
		t.Errorf("%v %v", deployed, err)
	}
	_, err = c.Deploy(ctx, client.Deployment{Code: make([]byte, 33<<20)})
	wantError(t, err, agent.TooLarge, "at most 33554432")
	if classes, err := c.Classes(ctx); err != nil || len(classes) != 2 {
		t.Errorf("%v %v", classes, err)
	}
	if versions, err := c.Class(ctx, "C"); err != nil || versions[0].Version != 2 {
		t.Errorf("%v %v", versions, err)
	}
	if v, err := c.Rollback(ctx, "C", 1); err != nil || v.Version != 3 {
		t.Errorf("%v %v", v, err)
	}
	if version, err := c.Version(ctx); err != nil || version != "1.2.3" {
		t.Errorf("%s %v", version, err)
	}
	if err := c.Health(ctx); err != nil {
		t.Error(err)
	}
	notReady = errors.New("replaying the log")
	err = c.Health(ctx)
	wantError(t, err, agent.Unavailable, "does not accept calls: replaying the log")
	if !client.NotServing(err) || client.NotServing(nil) {
		t.Error("NotServing is wrong")
	}
}

func TestDial_Refused(t *testing.T) {
	for want, opt := range map[string]client.Option{
		`"localhost" is no address`: client.WithAddr("localhost"),
		`":7600" is no address`:     client.WithAddr(":7600"),
		"namespace":                 client.WithNamespace("A"),
		"the token holds a space":   client.WithToken("a\n"),
	} {
		_, err := client.Dial(context.Background(), opt)
		wantError(t, err, agent.Invalid, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := client.Dial(ctx)
	wantError(t, err, agent.Canceled, "")
}

// A token leaves the machine only encrypted, unless somebody says otherwise.
func TestDial_KeepsTokensOffPlainNetworks(t *testing.T) {
	token := client.WithToken("agentd_secret")
	for _, addr := range []string{"db.example:7600", "10.0.0.1:7600", "[2001:db8::1]:7600", "localhost.example:7600"} {
		_, err := client.Dial(context.Background(), client.WithAddr(addr), token)
		wantError(t, err, agent.Denied, "would travel to "+addr+" unencrypted")
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the message holds the token: %v", err)
		}
		for _, allowed := range []client.Option{client.WithTLS(&tls.Config{MinVersion: tls.VersionTLS13}), client.WithPlainToken()} {
			if err := dial(t, client.WithAddr(addr), token, allowed).Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for _, addr := range []string{"localhost:1", "127.0.0.1:1", "[::1]:1"} {
		if err := dial(t, client.WithAddr(addr), token).Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	c := dial(t, client.WithAddr(addr))
	ctx := testContext(t)
	want := "cannot reach agentd at " + addr + "; is `agentd serve` running there?: dial tcp " + addr
	_, err = c.Agent("C", "n").Call(ctx, "m", nil)
	wantError(t, err, agent.Unavailable, want)
	wantError(t, c.Health(ctx), agent.Unavailable, want)
	for _, err := range c.Agent("C", "n").WatchState(ctx) {
		wantError(t, err, agent.Unavailable, want)
	}
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	wantError(t, c.Health(ctx), agent.Canceled, "the client was closed")
}

func TestContextEnds(t *testing.T) {
	entered := make(chan struct{}, 1)
	c := connect(t, &world{call: func(ctx context.Context, call agent.Call) (agent.Result, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return agent.Result{}, agent.FromContext(ctx, "call", call.Agent)
	}}, server.Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Agent("C", "n").Call(ctx, "m", nil)
	wantError(t, err, agent.Deadline, " C/n: ")
	<-entered
	ctx, cancel = context.WithCancel(context.Background())
	go func() { <-entered; cancel() }()
	_, err = c.Agent("C", "n").Call(ctx, "m", nil)
	wantError(t, err, agent.Canceled, "gave up waiting")
}

// fragile is a service that fails as it is told, in ways that a whole server does
// not.
type fragile struct {
	agentdv1.UnimplementedAgentServiceServer
	invoke func(context.Context) error
	watch  func(grpc.ServerStreamingServer[agentdv1.WatchStateResponse]) error
}

func (f *fragile) Invoke(ctx context.Context, _ *agentdv1.InvokeRequest) (*agentdv1.InvokeResponse, error) {
	return &agentdv1.InvokeResponse{Result: []byte("1")}, f.invoke(ctx)
}

func (f *fragile) WatchState(_ *agentdv1.WatchStateRequest, stream grpc.ServerStreamingServer[agentdv1.WatchStateResponse]) error {
	return f.watch(stream)
}

func connectFragile(t *testing.T, f *fragile, opts ...client.Option) (*client.Client, *grpc.Server) {
	s := grpc.NewServer()
	agentdv1.RegisterAgentServiceServer(s, f)
	lis := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	c := dial(t, append(opts, client.WithDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))...)
	t.Cleanup(func() {
		_ = c.Close()
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c, s
}

func TestBrokenConnection_OutcomeUnknown(t *testing.T) {
	entered := make(chan struct{})
	c, s := connectFragile(t, &fragile{invoke: func(ctx context.Context) error { close(entered); <-ctx.Done(); return ctx.Err() }})
	go func() { <-entered; s.Stop() }()
	_, err := c.Agent("C", "n").Call(testContext(t), "m", nil)
	wantError(t, err, agent.OutcomeUnknown, "whether the request took effect is unknown")
}

func TestOldServer(t *testing.T) {
	c, _ := connectFragile(t, &fragile{})
	wantError(t, c.Health(testContext(t)), agent.Invalid, "does not offer this")
}

func TestToken(t *testing.T) {
	var got []string
	c, _ := connectFragile(t, &fragile{invoke: func(ctx context.Context) error {
		md, _ := metadata.FromIncomingContext(ctx)
		got = md.Get("authorization")
		return nil
	}}, client.WithToken("t0ken"))
	if _, err := c.Agent("C", "n").Call(testContext(t), "m", nil); err != nil || len(got) != 1 || got[0] != "Bearer t0ken" {
		t.Errorf("%v %v", got, err)
	}
}

func TestWatchState(t *testing.T) {
	left := make(chan struct{})
	send := func(stream grpc.ServerStreamingServer[agentdv1.WatchStateResponse], states ...string) {
		for _, state := range states {
			if state == "" {
				_ = stream.Send(&agentdv1.WatchStateResponse{})
				continue
			}
			_ = stream.Send(&agentdv1.WatchStateResponse{State: []byte(state)})
		}
	}
	f := &fragile{}
	c, _ := connectFragile(t, f)
	a := c.Agent("C", "n")
	read := func(ctx context.Context, stop int) (got []string, last error) {
		for state, err := range a.WatchState(ctx) {
			if last = err; err != nil {
				continue
			}
			if got = append(got, string(state)); len(got) == stop {
				break
			}
		}
		return got, last
	}
	t.Run("left by the reader", func(t *testing.T) {
		f.watch = func(stream grpc.ServerStreamingServer[agentdv1.WatchStateResponse]) error {
			send(stream, "", "1", "2")
			<-stream.Context().Done()
			close(left)
			return nil
		}
		if got, err := read(testContext(t), 3); err != nil || strings.Join(got, ",") != ",1,2" {
			t.Errorf("%v %v", got, err)
		}
		<-left
	})
	t.Run("ended by the server", func(t *testing.T) {
		f.watch = func(stream grpc.ServerStreamingServer[agentdv1.WatchStateResponse]) error {
			send(stream, "1")
			return nil
		}
		got, err := read(testContext(t), 0)
		if len(got) != 1 {
			t.Errorf("got %v", got)
		}
		wantError(t, err, agent.Unavailable, "watch again")
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		f.watch = func(stream grpc.ServerStreamingServer[agentdv1.WatchStateResponse]) error {
			cancel()
			<-stream.Context().Done()
			return nil
		}
		_, err := read(ctx, 0)
		wantError(t, err, agent.Canceled, "")
	})
}

// Each try and each pause of a call with a key, in fake time.
func TestRetry(t *testing.T) {
	for _, c := range []struct {
		name  string
		key   string
		kinds []agent.Kind // of the tries, in order; then success
		tries int32
		want  agent.Kind // Internal for success
		least time.Duration
	}{
		{"without a key", "", []agent.Kind{agent.Unavailable}, 1, agent.Unavailable, 0},
		{"recovers", "k", []agent.Kind{agent.Unavailable, agent.OutcomeUnknown, agent.Reset}, 4, agent.Internal, 700 * time.Millisecond},
		{"gives up", "k", []agent.Kind{agent.Reset, agent.Reset, agent.Reset, agent.Reset, agent.Reset}, 5, agent.Reset, 1500 * time.Millisecond},
		{"final failure", "k", []agent.Kind{agent.Exception}, 1, agent.Exception, 0},
		{"overloaded is the caller's to pace", "k", []agent.Kind{agent.Overloaded}, 1, agent.Overloaded, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tries atomic.Int32
				cl := connect(t, &world{call: func(_ context.Context, call agent.Call) (agent.Result, error) {
					n := int(tries.Add(1))
					if n <= len(c.kinds) {
						return agent.Result{}, &agent.Error{Kind: c.kinds[n-1], Msg: "try again"}
					}
					return agent.Result{Value: json.RawMessage("1")}, nil
				}}, server.Config{})
				begun := time.Now()
				_, err := cl.Agent("C", "n").Call(t.Context(), "m", nil, client.WithKey(c.key))
				took := time.Since(begun)
				if tries.Load() != c.tries || (err == nil) != (c.want == agent.Internal) || err != nil && agent.KindOf(err) != c.want {
					t.Errorf("%d tries, %v", tries.Load(), err)
				}
				if took < c.least || took > c.least*3/2 {
					t.Errorf("took %v, pauses are %v to %v", took, c.least, c.least*3/2)
				}
			})
		})
	}
	t.Run("within the deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cl := connect(t, &world{call: func(context.Context, agent.Call) (agent.Result, error) {
				return agent.Result{}, &agent.Error{Kind: agent.Reset, Msg: "out of memory"}
			}}, server.Config{})
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			defer cancel()
			_, err := cl.Agent("C", "n").Call(ctx, "m", nil, client.WithKey("k"))
			if agent.KindOf(err) != agent.Deadline || !strings.Contains(err.Error(), "out of memory") {
				t.Errorf("%v", err)
			}
		})
	})
}
