package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"agentd/internal/bundle"
	"agentd/pkg/agent"
	"agentd/pkg/client"
)

// sources is embedded by the commands that bundle.
type sources struct {
	Files   []string `arg:"" name:"file" help:"TypeScript or JavaScript that declares agent classes."`
	Prelude []string `sep:"none" placeholder:"FILE" help:"File whose exports, or top-level declarations, the other files may use without importing them; may be repeated."`
}

func (c *sources) options(s *session) bundle.Options {
	return bundle.Options{Files: c.Files, Prelude: c.Prelude, WorkDir: s.Dir}
}

// build bundles and prints warnings. Files that are not there are a usage error,
// files that do not compile are of kind Compile.
func (s *session) build(opts bundle.Options) (*bundle.Output, error) {
	out, err := bundle.Build(opts)
	if agent.KindOf(err) == agent.Invalid {
		return nil, &usageError{msg: err.Error(), cause: err}
	}
	if err != nil {
		return nil, err
	}
	for _, warning := range out.Warnings {
		fmt.Fprintf(s.Stderr, "agentd: warning: %s\n", warning)
	}
	return out, nil
}

type deployCommand struct {
	sources
	connection
}

// Run bundles here and deploys there.
func (c *deployCommand) Run(ctx context.Context, s *session) error {
	out, err := s.build(c.options(s))
	if err != nil {
		return err
	}
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		classes, err := cl.Deploy(ctx, client.Deployment{Code: out.Code, SourceMap: out.SourceMap})
		if err != nil {
			return err
		}
		return s.printDeployed(classes, len(out.Code), c.flags())
	})
}

// printDeployed lists what was deployed and a command to try.
func (s *session) printDeployed(classes []client.ClassInfo, bytes int, flags string) error {
	if s.json {
		return s.printValue(map[string]any{"deployed": orEmpty(classes), "bytes": bytes})
	}
	for _, c := range classes {
		methods := "no public methods"
		if len(c.Methods) > 0 {
			methods = "methods: " + strings.Join(c.Methods, ", ")
		}
		if err := s.say("%s v%d deployed (%s) %s", c.Class, c.Version, size(int64(bytes)), methods); err != nil {
			return err
		}
	}
	for _, c := range classes {
		if len(c.Methods) > 0 {
			return s.say("try: %s call%s %s/test %s", cmp.Or(s.Program, "agentd"), flags, c.Class, c.Methods[0])
		}
	}
	return nil
}
