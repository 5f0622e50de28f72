package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/client"
)

// connection is embedded by the commands that talk to a server.
type connection struct {
	Addr      string        `setting:"" group:"connection" default:"127.0.0.1:7600" placeholder:"HOST:PORT" help:"Server to talk to, default 127.0.0.1:7600."`
	Namespace string        `setting:"" group:"connection" short:"n" default:"default" placeholder:"NAME" help:"Namespace of classes and agents, default \"default\"."`
	Token     string        `setting:"" group:"connection" placeholder:"TOKEN" help:"Token that proves who you are."`
	TokenFile string        `setting:"" group:"connection" placeholder:"FILE" help:"File that holds the token."`
	Timeout   time.Duration `setting:"" group:"connection" default:"30s" placeholder:"DURATION" help:"Give up after this time, default 30s; 0 never does."`
	secured
	configured
	output
}

// maxTokenBytes bounds a token file, which is read whole.
const maxTokenBytes = 64 << 10

// with runs do with a client, within --timeout.
func (c *connection) with(ctx context.Context, s *session, do func(context.Context, *client.Client) error) error {
	if c.Timeout < 0 {
		return &usageError{msg: "--timeout is negative; 0 waits for ever"}
	}
	if c.Timeout == 0 {
		return c.stream(ctx, s, do)
	}
	limited, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	err := c.stream(limited, s, do)
	// The server, which was told the deadline, may say so just before our own timer does.
	if ctx.Err() == nil && agent.KindOf(err) == agent.Deadline {
		return c.timedOut(err)
	}
	return err
}

// timedOut says which limit passed; the agent that was waited for is kept.
func (c *connection) timedOut(err error) error {
	late := &agent.Error{Kind: agent.Deadline,
		Msg: fmt.Sprintf("no answer from %s within %v; --timeout sets the limit", c.Addr, c.Timeout)}
	var e *agent.Error
	if errors.As(err, &e) {
		late.Op, late.Agent = e.Op, e.Agent
		if !errors.Is(e.Err, context.DeadlineExceeded) {
			late.Err = e.Err // why the tries before failed
		}
	}
	return late
}

// stream is with for what lasts until the user ends it.
func (c *connection) stream(ctx context.Context, s *session, do func(context.Context, *client.Client) error) error {
	if err := agent.ValidateNamespace(c.Namespace); err != nil {
		return &usageError{msg: "--namespace: " + err.Error()}
	}
	token, err := c.token(s)
	if err != nil {
		return err
	}
	opts, err := c.options(s)
	if err != nil {
		return err
	}
	opts = append(opts, client.WithAddr(c.Addr), client.WithNamespace(c.Namespace))
	if token != "" {
		opts = append(opts, client.WithToken(token))
	}
	cl, err := client.Dial(ctx, opts...)
	if kind := agent.KindOf(err); kind == agent.Invalid || kind == agent.Denied {
		return &usageError{msg: err.Error(), cause: err}
	}
	if err != nil {
		return err
	}
	err = do(ctx, cl)
	if closeErr := cl.Close(); err == nil {
		err = closeErr
	}
	return err
}

// token is what proves the caller. Of --token and --token-file the one said closer
// to the command wins; both at the same place contradict each other.
func (c *connection) token(s *session) (string, error) {
	if c.TokenFile == "" {
		return c.Token, nil
	}
	if c.Token != "" {
		switch inline, file := s.rank("token"), s.rank("token-file"); {
		case inline > file:
			return c.Token, nil
		case inline == file:
			return "", &usageError{msg: "both a token and a token file are given; give one"}
		}
	}
	path := s.path(c.TokenFile)
	info, err := os.Stat(path)
	if err != nil {
		return "", &usageError{msg: fmt.Sprintf("token file: %v", err)}
	}
	if !info.Mode().IsRegular() || info.Size() > maxTokenBytes {
		return "", &usageError{msg: fmt.Sprintf("token file %s is not a file of at most %d bytes", c.TokenFile, maxTokenBytes)}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", &usageError{msg: fmt.Sprintf("token file: %v", err)}
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", &usageError{msg: fmt.Sprintf("token file %s is empty", c.TokenFile)}
	}
	return token, nil
}

// flags are what a command to try must repeat to reach the same place.
func (c *connection) flags() string {
	return connectionFlags(c.Addr, c.Namespace) + c.secured.flags()
}

func connectionFlags(addr, namespace string) string {
	var flags string
	if addr != client.DefaultAddr {
		flags += " --addr " + addr
	}
	if namespace != agent.DefaultNamespace {
		flags += " -n " + namespace
	}
	return flags
}

// path is a file that the user named, seen from the working directory.
func (s *session) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(s.Dir, name)
}
