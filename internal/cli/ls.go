package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"agentd/pkg/client"
)

type lsCommand struct {
	Class string `arg:"" optional:"" help:"Only agents of this class."`
	Limit int    `default:"1000" placeholder:"N" help:"At most this many, default 1000; 0 lists all."`
	connection
}

// Run lists agents in the order of their class and name.
func (c *lsCommand) Run(ctx context.Context, s *session) error {
	if c.Limit < 0 {
		return &usageError{msg: "--limit is negative; 0 lists all"}
	}
	return c.with(ctx, s, func(ctx context.Context, cl *client.Client) error {
		var rows agentRows = &agentTable{s: s, t: newTable(s.Stdout, agentHeader...)}
		if s.json {
			rows = &agentArray{s: s}
		}
		n := 0
		for info, err := range cl.ListAll(ctx, c.Class) {
			if err != nil {
				return err
			}
			if n++; c.Limit > 0 && n > c.Limit {
				fmt.Fprintf(s.Stderr, "agentd: these are the first %d agents; there are more: --limit 0 lists all\n", c.Limit)
				break
			}
			if err := rows.add(info); err != nil {
				return err
			}
		}
		return rows.end()
	})
}

// agentRows prints agents as they arrive: there may be millions.
type agentRows interface {
	add(client.AgentInfo) error
	end() error
}

var agentHeader = []string{"AGENT", "LIVE", "SIZE", "CREATED", "NEXT WAKE"}

// agentTable aligns a page of rows at a time.
type agentTable struct {
	s    *session
	t    *table
	held int
}

func (r *agentTable) add(info client.AgentInfo) error {
	live := "no"
	if info.Live {
		live = "yes"
	}
	r.t.row(info.ID().String(), live, size(info.SizeBytes), r.s.when(info.CreatedAt), r.s.when(info.Wake))
	if r.held++; r.held < 1000 {
		return nil
	}
	r.held = 0
	return r.t.flush()
}

func (r *agentTable) end() error { return r.t.flush() }

// agentArray writes one JSON array, an element a line.
type agentArray struct {
	s     *session
	begun bool
}

func (r *agentArray) add(info client.AgentInfo) error {
	before := "[\n"
	if r.begun {
		before = ",\n"
	}
	r.begun = true
	text, err := json.Marshal(info)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.s.Stdout, "%s%s", before, text)
	return err
}

func (r *agentArray) end() error {
	text := "\n]\n"
	if !r.begun {
		text = "[]\n"
	}
	_, err := fmt.Fprint(r.s.Stdout, text)
	return err
}
