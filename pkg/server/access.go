package server

import (
	"fmt"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"agentd/internal/wire"
	"agentd/pkg/agent"
	"agentd/pkg/auth"
	agentdv1 "agentd/proto/agentd/v1"
)

// scope says where a request names the namespace that it touches.
type scope uint8

const (
	everybody  scope = iota + 1 // no token is asked for
	noTenant                    // touches no namespace, or the request says nothing
	ofAgent                     // that of the agent
	ofARequest                  // a field of its own
)

// access is what a method needs.
type access struct {
	service string // of pkg/auth
	write   bool
	scope   scope
}

// accessOf names every method that is served. One that is missing is refused to
// everybody, so that a new method is placed on purpose. Query is a write because
// SQL may be one.
var accessOf = map[string]access{
	agentdv1.AgentService_Invoke_FullMethodName:       {auth.ServiceAgent, true, ofAgent},
	agentdv1.AgentService_InvokeStream_FullMethodName: {auth.ServiceAgent, true, ofAgent},
	agentdv1.AgentService_GetState_FullMethodName:     {auth.ServiceAgent, false, ofAgent},
	agentdv1.AgentService_SetState_FullMethodName:     {auth.ServiceAgent, true, ofAgent},
	agentdv1.AgentService_WatchState_FullMethodName:   {auth.ServiceAgent, false, ofAgent},
	agentdv1.AgentService_Query_FullMethodName:        {auth.ServiceAgent, true, ofAgent},
	agentdv1.AgentService_KVGet_FullMethodName:        {auth.ServiceAgent, false, ofAgent},
	agentdv1.AgentService_KVPut_FullMethodName:        {auth.ServiceAgent, true, ofAgent},
	agentdv1.AgentService_KVDelete_FullMethodName:     {auth.ServiceAgent, true, ofAgent},
	agentdv1.AgentService_KVList_FullMethodName:       {auth.ServiceAgent, false, ofAgent},
	agentdv1.AgentService_List_FullMethodName:         {auth.ServiceAgent, false, ofARequest},
	agentdv1.AgentService_Describe_FullMethodName:     {auth.ServiceAgent, false, ofAgent},
	agentdv1.AgentService_Delete_FullMethodName:       {auth.ServiceAgent, true, ofAgent},
	agentdv1.AgentService_Unquarantine_FullMethodName: {auth.ServiceAgent, true, ofAgent},

	agentdv1.FiberService_List_FullMethodName:   {auth.ServiceFiber, false, ofAgent},
	agentdv1.FiberService_Get_FullMethodName:    {auth.ServiceFiber, false, ofAgent},
	agentdv1.FiberService_Cancel_FullMethodName: {auth.ServiceFiber, true, ofAgent},

	agentdv1.ClassService_Deploy_FullMethodName:   {auth.ServiceClass, true, ofARequest},
	agentdv1.ClassService_List_FullMethodName:     {auth.ServiceClass, false, ofARequest},
	agentdv1.ClassService_Get_FullMethodName:      {auth.ServiceClass, false, ofARequest},
	agentdv1.ClassService_Rollback_FullMethodName: {auth.ServiceClass, true, ofARequest},

	agentdv1.ClusterService_Status_FullMethodName: {auth.ServiceCluster, false, noTenant},

	healthv1.Health_Check_FullMethodName: {scope: everybody},
	healthv1.Health_List_FullMethodName:  {scope: everybody},
	healthv1.Health_Watch_FullMethodName: {scope: everybody},

	// The names of all methods and messages are nobody's secret, but a port that is
	// closed to strangers should not explain itself to them either. v1alpha is what
	// older tools ask for; its package is deprecated, hence the text.
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      {auth.ServiceCluster, false, noTenant},
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {auth.ServiceCluster, false, noTenant},
}

// namespace is what a request touches, with the default that its handler will
// apply too. A request without the field of its scope is refused.
func (a access) namespace(request any) (string, error) {
	switch a.scope {
	case noTenant:
		return "", nil
	case ofAgent:
		if r, ok := request.(interface{ GetAgent() *agentdv1.AgentRef }); ok {
			return wire.Namespace(r.GetAgent().GetNamespace()), nil
		}
	case ofARequest:
		if r, ok := request.(interface{ GetNamespace() string }); ok {
			return wire.Namespace(r.GetNamespace()), nil
		}
	}
	return "", &agent.Error{Op: "authorize", Kind: agent.Denied, Msg: fmt.Sprintf("%T does not say which namespace it touches", request)}
}
