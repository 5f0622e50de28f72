package server

import (
	"context"
	"crypto/rand"

	"google.golang.org/grpc"

	"agentd/internal/wire"
	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

const (
	streamTopic = "call/"
	// streamBuffer is how many chunks may wait for a slow client; one more ends its
	// stream with kind Overloaded. The method is not held back: it runs for the agent,
	// not for the reader.
	streamBuffer = 4096
)

// InvokeStream runs a method and sends its chunks. They travel on a topic of this
// one call, behind the agent's output gate, and all of them are in the
// subscription by the time that Call returns.
func (s *agentService) InvokeStream(req *agentdv1.InvokeStreamRequest, stream grpc.ServerStreamingServer[agentdv1.InvokeStreamResponse]) error {
	call, err := wire.InvokeStreamCall(req, streamTopic+rand.Text())
	if err != nil {
		return err
	}
	sub, err := s.agents.Subscribe(call.Agent, call.Stream, streamBuffer)
	if err != nil {
		return err
	}
	defer sub.Close()
	ctx, cancel := context.WithCancel(stream.Context())
	type outcome struct {
		result agent.Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		result, err := s.agents.Call(ctx, call)
		done <- outcome{result, err}
	}()
	// The call ends when its context does, so leaving early does not leave it behind.
	var out *outcome
	defer func() {
		cancel()
		if out == nil {
			<-done
		}
	}()
	chunk := func(data []byte) error {
		return stream.Send(&agentdv1.InvokeStreamResponse{Event: &agentdv1.InvokeStreamResponse_Chunk{Chunk: data}})
	}
	for out == nil {
		select {
		case data, ok := <-sub.C:
			if !ok {
				return sub.Err()
			}
			if err := chunk(data); err != nil {
				return err
			}
		case o := <-done:
			out = &o
		}
	}
	for len(sub.C) > 0 {
		if err := chunk(<-sub.C); err != nil {
			return err
		}
	}
	if out.err != nil {
		return out.err
	}
	return stream.Send(&agentdv1.InvokeStreamResponse{Event: &agentdv1.InvokeStreamResponse_Result{Result: wire.InvokeResponse(out.result)}})
}
