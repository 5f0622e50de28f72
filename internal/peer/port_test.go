package peer_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"agentd/internal/peer"
	"agentd/pkg/agent"
)

func TestPort_CallsAnotherNode(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, echo)
		for _, class := range []peer.Class{peer.Control, peer.Data, peer.Calls} {
			if got, err := ask(t, a, "b", class, "hi"); err != nil || got != "a:hi" {
				t.Errorf("%s: %q, %v", class, got, err)
			}
		}
		_, err := a.Call(t.Context(), "b", peer.Message{Class: peer.Calls, Group: 9})
		wantKind(t, err, agent.NotFound, "group 9 is not on node")
		_, err = ask(t, a, "nobody", peer.Calls, "hi")
		wantKind(t, err, agent.Unavailable, "not known")
		_, err = a.Call(t.Context(), "b", peer.Message{Class: peer.Control, Group: 1, Body: make([]byte, 1<<20)})
		wantKind(t, err, agent.TooLarge, "65536 are the most")
	})
}

func TestPort_ErrorsKeepTheirKinds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, func(context.Context, peer.Request) ([]byte, error) {
			return nil, &agent.Error{Kind: agent.Conflict, Msg: "not twice"}
		})
		_, err := ask(t, a, "b", peer.Calls, "")
		wantKind(t, err, agent.Conflict, "not twice")
	})
}

func TestPort_KeepsTheOrderOfAGroup(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		const n = 500
		var got [3][]int // by group; each lane is one goroutine at a time
		done := make(chan error, 3*n)
		for g := range got {
			b.Handle(uint32(g), func(_ context.Context, r peer.Request) ([]byte, error) {
				got[g] = append(got[g], int(r.Body[0])<<8|int(r.Body[1]))
				if len(got[g])%50 == 0 {
					time.Sleep(time.Millisecond) // of the bubble
				}
				return nil, nil
			})
		}
		for i := range n {
			for g := range got {
				a.Post("b", peer.Message{Class: peer.Data, Group: uint32(g), Body: []byte{byte(i >> 8), byte(i)}, Lazy: i%3 == 0},
					func(_ []byte, err error) { done <- err })
			}
		}
		for range 3 * n {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		for g := range got {
			for i, v := range got[g] {
				if i != v {
					t.Fatalf("group %d got message %d in place of %d", g, v, i)
				}
			}
		}
	})
}

func TestPort_SlowGroupDoesNotHoldUpOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		held := make(chan struct{})
		b.Handle(1, func(context.Context, peer.Request) ([]byte, error) { <-held; return nil, nil })
		b.Handle(2, echo)
		first := make(chan error, 1)
		a.Post("b", peer.Message{Class: peer.Data, Group: 1}, func(_ []byte, err error) { first <- err })
		if _, err := a.Call(t.Context(), "b", peer.Message{Class: peer.Data, Group: 2}); err != nil {
			t.Error(err)
		}
		close(held)
		if err := <-first; err != nil {
			t.Error(err)
		}
	})
}

// A way that is cut tells nobody, as a cable that is pulled.
func TestPort_NoticesASilentNodeWithinASecond(t *testing.T) {
	for _, cut := range []struct{ name, from, to string }{{"there", "a", "b"}, {"back", "b", "a"}} {
		t.Run(cut.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.node(t, "a"), w.node(t, "b")
				gone := make(chan struct{}, 1)
				b.Handle(1, func(ctx context.Context, r peer.Request) ([]byte, error) {
					if string(r.Body) == "wait" {
						<-ctx.Done()
						gone <- struct{}{}
					}
					return nil, nil
				})
				if _, err := ask(t, a, "b", peer.Control, ""); err != nil {
					t.Fatal(err)
				}
				failed := make(chan error, 1)
				a.Post("b", peer.Message{Class: peer.Control, Group: 1, Body: []byte("wait"), Limit: time.Hour}, func(_ []byte, err error) { failed <- err })
				time.Sleep(10 * time.Second) // of the bubble: a quiet connection lives
				if len(failed) > 0 {
					t.Fatalf("a quiet connection broke: %v", <-failed)
				}
				begin := time.Now()
				w.net.CutOneWay(cut.from, cut.to)
				if cut.from == "b" {
					wantKind(t, <-failed, agent.OutcomeUnknown, "silent")
				} else {
					<-gone // b hears nothing and hangs up, which a learns
					wantKind(t, <-failed, agent.OutcomeUnknown, "")
				}
				if d := time.Since(begin); d > 1100*time.Millisecond {
					t.Errorf("it took %s to notice", d)
				}
			})
		})
	}
}

