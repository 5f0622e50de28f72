package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/lmittmann/tint"

	"agentd/pkg/agent"
	"agentd/pkg/node"
)

// drainTimeout bounds how long a node may take to end what is under way.
const drainTimeout = 30 * time.Second

// server is embedded by the commands that run a node.
type server struct {
	Listen     string        `setting:"" default:"127.0.0.1:7600" placeholder:"HOST:PORT" help:"Address for gRPC, default 127.0.0.1:7600; port 0 takes a free one."`
	HTTP       string        `setting:"" default:"127.0.0.1:7680" placeholder:"HOST:PORT" help:"Address for HTTP, default 127.0.0.1:7680; port 0 takes a free one."`
	Node       string        `setting:"" placeholder:"NAME" help:"Name of this node, default the host name."`
	Insecure   bool          `setting:"" help:"Allow addresses that other machines can reach without TLS and tokens."`
	Memory     memorySize    `setting:"" group:"limits" default:"70%" placeholder:"SIZE" help:"Memory at which the turn that makes it grow is stopped: 70% (default) of the machine or its cgroup, 2GiB, …."`
	TurnBudget time.Duration `setting:"" group:"limits" default:"30s" placeholder:"DURATION" help:"Time one turn of an agent may run, default 30s."`
	Idle       time.Duration `setting:"" group:"limits" default:"10s" placeholder:"DURATION" help:"An agent without work for this long leaves memory, default 10s."`
	MaxLive    int           `setting:"" group:"limits" default:"4096" placeholder:"N" help:"Agents in memory at once, default 4096."`
	LogLevel   string        `setting:"" group:"logs" default:"info" enum:"debug,info,warn,error" placeholder:"LEVEL" help:"debug, info (default), warn or error."`
	LogFormat  string        `setting:"" group:"logs" default:"text" enum:"text,json" placeholder:"FORMAT" help:"text (default) or json."`
	ports
	configured
	output
}

// config is what the flags say, checked.
func (c *server) config(s *session, data string) (node.Config, error) {
	log, err := s.logger(c.LogLevel, c.LogFormat)
	if err != nil {
		return node.Config{}, err
	}
	for flag, value := range map[string]int64{
		"--turn-budget": int64(c.TurnBudget), "--idle": int64(c.Idle), "--max-live": int64(c.MaxLive)} {
		if value <= 0 {
			return node.Config{}, &usageError{msg: flag + " must be more than 0"}
		}
	}
	security, err := c.security(s)
	if err != nil {
		return node.Config{}, err
	}
	cfg := node.Config{
		DataDir: s.path(data), GRPCAddr: c.Listen, HTTPAddr: c.HTTP, Name: c.Node, Memory: c.Memory.bytes(),
		TurnBudget: c.TurnBudget, Idle: c.Idle, MaxLive: c.MaxLive, Insecure: c.Insecure,
		Log: log, Version: s.Version, Security: security,
	}
	if err := cfg.Validate(); err != nil {
		var e *agent.Error
		if errors.As(err, &e) && e.Msg != "" {
			return cfg, &usageError{msg: e.Msg}
		}
		return cfg, &usageError{msg: err.Error()}
	}
	return cfg, nil
}

// logger writes to stderr.
func (s *session) logger(level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, &usageError{msg: "--log-level: " + err.Error()}
	}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(s.Stderr, &slog.HandlerOptions{Level: l})), nil
	}
	return slog.New(tint.NewTextHandler(s.Stderr, &tint.Options{
		Level: l, TimeFormat: "15:04:05.000", NoColor: !s.StderrTTY,
	})), nil
}

// startNode starts a node; its errors say what to do.
func startNode(ctx context.Context, cfg node.Config) (*node.Node, error) {
	n, err := node.Start(ctx, cfg)
	if err != nil {
		return nil, &serverError{err: err}
	}
	return n, nil
}

// serverError is a failure of our own node: exit code 1 whatever its kind, because
// 4 is about a server elsewhere.
type serverError struct{ err error }

func (e *serverError) Error() string { return e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// waitAndClose keeps the node until ctx ends, the node fails, or ended delivers;
// then it drains.
func (s *session) waitAndClose(ctx context.Context, n *node.Node, log *slog.Logger, ended <-chan error) error {
	var failed error
	select {
	case <-ctx.Done():
		log.Info("draining; another signal ends it at once")
	case <-n.Done():
		failed = &serverError{err: fmt.Errorf("the node stopped: %w", n.Err())}
	case failed = <-ended:
	}
	// ctx has ended, but what is under way may still finish.
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := n.Close(drain); err != nil && failed == nil {
		failed = &serverError{err: fmt.Errorf("draining: %w", err)}
	}
	return failed
}

// printReady tells scripts that calls are accepted, in exactly one line.
func (s *session) printReady(n *node.Node, cfg node.Config) error {
	if s.json {
		return s.printValue(map[string]string{"grpc": n.GRPCAddr(), "http": n.HTTPAddr(), "node": cfg.Name, "data": cfg.DataDir})
	}
	_, err := fmt.Fprintf(s.Stdout, "ready grpc=%s http=%s node=%s data=%s\n",
		n.GRPCAddr(), n.HTTPAddr(), bare(cfg.Name), bare(cfg.DataDir))
	return err
}

// bare leaves a simple word as it is and quotes anything else.
func bare(text string) string {
	if text == "" || strings.ContainsAny(text, " \t\n\"\\=") || printable(text) != text {
		return strconv.Quote(text)
	}
	return text
}
