package wire

import (
	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// Ref names an agent on the wire.
func Ref(id agent.ID) *agentdv1.AgentRef { return refOf(id) }

func refOf(id agent.ID) *agentdv1.AgentRef {
	return &agentdv1.AgentRef{
		Namespace: cut(id.Namespace, agent.MaxNamespaceBytes),
		Class:     cut(id.Class, agent.MaxClassBytes),
		Name:      cut(id.Name, agent.MaxNameBytes),
	}
}

// ID reads and checks the agent that a request names; kind Invalid if it names
// none or a part of it is malformed.
func ID(ref *agentdv1.AgentRef) (agent.ID, error) {
	if ref == nil {
		return agent.ID{}, invalid("the request names no agent: set agent.class and agent.name")
	}
	id := agent.ID{Namespace: Namespace(ref.GetNamespace()), Class: ref.GetClass(), Name: ref.GetName()}
	return id, id.Validate()
}

// Namespace is the namespace of a request; empty on the wire is the default one.
func Namespace(namespace string) string {
	if namespace == "" {
		return agent.DefaultNamespace
	}
	return namespace
}