func TestPort_RefusesAtOnceAndDialsSeldomWhileANodeIsAway(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.node(t, "a")
		const posts = 6000
		for range posts { // a minute
			begin := time.Now()
			_, err := ask(t, a, "b", peer.Control, "")
			wantKind(t, err, agent.Unavailable, "cannot be reached")
			if d := time.Since(begin); d > 10*time.Millisecond {
				t.Fatalf("a refusal took %s", d)
			}
			time.Sleep(10 * time.Millisecond) // of the bubble
		}
		if n := w.net.Dials("a"); n < 60 || n > 130 {
			t.Errorf("%d attempts to connect in a minute", n)
		}
		if n := w.log.count("cannot be reached"); n != 1 {
			t.Errorf("%d lines in the log", n)
		}
		b := w.node(t, "b")
		b.Handle(1, echo)
		time.Sleep(time.Second) // of the bubble: the longest rest
		if _, err := ask(t, a, "b", peer.Control, "hi"); err != nil {
			t.Errorf("the node is back: %v", err)
		}
	})
}

func TestPort_FollowsANodeToANewAddress(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.config(t, identity("a", 1))
		address := "b:1"
		c.Lookup = func(string) (string, bool) { return address, true }
		a := w.start(t, c)
		_, err := ask(t, a, "b", peer.Calls, "")
		wantKind(t, err, agent.Unavailable, "b:1")
		w.node(t, "b").Handle(1, echo)
		address = "b:7690"
		time.Sleep(time.Second) // of the bubble
		if _, err := ask(t, a, "b", peer.Calls, "hi"); err != nil {
			t.Error(err)
		}
	})
}

func TestPort_DropsAConnectionThatTakesTooLittle(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, echo)
		if _, err := ask(t, a, "b", peer.Data, ""); err != nil {
			t.Fatal(err)
		}
		w.net.CutOneWay("a", "b")
		const n = 60
		errs := make(chan error, n)
		for range n {
			a.Post("b", peer.Message{Class: peer.Data, Group: 1, Body: make([]byte, 1<<20)}, func(_ []byte, err error) { errs <- err })
		}
		for range n {
			if err := <-errs; !agent.KindOf(err).Retryable() {
				t.Errorf("%v of kind %v", err, agent.KindOf(err))
			}
		}
		if s := a.Stats()[0]; s.Connected || !strings.Contains(s.Failure, "takes too little") || s.Queued != 0 || s.Pending != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A follower whose disk stalls refuses what it cannot hold; its connection lives, so
// that it is not taken for dead.
func TestPort_RefusesWhatAHandlerDoesNotTake(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		held := make(chan struct{})
		b.Handle(1, func(context.Context, peer.Request) ([]byte, error) { <-held; return nil, nil })
		const n = 60
		errs := make(chan error, n)
		for range n {
			a.Post("b", peer.Message{Class: peer.Data, Group: 1, Body: make([]byte, 1<<20)}, func(_ []byte, err error) { errs <- err })
			synctest.Wait()
		}
		time.Sleep(5 * time.Second) // of the bubble
		refused := len(errs)
		if refused < 15 || refused > 25 {
			t.Errorf("%d messages of 1 MiB were refused", refused)
		}
		for range refused {
			wantKind(t, <-errs, agent.Overloaded, "too many requests")
		}
		close(held)
		for range n - refused {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if s := a.Stats()[0]; !s.Connected || s.Attempts != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPort_HandlerMayEndItsGoroutine(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, func(ctx context.Context, r peer.Request) ([]byte, error) {
			if string(r.Body) == "end" {
				runtime.Goexit()
			}
			return echo(ctx, r)
		})
		for _, class := range []peer.Class{peer.Data, peer.Calls} {
			_, err := ask(t, a, "b", class, "end")
			wantKind(t, err, agent.Unavailable, "has failed")
			if got, err := ask(t, a, "b", class, "hi"); err != nil || got != "a:hi" {
				t.Errorf("%q, %v", got, err)
			}
		}
	})
}

