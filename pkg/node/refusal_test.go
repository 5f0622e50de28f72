package node

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"agentd/pkg/agent"
	"agentd/pkg/client"
	agentdv1 "agentd/proto/agentd/v1"
)

// The line numbers below are those of this text plus one: an import stands before.
const badSource = `
export class Bad extends Agent<{}, { n: number } | unknown> {
  initialState = { n: 1 };
  onStart() {
    this.sql` + "`CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v TEXT NOT NULL)`" + `;
  }
  echo(v: unknown) { return v; }
  _hidden() { return "secret"; }
  get getter() { throw new Error("triggered"); }
  field = () => 1;
  fail(): number {
    throw new RangeError("out of luck");
  }
  async failLater() {
    await Promise.resolve();
    null!.x;
  }
  throwsText() { throw "just text"; }
  stateOf(kind: string) { this.setState(bad(kind)); }
  resultOf(kind: string) { return bad(kind); }
  syntax() { return this.sql` + "`SELEC 1`" + `; }
  missing() { return this.sql` + "`SELECT * FROM nowhere`" + `; }
  constraint() { this.sql` + "`INSERT INTO t VALUES(1, ${null})`" + `; }
  attach() { this.sql` + "`ATTACH 'x' AS y`" + `; }
  own() { return this.sql` + "`SELECT * FROM agentd_meta`" + `; }
  endless() { for (;;) {} }
  deep(): unknown { return [this.deep()]; }
}
function bad(kind: string): unknown {
  const cycle: Record<string, unknown> = {};
  cycle.self = cycle;
  return { cycle: { n: 2, cycle }, bigint: { n: 2, b: 5n }, function: () => 1, symbol: Symbol("x") }[kind];
}
`

// line is where a text stands in badSource, as the author's file has it.
func line(t *testing.T, text string) string {
	t.Helper()
	before, _, ok := strings.Cut(badSource, text)
	if !ok {
		t.Fatalf("the source has no %q", text)
	}
	return fmt.Sprintf("agent.ts:%d", strings.Count(before, "\n")+2)
}

