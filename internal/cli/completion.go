package cli

import (
	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help says how to use the script.
func (c *completionCommand) Help() string {
	return `Add one of these lines to the shell's start-up file:

    source <(agentd completion bash)
    source <(agentd completion zsh)
    agentd completion fish | source`
}

// Run prints the script. The shell then runs agentd itself for candidates.
func (c *completionCommand) Run(command *kong.Context) error {
	return (&kongcompletion.Completion{Shell: c.Shell, Code: true}).Run(command)
}
