package cli

import (
	"errors"

	"agentd/pkg/agent"
	"agentd/pkg/client"
)

// target is an agent as the user names it: Class/name. Its namespace is that of
// the connection.
type target struct{ class, name string }

// UnmarshalText reads Class/name.
func (t *target) UnmarshalText(text []byte) error {
	id, err := agent.ParseID(agent.DefaultNamespace, string(text))
	if err != nil {
		var e *agent.Error
		if errors.As(err, &e) {
			return errors.New(e.Msg)
		}
		return err
	}
	t.class, t.name = id.Class, id.Name
	return nil
}

// onAgent is embedded by the commands that concern one agent.
type onAgent struct {
	Agent target `arg:"" name:"class/name" help:"The agent, for example Counter/a."`
}

func (a *onAgent) of(c *client.Client) *client.Agent { return c.Agent(a.Agent.class, a.Agent.name) }

func (t target) String() string { return t.class + "/" + t.name }
