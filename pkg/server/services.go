package server

import (
	"context"
	"fmt"

	"agentd/internal/wire"
	"agentd/pkg/agent"
	"agentd/pkg/placement"
	agentdv1 "agentd/proto/agentd/v1"
)

// fiberService is agentd.v1.FiberService.
type fiberService struct {
	agentdv1.UnimplementedFiberServiceServer
	agents Agents
}

func (s *fiberService) List(ctx context.Context, req *agentdv1.FiberServiceListRequest) (*agentdv1.FiberServiceListResponse, error) {
	call, err := wire.FiberListCall(req)
	return answer(ctx, s.agents, call, err, wire.FiberListResponse)
}

func (s *fiberService) Get(ctx context.Context, req *agentdv1.FiberServiceGetRequest) (*agentdv1.FiberServiceGetResponse, error) {
	call, err := wire.FiberGetCall(req)
	return answer(ctx, s.agents, call, err, wire.FiberGetResponse)
}

func (s *fiberService) Cancel(ctx context.Context, req *agentdv1.FiberServiceCancelRequest) (*agentdv1.FiberServiceCancelResponse, error) {
	call, err := wire.FiberCancelCall(req)
	return answer(ctx, s.agents, call, err, wire.FiberCancelResponse)
}

// classService is agentd.v1.ClassService.
type classService struct {
	agentdv1.UnimplementedClassServiceServer
	classes Classes
}

func (s *classService) Deploy(ctx context.Context, req *agentdv1.DeployRequest) (*agentdv1.DeployResponse, error) {
	namespace, err := namespaceOf(req.GetNamespace())
	if err != nil {
		return nil, err
	}
	size := len(req.GetCode()) + len(req.GetSourceMap())
	switch {
	case len(req.GetCode()) == 0:
		return nil, &agent.Error{Op: "deploy", Kind: agent.Invalid, Msg: "the bundle has no code"}
	case size > placement.MaxBundleBytes:
		return nil, &agent.Error{Op: "deploy", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("code and source map have %d bytes; at most %d are allowed", size, placement.MaxBundleBytes)}
	}
	versions, err := s.classes.Deploy(ctx, namespace, placement.Bundle{Code: req.GetCode(), SourceMap: req.GetSourceMap()})
	return &agentdv1.DeployResponse{Classes: versionList(versions)}, err
}

func (s *classService) List(ctx context.Context, req *agentdv1.ClassServiceListRequest) (*agentdv1.ClassServiceListResponse, error) {
	namespace, err := namespaceOf(req.GetNamespace())
	if err != nil {
		return nil, err
	}
	versions, err := s.classes.Versions(ctx, namespace, "")
	return &agentdv1.ClassServiceListResponse{Classes: versionList(versions)}, err
}

func (s *classService) Get(ctx context.Context, req *agentdv1.ClassServiceGetRequest) (*agentdv1.ClassServiceGetResponse, error) {
	namespace, err := classOf(req.GetNamespace(), req.GetClass())
	if err != nil {
		return nil, err
	}
	versions, err := s.classes.Versions(ctx, namespace, req.GetClass())
	if err == nil && len(versions) == 0 {
		err = &agent.Error{Op: "get class", Kind: agent.UnknownClass,
			Msg: fmt.Sprintf("no class %s is deployed in namespace %q; `agentd class ls` shows what is", req.GetClass(), namespace)}
	}
	return &agentdv1.ClassServiceGetResponse{Versions: versionList(versions)}, err
}

func (s *classService) Rollback(ctx context.Context, req *agentdv1.RollbackRequest) (*agentdv1.RollbackResponse, error) {
	namespace, err := classOf(req.GetNamespace(), req.GetClass())
	if err != nil {
		return nil, err
	}
	if req.GetVersion() == 0 {
		return nil, &agent.Error{Op: "roll back", Kind: agent.Invalid, Msg: "the version must be 1 or more"}
	}
	version, err := s.classes.Rollback(ctx, namespace, req.GetClass(), req.GetVersion())
	if err != nil {
		return nil, err
	}
	return &agentdv1.RollbackResponse{Class: classVersion(version)}, nil
}

func namespaceOf(field string) (string, error) {
	namespace := wire.Namespace(field)
	return namespace, agent.ValidateNamespace(namespace)
}

func classOf(namespaceField, class string) (string, error) {
	namespace, err := namespaceOf(namespaceField)
	if err != nil {
		return "", err
	}
	return namespace, agent.ValidateClass(class)
}

func versionList(versions []placement.ClassVersion) []*agentdv1.ClassVersion {
	out := make([]*agentdv1.ClassVersion, len(versions))
	for i, v := range versions {
		out[i] = classVersion(v)
	}
	return out
}

func classVersion(v placement.ClassVersion) *agentdv1.ClassVersion {
	return &agentdv1.ClassVersion{
		Namespace: v.Namespace, Class: v.Class, Version: v.Version, Bundle: v.Bundle,
		Methods: v.Methods, DeployTime: wire.Timestamp(v.DeployedAt),
	}
}

// clusterService is agentd.v1.ClusterService.
type clusterService struct {
	agentdv1.UnimplementedClusterServiceServer
	version string
	ready   func() error
}

func (s *clusterService) Status(context.Context, *agentdv1.StatusRequest) (*agentdv1.StatusResponse, error) {
	resp := &agentdv1.StatusResponse{Version: s.version, Ready: true}
	if err := s.ready(); err != nil {
		resp.Ready, resp.Reason = false, err.Error()
	}
	return resp, nil
}
