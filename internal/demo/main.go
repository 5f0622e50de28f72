// Command demo shows an agent that survives the death of its node: it starts a
// node, gives the research agent work, kills the node with SIGKILL between two
// operations, starts it again, sends nothing, and prints what happened when.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"agentd/internal/process"
)

// limit bounds the whole demonstration.
const limit = 2 * time.Minute

func main() {
	binary := flag.String("agentd", "bin/agentd", "the agentd to run")
	example := flag.String("example", "examples/research/research.ts", "the class to deploy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, *binary, *example); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binary, example string) (err error) {
	dir, err := os.MkdirTemp("", "agentd-demo-")
	if err != nil {
		return err
	}
	d := &demo{binary: binary, example: example, data: filepath.Join(dir, "data"), began: time.Now(), events: make(chan event, 1024)}
	defer func() {
		if d.node != nil {
			d.node.Kill()
		}
		if rmErr := os.RemoveAll(dir); err == nil {
			err = rmErr
		}
	}()
	if err := d.work(ctx); err != nil {
		return err
	}
	if err := d.recover(ctx); err != nil {
		return err
	}
	if err := d.check(ctx); err != nil {
		return err
	}
	return d.node.Stop()
}

// demo is one demonstration: a folder and the node that runs on it now.
type demo struct {
	binary, example, data string
	node                  *process.Node
	began                 time.Time
	events                chan event
}

// event is a line of the node's log that says what a fiber did.
type event struct {
	at   time.Time
	name string
}

func (d *demo) say(at time.Time, format string, args ...any) {
	fmt.Printf("%8.0f ms  %s\n", float64(at.Sub(d.began).Microseconds())/1000, fmt.Sprintf(format, args...))
}

// start runs a node; its log is the only thing that is looked at while nothing is
// sent.
func (d *demo) start(ctx context.Context) error {
	node, err := process.Start(ctx, process.Options{Binary: d.binary, Data: d.data,
		Args: []string{"--log-format", "json", "--log-level", "debug"}, OnLog: d.observe})
	if err != nil {
		return err
	}
	d.node = node
	return nil
}

func (d *demo) observe(line string) {
	var record struct {
		Message string `json:"msg"`
	}
	if json.Unmarshal([]byte(line), &record) != nil || !strings.HasPrefix(record.Message, "fiber:") {
		return
	}
	select {
	case d.events <- event{time.Now(), record.Message}:
	default: // nobody reads any more
	}
}

// work starts the research and kills the node when the first operation is done and
// the second is under way.
func (d *demo) work(ctx context.Context) error {
	if err := d.start(ctx); err != nil {
		return err
	}
	d.say(time.Now(), "node started (process %d)", d.node.PID())
	if _, err := d.node.Run(ctx, "deploy", d.example); err != nil {
		return err
	}
	if _, err := d.node.Run(ctx, "call", "Research/demo", "start", `"durable execution"`); err != nil {
		return err
	}
	d.say(time.Now(), "research started: search, then read, then summarize")
	for {
		runs, err := d.operations(ctx)
		if err != nil {
			return err
		}
		if runs["read"] > 0 {
			break
		}
		select {
		case <-ctx.Done():
			return errors.New("the second operation never began")
		case <-time.After(20 * time.Millisecond):
		}
	}
	d.say(time.Now(), "search is done and stashed, read is under way")
	d.node.Kill()
	d.say(time.Now(), "SIGKILL: the process is gone")
	return nil
}

// recover starts the node again and watches its log; not one request is sent.
func (d *demo) recover(ctx context.Context) error {
	for len(d.events) > 0 {
		<-d.events
	}
	if err := d.start(ctx); err != nil {
		return err
	}
	d.say(d.node.Ready, "node started again (process %d); nothing is sent to it", d.node.PID())
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the work was not finished in time\n%s", d.node.Tail())
		case e := <-d.events:
			switch e.name {
			case "fiber:recovery:detected":
				d.say(e.at, "recovery began, %d ms after the node was ready", max(0, e.at.Sub(d.node.Ready).Milliseconds()))
			case "fiber:recovery:handled":
				d.say(e.at, "the recovery hook has resumed the work from its last stash")
			case "fiber:run:completed":
				d.say(e.at, "the work is finished")
				return nil
			}
		}
	}
}

// check asks at last, and fails if the first operation ran twice or there is no
// result.
func (d *demo) check(ctx context.Context) error {
	runs, err := d.operations(ctx)
	if err != nil {
		return err
	}
	state, err := d.node.Run(ctx, "state", "Research/demo")
	if err != nil {
		return err
	}
	fmt.Printf("\noperations run: search %d, read %d, summarize %d\nstate: %s\n", runs["search"], runs["read"], runs["summarize"], state)
	var result struct {
		Result any `json:"result"`
	}
	if err := json.Unmarshal([]byte(state), &result); err != nil {
		return fmt.Errorf("read state: %w", err)
	}
	switch {
	case runs["search"] != 1:
		return fmt.Errorf("the first operation ran %d times; it was stashed and must not run again", runs["search"])
	case runs["summarize"] != 1:
		return fmt.Errorf("the last operation ran %d times", runs["summarize"])
	case result.Result == nil:
		return errors.New("the state holds no result")
	}
	fmt.Println("\nThe first operation ran once, and the result is there although its node was killed.")
	return nil
}

// operations reads how often each operation ran, from the agent's own table.
func (d *demo) operations(ctx context.Context) (map[string]int, error) {
	out, err := d.node.Run(ctx, "sql", "Research/demo", "SELECT name, runs FROM operations", "--json")
	if err != nil {
		return nil, err
	}
	var table struct {
		Rows [][]any `json:"rows"`
	}
	if err := json.Unmarshal([]byte(out), &table); err != nil {
		return nil, fmt.Errorf("read operations: %w", err)
	}
	runs := map[string]int{}
	for _, row := range table.Rows {
		name, ok1 := row[0].(string)
		n, ok2 := row[1].(float64)
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("unexpected row in operations: %v", row)
		}
		runs[name] = int(n)
	}
	return runs, nil
}
