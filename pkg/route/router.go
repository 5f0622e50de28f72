// Package route takes a call to the node that owns its agent. It looks once into
// the placement table; the owner does not look again, so a call crosses at most
// one hop.
package route

import (
	"context"
	"fmt"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/placement"
	"agentd/pkg/storage"
)

// Host is what the router needs of the node's own agents; *actor.Host has it.
type Host interface {
	Call(ctx context.Context, call agent.Call) (agent.Result, error)
	Describe(ctx context.Context, id agent.ID) (actor.Status, error)
	Delete(ctx context.Context, id agent.ID) error
	Lift(ctx context.Context, id agent.ID) error
	Subscribe(id agent.ID, topic string, buffer int) *actor.Subscription
}

// Table says who owns an agent and which classes there are.
type Table interface {
	Table() *placement.Table
}

// Router answers for every agent of the cluster. All methods may be called from
// any goroutine.
type Router struct {
	self    string
	table   Table
	host    Host
	catalog storage.Catalog
}

// New makes the router of the node named self.
func New(self string, table Table, host Host, catalog storage.Catalog) *Router {
	return &Router{self: self, table: table, host: host, catalog: catalog}
}

// Call runs a call where its agent lives. Errors have the kinds of actor.Host.Call,
// and Unavailable when the owner cannot be reached.
func (r *Router) Call(ctx context.Context, call agent.Call) (agent.Result, error) {
	host, err := r.owner("call", call.Agent)
	if err != nil {
		return agent.Result{}, err
	}
	return host.Call(ctx, call)
}

// Describe reports on one agent.
func (r *Router) Describe(ctx context.Context, id agent.ID) (actor.Status, error) {
	host, err := r.owner("describe", id)
	if err != nil {
		return actor.Status{}, err
	}
	return host.Describe(ctx, id)
}

// Delete removes an agent and its data.
func (r *Router) Delete(ctx context.Context, id agent.ID) error {
	host, err := r.owner("delete", id)
	if err != nil {
		return err
	}
	return host.Delete(ctx, id)
}

// Lift ends a quarantine.
func (r *Router) Lift(ctx context.Context, id agent.ID) error {
	host, err := r.owner("lift quarantine", id)
	if err != nil {
		return err
	}
	return host.Lift(ctx, id)
}

// Subscribe follows a topic of one agent.
func (r *Router) Subscribe(id agent.ID, topic string, buffer int) (*actor.Subscription, error) {
	host, err := r.owner("watch", id)
	if err != nil {
		return nil, err
	}
	return host.Subscribe(id, topic, buffer), nil
}

// List pages through the agents of a namespace; see storage.Catalog.List.
func (r *Router) List(ctx context.Context, namespace, class string, after agent.ID, limit int) ([]storage.Entry, error) {
	if err := agent.ValidateNamespace(namespace); err != nil {
		return nil, err
	}
	return r.catalog.List(ctx, namespace, class, after, limit)
}

func (r *Router) owner(op string, id agent.ID) (Host, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	if node := r.table.Table().Owner(id); node != r.self {
		return nil, &agent.Error{Op: op, Agent: id, Kind: agent.Unavailable,
			Msg: fmt.Sprintf("the agent is owned by node %q, which this node (%q) cannot reach", node, r.self)}
	}
	return r.host, nil
}
