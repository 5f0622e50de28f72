package cli

import (
	"context"

	"agentd/pkg/client"
)

type unquarantineCommand struct {
	onAgent
	connection
}

// Run lifts a quarantine.
func (c *unquarantineCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		if err := c.of(cl).Unquarantine(ctx); err != nil {
			return err
		}
		if s.json {
			return s.printValue(map[string]string{"unquarantined": c.Agent.String()})
		}
		return s.say("%s may run again", c.Agent)
	})
}