func TestPort_CallEndsWithItsDeadline(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, func(ctx context.Context, _ peer.Request) ([]byte, error) { <-ctx.Done(); return nil, nil })
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		begin := time.Now()
		_, err := a.Call(ctx, "b", peer.Message{Class: peer.Calls, Group: 1})
		wantKind(t, err, agent.Deadline, "")
		if d := time.Since(begin); d != 300*time.Millisecond {
			t.Errorf("after %s", d)
		}
		_, err = a.Call(t.Context(), "b", peer.Message{Class: peer.Calls, Group: 1, Limit: 2 * time.Second})
		wantKind(t, err, agent.Deadline, "within 2s")
		if s := a.Stats()[0]; s.Pending != 0 {
			t.Errorf("%d calls are remembered", s.Pending)
		}
	})
}

func TestPort_CloseAnswersThoseWhoWait(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, func(ctx context.Context, _ peer.Request) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
		errs := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := a.Call(t.Context(), "b", peer.Message{Class: peer.Calls, Group: 1})
				errs <- err
			}()
		}
		synctest.Wait()
		a.Close()
		for range 2 {
			wantKind(t, <-errs, agent.OutcomeUnknown, "stopping")
		}
		_, err := ask(t, a, "b", peer.Calls, "")
		wantKind(t, err, agent.Unavailable, "stopping")
		a.Close()
	})
}

func TestPort_RawConnectionsKnowTheirPeer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		conn, err := a.Dial(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		there, err := b.Listener().Accept()
		if err != nil {
			t.Fatal(err)
		}
		if p := there.(*peer.Conn).Peer; p != identity("a", 1) {
			t.Errorf("b meets %s", p)
		}
		if p := conn.(*peer.Conn).Peer; p != identity("b", 1) {
			t.Errorf("a meets %s", p)
		}
		fmt.Fprint(conn, "hello")
		time.Sleep(time.Minute) // of the bubble: nothing ends a quiet one
		buf := make([]byte, 5)
		if _, err := io.ReadFull(there, buf); err != nil || string(buf) != "hello" {
			t.Errorf("%q, %v", buf, err)
		}
		conn.Close()
		if _, err := there.Read(buf); err == nil {
			t.Error("the end was not seen")
		}
	})
}

func TestPort_MeasuresTheRoundTrip(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, echo)
		w.net.Delay("a", "b", 30*time.Millisecond)
		w.net.Delay("b", "a", 10*time.Millisecond)
		if _, err := ask(t, a, "b", peer.Control, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // of the bubble
		s := a.Stats()[0]
		if s.RTT < 40*time.Millisecond || s.RTT > 45*time.Millisecond || s.Sent == 0 || s.Received == 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPort_LazyMessagesGoTogether(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, echo)
		if _, err := ask(t, a, "b", peer.Data, ""); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		lazy := peer.Message{Class: peer.Data, Group: 1, Lazy: true}
		if _, err := a.Call(t.Context(), "b", lazy); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d != 20*time.Millisecond {
			t.Errorf("a lazy message took %s", d)
		}
		begin = time.Now()
		done := make(chan error, 1)
		a.Post("b", lazy, func(_ []byte, err error) { done <- err })
		if _, err := ask(t, a, "b", peer.Data, ""); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil || time.Since(begin) != 0 {
			t.Errorf("a lazy message did not go with the next: %v after %s", err, time.Since(begin))
		}
	})
}
