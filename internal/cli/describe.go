package cli

import (
	"context"
	"fmt"

	"agentd/pkg/agent"
	"agentd/pkg/client"
)

type describeCommand struct {
	onAgent
	connection
}

// Run shows one agent.
func (c *describeCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		info, err := c.of(cl).Describe(ctx)
		if err != nil {
			return err
		}
		if !info.Exists {
			return missingAgent("describe", info.ID())
		}
		if s.json {
			return s.printValue(info)
		}
		return s.printAgent(info)
	})
}

func missingAgent(op string, id agent.ID) error {
	return &agent.Error{Op: op, Agent: id, Kind: agent.NotFound,
		Msg: "there is no such agent; the first call to an agent creates it"}
}

func (s *session) printAgent(info *client.AgentInfo) error {
	t := newTable(s.Stdout)
	t.row("agent", info.ID().String())
	t.row("namespace", info.Namespace)
	t.row("phase", info.Phase)
	if info.Reason != "" {
		t.row("reason", info.Reason)
	}
	t.row("size", size(info.SizeBytes))
	t.row("commits", fmt.Sprint(info.Seq))
	t.row("created", s.when(info.CreatedAt))
	t.row("next wake", s.when(info.Wake))
	if info.Live {
		t.row("live since", s.when(info.StartedAt))
		t.row("turns", fmt.Sprint(info.Turns))
		t.row("events waiting", fmt.Sprint(info.Mailbox))
	}
	if info.Resume {
		t.row("unfinished work", "yes: it is picked up again should the instance be lost")
	}
	if info.Resets > 0 {
		t.row("resets", fmt.Sprint(info.Resets))
		t.row("last reset", info.LastReset)
	}
	return t.flush()
}