// Every bad request has its own words, kind and gRPC code.
func TestNode_BadRequests(t *testing.T) {
	w := start(t, nil)
	w.deploy(badSource)
	private := func(method string) badRequest {
		return badRequest{class: "Bad", method: method, kind: agent.NotCallable, code: codes.PermissionDenied, say: []string{method, "private or inherited"}}
	}
	exception := func(method string, say ...string) badRequest {
		return badRequest{class: "Bad", method: method, kind: agent.Exception, code: codes.Unknown, say: say}
	}
	sql := func(method, source string, say ...string) badRequest {
		return badRequest{class: "Bad", method: method, kind: agent.SQL, code: codes.InvalidArgument, say: say, stack: line(t, source)}
	}
	unserializable := func(method, kind string, say ...string) badRequest {
		return badRequest{class: "Bad", method: method, args: []string{`"` + kind + `"`}, kind: agent.Unserializable, code: codes.Unknown, say: say}
	}
	for name, c := range map[string]badRequest{
		"unknown class":     {class: "Nope", method: "x", kind: agent.UnknownClass, code: codes.NotFound, say: []string{`"Nope"`, "deploy"}},
		"class is no name":  {class: "9 lives", method: "x", kind: agent.Invalid, code: codes.InvalidArgument, say: []string{"9 lives", "identifier"}},
		"unknown method":    {class: "Bad", method: "ecko", kind: agent.UnknownMethod, code: codes.Unimplemented, say: []string{`no method "ecko"`, `Did you mean "echo"?`}},
		"no method":         {class: "Bad", kind: agent.Invalid, code: codes.InvalidArgument, say: []string{"method name is empty"}},
		"long method":       {class: "Bad", method: strings.Repeat("m", 257), kind: agent.Invalid, code: codes.InvalidArgument, say: []string{"257", "256"}},
		"constructor":       private("constructor"),
		"__proto__":         private("__proto__"),
		"inherited sql":     private("sql"),
		"inherited hook":    private("onStart"),
		"inherited setter":  private("setState"),
		"of every object":   private("toString"),
		"hidden":            private("_hidden"),
		"getter":            private("getter"),
		"field":             private("field"),
		"state is a getter": private("state"),
		"argument is not JSON": {class: "Bad", method: "echo", args: []string{"1", "{a:1}"}, kind: agent.Invalid, code: codes.InvalidArgument,
			say: []string{"argument 2 is not JSON", "{a:1}"}},
		"argument is empty": {class: "Bad", method: "echo", args: []string{""}, kind: agent.Invalid, code: codes.InvalidArgument, say: []string{"argument 1 is not JSON"}},
		"arguments of 17 MB": {class: "Bad", method: "echo", args: []string{`"` + strings.Repeat("x", 17<<20) + `"`}, kind: agent.TooLarge, code: codes.ResourceExhausted,
			say: []string{"17825794", "16777216"}},
		"empty name":    {class: "Bad", noName: true, method: "echo", kind: agent.Invalid, code: codes.InvalidArgument, say: []string{"agent name is empty"}},
		"600-byte name": {class: "Bad", name: strings.Repeat("n", 600), method: "echo", kind: agent.Invalid, code: codes.InvalidArgument, say: []string{"600", "512"}},
		"name with NUL": {class: "Bad", name: "a\x00b", method: "echo", kind: agent.Invalid, code: codes.InvalidArgument, say: []string{"NUL"}},
		"throws":        with(exception("fail", "out of luck"), "RangeError", line(t, `throw new RangeError`)),
		"throws later":  with(exception("failLater", "Cannot read propert"), "TypeError", line(t, `null!.x`)),
		"throws text":   exception("throwsText", "just text"),
		"recursion":     with(exception("deep", "Maximum call stack size exceeded"), "RangeError", line(t, "return [this.deep()]")),
		"SQL syntax":    sql("syntax", "SELEC 1", "syntax error"),
		"SQL table":     sql("missing", "SELECT * FROM nowhere", "no such table: nowhere"),
		"SQL rule":      sql("constraint", "INSERT INTO t", "NOT NULL constraint failed: t.v"),
		"SQL attach":    sql("attach", "ATTACH 'x'", "ATTACH is not available"),
		"SQL ours":      sql("own", "FROM agentd_meta", "agentd_"),
		"state cycle":   unserializable("stateOf", "cycle", "state"), "state BigInt": unserializable("stateOf", "bigint", "state"),
		"state function": unserializable("stateOf", "function", "state"), "state symbol": unserializable("stateOf", "symbol", "state"),
		"result cycle": unserializable("resultOf", "cycle", "the result"), "result BigInt": unserializable("resultOf", "bigint", "the result"),
		"result function": unserializable("resultOf", "function", "the result"), "result symbol": unserializable("resultOf", "symbol", "the result"),
	} {
		t.Run(name, func(t *testing.T) { c.check(t, w) })
	}
	t.Run("the old state is still there", func(t *testing.T) {
		state, ok, err := w.agent("Bad/a").State(w.ctx)
		if err != nil || !ok || string(state) != `{"n":1}` {
			t.Errorf("state is %s, %v, %v", state, ok, err)
		}
		table, err := w.agent("Bad/a").Query(w.ctx, "SELECT state FROM cf_agents_state")
		if err != nil || len(table.Rows) != 1 || table.Rows[0][0] != `{"n":1}` {
			t.Errorf("stored: %+v, %v", table, err)
		}
	})
	t.Run("the agent still works", func(t *testing.T) { w.expect(`{"a":[1]}`, "Bad/a", "echo", map[string][]int{"a": {1}}) })
}

// A turn that runs past its budget is stopped, and the agent goes on.
func TestNode_OverBudget(t *testing.T) {
	w := start(t, func(c *Config) { c.TurnBudget = 50 * time.Millisecond })
	w.deploy(badSource)
	badRequest{class: "Bad", method: "endless", kind: agent.CPULimit, code: codes.ResourceExhausted, say: []string{"50ms", "--turn-budget"}}.check(t, w)
	w.expect(`1`, "Bad/a", "echo", 1)
	if info, err := w.agent("Bad/a").Describe(w.ctx); err != nil || info.Resets != 1 || !strings.Contains(info.LastReset, "cpu_limit") {
		t.Errorf("%+v, %v", info, err)
	}
}

// badRequest is a call and how it must be refused.
type badRequest struct {
	class, name, method string
	noName              bool
	args                []string
	kind                agent.Kind
	code                codes.Code
	say                 []string // in the message
	errorName           string   // of what was thrown
	stack               string   // file:line in the author's stack
}

func with(c badRequest, errorName, stack string) badRequest {
	c.errorName, c.stack = errorName, stack
	return c
}

