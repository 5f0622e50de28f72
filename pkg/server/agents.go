package server

import (
	"context"
	"fmt"

	"agentd/internal/wire"
	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/storage"
	agentdv1 "agentd/proto/agentd/v1"
)

// Page sizes of List.
const (
	defaultPage = 100
	maxPage     = 1000
)

// agentService is agentd.v1.AgentService.
type agentService struct {
	agentdv1.UnimplementedAgentServiceServer
	agents  Agents
	drained <-chan struct{} // ends watches
}

func (s *agentService) Invoke(ctx context.Context, req *agentdv1.InvokeRequest) (*agentdv1.InvokeResponse, error) {
	call, err := wire.InvokeCall(req)
	if err != nil {
		return nil, err
	}
	result, err := s.agents.Call(ctx, call)
	if err != nil {
		return nil, err
	}
	if len(result.Value) > agent.MaxResultBytes {
		return nil, &agent.Error{Op: "call " + call.Method, Agent: call.Agent, Kind: agent.TooLarge,
			Msg: fmt.Sprintf("the result has %d bytes; at most %d are allowed", len(result.Value), agent.MaxResultBytes)}
	}
	return wire.InvokeResponse(result), nil
}

func (s *agentService) GetState(ctx context.Context, req *agentdv1.GetStateRequest) (*agentdv1.GetStateResponse, error) {
	call, err := wire.GetStateCall(req)
	if err != nil {
		return nil, err
	}
	result, err := s.agents.Call(ctx, call)
	if err != nil {
		return nil, err
	}
	state, err := wire.State(result)
	return &agentdv1.GetStateResponse{State: state}, err
}

func (s *agentService) SetState(ctx context.Context, req *agentdv1.SetStateRequest) (*agentdv1.SetStateResponse, error) {
	call, err := wire.SetStateCall(req)
	if err != nil {
		return nil, err
	}
	_, err = s.agents.Call(ctx, call)
	return &agentdv1.SetStateResponse{}, err
}

func (s *agentService) Query(ctx context.Context, req *agentdv1.QueryRequest) (*agentdv1.QueryResponse, error) {
	call, err := wire.QueryCall(req)
	return answer(ctx, s.agents, call, err, wire.QueryResponse)
}

func (s *agentService) KVGet(ctx context.Context, req *agentdv1.KVGetRequest) (*agentdv1.KVGetResponse, error) {
	call, err := wire.KVGetCall(req)
	return answer(ctx, s.agents, call, err, wire.KVGetResponse)
}

func (s *agentService) KVPut(ctx context.Context, req *agentdv1.KVPutRequest) (*agentdv1.KVPutResponse, error) {
	call, err := wire.KVPutCall(req)
	return answer(ctx, s.agents, call, err, func(agent.Result) (*agentdv1.KVPutResponse, error) {
		return &agentdv1.KVPutResponse{}, nil
	})
}

func (s *agentService) KVDelete(ctx context.Context, req *agentdv1.KVDeleteRequest) (*agentdv1.KVDeleteResponse, error) {
	call, err := wire.KVDeleteCall(req)
	return answer(ctx, s.agents, call, err, wire.KVDeleteResponse)
}

func (s *agentService) KVList(ctx context.Context, req *agentdv1.KVListRequest) (*agentdv1.KVListResponse, error) {
	call, err := wire.KVListCall(req)
	return answer(ctx, s.agents, call, err, wire.KVListResponse)
}

// answer runs a platform call, unless reading the request failed, and reads its
// result.
func answer[Resp any](ctx context.Context, agents Agents, call agent.Call, err error, read func(agent.Result) (*Resp, error)) (*Resp, error) {
	if err != nil {
		return nil, err
	}
	result, err := agents.Call(ctx, call)
	if err != nil {
		return nil, err
	}
	return read(result)
}

