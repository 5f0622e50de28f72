package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"agentd/pkg/client"
)

type callCommand struct {
	onAgent
	Method string   `arg:"" help:"A public method of the class."`
	Args   []string `arg:"" optional:"" name:"json" help:"The arguments, each one JSON value: 5, '\"text\"', '{\"a\":1}'."`
	Key    string   `placeholder:"KEY" help:"Idempotency key: within 24 hours the same key runs the call once and repeats its result; the call is tried again when its outcome is unknown."`
	Stream bool     `help:"For a method declared with @callable({streaming: true}): print each chunk as it comes, then the result if there is one. Not with --key."`
	connection
}

// Validate is called by the parser.
func (c *callCommand) Validate() error {
	if c.Stream && c.Key != "" {
		return errors.New("--stream and --key exclude each other: chunks are not kept")
	}
	return nil
}

// Run calls the method and prints its result alone on stdout.
func (c *callCommand) Run(ctx context.Context, s *session) error {
	args := make([]json.RawMessage, len(c.Args))
	for i, arg := range c.Args {
		value, err := parseJSON(fmt.Sprintf("argument %d", i+1), arg)
		if err != nil {
			return err
		}
		args[i] = value
	}
	var opts []client.CallOption
	if c.Key != "" {
		opts = append(opts, client.WithKey(c.Key))
	}
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		if c.Stream {
			return c.stream(ctx, s, cl, args)
		}
		result, err := c.of(cl).Call(ctx, c.Method, args, opts...)
		if err != nil {
			return err
		}
		return s.printJSON(result)
	})
}

// stream prints chunks and, unless it is undefined, the result.
func (c *callCommand) stream(ctx context.Context, s *session, cl *client.Client, args []json.RawMessage) error {
	result, err := c.of(cl).CallStream(ctx, c.Method, args, func(chunk json.RawMessage) error { return s.printJSON(chunk) })
	if err != nil || result == nil {
		return err
	}
	return s.printJSON(result)
}
