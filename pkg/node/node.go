// Package node builds a running node out of its parts: the one place that knows
// them all, for the command and for tests.
package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"agentd/internal/governor"
	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/jsagent"
	"agentd/pkg/placement"
	"agentd/pkg/replication/single"
	"agentd/pkg/route"
	"agentd/pkg/server"
	"agentd/pkg/storage"
	"agentd/pkg/wake"
)

// Node is a running node. Its methods may be called from any goroutine.
type Node struct {
	cfg      Config
	door     door
	grpc     net.Listener
	http     net.Listener
	store    storage.Store
	classes  *classes
	governor *governor.Governor
	host     *actor.Host
	router   *route.Router
	waker    *wake.Waker
	server   *server.Server
	metrics  *metrics

	wg        sync.WaitGroup
	done      chan struct{} // closed by fail, once
	failOnce  sync.Once
	err       error // set before done is closed
	closeOnce sync.Once
	closeErr  error
	stopped   chan struct{} // closed by Close, ends watchStore
}

// Start opens the data folder, starts every part and returns when calls are
// accepted. Errors have kinds: InUse (a port or the data folder), Denied (not
// writable), Invalid (configuration), Corrupt. What was started before an error is
// stopped again.
func Start(ctx context.Context, cfg Config) (_ *Node, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, metrics: newMetrics(), done: make(chan struct{}), stopped: make(chan struct{})}
	defer func() {
		if err != nil {
			_ = n.Close(ctx) // the first error is the one to tell
		}
	}()
	// 1. Who may come in, then the ports: nothing was touched yet if one is taken.
	if n.door, err = openDoor(cfg); err != nil {
		return nil, err
	}
	if n.grpc, err = listen(ctx, cfg.GRPCAddr, "--listen"); err != nil {
		return nil, err
	}
	if n.http, err = listen(ctx, cfg.HTTPAddr, "--http"); err != nil {
		return nil, err
	}
	// 2. The data folder: agents' databases, the catalog, the deployed classes.
	store, err := single.Open(ctx, single.Config{Dir: cfg.DataDir, Now: time.Now, Log: cfg.Log, SegmentBytes: cfg.SegmentBytes})
	if err != nil {
		return nil, err
	}
	n.store = store
	table, err := placement.OpenLocal(filepath.Join(cfg.DataDir, "placement"), cfg.Name)
	if err != nil {
		return nil, err
	}
	// 3. The agents.
	n.startAgents(table)
	// 4. The edge, and only then work that nobody asks for.
	n.startServer()
	n.waker = wake.New(wake.Config{Catalog: n.store.Catalog(), Host: n.host, Now: time.Now, Log: cfg.Log})
	n.waker.Start()
	n.wg.Go(n.watchStore)
	return n, nil
}

func (n *Node) startAgents(table *placement.Local) {
	n.governor = governor.New(governor.Config{
		Budget: n.cfg.TurnBudget, MemoryLimit: n.cfg.Memory, Log: n.cfg.Log,
		OnPressure: func() { n.host.EvictIdle(n.host.Live()/2 + 1) },
	})
	calls := jsagent.CallerFunc(func(ctx context.Context, call agent.Call) (agent.Result, error) {
		return n.router.Call(ctx, call)
	})
	n.classes = newClasses(table, calls, http.DefaultClient.Do, time.Now)
	n.host = actor.NewHost(actor.Config{
		Store: n.store, Classes: n.classes, Governor: governed{n.governor}, Now: time.Now, Log: n.cfg.Log,
		Events: n.metrics.record, Limits: actor.Limits{Idle: n.cfg.Idle, MaxLive: n.cfg.MaxLive},
	})
	n.metrics.watch(n.host, n.store.Catalog())
	n.router = route.New(n.cfg.Name, table, n.host, n.store.Catalog())
	n.governor.Start()
	n.classes.deployed = func(ctx context.Context, namespace string, names []string) {
		for _, name := range names {
			n.host.EvictClass(ctx, namespace, name)
		}
	}
}

