package client

import (
	"context"
	"fmt"
	"iter"

	"agentd/internal/wire"
	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// maxPage is the largest page of List.
const maxPage = 1000

// List returns one page of the namespace's agents that have stored something, in
// order of class and name. A page shorter than the limit is the last.
func (c *Client) List(ctx context.Context, opts ListOptions) ([]AgentInfo, error) {
	r := request{op: "list agents"}
	limit, err := pageLimit(r, opts.Limit)
	if err != nil {
		return nil, err
	}
	if err := checkText(r, opts.Class, opts.After.Name); err != nil {
		return nil, err
	}
	req := &agentdv1.AgentServiceListRequest{Namespace: c.namespace, Class: opts.Class, Limit: limit}
	if !opts.After.IsZero() {
		req.After = wire.Ref(opts.After)
	}
	resp, err := send(ctx, c, r, c.agents.List, req)
	if err != nil {
		return nil, err
	}
	page := make([]AgentInfo, len(resp.GetAgents()))
	for i, a := range resp.GetAgents() {
		page[i] = agentInfo(a)
	}
	return page, nil
}

// ListAll yields all agents of a class, or of all classes if class is empty, page
// by page. It ends after the last agent, or by yielding one error. Agents that are
// created or deleted meanwhile may or may not be among them.
func (c *Client) ListAll(ctx context.Context, class string) iter.Seq2[AgentInfo, error] {
	return func(yield func(AgentInfo, error) bool) {
		opts := ListOptions{Class: class, Limit: maxPage}
		for {
			page, err := c.List(ctx, opts)
			if err != nil {
				yield(AgentInfo{}, err)
				return
			}
			for _, info := range page {
				if !yield(info, nil) {
					return
				}
			}
			if len(page) < opts.Limit {
				return
			}
			opts.After = page[len(page)-1].ID()
		}
	}
}

// Deploy makes every class that the bundle exports the newest version of that
// class. All or none; code that does not load is kind Compile and, where the place
// is known, holds a *SourceError.
func (c *Client) Deploy(ctx context.Context, d Deployment) ([]ClassInfo, error) {
	r := request{op: "deploy", effects: true}
	if size := len(d.Code) + len(d.SourceMap); size > maxBundleBytes {
		return nil, &agent.Error{Op: r.op, Kind: agent.TooLarge,
			Msg: fmt.Sprintf("code and source map have %d bytes; at most %d are allowed", size, maxBundleBytes)}
	}
	resp, err := send(ctx, c, r, c.classes.Deploy,
		&agentdv1.DeployRequest{Namespace: c.namespace, Code: d.Code, SourceMap: d.SourceMap})
	return classInfos(resp.GetClasses()), err
}

// maxBundleBytes is the server's limit; over it a message would not even arrive.
const maxBundleBytes = 32 << 20

// Classes returns the newest version of each class, sorted by name.
func (c *Client) Classes(ctx context.Context) ([]ClassInfo, error) {
	resp, err := send(ctx, c, request{op: "list classes"}, c.classes.List,
		&agentdv1.ClassServiceListRequest{Namespace: c.namespace})
	return classInfos(resp.GetClasses()), err
}

// Class returns the kept versions of one class, newest first; kind UnknownClass if
// there is no such class.
func (c *Client) Class(ctx context.Context, name string) ([]ClassInfo, error) {
	if err := agent.ValidateClass(name); err != nil {
		return nil, err
	}
	resp, err := send(ctx, c, request{op: "get class"}, c.classes.Get,
		&agentdv1.ClassServiceGetRequest{Namespace: c.namespace, Class: name})
	return classInfos(resp.GetVersions()), err
}

// Rollback makes the code of an older version the newest version, which it
// returns.
func (c *Client) Rollback(ctx context.Context, class string, version uint64) (*ClassInfo, error) {
	if err := agent.ValidateClass(class); err != nil {
		return nil, err
	}
	resp, err := send(ctx, c, request{op: "roll back", effects: true}, c.classes.Rollback,
		&agentdv1.RollbackRequest{Namespace: c.namespace, Class: class, Version: version})
	if err != nil {
		return nil, err
	}
	info := classInfo(resp.GetClass())
	return &info, nil
}

// Health is nil if the server accepts calls; kind Unavailable with the reason if
// it does not or cannot be reached (NotServing).
func (c *Client) Health(ctx context.Context) error {
	resp, err := send(ctx, c, request{op: "check health"}, c.cluster.Status, &agentdv1.StatusRequest{})
	if err == nil && !resp.GetReady() {
		return &agent.Error{Op: "check health", Kind: agent.Unavailable,
			Msg: fmt.Sprintf("%s does not accept calls: %s", c.addr, resp.GetReason())}
	}
	return err
}

// Version is the version of the server's program.
func (c *Client) Version(ctx context.Context) (string, error) {
	resp, err := send(ctx, c, request{op: "get version"}, c.cluster.Status, &agentdv1.StatusRequest{})
	return resp.GetVersion(), err
}

var phases = map[agentdv1.AgentPhase]string{
	agentdv1.AgentPhase_AGENT_PHASE_HIBERNATED:  "hibernated",
	agentdv1.AgentPhase_AGENT_PHASE_STARTING:    "starting",
	agentdv1.AgentPhase_AGENT_PHASE_LIVE:        "live",
	agentdv1.AgentPhase_AGENT_PHASE_BROKEN:      "broken",
	agentdv1.AgentPhase_AGENT_PHASE_QUARANTINED: "quarantined",
}

func agentInfo(a *agentdv1.AgentInfo) AgentInfo {
	ref := a.GetAgent()
	return AgentInfo{
		Namespace: ref.GetNamespace(), Class: ref.GetClass(), Name: ref.GetName(),
		Exists: a.GetExists(), Live: a.GetLive(), Phase: phases[a.GetPhase()], Reason: a.GetReason(),
		Wake: wire.Time(a.GetWakeTime()), Resume: a.GetResume(), Seq: a.GetSeq(), SizeBytes: a.GetSizeBytes(),
		CreatedAt: wire.Time(a.GetCreateTime()), Mailbox: int(a.GetMailbox()), Resets: int(a.GetResets()),
		LastReset: a.GetLastReset(), StartedAt: wire.Time(a.GetStartTime()), Turns: a.GetTurns(),
	}
}

func classInfos(versions []*agentdv1.ClassVersion) []ClassInfo {
	out := make([]ClassInfo, len(versions))
	for i, v := range versions {
		out[i] = classInfo(v)
	}
	return out
}

func classInfo(v *agentdv1.ClassVersion) ClassInfo {
	return ClassInfo{
		Namespace: v.GetNamespace(), Class: v.GetClass(), Version: v.GetVersion(), Bundle: v.GetBundle(),
		Methods: v.GetMethods(), DeployedAt: wire.Time(v.GetDeployTime()),
	}
}

func fiberOf(f *agentdv1.Fiber) Fiber {
	return Fiber{
		ID: f.GetFiberId(), Name: f.GetName(), IdempotencyKey: f.GetIdempotencyKey(),
		Status: wire.FiberStatusName(f.GetStatus()), Snapshot: f.GetSnapshot(), Error: f.GetError(), Metadata: f.GetMetadata(),
		CreatedAt: wire.Time(f.GetCreateTime()), StartedAt: wire.Time(f.GetStartTime()), SettledAt: wire.Time(f.GetSettleTime()),
	}
}
