package cli

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"agentd/internal/bundle"
	"agentd/pkg/agent"
	"agentd/pkg/client"
	"agentd/pkg/node"
	"agentd/pkg/placement"
)

// patrolEvery is the gap between two looks at the files; a look is a stat per file.
const patrolEvery = time.Second

type devCommand struct {
	sources
	Data      string `setting:"" default:".agentd" placeholder:"DIR" help:"Folder for the data, default .agentd in the current folder."`
	Namespace string `setting:"" short:"n" default:"default" placeholder:"NAME" help:"Namespace to deploy into, default \"default\"."`
	server
}

// Run serves, deploys the files, and deploys them again whenever one of them
// changes. A file that does not compile leaves the version before in place.
func (c *devCommand) Run(ctx context.Context, s *session) error {
	if err := agent.ValidateNamespace(c.Namespace); err != nil {
		return &usageError{msg: "--namespace: " + err.Error()}
	}
	cfg, err := c.config(s, c.Data)
	if err != nil {
		return err
	}
	cfg.DevErrors = true
	n, err := startNode(ctx, cfg)
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancel(ctx)
	w := &workshop{s: s, node: n, opts: c.options(s), namespace: c.Namespace,
		flags: connectionFlags(n.GRPCAddr(), c.Namespace)}
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.work(watching, cfg); err != nil && watching.Err() == nil {
			ended <- &serverError{err: err}
		}
	}()
	err = s.waitAndClose(ctx, n, cfg.Log, ended)
	cancel()
	<-done
	return err
}

// workshop deploys what is being edited. Two goroutines work in it: bundle.Watch,
// which hears of changes at once, and patrol.
type workshop struct {
	s         *session
	node      *node.Node
	opts      bundle.Options
	namespace string
	flags     string // for the command to try

	mu     sync.Mutex // guards what follows; held while building and deploying
	inputs []string   // files to watch, absolute
	seen   snapshot   // the inputs as the last build may have read them
	last   string     // hash of the bundle that was deployed last
}

// work prints where the server is, deploys, and watches until ctx ends.
func (w *workshop) work(ctx context.Context, cfg node.Config) error {
	if err := w.announce(cfg); err != nil {
		return err
	}
	if err := w.redeploy(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var patrol sync.WaitGroup
	defer patrol.Wait()
	defer cancel()
	patrol.Go(func() { w.patrol(ctx) })
	return bundle.Watch(ctx, w.watched, func() { w.rebuild(ctx) })
}

func (w *workshop) announce(cfg node.Config) error {
	if w.s.json {
		return w.s.printReady(w.node, cfg)
	}
	t := newTable(w.s.Stdout)
	t.row("gRPC", w.node.GRPCAddr())
	scheme := "http://"
	if cfg.TLSCert != "" {
		scheme = "https://"
	}
	t.row("HTTP", scheme+w.node.HTTPAddr())
	t.row("data", cfg.DataDir)
	return t.flush()
}

func (w *workshop) watched() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.inputs
}

// rebuild is redeploy for changes: even a failure to print must not end the watch.
func (w *workshop) rebuild(ctx context.Context) {
	if err := w.redeploy(ctx); err != nil {
		w.s.fail(ctx, err)
	}
}

// patrol looks for changes that Watch could not hear of: made while it was being
// set up, or on file systems that do not tell.
func (w *workshop) patrol(ctx context.Context) {
	tick := time.NewTicker(patrolEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if w.stale() {
				w.rebuild(ctx)
			}
		}
	}
}

func (w *workshop) stale() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.stale()
}

// redeploy builds and deploys. What is wrong with the user's code is printed, not
// returned: the next change may mend it.
func (w *workshop) redeploy(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	began := w.s.Now()
	out, err := w.s.build(w.opts)
	if err != nil {
		w.inputs = w.namedAnd(err)
	} else {
		w.inputs = out.Inputs
	}
	w.seen = takeSnapshot(w.inputs, began, w.s.Now())
	if err != nil {
		w.s.fail(ctx, err)
		return nil
	}
	b := placement.Bundle{Code: out.Code, SourceMap: out.SourceMap}
	if b.Hash() == w.last {
		return nil
	}
	versions, err := w.node.Deploy(ctx, w.namespace, b)
	if err != nil {
		w.s.fail(ctx, err)
		return nil
	}
	w.last = b.Hash()
	classes := make([]client.ClassInfo, len(versions))
	for i, v := range versions {
		classes[i] = client.ClassInfo(v)
	}
	return w.s.printDeployed(classes, len(out.Code), w.flags)
}

// namedAnd is what to watch after a failed build: what it read, the files that
// were named, and what was watched before.
func (w *workshop) namedAnd(err error) []string {
	paths := append([]string{}, w.inputs...)
	for _, name := range append(append([]string{}, w.opts.Files...), w.opts.Prelude...) {
		paths = append(paths, w.s.path(name))
	}
	var failed *bundle.Error
	if errors.As(err, &failed) {
		paths = append(paths, failed.Inputs...)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}