func (n *Node) startServer() {
	n.server = server.New(server.Config{
		Agents: n.router, Classes: n.classes, Log: n.cfg.Log, Version: n.cfg.Version, Now: time.Now,
		Ready: n.ready, DevErrors: n.cfg.DevErrors, Metrics: n.metrics.registry,
		Auth: n.door.auth, TLS: n.door.config(),
	})
	n.door.watch(n.metrics.registry)
	n.wg.Go(func() { n.serve("gRPC", n.server.Serve, n.grpc) })
	n.wg.Go(func() { n.serve("HTTP", n.server.ServeHTTP, n.http) })
}

func (n *Node) serve(what string, serve func(net.Listener) error, lis net.Listener) {
	if err := serve(lis); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
		n.fail(fmt.Errorf("serve %s on %s: %w", what, lis.Addr(), err))
	}
}

// ready is what /readyz asks.
func (n *Node) ready() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// watchStore ends the node when its disk can no longer be trusted: nothing may be
// acknowledged after a failed sync.
func (n *Node) watchStore() {
	select {
	case <-n.stopped:
	case <-n.store.Failed():
		n.fail(n.store.Err())
	}
}

func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.err = err
		close(n.done)
	})
}

// GRPCAddr is where gRPC is served, with the port that was taken.
func (n *Node) GRPCAddr() string { return n.grpc.Addr().String() }

// HTTPAddr is where health and metrics are served.
func (n *Node) HTTPAddr() string { return n.http.Addr().String() }

// Done is closed when the node cannot go on; Err then says why. The caller closes
// the node and exits.
func (n *Node) Done() <-chan struct{} { return n.done }

// Err is the reason of Done.
func (n *Node) Err() error {
	select {
	case <-n.done:
		return n.err
	default:
		return nil
	}
}

// Deploy makes a bundle the newest version of its classes.
func (n *Node) Deploy(ctx context.Context, namespace string, bundle placement.Bundle) ([]placement.ClassVersion, error) {
	return n.classes.Deploy(ctx, namespace, bundle)
}

// Close stops accepting calls, lets running ones end within ctx, makes what was
// written durable and releases everything. Closing twice gives the first result.
func (n *Node) Close(ctx context.Context) error {
	n.closeOnce.Do(func() { n.closeErr = n.close(ctx) })
	return n.closeErr
}

// close undoes Start in reverse; any part may be missing if Start failed.
func (n *Node) close(ctx context.Context) error {
	close(n.stopped)
	var errs []error
	if n.waker != nil {
		n.waker.Close()
	}
	if n.server != nil {
		errs = append(errs, n.server.Stop(ctx))
	}
	n.door.close()
	if n.host != nil {
		errs = append(errs, n.host.Close(ctx))
	}
	if n.governor != nil {
		n.governor.Close()
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	for _, lis := range []net.Listener{n.grpc, n.http} {
		if lis != nil {
			if err := lis.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	n.wg.Wait()
	return errors.Join(errs...)
}

// governed fits the governor to the interface that actor declares.
type governed struct{ *governor.Governor }

// Turn makes the record of one instance's turns.
func (g governed) Turn(interrupt func(error)) actor.Turn { return g.Governor.Turn(interrupt) }

func listen(ctx context.Context, addr, flag string) (net.Listener, error) {
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", addr)
	if err == nil {
		return lis, nil
	}
	e := &agent.Error{Op: "listen on " + addr, Kind: agent.Invalid, Err: err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		e.Kind = agent.InUse
		e.Msg = fmt.Sprintf("the port is in use: stop the process that has it, or choose another with %s HOST:PORT", flag)
	case errors.Is(err, syscall.EACCES):
		e.Kind = agent.Denied
		e.Msg = fmt.Sprintf("this user may not open the port: choose one above 1023 with %s HOST:PORT", flag)
	}
	return nil, e
}
