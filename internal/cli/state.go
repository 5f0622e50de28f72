package cli

import (
	"context"

	"agentd/pkg/client"
)

type stateCommand struct {
	onAgent
	Set   string `xor:"mode" placeholder:"JSON" help:"Replace the state by this JSON value."`
	Watch bool   `xor:"mode" help:"Print the state, then every new state, until interrupted; --timeout does not apply."`
	connection
}

// Run prints, sets or watches the state.
func (c *stateCommand) Run(ctx context.Context, s *session) error {
	switch {
	case c.Watch:
		return c.stream(ctx, s, func(ctx context.Context, cl *client.Client) error {
			return c.watch(ctx, s, cl)
		})
	case c.Set != "":
		state, err := parseJSON("--set", c.Set)
		if err != nil {
			return err
		}
		return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
			return c.of(cl).SetState(ctx, state)
		})
	}
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		state, _, err := c.of(cl).State(ctx)
		if err != nil {
			return err
		}
		return s.printJSON(state)
	})
}

func (c *stateCommand) watch(ctx context.Context, s *session, cl *client.Client) error {
	for state, err := range c.of(cl).WatchState(ctx) {
		if err != nil {
			return err
		}
		if err := s.printJSON(state); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
