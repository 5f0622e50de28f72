package cli

import (
	"context"
	"fmt"
	"strings"

	"agentd/pkg/client"
)

type classCommands struct {
	Ls       classLsCommand       `cmd:"" help:"List deployed classes."`
	Versions classVersionsCommand `cmd:"" help:"List the versions of a class that can be rolled back to."`
	Rollback classRollbackCommand `cmd:"" help:"Deploy an older version again, as a new version."`
}

type classLsCommand struct {
	connection
}

// Run lists the newest version of each class.
func (c *classLsCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		classes, err := cl.Classes(ctx)
		if err != nil {
			return err
		}
		return s.printClasses(classes)
	})
}

type classVersionsCommand struct {
	Class string `arg:"" help:"The class."`
	connection
}

// Run lists a class's versions, newest first.
func (c *classVersionsCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		versions, err := cl.Class(ctx, c.Class)
		if err != nil {
			return err
		}
		return s.printClasses(versions)
	})
}

func (s *session) printClasses(classes []client.ClassInfo) error {
	if s.json {
		return s.printValue(orEmpty(classes))
	}
	t := newTable(s.Stdout, "CLASS", "VERSION", "DEPLOYED", "BUNDLE", "METHODS")
	for _, c := range classes {
		t.row(c.Class, versionName(c.Version), s.when(c.DeployedAt), shortHash(c.Bundle), strings.Join(c.Methods, ", "))
	}
	return t.flush()
}

func versionName(v uint64) string { return fmt.Sprintf("v%d", v) }

// shortHash is enough of a hash to compare by eye.
func shortHash(hash string) string { return hash[:min(len(hash), 12)] }

type classRollbackCommand struct {
	Class   string `arg:"" help:"The class."`
	Version uint64 `arg:"" help:"The version to return to, a number from 'class versions'."`
	connection
}

// Run makes an older version the newest.
func (c *classRollbackCommand) Run(ctx context.Context, s *session) error {
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		now, err := cl.Rollback(ctx, c.Class, c.Version)
		if err != nil {
			return err
		}
		if s.json {
			return s.printValue(now)
		}
		return s.say("%s %s deployed with the code of v%d", now.Class, versionName(now.Version), c.Version)
	})
}
