package jsagent

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// methodStart is a platform method that does nothing: by the time it runs, the
// agent has started.
const methodStart = "agent.start"

// overtakeAfter is how long a call on a stub holds back the next one on the same
// stub. It keeps their order on the way into the mailbox, and no longer, because the
// first may need the second to end.
const overtakeAfter = 2 * time.Millisecond

// stub is another agent (or this one) in the hands of code. It belongs to the loop.
type stub struct {
	id   agent.ID
	last <-chan struct{} // closed when the call before may be followed by the next
}

// hostStub makes the function (method, args) → promise of a stub.
func (in *instance) hostStub(call goja.FunctionCall) goja.Value {
	s := &stub{id: agent.ID{Namespace: in.id().Namespace, Class: call.Argument(0).String(), Name: call.Argument(1).String()}}
	return in.vm.ToValue(func(call goja.FunctionCall) goja.Value {
		method := call.Argument(0).String()
		args, err := in.arguments(s.id.Class+"."+method, in.list(call.Argument(1)))
		if err != nil {
			return in.rejected(in.errorValue(err))
		}
		return in.send(s, agent.Call{Agent: s.id, Method: method, Args: args})
	})
}

// hostInitialise starts the agent of a stub and waits for its onStart.
func (in *instance) hostInitialise(call goja.FunctionCall) goja.Value {
	id := in.id()
	target := call.Argument(0).ToObject(in.vm)
	s := &stub{id: agent.ID{Namespace: id.Namespace, Class: target.Get("what").String(), Name: target.Get("name").String()}}
	return in.send(s, agent.Call{Agent: s.id, Surface: agent.SurfacePlatform, Method: methodStart})
}

func (in *instance) rejected(reason goja.Value) goja.Value {
	p, _, reject := in.iso.Promise()
	reject(reason)
	return p
}

// arguments converts what a stub's method was given.
func (in *instance) arguments(what string, values []goja.Value) ([]json.RawMessage, error) {
	args := make([]json.RawMessage, len(values))
	for i, v := range values {
		name := fmt.Sprintf("argument %d of %s", i+1, what)
		if goja.IsUndefined(v) {
			return nil, &agent.Error{Kind: agent.Invalid, Name: "TypeError", Msg: name + " is undefined: pass null or leave it out"}
		}
		raw, err := in.iso.ToJSON(v)
		if err != nil {
			return nil, in.jsonError(name, err)
		}
		args[i] = raw
	}
	return args, nil
}

// send makes a call leave when everything written before it is durable.
func (in *instance) send(s *stub, call agent.Call) goja.Value {
	if in.loop == nil {
		return in.rejected(in.errorValue(invalid("", "agents cannot be called while the module is loaded")))
	}
	if in.cfg.Calls == nil {
		return in.rejected(in.errorValue(invalid("", "this agent is not connected to others: %s cannot be called", call.Agent)))
	}
	if err := call.Validate(); err != nil {
		return in.rejected(in.errorValue(err))
	}
	before, sent := s.last, make(chan struct{})
	follow := sync.OnceFunc(func() { close(sent) })
	pending := in.iso.Pending()
	durable := make(chan error, 1)
	promise := in.iso.Async(func(ctx context.Context) func(*goja.Runtime) (any, error) {
		defer follow()
		res, err := in.deliver(ctx, call, before, durable, follow)
		return func(*goja.Runtime) (any, error) {
			if err != nil {
				return nil, in.remoteError(err)
			}
			return in.iso.FromJSON(res.Value)
		}
	})
	if in.iso.Pending() > pending { // otherwise the limit refused it
		s.last = sent
		in.loop.Output(func(err error) { durable <- err })
	}
	return promise
}

// deliver runs off the loop.
func (in *instance) deliver(ctx context.Context, call agent.Call, before <-chan struct{}, durable <-chan error, follow func()) (agent.Result, error) {
	select {
	case err := <-durable:
		if err != nil {
			return agent.Result{}, err
		}
	case <-ctx.Done():
		return agent.Result{}, agent.FromContext(ctx, "call "+call.Method, call.Agent)
	}
	if before != nil {
		select {
		case <-before:
		case <-ctx.Done():
			return agent.Result{}, agent.FromContext(ctx, "call "+call.Method, call.Agent)
		}
	}
	overtake := time.AfterFunc(overtakeAfter, follow)
	defer overtake.Stop()
	return in.cfg.Calls.Call(ctx, call)
}
