package cli

import "context"

type serveCommand struct {
	Data string `setting:"" placeholder:"DIR" help:"Folder for this node's data, created when absent. Required."`
	server
}

// Run serves until a signal comes or the node fails.
func (c *serveCommand) Run(ctx context.Context, s *session) error {
	if c.Data == "" {
		return &usageError{msg: "serve needs a folder for its data: --data DIR, AGENTD_DATA, or `data: DIR` in the configuration file"}
	}
	cfg, err := c.config(s, c.Data)
	if err != nil {
		return err
	}
	n, err := startNode(ctx, cfg)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	if err := s.printReady(n, cfg); err != nil {
		ended <- &serverError{err: err}
	}
	return s.waitAndClose(ctx, n, cfg.Log, ended)
}
