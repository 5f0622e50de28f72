package node

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/jsagent"
	"agentd/pkg/placement"
)

// compileTimeout bounds how long the top level of a deployed program may run.
const compileTimeout = 10 * time.Second

// classes turns names into code: it compiles bundles, keeps what is in use, and
// answers actor.Classes and server.Classes.
type classes struct {
	table *placement.Local
	calls jsagent.Caller
	fetch func(*http.Request) (*http.Response, error)
	now   func() time.Time

	// deployed is called after a change, with the names of the classes that moved; the
	// answer to whoever made the change waits for it.
	deployed func(ctx context.Context, namespace string, names []string)

	mu struct {
		sync.Mutex
		modules map[string]*compiled // by bundle hash; at most what the table refers to
	}
}

// compiled is one bundle, compiled by whoever needs it first.
type compiled struct {
	once   sync.Once
	module *jsagent.Module
	err    error
}

func newClasses(table *placement.Local, calls jsagent.Caller, fetch func(*http.Request) (*http.Response, error), now func() time.Time) *classes {
	c := &classes{table: table, calls: calls, fetch: fetch, now: now}
	c.mu.modules = make(map[string]*compiled)
	return c
}

var _ actor.Classes = (*classes)(nil)

// Factory finds the newest code of an agent's class, compiling it if need be.
func (c *classes) Factory(id agent.ID) (actor.Factory, error) {
	table := c.table.Table()
	version, err := table.Current(id.Namespace, id.Class)
	if err != nil {
		return nil, err
	}
	module, err := c.module(version.Bundle)
	if err != nil {
		return nil, fmt.Errorf("load class %s: %w", id.Class, err)
	}
	var bindings []string
	for _, v := range table.Classes(id.Namespace) {
		bindings = append(bindings, v.Class)
	}
	return module.Factory(id.Class, jsagent.Config{Calls: c.calls, Fetch: c.fetch, Bindings: bindings}), nil
}

// module compiles a bundle once, however many ask at the same time. A failure is
// not kept: the file may have been repaired.
func (c *classes) module(hash string) (*jsagent.Module, error) {
	c.mu.Lock()
	m := c.mu.modules[hash]
	if m == nil {
		m = new(compiled)
		c.mu.modules[hash] = m
	}
	c.mu.Unlock()
	m.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), compileTimeout)
		defer cancel()
		var bundle placement.Bundle
		if bundle, m.err = c.table.Bundle(ctx, hash); m.err == nil {
			m.module, _, m.err = jsagent.Load(ctx, bundle, jsagent.LoadOptions{})
		}
	})
	if m.err != nil {
		c.mu.Lock()
		if c.mu.modules[hash] == m {
			delete(c.mu.modules, hash)
		}
		c.mu.Unlock()
	}
	return m.module, m.err
}

// Deploy checks a bundle by loading it and makes it the newest version of the
// classes in it. Instances that are busy keep their code until they start anew.
func (c *classes) Deploy(ctx context.Context, namespace string, bundle placement.Bundle) ([]placement.ClassVersion, error) {
	if err := agent.ValidateNamespace(namespace); err != nil {
		return nil, err
	}
	if n := len(bundle.Code) + len(bundle.SourceMap); n > placement.MaxBundleBytes {
		return nil, &agent.Error{Op: "deploy", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("the bundle has %d bytes with its source map; at most %d are allowed", n, placement.MaxBundleBytes)}
	}
	loadCtx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	module, found, err := jsagent.Load(loadCtx, bundle, jsagent.LoadOptions{})
	if err != nil {
		return nil, err
	}
	list := make([]placement.DeployedClass, 0, len(found))
	for _, f := range found {
		list = append(list, placement.DeployedClass{Name: f.Name, Methods: f.Methods})
	}
	made, err := c.table.Deploy(ctx, c.now(), namespace, bundle, list)
	if err != nil {
		return nil, err
	}
	c.keep(bundle.Hash(), module)
	c.announce(ctx, namespace, made)
	return made, nil
}

// Rollback makes an older version the newest again.
func (c *classes) Rollback(ctx context.Context, namespace, class string, version uint64) (placement.ClassVersion, error) {
	made, err := c.table.Rollback(ctx, c.now(), placement.Rollback{Namespace: namespace, Class: class, Version: version})
	if err != nil {
		return placement.ClassVersion{}, err
	}
	c.announce(ctx, namespace, made)
	return made[0], nil
}

// Versions lists a class's versions, newest first, or with class "" the newest of
// every class.
func (c *classes) Versions(_ context.Context, namespace, class string) ([]placement.ClassVersion, error) {
	if err := agent.ValidateNamespace(namespace); err != nil {
		return nil, err
	}
	if class == "" {
		return c.table.Table().Classes(namespace), nil
	}
	return c.table.Table().Versions(namespace, class)
}

// keep remembers a module that was just compiled and forgets those whose bundles
// the table no longer names. Live instances hold on to theirs.
func (c *classes) keep(hash string, module *jsagent.Module) {
	m := &compiled{module: module}
	m.once.Do(func() {})
	used := c.table.Table().Bundles()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.modules[hash] = m
	for h := range c.mu.modules {
		if !used[h] {
			delete(c.mu.modules, h)
		}
	}
}

func (c *classes) announce(ctx context.Context, namespace string, made []placement.ClassVersion) {
	if c.deployed == nil {
		return
	}
	names := make([]string, 0, len(made))
	for _, v := range made {
		names = append(names, v.Class)
	}
	c.deployed(ctx, namespace, names)
}