func (s *agentService) List(ctx context.Context, req *agentdv1.AgentServiceListRequest) (*agentdv1.AgentServiceListResponse, error) {
	namespace := wire.Namespace(req.GetNamespace())
	if err := agent.ValidateNamespace(namespace); err != nil {
		return nil, err
	}
	if class := req.GetClass(); class != "" {
		if err := agent.ValidateClass(class); err != nil {
			return nil, err
		}
	}
	limit, err := wire.Limit("limit", req.GetLimit(), defaultPage, maxPage)
	if err != nil {
		return nil, err
	}
	after, err := pageStart(namespace, req.GetAfter())
	if err != nil {
		return nil, err
	}
	entries, err := s.agents.List(ctx, namespace, req.GetClass(), after, limit)
	if err != nil {
		return nil, err
	}
	page := make([]*agentdv1.AgentInfo, len(entries))
	for i, entry := range entries {
		page[i] = entryInfo(entry)
	}
	return &agentdv1.AgentServiceListResponse{Agents: page}, nil
}

func pageStart(namespace string, ref *agentdv1.AgentRef) (agent.ID, error) {
	if ref == nil {
		return agent.ID{}, nil
	}
	after := agent.ID{Namespace: namespace, Class: ref.GetClass(), Name: ref.GetName()}
	if other := ref.GetNamespace(); other != "" && other != namespace {
		return after, &agent.Error{Op: "list agents", Kind: agent.Invalid,
			Msg: fmt.Sprintf("after names namespace %.80q but the request lists %q", other, namespace)}
	}
	return after, after.Validate()
}

func (s *agentService) Describe(ctx context.Context, req *agentdv1.AgentServiceDescribeRequest) (*agentdv1.AgentServiceDescribeResponse, error) {
	id, err := wire.ID(req.GetAgent())
	if err != nil {
		return nil, err
	}
	status, err := s.agents.Describe(ctx, id)
	if err != nil {
		return nil, err
	}
	return &agentdv1.AgentServiceDescribeResponse{Agent: statusInfo(id, status)}, nil
}

func (s *agentService) Delete(ctx context.Context, req *agentdv1.AgentServiceDeleteRequest) (*agentdv1.AgentServiceDeleteResponse, error) {
	id, err := wire.ID(req.GetAgent())
	if err != nil {
		return nil, err
	}
	return &agentdv1.AgentServiceDeleteResponse{}, s.agents.Delete(ctx, id)
}

func (s *agentService) Unquarantine(ctx context.Context, req *agentdv1.UnquarantineRequest) (*agentdv1.UnquarantineResponse, error) {
	id, err := wire.ID(req.GetAgent())
	if err != nil {
		return nil, err
	}
	return &agentdv1.UnquarantineResponse{}, s.agents.Lift(ctx, id)
}

var phases = map[actor.Phase]agentdv1.AgentPhase{
	actor.PhaseHibernated:  agentdv1.AgentPhase_AGENT_PHASE_HIBERNATED,
	actor.PhaseStarting:    agentdv1.AgentPhase_AGENT_PHASE_STARTING,
	actor.PhaseLive:        agentdv1.AgentPhase_AGENT_PHASE_LIVE,
	actor.PhaseBroken:      agentdv1.AgentPhase_AGENT_PHASE_BROKEN,
	actor.PhaseQuarantined: agentdv1.AgentPhase_AGENT_PHASE_QUARANTINED,
}

// entryInfo is what the catalog knows.
func entryInfo(entry storage.Entry) *agentdv1.AgentInfo {
	return &agentdv1.AgentInfo{
		Agent:      wire.Ref(entry.ID),
		Exists:     true,
		Live:       entry.Live,
		Reason:     wire.Text(entry.Quarantine),
		WakeTime:   wire.Timestamp(entry.Wake.At),
		Resume:     entry.Wake.Resume,
		Seq:        entry.Seq,
		SizeBytes:  entry.SizeBytes,
		CreateTime: wire.Timestamp(entry.CreatedAt),
	}
}

// statusInfo is what the owner knows.
func statusInfo(id agent.ID, status actor.Status) *agentdv1.AgentInfo {
	info := entryInfo(status.Entry)
	info.Agent = wire.Ref(id)
	info.Exists = status.Exists
	info.Phase = phases[status.Phase]
	if status.Reason != "" {
		info.Reason = wire.Text(status.Reason)
	}
	info.Mailbox = uint32(max(status.Mailbox, 0))
	info.Resets = uint32(max(status.Resets, 0))
	info.LastReset = wire.Text(status.LastReset)
	info.StartTime = wire.Timestamp(status.StartedAt)
	info.Turns = status.Turns
	return info
}
