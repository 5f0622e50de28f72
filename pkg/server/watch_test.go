package server

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"agentd/pkg/agent"
)

var watched = agent.ID{Namespace: "default", Class: "C", Name: "n"}

// source is an agent whose state is set by the test.
type source struct {
	feeds   []chan []byte
	ended   error
	state   string
	reading func() // called while the state is read
}

func (s *source) watch(send func(json.RawMessage) error, drained <-chan struct{}) *watch {
	return &watch{
		drained: drained,
		subscribe: func() (feed, error) {
			c := make(chan []byte, 4)
			s.feeds = append(s.feeds, c)
			return feed{states: c, err: func() error { return s.ended }, close: func() { s.close(c) }}, nil
		},
		read: func(context.Context) (json.RawMessage, error) {
			if s.reading != nil {
				s.reading()
			}
			if s.state == "" {
				return nil, nil
			}
			return json.RawMessage(s.state), nil
		},
		send: send,
	}
}

func (s *source) set(state string) {
	s.state = state
	s.feeds[len(s.feeds)-1] <- []byte(state)
}

func (s *source) close(c chan []byte) {
	for i, f := range s.feeds {
		if f == c {
			s.feeds = append(s.feeds[:i], s.feeds[i+1:]...)
			close(c)
		}
	}
}

func TestWatch_CurrentThenEachNewState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		s := &source{}
		w := s.watch(func(state json.RawMessage) error { got = append(got, string(state)); return nil }, nil)
		done := make(chan error, 1)
		go func() { done <- w.run(ctx, watched) }()
		synctest.Wait()
		for _, state := range []string{"1", "2"} {
			s.set(state)
			synctest.Wait()
		}
		cancel()
		if err := <-done; agent.KindOf(err) != agent.Canceled {
			t.Errorf("ended with %v", err)
		}
		if text := strings.Join(got, ","); text != ",1,2" {
			t.Errorf("saw %s", text)
		}
	})
}

// What was published while the state was read is not sent again after it: the
// client would see the state go back.
func TestWatch_NeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		s := &source{}
		s.reading = func() { s.set("1"); s.set("2") }
		w := s.watch(func(state json.RawMessage) error { got = append(got, string(state)); return nil }, nil)
		done := make(chan error, 1)
		go func() { done <- w.run(ctx, watched) }()
		synctest.Wait()
		cancel()
		<-done
		if text := strings.Join(got, ","); text != "2" {
			t.Errorf("saw %s", text)
		}
	})
}

func TestWatch_SlowClientGetsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		s := &source{state: "0"}
		taken := make(chan struct{})
		w := s.watch(func(state json.RawMessage) error { <-taken; got = append(got, string(state)); return nil }, nil)
		done := make(chan error, 1)
		go func() { done <- w.run(ctx, watched) }()
		synctest.Wait()
		for i := range 100 { // far beyond the buffer
			s.set(string(rune('a' + i%26)))
			synctest.Wait()
		}
		s.set(`"last"`)
		synctest.Wait()
		close(taken)
		synctest.Wait()
		cancel()
		<-done
		if text := strings.Join(got, ","); text != `0,"last"` {
			t.Errorf("saw %s", text)
		}
	})
}

func TestWatch_BeginsAnewAfterABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		s := &source{state: "0"}
		w := s.watch(func(state json.RawMessage) error { got = append(got, string(state)); return nil }, nil)
		done := make(chan error, 1)
		go func() { done <- w.run(ctx, watched) }()
		synctest.Wait()
		s.state, s.ended = "9", &agent.Error{Kind: agent.Overloaded}
		s.close(s.feeds[0])
		synctest.Wait()
		s.ended = &agent.Error{Kind: agent.Unavailable, Msg: "moved"}
		s.close(s.feeds[0])
		if err := <-done; agent.KindOf(err) != agent.Unavailable {
			t.Errorf("ended with %v", err)
		}
		cancel()
		if text := strings.Join(got, ","); text != "0,9" {
			t.Errorf("saw %s", text)
		}
	})
}

func TestWatch_Ends(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *source, drained chan struct{})
		send error
		kind agent.Kind
	}{
		"server drains":     {func(_ *source, drained chan struct{}) { close(drained) }, nil, agent.Unavailable},
		"client is gone":    {func(*source, chan struct{}) {}, &agent.Error{Kind: agent.Canceled}, agent.Canceled},
		"state unreachable": {nil, nil, agent.UnknownClass},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{state: "0"}
				drained := make(chan struct{})
				w := s.watch(func(json.RawMessage) error { return c.send }, drained)
				if c.end == nil {
					w.read = func(context.Context) (json.RawMessage, error) { return nil, &agent.Error{Kind: agent.UnknownClass} }
				}
				done := make(chan error, 1)
				go func() { done <- w.run(t.Context(), watched) }()
				synctest.Wait()
				if c.end != nil {
					c.end(s, drained)
				}
				if err := <-done; agent.KindOf(err) != c.kind || errors.Is(err, context.Canceled) {
					t.Errorf("ended with %v", err)
				}
				if len(s.feeds) != 0 {
					t.Error("the subscription was left open")
				}
			})
		})
	}
}
