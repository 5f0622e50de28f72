package node

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"agentd/internal/bundle"
	"agentd/pkg/agent"
	"agentd/pkg/client"
	agentdv1 "agentd/proto/agentd/v1"
)

// patience is how long a test waits for what must come; only a failure uses it up.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		os.Exit(code)
	}))
}

// world is a node on a folder of its own, with a client and a bare connection.
type world struct {
	*testing.T
	ctx    context.Context // ends with patience
	cfg    Config
	node   *Node
	client *client.Client
	raw    agentdv1.AgentServiceClient
	conn   *grpc.ClientConn
}

// start starts a node; change may alter its configuration.
func start(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{T: t, cfg: local(t.TempDir())}
	if change != nil {
		change(&w.cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	w.ctx = ctx
	t.Cleanup(cancel)
	w.open()
	t.Cleanup(func() { // a test may have closed it
		if err := w.close(); err != nil && !t.Failed() {
			t.Errorf("close: %v", err)
		}
	})
	return w
}

func local(dir string) Config {
	return Config{DataDir: dir, GRPCAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Name: "n1", Memory: 2 << 30, SegmentBytes: 1 << 20, Version: "test"}
}

func (w *world) open() {
	w.Helper()
	var err error
	if w.node, err = Start(w.ctx, w.cfg); err != nil {
		w.Fatal(err)
	}
	w.client = w.dial(agent.DefaultNamespace)
	if w.conn, err = grpc.NewClient("passthrough:///"+w.node.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		w.Fatal(err)
	}
	w.raw = agentdv1.NewAgentServiceClient(w.conn)
	conn := w.conn
	w.Cleanup(func() { _ = conn.Close() })
}

// dial speaks for another tenant.
func (w *world) dial(namespace string) *client.Client {
	w.Helper()
	c, err := client.Dial(w.ctx, client.WithAddr(w.node.GRPCAddr()), client.WithNamespace(namespace))
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.node.Close(ctx)
}

// deploy bundles one TypeScript file, named agent.ts, and deploys it.
func (w *world) deploy(source string) []client.ClassInfo {
	w.Helper()
	return w.deployTo(w.client, source)
}

func (w *world) deployTo(c *client.Client, source string) []client.ClassInfo {
	w.Helper()
	made, err := c.Deploy(w.ctx, w.bundle(source))
	if err != nil {
		w.Fatalf("deploy: %v", err)
	}
	return made
}

func (w *world) bundle(source string) client.Deployment {
	w.Helper()
	out, err := build(w.TempDir(), source)
	if err != nil {
		w.Fatal(err)
	}
	return client.Deployment{Code: out.Code, SourceMap: out.SourceMap}
}

func build(dir, source string) (*bundle.Output, error) {
	if !strings.Contains(source, "import ") {
		source = `import { Agent, callable, getAgentByName } from "agents";` + "\n" + source
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.ts"), []byte(source), 0o600); err != nil {
		return nil, err
	}
	return bundle.Build(bundle.Options{Files: []string{"agent.ts"}, WorkDir: dir})
}

// call runs a method that must succeed and returns its result as JSON; "" is
// undefined.
func (w *world) call(id, method string, args ...any) string {
	w.Helper()
	var out rawResult
	if err := w.agent(id).Invoke(w.ctx, method, &out, args...); err != nil {
		w.Fatalf("%s %s: %v", id, method, err)
	}
	return string(out)
}

func (w *world) expect(want, id, method string, args ...any) {
	w.Helper()
	if got := w.call(id, method, args...); got != want {
		w.Errorf("%s %s = %s, want %s", id, method, got, want)
	}
}

type rawResult []byte

func (r *rawResult) UnmarshalJSON(data []byte) error { *r = append((*r)[:0], data...); return nil }

// agent addresses Class/name.
func (w *world) agent(id string) *client.Agent {
	class, name, _ := strings.Cut(id, "/")
	return w.client.Agent(class, name)
}

// invoke is a call as any gRPC program makes it, with nothing checked before.
func (w *world) invoke(ctx context.Context, class, name, method string, args ...string) error {
	req := &agentdv1.InvokeRequest{Agent: &agentdv1.AgentRef{Class: class, Name: name}, Method: method}
	for _, arg := range args {
		req.Args = append(req.Args, []byte(arg))
	}
	_, err := w.raw.Invoke(ctx, req)
	return err
}

// detailOf is agentd's part of a gRPC error; nil if there is none.
func detailOf(err error) *agentdv1.ErrorDetail {
	for _, d := range status.Convert(err).Details() {
		if detail, ok := d.(*agentdv1.ErrorDetail); ok {
			return detail
		}
	}
	return nil
}

// await polls until ok.
func (w *world) await(what string, ok func() bool) {
	w.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-w.ctx.Done():
			w.Fatalf("waited in vain for: %s", what)
		case <-tick.C:
		}
	}
}

// phase is where an agent stands.
func (w *world) phase(id string) string {
	w.Helper()
	info, err := w.agent(id).Describe(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	return info.Phase
}

func asError(t *testing.T, err error) *agent.Error {
	t.Helper()
	var e *agent.Error
	if !errors.As(err, &e) {
		t.Fatalf("%T %v is no *agent.Error", err, err)
	}
	return e
}
