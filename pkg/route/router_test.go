package route

import (
	"context"
	"strings"
	"testing"

	"agentd/pkg/agent"
	"agentd/pkg/placement"
)

// owned is a table in which one node owns everything.
type owned string

func (o owned) Table() *placement.Table {
	return placement.NewTable(placement.DefaultShards, string(o))
}

// An agent of another node is never run here: the answer says whose it is, and the
// caller may try again.
func TestRouter_AgentOfAnotherNode(t *testing.T) {
	ctx := context.Background()
	id := agent.ID{Namespace: "default", Class: "Counter", Name: "a"}
	r := New("here", owned("there"), nil, nil) // a host that is asked would panic
	_, callErr := r.Call(ctx, agent.Call{Agent: id, Method: "add"})
	_, describeErr := r.Describe(ctx, id)
	_, watchErr := r.Subscribe(id, "state", 1)
	for op, err := range map[string]error{
		"call": callErr, "describe": describeErr, "watch": watchErr,
		"delete": r.Delete(ctx, id), "lift": r.Lift(ctx, id),
	} {
		if agent.KindOf(err) != agent.Unavailable || !strings.Contains(err.Error(), "there") {
			t.Errorf("%s: %v; want kind unavailable that names the owner", op, err)
		}
	}
}

func TestRouter_RefusesBadIDs(t *testing.T) {
	r := New("here", owned("here"), nil, nil)
	if err := r.Delete(context.Background(), agent.ID{Namespace: "default", Class: "Counter"}); agent.KindOf(err) != agent.Invalid {
		t.Errorf("an ID without a name: %v", err)
	}
	if _, err := r.List(context.Background(), "Not A Namespace", "", agent.ID{}, 10); agent.KindOf(err) != agent.Invalid {
		t.Errorf("a namespace that is none: %v", err)
	}
}
