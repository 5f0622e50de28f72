package actor

import (
	"fmt"
	"sync"
	"sync/atomic"

	"agentd/pkg/agent"
)

// Subscription receives what an agent publishes on one topic, in order. It does
// not activate the agent and survives its hibernation.
type Subscription struct {
	// C delivers the messages, which are shared and must not be changed. It is closed
	// when the subscription ends; Err says why.
	C <-chan []byte

	c     chan []byte
	exch  *exchange
	id    agent.ID
	topic string

	// guarded by exchange.mu
	ended bool
	err   error
}

// Err is nil while the subscription lives and after Close; kind Overloaded when
// the reader was too slow or the agent has too many, Unavailable when the host
// closed. Any goroutine.
func (s *Subscription) Err() error {
	s.exch.mu.Lock()
	defer s.exch.mu.Unlock()
	return s.err
}

// Close ends the subscription. Closing twice is harmless. Any goroutine.
func (s *Subscription) Close() {
	s.exch.mu.Lock()
	defer s.exch.mu.Unlock()
	s.exch.endLocked(s, nil)
}

// exchange carries messages from agents to subscriptions.
type exchange struct {
	perAgent int          // limit of subscriptions
	total    atomic.Int64 // subscriptions; zero spares publishers the lock

	// mu guards what follows. Sends under it never block.
	mu     sync.Mutex
	agents map[agent.ID]*audience
	closed bool
}

// audience is who listens to one agent.
type audience struct {
	count  int
	topics map[string][]*Subscription
}

func newExchange(perAgent int) *exchange {
	return &exchange{perAgent: perAgent, agents: make(map[agent.ID]*audience)}
}

// subscribe returns an ended subscription when it cannot be had.
func (e *exchange) subscribe(id agent.ID, topic string, buffer int) *Subscription {
	c := make(chan []byte, min(max(buffer, 1), maxBuffer))
	s := &Subscription{C: c, c: c, exch: e, id: id, topic: topic}
	refuse := func(kind agent.Kind, msg string) *Subscription {
		s.ended, s.err = true, &agent.Error{Op: "subscribe to", Agent: id, Kind: kind, Msg: msg}
		close(c)
		return s
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return refuse(agent.Unavailable, "the node is shutting down; subscribe again elsewhere")
	}
	a := e.agents[id]
	if a == nil {
		a = &audience{topics: make(map[string][]*Subscription)}
		e.agents[id] = a
	}
	if a.count >= e.perAgent {
		return refuse(agent.Overloaded, fmt.Sprintf("the agent has %d subscriptions, as many as it may; close some", a.count))
	}
	a.count++
	a.topics[topic] = append(a.topics[topic], s)
	e.total.Add(1)
	return s
}

// wanted says whether anybody listens.
func (e *exchange) wanted(id agent.ID, topic string) bool {
	if e.total.Load() == 0 {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.agents[id]
	return a != nil && len(a.topics[topic]) > 0
}

// publish hands data to everybody who listens and ends those who do not keep up.
func (e *exchange) publish(id agent.ID, topic string, data []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.agents[id]
	if a == nil {
		return
	}
	var slow []*Subscription
	for _, s := range a.topics[topic] {
		select {
		case s.c <- data:
		default:
			slow = append(slow, s)
		}
	}
	for _, s := range slow {
		e.endLocked(s, &agent.Error{Op: "subscribe to", Agent: id, Kind: agent.Overloaded,
			Msg: fmt.Sprintf("%d messages of topic %q were not read; subscribe again and read faster", cap(s.c), topic)})
	}
}

func (e *exchange) endLocked(s *Subscription, err error) {
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	close(s.c)
	e.total.Add(-1)
	a := e.agents[s.id]
	list := a.topics[s.topic]
	for i, other := range list {
		if other == s {
			list[i] = list[len(list)-1]
			list[len(list)-1] = nil
			list = list[:len(list)-1]
			break
		}
	}
	if a.topics[s.topic] = list; len(list) == 0 {
		delete(a.topics, s.topic)
	}
	if a.count--; a.count == 0 {
		delete(e.agents, s.id)
	}
}

// close ends every subscription with kind Unavailable.
func (e *exchange) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	for id, a := range e.agents {
		for _, list := range a.topics {
			for len(list) > 0 {
				s := list[len(list)-1]
				list = list[:len(list)-1]
				e.endLocked(s, &agent.Error{Op: "subscribe to", Agent: id, Kind: agent.Unavailable,
					Msg: "the node is shutting down; subscribe again elsewhere"})
			}
		}
	}
}
