package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"agentd/pkg/agent"
	"agentd/pkg/client"
)

type deleteCommand struct {
	onAgent
	Yes bool `short:"y" help:"Do not ask."`
	connection
}

// Run deletes an agent. It asks first, because nothing brings the data back.
func (c *deleteCommand) Run(ctx context.Context, s *session) error {
	if !c.Yes {
		if !s.StdinTTY {
			return &usageError{msg: fmt.Sprintf("deleting %s needs --yes, since nobody can be asked here", c.Agent)}
		}
		ok, err := s.confirm(ctx, fmt.Sprintf("Delete %s in namespace %s with all its data? [y/N] ", c.Agent, c.Namespace))
		if err != nil {
			return err
		}
		if !ok {
			return &agent.Error{Kind: agent.Canceled, Msg: "nothing was deleted"}
		}
	}
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		if err := c.of(cl).Delete(ctx); err != nil {
			return err
		}
		if s.json {
			return s.printValue(map[string]string{"deleted": c.Agent.String()})
		}
		return s.say("%s deleted", c.Agent)
	})
}

// confirm asks on the terminal. The answer is read beside a signal: a blocked read
// cannot be taken back, and the process ends right after.
func (s *session) confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(s.Stderr, printable(question))
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := bufio.NewReader(io.LimitReader(s.Stdin, 1024)).ReadString('\n')
		answers <- answer{text, err}
	}()
	select {
	case <-ctx.Done():
		return false, context.Cause(ctx)
	case a := <-answers:
		if a.err != nil && a.err != io.EOF {
			return false, fmt.Errorf("read the answer: %w", a.err)
		}
		word := strings.ToLower(strings.TrimSpace(a.text))
		return word == "y" || word == "yes", nil
	}
}

// say prints a line for people on stdout.
func (s *session) say(format string, args ...any) error {
	_, err := fmt.Fprintf(s.Stdout, "%s\n", printable(fmt.Sprintf(format, args...)))
	return err
}
