package jsagent

import (
	"encoding/json"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// streams says whether a method is declared with @callable({streaming: true}): it
// then takes a StreamingResponse in front of its arguments.
func (in *instance) streams(name string) (bool, error) {
	if known, ok := in.self.streaming[name]; ok {
		return known, nil
	}
	if in.glue.parts["sdk"] == nil { // then no decorator ran
		return false, nil
	}
	declared, err := in.glueCall("sdk", "isStreaming", in.self.object.Get(name))
	if err != nil {
		return false, err
	}
	if in.self.streaming == nil {
		in.self.streaming = make(map[string]bool)
	}
	in.self.streaming[name] = declared.ToBoolean()
	return declared.ToBoolean(), nil
}

// frame is what StreamingResponse writes (agents SDK, section 5.4).
type frame struct {
	Done    bool            `json:"done"`
	Success bool            `json:"success"`
	Result  json.RawMessage `json:"result"`
	Error   string          `json:"error"`
}

// response makes the StreamingResponse of a call: chunks are published on the
// call's topic, the end is its answer. Once the reader has gone the response is
// closed and the call answered, so that it keeps nobody awake.
func (in *instance) response(call agent.Call, cancelled <-chan struct{}, answer func(agent.Result, error)) (goja.Value, error) {
	gone := func(goja.FunctionCall) goja.Value {
		select {
		case <-cancelled:
			answer(agent.Result{}, &agent.Error{Op: "call " + call.Method, Agent: in.id(), Kind: agent.Canceled, Msg: "the reader has gone"})
			return in.vm.ToValue(true)
		default:
			return in.vm.ToValue(false)
		}
	}
	send := func(c goja.FunctionCall) goja.Value {
		var f frame
		if err := json.Unmarshal([]byte(c.Argument(0).String()), &f); err != nil {
			in.throw(&agent.Error{Kind: agent.Internal, Msg: "a frame of StreamingResponse is not JSON", Err: err})
		}
		switch {
		case !f.Success:
			answer(agent.Result{}, &agent.Error{Op: "call " + call.Method, Agent: in.id(), Kind: agent.Exception, Name: "Error", Msg: f.Error})
		case f.Done:
			answer(agent.Result{Value: f.Result}, nil)
		default:
			in.loop.Publish(call.Stream, f.Result)
		}
		return goja.Undefined()
	}
	return in.glueCall("sdk", "respond", in.vm.ToValue(send), in.vm.ToValue(gone))
}
