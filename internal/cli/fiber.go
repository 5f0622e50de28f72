package cli

import (
	"context"

	"agentd/pkg/client"
)

type fiberCommands struct {
	Ls     fiberLsCommand     `cmd:"" help:"List an agent's fibers."`
	Get    fiberGetCommand    `cmd:"" help:"Show one fiber."`
	Cancel fiberCancelCommand `cmd:"" help:"Cancel a fiber."`
}

type fiberLsCommand struct {
	onAgent
	Status []string `placeholder:"STATUS" enum:"pending,running,completed,aborted,interrupted,error" help:"Only these: pending, running, completed, aborted, interrupted, error."`
	Name   string   `placeholder:"NAME" help:"Only fibers of this name."`
	Limit  int      `placeholder:"N" help:"At most this many; the server's limit by default."`
	connection
}

// Run lists fibers.
func (c *fiberLsCommand) Run(ctx context.Context, s *session) error {
	if c.Limit < 0 {
		return &usageError{msg: "--limit is negative"}
	}
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		fibers, err := c.of(cl).Fibers(ctx, client.FiberFilter{Status: c.Status, Name: c.Name, Limit: c.Limit})
		if err != nil {
			return err
		}
		if s.json {
			return s.printValue(orEmpty(fibers))
		}
		t := newTable(s.Stdout, "FIBER", "NAME", "STATUS", "CREATED", "SETTLED", "ERROR")
		for _, f := range fibers {
			t.row(f.ID, f.Name, f.Status, s.when(f.CreatedAt), s.when(f.SettledAt), f.Error)
		}
		return t.flush()
	})
}

// orEmpty makes a list without elements print as [].
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

type fiberGetCommand struct {
	onAgent
	ID string `arg:"" name:"fiber" help:"The fiber's ID."`
	connection
}

// Run shows one fiber.
func (c *fiberGetCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		f, err := c.of(cl).Fiber(ctx, c.ID)
		if err != nil {
			return err
		}
		if s.json {
			return s.printValue(f)
		}
		return s.printFiber(f)
	})
}

func (s *session) printFiber(f *client.Fiber) error {
	t := newTable(s.Stdout)
	t.row("fiber", f.ID)
	t.row("name", f.Name)
	t.row("status", f.Status)
	t.row("created", s.when(f.CreatedAt))
	t.row("started", s.when(f.StartedAt))
	t.row("settled", s.when(f.SettledAt))
	optional := func(name, value string) {
		if value != "" {
			t.row(name, value)
		}
	}
	optional("key", f.IdempotencyKey)
	optional("error", f.Error)
	optional("snapshot", string(f.Snapshot))
	optional("metadata", string(f.Metadata))
	return t.flush()
}

type fiberCancelCommand struct {
	onAgent
	ID     string `arg:"" name:"fiber" help:"The fiber's ID."`
	Reason string `placeholder:"TEXT" help:"Why, for whoever looks at the fiber later."`
	connection
}

// Run cancels a fiber. A fiber that has settled already is no failure.
func (c *fiberCancelCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		cancelled, err := c.of(cl).CancelFiber(ctx, c.ID, c.Reason)
		if err != nil {
			return err
		}
		if s.json {
			return s.printValue(map[string]bool{"cancelled": cancelled})
		}
		if !cancelled {
			return s.say("%s was not cancelled: it has ended already", c.ID)
		}
		return s.say("%s cancelled", c.ID)
	})
}
