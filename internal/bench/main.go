// Command bench measures a node against the limits of the machine it runs on and
// prints a table of ratios, each taken within this one run. `make bench` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"agentd/internal/bundle"
	"agentd/internal/process"
	"agentd/pkg/client"
)

// run is one benchmark run: a data folder, a binary and the rows measured so far.
type run struct {
	binary     string
	dir        string
	hibernated int
	rows       []row
	notes      []string

	synced float64 // p50 of a 4 KiB synced write, µs
	bare   float64 // p50 of an empty unary gRPC, µs
	empty  float64 // p50 of an empty call, µs
}

// row is one line of the table.
type row struct {
	what, measured, against, ratio, goal string
}

func main() {
	binary := flag.String("agentd", "bin/agentd", "the agentd to measure")
	hibernated := flag.Int("hibernated", 100_000, "how many hibernated agents to create")
	only := flag.String("only", "", "run one part: storage, scale, throttled, calls, hostile, wake, live, hibernated")
	bare := flag.Bool("bare-grpc", false, "internal: serve an empty gRPC service")
	flag.Parse()
	if *bare {
		exit(serveBare())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(measure(ctx, *binary, *hibernated, *only))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func measure(ctx context.Context, binary string, hibernated int, only string) (err error) {
	dir, err := os.MkdirTemp("", "agentd-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if rmErr := os.RemoveAll(dir); err == nil {
			err = rmErr
		}
	}()
	binary, err = filepath.Abs(binary)
	if err != nil {
		return err
	}
	r := &run{binary: binary, dir: dir, hibernated: hibernated}
	parts := []struct {
		name string
		fn   func(context.Context) error
	}{
		{"yardsticks", r.yardsticks}, {"storage", r.storage}, {"scale", r.scale}, {"throttled", r.throttled}, {"calls", r.calls}, {"hostile", r.hostile}, {"wake", r.wakes}, {"live", r.live}, {"hibernated", r.hibernate},
	}
	for _, part := range parts {
		if only != "" && part.name != only && part.name != "yardsticks" {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", part.name)
		if err := part.fn(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	r.print()
	return nil
}

func (r *run) add(what, measured, against, ratio, goal string) {
	r.rows = append(r.rows, row{what, measured, against, ratio, goal})
}

func (r *run) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *run) print() {
	fmt.Println("| work | measured | against, in the same run | ratio | goal |")
	fmt.Println("|---|---|---|---|---|")
	for _, row := range r.rows {
		fmt.Printf("| %s | %s | %s | %s | %s |\n", row.what, row.measured, row.against, row.ratio, row.goal)
	}
	if len(r.notes) > 0 {
		fmt.Println("\n" + strings.Join(r.notes, "\n"))
	}
}

// start runs a node in a folder of its own with the measured classes deployed.
func (r *run) start(ctx context.Context, name string, args ...string) (*process.Node, *client.Client, error) {
	node, err := process.Start(ctx, process.Options{Binary: r.binary, Data: filepath.Join(r.dir, name), Args: args})
	if err != nil {
		return nil, nil, err
	}
	c, err := client.Dial(ctx, client.WithAddr(node.GRPC))
	if err != nil {
		return node, nil, err
	}
	source := filepath.Join(r.dir, "bench.ts")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		return node, c, err
	}
	out, err := bundle.Build(bundle.Options{Files: []string{source}, WorkDir: r.dir})
	if err != nil {
		return node, c, err
	}
	_, err = c.Deploy(ctx, client.Deployment{Code: out.Code, SourceMap: out.SourceMap})
	return node, c, err
}

// program is the class that is measured: nothing, one durable row, one state, and
// the ways of being a bad neighbour.
const program = `
import { Agent } from "agents";
export class Bench extends Agent {
  onStart() { this.sql` + "`CREATE TABLE IF NOT EXISTS hits(id INTEGER PRIMARY KEY, n INTEGER)`" + `; }
  noop() { return 1; }
  upsert(id) { this.sql` + "`INSERT INTO hits(id, n) VALUES(${id}, 1) ON CONFLICT(id) DO UPDATE SET n = n + 1`" + `; return 1; }
  spin() { for (;;) {} }
  grow() { const a = []; for (;;) a.push([1, 2, 3, 4]); }
  recurse() { const f = () => Promise.resolve().then(f); return f(); }
  regex() { return /^(?=(a+)+$)(a+)+$/.test("a".repeat(40) + "!"); }
}
`
