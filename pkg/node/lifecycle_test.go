package node

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

// Close lets a call that is about to end have its answer.
func TestNode_CloseWaitsForCalls(t *testing.T) {
	w, g := start(t, nil), newGate(t)
	w.deploy(busySource)
	answer := make(chan error, 1)
	go func() { answer <- w.agent("Busy/a").Invoke(w.ctx, "wait", nil, g.URL) }()
	w.enter(g)
	closed := make(chan error, 1)
	go func() { closed <- w.close() }()
	w.await("refusal of new calls", func() bool {
		err := w.dial(agent.DefaultNamespace).Agent("Busy", "b").Invoke(w.ctx, "ping", nil)
		return agent.KindOf(err) == agent.Unavailable
	})
	g.release()
	if err := <-answer; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	if err := w.close(); err != nil {
		t.Errorf("a second close: %v", err)
	}
}

// When its time is up, Close interrupts what runs; what was acknowledged stays, and
// port and folder are free.
func TestNode_CloseInterruptsAtTheDeadline(t *testing.T) {
	w, g := start(t, func(c *Config) { c.TurnBudget = time.Hour }), newGate(t)
	w.deploy(busySource + dataSource)
	w.call("D/a", "set", 7)
	calls := map[string]chan error{"wait": make(chan error, 1), "spin": make(chan error, 1)}
	go func() { calls["wait"] <- w.agent("Busy/waits").Invoke(w.ctx, "wait", nil, g.URL) }()
	go func() { calls["spin"] <- w.agent("Busy/spins").Invoke(w.ctx, "spin", nil, 3_600_000) }()
	w.enter(g)
	w.await("the spinning turn", func() bool { return w.phase("Busy/spins") == "live" })
	ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := w.node.Close(ctx); !errors.Is(err, context.DeadlineExceeded) && agent.KindOf(err) != agent.Deadline {
		t.Errorf("close: %v", err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("close took %v", took)
	}
	for name, answer := range calls {
		switch err := <-answer; agent.KindOf(err) {
		case agent.Unavailable, agent.OutcomeUnknown, agent.Reset, agent.Canceled:
		default:
			t.Errorf("%s: %v (%v)", name, err, agent.KindOf(err))
		}
	}
	addr := w.node.GRPCAddr()
	w.cfg.GRPCAddr = addr
	w.open()
	if state, _, err := w.agent("D/a").State(w.ctx); err != nil || string(state) != `{"n":7}` {
		t.Errorf("state after the restart is %s, %v", state, err)
	}
}

// Whatever Start fails at, it leaves neither a port nor the folder taken.
func TestStart_FailureLeavesNothingOpen(t *testing.T) {
	running := start(t, nil)
	taken := func() string { return running.node.GRPCAddr() }
	for name, c := range map[string]struct {
		change func(t *testing.T, cfg *Config)
		kind   agent.Kind
		say    string
	}{
		"gRPC port in use": {func(_ *testing.T, cfg *Config) { cfg.GRPCAddr = taken() }, agent.InUse, "--listen"},
		"HTTP port in use": {func(_ *testing.T, cfg *Config) { cfg.HTTPAddr = taken() }, agent.InUse, "--http"},
		"folder in use":    {func(_ *testing.T, cfg *Config) { cfg.DataDir = running.cfg.DataDir }, agent.InUse, "in use"},
		"folder is a file": {func(t *testing.T, cfg *Config) { cfg.DataDir = write(t, filepath.Join(cfg.DataDir, "file"), "x") }, agent.Invalid, "file"},
		"placement table damaged": {func(t *testing.T, cfg *Config) {
			write(t, filepath.Join(prepared(t, cfg), "placement", "table.json"), "{")
		}, agent.Corrupt, "table.json"},
		"placement is not a folder": {func(t *testing.T, cfg *Config) {
			dir := prepared(t, cfg)
			if err := os.RemoveAll(filepath.Join(dir, "placement")); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "placement"), "x")
		}, agent.Denied, "placement"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := local(t.TempDir())
			cfg.GRPCAddr, cfg.HTTPAddr = freeAddr(t), freeAddr(t)
			ports := []string{cfg.GRPCAddr, cfg.HTTPAddr}
			c.change(t, &cfg)
			node, err := Start(t.Context(), cfg)
			if err == nil {
				_ = node.Close(t.Context())
				t.Fatal("it started")
			}
			if agent.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.say) {
				t.Errorf("kind %v: %v; want %v and %q", agent.KindOf(err), err, c.kind, c.say)
			}
			for _, addr := range ports {
				lis, err := net.Listen("tcp", addr)
				if err != nil {
					t.Errorf("left open: %v", err)
					continue
				}
				if err := lis.Close(); err != nil {
					t.Error(err)
				}
			}
			if name == "placement table damaged" { // mended, it starts
				if err := os.Remove(filepath.Join(cfg.DataDir, "placement", "table.json")); err != nil {
					t.Fatal(err)
				}
				node, err := Start(t.Context(), cfg)
				if err != nil {
					t.Fatalf("the folder is still locked: %v", err)
				}
				if err := node.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if err := running.client.Health(running.ctx); err != nil {
		t.Errorf("the node that runs was disturbed: %v", err)
	}
}

// prepared is a data folder that a node has used.
func prepared(t *testing.T, cfg *Config) string {
	t.Helper()
	node, err := Start(t.Context(), *cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return cfg.DataDir
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func freeAddr(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	return lis.Addr().String()
}

func TestConfig_Validate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		kind   agent.Kind
		say    string
	}{
		"no folder":         {func(c *Config) { c.DataDir = "" }, agent.Invalid, "--data"},
		"address":           {func(c *Config) { c.GRPCAddr = "localhost" }, agent.Invalid, "HOST:PORT"},
		"open to others":    {func(c *Config) { c.GRPCAddr = "0.0.0.0:7600" }, agent.Denied, "--insecure"},
		"HTTP open, v6":     {func(c *Config) { c.HTTPAddr = "[::]:7680" }, agent.Denied, "--insecure"},
		"port without host": {func(c *Config) { c.GRPCAddr = ":7600" }, agent.Denied, "--insecure"},
		"memory":            {func(c *Config) { c.Memory = 1 << 20 }, agent.Invalid, "64 MiB"},
		"budget":            {func(c *Config) { c.TurnBudget = time.Millisecond }, agent.Invalid, "10ms"},
		"idle":              {func(c *Config) { c.Idle = -1 }, agent.Invalid, "idle"},
		"live":              {func(c *Config) { c.MaxLive = -1 }, agent.Invalid, "live"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := local("d")
			c.change(&cfg)
			if err := cfg.Validate(); agent.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v, want %v and %q", err, c.kind, c.say)
			}
		})
	}
	cfg := Config{DataDir: "d"}
	if err := cfg.Validate(); err != nil || cfg.GRPCAddr != DefaultGRPCAddr || cfg.Memory < minMemory || cfg.Name == "" || cfg.Log == nil {
		t.Errorf("defaults: %+v, %v", cfg, err)
	}
	cfg = local("d")
	cfg.GRPCAddr, cfg.HTTPAddr, cfg.Insecure = "0.0.0.0:0", "[::1]:0", true
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}
