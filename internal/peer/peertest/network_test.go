package peertest

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// pair connects host a with host b.
func pair(t *testing.T, n *Network) (a, b net.Conn) {
	t.Helper()
	l, err := n.Listen("b:1")
	if err != nil {
		t.Fatal(err)
	}
	if a, err = n.Dialer("a")(t.Context(), "b:1"); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); a.Close(); b.Close() })
	return a, b
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != want {
		t.Errorf("read %q, %v; want %q", buf, err, want)
	}
}

func TestNetwork_CarriesWithDelayAndBandwidth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := pair(t, n)
		n.Delay("a", "b", 100*time.Millisecond)
		begin := time.Now()
		io.WriteString(a, "hello")
		io.WriteString(a, " world")
		read(t, b, "hello world")
		if d := time.Since(begin); d != 100*time.Millisecond {
			t.Errorf("it took %s", d)
		}
		io.WriteString(b, "back")
		begin = time.Now()
		read(t, a, "back")
		if d := time.Since(begin); d != 0 {
			t.Errorf("the way back took %s", d)
		}
		n.Delay("a", "b", 0)
		n.Bandwidth("a", "b", 1000)
		a.Write(make([]byte, 500))
		io.WriteString(a, "x")
		begin = time.Now()
		read(t, b, string(make([]byte, 500))+"x")
		if d := time.Since(begin); d < 500*time.Millisecond || d > 502*time.Millisecond {
			t.Errorf("501 bytes at 1000/s took %s", d)
		}
	})
}

func TestNetwork_CutHoldsBackAndTellsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := pair(t, n)
		n.CutOneWay("a", "b")
		io.WriteString(a, "later")
		io.WriteString(b, "now")
		read(t, a, "now")
		b.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("over a cut way came %v", err)
		}
		a.Close()
		b.SetReadDeadline(time.Time{})
		go func() {
			time.Sleep(time.Second) // of the bubble
			n.HealOneWay("a", "b")
		}()
		begin := time.Now()
		read(t, b, "later")
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the end came %v", err)
		}
		if d := time.Since(begin); d != time.Second {
			t.Errorf("it took %s", d)
		}
	})
}

func TestNetwork_WritersWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := pair(t, n)
		a.SetWriteDeadline(time.Now().Add(time.Second))
		k, err := a.Write(make([]byte, 2*bufferBytes))
		if k != bufferBytes || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("wrote %d, %v", k, err)
		}
		b.Close()
		a.SetWriteDeadline(time.Time{})
		if _, err := a.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("a write to who has gone: %v", err)
		}
	})
}

func TestNetwork_DialsOverACutWayInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		if _, err := n.Dialer("a")(t.Context(), "b:1"); !errors.Is(err, ErrRefused) {
			t.Errorf("nobody listens: %v", err)
		}
		pair(t, n)
		n.CutOneWay("b", "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Dialer("a")(ctx, "b:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a way back: %v", err)
		}
	})
}

func TestNetwork_ResetEndsAHostsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := pair(t, n)
		n.Reset("a")
		for _, c := range []net.Conn{a, b} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
				t.Errorf("%v", err)
			}
		}
	})
}
