package peer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"agentd/internal/peer"
	"agentd/pkg/agent"
)

// zeros is n bytes of content that counts how many were read.
type zeros struct{ left, read int }

func (z *zeros) Read(p []byte) (int, error) {
	n := min(len(p), z.left)
	clear(p[:n])
	z.left, z.read = z.left-n, z.read+n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func digest(_ context.Context, r peer.Request) ([]byte, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r.Content); err != nil {
		return nil, err
	}
	return h.Sum(r.Body), nil
}

func TestStream_ArrivesWhole(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, digest)
		for _, size := range []int{0, 1, 64 << 10, 5<<20 + 17} {
			content := bytes.Repeat([]byte("0123456789abc"), size/13+1)[:size]
			got, err := a.Send(t.Context(), "b", peer.Message{Group: 1, Body: []byte("sum")}, bytes.NewReader(content))
			want := sha256.Sum256(content)
			if err != nil || !bytes.Equal(got, append([]byte("sum"), want[:]...)) {
				t.Errorf("%d bytes: %x, %v", size, got, err)
			}
		}
	})
}

func TestStream_KeepsToItsBandwidth(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.config(t, identity("a", 1))
		c.BulkBytesPerSecond = 5 << 20
		a, b := w.start(t, c), w.node(t, "b")
		b.Handle(1, digest)
		begin := time.Now()
		done := make(chan error, 2)
		for range 2 { // share it
			go func() {
				_, err := a.Send(t.Context(), "b", peer.Message{Group: 1}, &zeros{left: 10 << 20})
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begin); d < 3800*time.Millisecond || d > 4500*time.Millisecond {
			t.Errorf("20 MiB at 5 MiB/s took %s", d)
		}
	})
}

func TestStream_StopsForAReaderThatDoesNotRead(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		held := make(chan struct{})
		b.Handle(1, func(ctx context.Context, r peer.Request) ([]byte, error) {
			<-held
			return digest(ctx, r)
		})
		z := &zeros{left: 8 << 20}
		done := make(chan error, 1)
		go func() {
			_, err := a.Send(t.Context(), "b", peer.Message{Group: 1}, z)
			done <- err
		}()
		time.Sleep(time.Minute) // of the bubble: the connection lives, nothing overflows
		synctest.Wait()
		if z.read != 1<<20 {
			t.Errorf("%d bytes are under way", z.read)
		}
		close(held)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestStream_EndsWithAnEarlyAnswer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		b.Handle(1, func(context.Context, peer.Request) ([]byte, error) {
			return nil, &agent.Error{Kind: agent.StorageFull, Msg: "no room for it"}
		})
		_, err := a.Send(t.Context(), "b", peer.Message{Group: 1}, &zeros{left: 1 << 30})
		wantKind(t, err, agent.StorageFull, "no room")
		b.Handle(1, digest)
		if _, err := a.Send(t.Context(), "b", peer.Message{Group: 1}, &zeros{left: 1 << 20}); err != nil {
			t.Errorf("the next: %v", err)
		}
	})
}

func TestStream_ReaderLearnsThatTheSenderIsGone(t *testing.T) {
	for name, end := range map[string]func(w *world, cancel func()){
		"given up": func(_ *world, cancel func()) { cancel() },
		"dead":     func(w *world, _ func()) { w.net.Reset("a") },
		"cut":      func(w *world, _ func()) { w.net.Cut("a", "b") },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.node(t, "a"), w.node(t, "b")
				ended := make(chan error, 1)
				b.Handle(1, func(_ context.Context, r peer.Request) ([]byte, error) {
					_, err := io.Copy(io.Discard, r.Content)
					ended <- err
					return nil, err
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 1)
				go func() {
					_, err := a.Send(ctx, "b", peer.Message{Group: 1}, &zeros{left: 1 << 30})
					done <- err
				}()
				time.Sleep(time.Second) // of the bubble
				end(w, cancel)
				if err := <-ended; err == nil || errors.Is(err, io.EOF) {
					t.Errorf("the reader saw %v", err)
				}
				if err := <-done; err == nil {
					t.Error("the sender saw nothing")
				}
			})
		})
	}
}

func TestStream_FewAtATime(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a, b := w.node(t, "a"), w.node(t, "b")
		held := make(chan struct{})
		b.Handle(1, func(ctx context.Context, r peer.Request) ([]byte, error) {
			<-held
			return digest(ctx, r)
		})
		done := make(chan error, 8)
		contents := make([]zeros, 8)
		for i := range contents {
			contents[i].left = 4 << 20
			go func() {
				_, err := a.Send(t.Context(), "b", peer.Message{Group: 1}, &contents[i])
				done <- err
			}()
		}
		synctest.Wait()
		for range 4 {
			wantKind(t, <-done, agent.Overloaded, "retry later")
		}
		unread := 0
		for i := range contents {
			if contents[i].read == 0 {
				unread++
			}
		}
		if unread != 4 {
			t.Errorf("nothing was read of %d streams", unread)
		}
		close(held)
		for range 4 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