func (c badRequest) check(t *testing.T, w *world) {
	t.Helper()
	name := c.name
	if name == "" && !c.noName {
		name = "a"
	}
	err := w.invoke(w.ctx, c.class, name, c.method, c.args...)
	st, detail := status.Convert(err), detailOf(err)
	if err == nil || detail == nil {
		t.Fatalf("got %v with detail %v", err, detail)
	}
	if detail.GetKind() != c.kind.String() || st.Code() != c.code {
		t.Errorf("kind %s, code %v, want %s, %v: %s", detail.GetKind(), st.Code(), c.kind, c.code, st.Message())
	}
	for _, text := range c.say {
		if !strings.Contains(st.Message(), text) {
			t.Errorf("the message %q lacks %q", st.Message(), text)
		}
	}
	if c.errorName != "" && detail.GetName() != c.errorName {
		t.Errorf("name of the error is %q, want %q", detail.GetName(), c.errorName)
	}
	if !strings.Contains(detail.GetStack(), c.stack) {
		t.Errorf("the stack lacks %s:\n%s", c.stack, detail.GetStack())
	}
	for _, text := range []string{"goroutine", "/pkg/", "panic"} {
		if strings.Contains(st.Message(), text) || strings.Contains(detail.GetStack(), text) {
			t.Errorf("something of the server shows: %s\n%s", st.Message(), detail.GetStack())
		}
	}
}

// What cannot be loaded is not deployed, and the author learns where it is wrong.
func TestNode_BadDeployments(t *testing.T) {
	w := start(t, nil)
	w.deploy(`export class A extends Agent { version() { return 1; } }`)
	t.Run("throws while loading", func(t *testing.T) {
		w := &world{T: t, ctx: w.ctx, client: w.client}
		_, err := w.client.Deploy(w.ctx, w.bundle("const settings: any = undefined;\nexport class A extends Agent { version() { return 2; } }\n  console.log(settings.key);\n"))
		e := asError(t, err)
		for _, text := range []string{"TypeError", "agent.ts:4:23", "console.log(settings.key);"} {
			if e.Kind != agent.Compile || !strings.Contains(err.Error(), text) {
				t.Errorf("kind %v lacks %q: %v", e.Kind, text, err)
			}
		}
	})
	t.Run("does not compile on the server", func(t *testing.T) {
		_, err := w.client.Deploy(w.ctx, client.Deployment{Code: []byte("(function (exports, require, module) {\n  let x = ;\n})")})
		e := asError(t, err)
		for _, text := range []string{":2:11", "let x = ;"} {
			if e.Kind != agent.Compile || !strings.Contains(err.Error(), text) {
				t.Errorf("kind %v lacks %q: %v", e.Kind, text, err)
			}
		}
	})
	t.Run("does not compile at the author's", func(t *testing.T) {
		_, err := build(t.TempDir(), "export class A extends Agent {\n  version() { return 2 +; }\n}\n")
		for _, text := range []string{"agent.ts:3:25", "version() { return 2 +; }"} {
			if agent.KindOf(err) != agent.Compile || !strings.Contains(err.Error(), text) {
				t.Errorf("kind %v lacks %q: %v", agent.KindOf(err), text, err)
			}
		}
	})
	t.Run("no class", func(t *testing.T) {
		_, err := w.client.Deploy(w.ctx, client.Deployment{Code: []byte("(function (exports) { exports.x = 1; })")})
		if agent.KindOf(err) != agent.Compile || !strings.Contains(err.Error(), "extends Agent") {
			t.Errorf("%v", err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		req := &agentdv1.DeployRequest{Code: make([]byte, 32<<20+1)}
		_, err := agentdv1.NewClassServiceClient(w.conn).Deploy(w.ctx, req)
		if detail := detailOf(err); detail.GetKind() != agent.TooLarge.String() || status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%v", err)
		}
	})
	t.Run("version to roll back to", func(t *testing.T) {
		_, err := w.client.Rollback(w.ctx, "A", 7)
		if e := asError(t, err); e.Kind != agent.NotFound || !strings.Contains(e.Msg, "7") {
			t.Errorf("%v", err)
		}
	})
	w.expect(`1`, "A/a", "version")
	if versions, err := w.client.Class(w.ctx, "A"); err != nil || len(versions) != 1 {
		t.Errorf("versions are %v, %v", versions, err)
	}
}

// gate is an HTTP server whose answers wait until it is opened.
type gate struct {
	*httptest.Server
	entered chan string // path of each request; buffered
	open    chan struct{}
	once    sync.Once
}

func newGate(t *testing.T) *gate {
	g := &gate{entered: make(chan string, 1000), open: make(chan struct{})}
	g.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		g.entered <- r.URL.Path
		select {
		case <-g.open:
		case <-r.Context().Done():
		}
		_, _ = rw.Write([]byte("open")) // a client that left is no failure
	}))
	t.Cleanup(func() {
		g.release()
		g.Close()
	})
	return g
}

