package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"agentd/internal/wire"
	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// CallStream runs a method that is declared with @callable({streaming: true}) and
// gives each chunk to onChunk in order, on the caller's goroutine; an error of
// onChunk ends the stream and is returned. The result is what the method gave to
// end(), nil if nothing. A reader that falls more than 4 096 chunks behind loses the
// stream with kind Overloaded. It is never repeated.
func (a *Agent) CallStream(ctx context.Context, method string, args []json.RawMessage, onChunk func(json.RawMessage) error) (json.RawMessage, error) {
	call := agent.Call{Agent: a.id, Method: method, Args: args}
	if err := call.Validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when onChunk failed
	req := &agentdv1.InvokeStreamRequest{Agent: wire.Ref(a.id), Method: method, Args: make([][]byte, len(args))}
	for i, arg := range args {
		req.Args[i] = arg
	}
	r := request{op: "call " + method, id: a.id, effects: true}
	stream, err := a.client.agents.InvokeStream(ctx, req)
	if err != nil {
		return nil, a.client.failure(ctx, r, err, false)
	}
	for {
		resp, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, &agent.Error{Op: r.op, Agent: a.id, Kind: agent.OutcomeUnknown, Msg: "the stream ended without a result"}
		case err != nil:
			return nil, a.client.failure(ctx, r, err, true)
		case resp.GetResult() != nil:
			return resp.GetResult().GetResult(), nil
		}
		if err := onChunk(resp.GetChunk()); err != nil {
			return nil, err
		}
	}
}
