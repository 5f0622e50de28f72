package cli

import "github.com/alecthomas/kong"

const description = `agentd gives every AI agent a durable home.

Agents are addressed as CLASS/NAME, for example Counter/a.

Settings come from flags, then AGENTD_… environment variables, then one YAML file (--config).

Exit codes: 0 ok; 1 the agent's code failed or the request was refused; 2 usage;
3 not found (class, method, agent, fiber); 4 unavailable or not reachable, try again;
5 timeout; 130 interrupted.`

var groups = []kong.Group{
	{Key: "server", Title: "Server:"},
	{Key: "code", Title: "Code:"},
	{Key: "agents", Title: "Agents:"},
	{Key: "security", Title: "Security:"},
	{Key: "tools", Title: "Tools:"},
	{Key: "connection", Title: "Connection:"},
	{Key: "limits", Title: "Limits:"},
	{Key: "logs", Title: "Logs:"},
}

// grammar is everything that can be typed.
type grammar struct {
	Serve serveCommand `cmd:"" group:"server" help:"Run a server."`
	Dev   devCommand   `cmd:"" group:"server" help:"Run a server, deploy files and deploy them again when they change."`

	Deploy deployCommand `cmd:"" group:"code" help:"Bundle TypeScript or JavaScript and deploy its classes."`
	Class  classCommands `cmd:"" group:"code" help:"Deployed classes and their versions."`

	Call         callCommand         `cmd:"" group:"agents" help:"Call a method and print its result as JSON."`
	State        stateCommand        `cmd:"" group:"agents" help:"Print, set or watch an agent's state."`
	SQL          sqlCommand          `cmd:"" name:"sql" group:"agents" help:"Run SQL in an agent's database."`
	Fiber        fiberCommands       `cmd:"" group:"agents" help:"Work that an agent recorded before it began."`
	Ls           lsCommand           `cmd:"" group:"agents" help:"List agents."`
	Describe     describeCommand     `cmd:"" group:"agents" help:"Show how an agent is doing."`
	Unquarantine unquarantineCommand `cmd:"" group:"agents" help:"Let a quarantined agent run again."`
	Delete       deleteCommand       `cmd:"" group:"agents" help:"Delete an agent with all its data."`

	Token   tokenCommands   `cmd:"" group:"security" help:"Tokens that let clients in."`
	Cluster clusterCommands `cmd:"" group:"security" help:"Certificates of nodes."`

	Storage    storageCommands   `cmd:"" group:"tools" help:"Look into the data folder of a server that is stopped."`
	Doctor     doctorCommand     `cmd:"" group:"tools" help:"Check this machine and the server."`
	Version    versionCommand    `cmd:"" group:"tools" help:"Print the version."`
	Completion completionCommand `cmd:"" group:"tools" help:"Print a completion script for a shell."`
}

// output is embedded by every command that prints something.
type output struct {
	JSON bool `name:"json" help:"Print results and errors as JSON."`
}

// configured is embedded by every command that has settings.
type configured struct {
	Config string `placeholder:"FILE" help:"YAML file with settings ($$AGENTD_CONFIG)."`
}