func (g *gate) release() { g.once.Do(func() { close(g.open) }) }

func (w *world) enter(g *gate) {
	w.Helper()
	select {
	case <-g.entered:
	case <-w.ctx.Done():
		w.Fatal("nobody came to the gate")
	}
}

const busySource = `
export class Busy extends Agent {
  n = 0;
  async wait(url: string) { return (await fetch(url)).text(); }
  block(url: string) { return this.ctx.blockConcurrencyWhile(async () => (await fetch(url)).text()); }
  spin(ms: number) { const end = Date.now() + ms; while (Date.now() < end); return ++this.n; }
  ping() { return ++this.n; }
}
`

// The 129th waiting call is refused at once, and the 128 before it all run.
func TestNode_FullMailbox(t *testing.T) {
	w, g := start(t, nil), newGate(t)
	w.deploy(busySource)
	results := make(chan error, 129)
	go func() { results <- w.invoke(w.ctx, "Busy", "a", "block", `"`+g.URL+`"`) }()
	w.enter(g)
	for range 128 {
		go func() { results <- w.invoke(w.ctx, "Busy", "a", "ping") }()
	}
	w.await("128 waiting calls", func() bool {
		info, err := w.agent("Busy/a").Describe(w.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mailbox == 128
	})
	began := time.Now()
	err := w.invoke(w.ctx, "Busy", "a", "ping")
	detail := detailOf(err)
	if detail.GetKind() != agent.Overloaded.String() || !detail.GetRetryable() || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the 129th gives %v, %v", err, detail)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it was refused after %v", took)
	}
	if err := w.invoke(w.ctx, "Busy", "other", "ping"); err != nil {
		t.Errorf("a neighbour: %v", err)
	}
	g.release()
	for range 129 {
		if err := <-results; err != nil {
			t.Errorf("a call that waited: %v", err)
		}
	}
	w.expect(`129`, "Busy/a", "ping")
}

// A deadline ends the wait of the caller, whatever the agent does.
func TestNode_Deadline(t *testing.T) {
	w, g := start(t, nil), newGate(t)
	w.deploy(busySource)
	w.call("Busy/waits", "ping")
	w.call("Busy/spins", "ping")
	for name, arg := range map[string]string{"wait": `"` + g.URL + `"`, "spin": "400"} {
		t.Run(name, func(t *testing.T) {
			best := time.Hour
			for range 3 { // the machine may be busy with other things
				ctx, cancel := context.WithTimeout(w.ctx, 50*time.Millisecond)
				began := time.Now()
				err := w.invoke(ctx, "Busy", name+"s", name, arg)
				took := time.Since(began)
				cancel()
				if status.Code(err) != codes.DeadlineExceeded {
					t.Fatalf("got %v", err)
				}
				if best = min(best, took); best < 100*time.Millisecond {
					return
				}
			}
			t.Errorf("the caller waited %v at best", best)
		})
	}
	err := w.agent("Busy/a").Invoke(expired(t), "ping", nil)
	if agent.KindOf(err) != agent.Deadline {
		t.Errorf("a deadline that has passed: %v", err)
	}
}

func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	t.Cleanup(cancel)
	return ctx
}

func TestNode_ReflectionAndHealth(t *testing.T) {
	w := start(t, nil)
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel() // an open stream would hold up the end of the node
	stream, err := reflectionv1.NewServerReflectionClient(w.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	request := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	sort.Strings(names)
	for _, want := range []string{"agentd.v1.AgentService", "agentd.v1.ClassService", "agentd.v1.ClusterService", "agentd.v1.FiberService", "grpc.health.v1.Health"} {
		if i := sort.SearchStrings(names, want); i == len(names) || names[i] != want {
			t.Errorf("reflection lists %v, not %s", names, want)
		}
	}
	for _, service := range []string{"", "agentd.v1.AgentService"} {
		health, err := healthv1.NewHealthClient(w.conn).Check(w.ctx, &healthv1.HealthCheckRequest{Service: service})
		if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, health, err)
		}
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		resp, err := http.Get("http://" + w.node.HTTPAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", path, resp.Status, err)
		}
	}
}
