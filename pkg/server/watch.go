package server

import (
	"context"
	"encoding/json"
	"sync"

	"google.golang.org/grpc"

	"agentd/internal/wire"
	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

const (
	stateTopic = "state"
	// feedBuffer holds the states of one burst until they are looked at. A longer
	// burst costs a new subscription and one read of the state, nothing else.
	feedBuffer = 256
)

// feed is a subscription to the states of one agent.
type feed struct {
	states <-chan []byte // closed when the subscription ends
	err    func() error  // why it ended
	close  func()
}

// WatchState sends the state as it is and then the newest again and again.
func (s *agentService) WatchState(req *agentdv1.WatchStateRequest, stream grpc.ServerStreamingServer[agentdv1.WatchStateResponse]) error {
	call, err := wire.GetStateCall(&agentdv1.GetStateRequest{Agent: req.GetAgent()})
	if err != nil {
		return err
	}
	w := watch{
		drained: s.drained,
		subscribe: func() (feed, error) {
			sub, err := s.agents.Subscribe(call.Agent, stateTopic, feedBuffer)
			if err != nil {
				return feed{}, err
			}
			// One that was refused has ended already; its error is not that of a burst.
			return feed{states: sub.C, err: sub.Err, close: sub.Close}, sub.Err()
		},
		read: func(ctx context.Context) (json.RawMessage, error) {
			result, err := s.agents.Call(ctx, call)
			if err != nil {
				return nil, err
			}
			return wire.State(result)
		},
		send: func(state json.RawMessage) error {
			return stream.Send(&agentdv1.WatchStateResponse{State: state})
		},
	}
	return w.run(stream.Context(), call.Agent)
}

// watch follows the state of one agent for one client.
type watch struct {
	drained   <-chan struct{}
	subscribe func() (feed, error)
	read      func(context.Context) (json.RawMessage, error)
	send      func(json.RawMessage) error
}

// run ends with an error: the client's, the agent's, or that of a server that
// stops. A burst that overran the subscription begins it anew.
func (w *watch) run(ctx context.Context, id agent.ID) error {
	for {
		f, err := w.subscribe()
		if err != nil {
			return err
		}
		overrun, err := w.follow(ctx, id, f)
		if !overrun {
			return err
		}
	}
}

func (w *watch) follow(ctx context.Context, id agent.ID, f feed) (overrun bool, err error) {
	newest := &slot{ready: make(chan struct{}, 1)}
	var pump sync.WaitGroup
	defer pump.Wait()
	defer f.close() // closes f.states, which ends the pump

	state, err := w.read(ctx)
	if err != nil {
		return false, err
	}
	// Whatever is in the feed by now is at least as new as what was read, or led to
	// it; so its last message is the newest.
	for waiting := true; waiting; {
		select {
		case s, ok := <-f.states:
			if waiting = ok; ok {
				state = s
			}
		default:
			waiting = false
		}
	}
	pump.Go(func() {
		for s := range f.states {
			newest.put(s)
		}
		newest.end()
	})
	if err := w.send(state); err != nil {
		return false, err
	}
	for {
		select {
		case <-ctx.Done():
			return false, agent.FromContext(ctx, "watch state of", id)
		case <-w.drained:
			return false, &agent.Error{Op: "watch state of", Agent: id, Kind: agent.Unavailable,
				Msg: "the server is shutting down; watch again"}
		case <-newest.ready:
		}
		state, ok, ended := newest.take()
		if ok {
			if err := w.send(state); err != nil {
				return false, err
			}
		}
		if ended {
			err := f.err()
			return agent.KindOf(err) == agent.Overloaded, err
		}
	}
}

// slot holds the newest state that was not sent yet, so that a slow client holds
// back nobody.
type slot struct {
	ready chan struct{} // buffer of one: something changed

	mu    sync.Mutex // guards what follows; nothing blocks under it
	state []byte
	full  bool
	ended bool
}

func (s *slot) put(state []byte) {
	s.mu.Lock()
	s.state, s.full = state, true
	s.mu.Unlock()
	s.signal()
}

func (s *slot) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.signal()
}

func (s *slot) signal() {
	select {
	case s.ready <- struct{}{}:
	default: // already said
	}
}

func (s *slot) take() (state []byte, ok, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, ok, ended = s.state, s.full, s.ended
	s.state, s.full = nil, false
	return state, ok, ended
}
