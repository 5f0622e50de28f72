package peer_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"agentd/internal/certs"
	"agentd/internal/peer"
	"agentd/pkg/agent"
)

func TestPort_RefusesOtherNodes(t *testing.T) {
	for _, c := range []struct {
		name   string
		to     string
		change func(*peer.Identity)
		kind   agent.Kind
		part   string
	}{
		{"of another cluster", "b", func(id *peer.Identity) { id.Cluster = "other" }, agent.Denied, "belongs to cluster"},
		{"with its own name", "c", func(id *peer.Identity) { id.Node = "b" }, agent.Conflict, "two nodes have the name"},
		{"that mean another", "c", func(*peer.Identity) {}, agent.Denied, `node "c" is meant`},
		{"that are not admitted", "b", func(id *peer.Identity) { id.UUID = [16]byte{9} }, agent.Denied, "was removed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				bc := w.config(t, identity("b", 1))
				bc.Admit = func(id peer.Identity) error {
					if id.UUID[0] == 9 {
						return &agent.Error{Kind: agent.Denied, Msg: "it was removed"}
					}
					return nil
				}
				w.start(t, bc).Handle(1, echo)
				ac := w.config(t, identity("a", 1))
				ac.Lookup = func(string) (string, bool) { return "b:7690", true }
				c.change(&ac.Self)
				_, err := ask(t, w.start(t, ac), c.to, peer.Calls, "hi")
				wantKind(t, errors.Unwrap(err), c.kind, c.part)
			})
		})
	}
}

// lookingAt is the configuration once more, with one address for all nodes.
func lookingAt(w *world, t *testing.T, c peer.Config, address string) peer.Config {
	t.Helper()
	l, err := w.net.Listen("double:7690")
	if err != nil {
		t.Fatal(err)
	}
	c.Listener = l
	c.Lookup = func(string) (string, bool) { return address, true }
	return c
}

func TestPort_TwoNodesCannotShareAName(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node(t, "b").Handle(1, echo)
		a := w.node(t, "a")
		if _, err := ask(t, a, "b", peer.Calls, "hi"); err != nil {
			t.Fatal(err)
		}
		c := w.config(t, identity("c", 1))
		c.Self.Node = "a"
		double := w.start(t, c)
		_, err := ask(t, double, "b", peer.Calls, "hi")
		wantKind(t, errors.Unwrap(err), agent.Conflict, "two nodes have the name")
		if _, err := ask(t, a, "b", peer.Calls, "hi"); err != nil {
			t.Errorf("the first of them: %v", err)
		}
	})
}

func TestPort_NewerProcessReplacesAnOlder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.node(t, "b")
		ended := make(chan struct{})
		b.Handle(1, func(ctx context.Context, r peer.Request) ([]byte, error) {
			if string(r.Body) == "wait" {
				<-ctx.Done()
				close(ended)
			}
			return nil, nil
		})
		a := w.node(t, "a")
		failed := make(chan error, 1)
		a.Post("b", peer.Message{Class: peer.Control, Group: 1, Body: []byte("wait")}, func(_ []byte, err error) { failed <- err })
		synctest.Wait()

		c := lookingAt(w, t, peer.Config{Self: identity("a", 2), Dial: w.net.Dialer("double"), Now: time.Now, Rand: func() float64 { return 0 }}, "b:7690")
		newer := w.start(t, c)
		if _, err := ask(t, newer, "b", peer.Calls, "hi"); err != nil {
			t.Fatal(err)
		}
		wantKind(t, <-failed, agent.OutcomeUnknown, "")
		<-ended
		time.Sleep(time.Second) // of the bubble
		_, err := ask(t, a, "b", peer.Control, "hi")
		wantKind(t, errors.Unwrap(err), agent.Conflict, "newer process")
	})
}

// greeting is what a node says first, made by hand.
func greeting(oldest, newest uint16, class byte, to string) []byte {
	b := binary.LittleEndian.AppendUint16([]byte{0}, oldest)
	b = append(binary.LittleEndian.AppendUint16(b, newest), class)
	b = append(b, make([]byte, 16+8)...)
	for _, text := range []string{"test", "stranger", to} {
		b = append(append(b, byte(len(text))), text...)
	}
	return append(binary.LittleEndian.AppendUint16([]byte("agentd\x00\x70"), uint16(len(b))), b...)
}

func TestPort_NegotiatesItsVersion(t *testing.T) {
	for _, c := range []struct {
		name           string
		oldest, newest uint16
		ok             bool
	}{{"same", 1, 1, true}, {"one ahead", 1, 2, true}, {"two ahead", 2, 3, false}, {"too old", 0, 0, false}} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.node(t, "b")
				conn, err := w.net.Dialer("stranger")(t.Context(), "b:7690")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := conn.Write(greeting(c.oldest, c.newest, byte(peer.Control), "b")); err != nil {
					t.Fatal(err)
				}
				head := make([]byte, 11)
				if _, err := io.ReadFull(conn, head); err != nil {
					t.Fatal(err)
				}
				if ok := head[10] == 0; ok != c.ok {
					t.Errorf("accepted: %v", ok)
				}
			})
		})
	}
}

func TestPort_ClosesStrangersWithinASecond(t *testing.T) {
	hello := greeting(1, 1, byte(peer.Control), "b")
	for _, c := range []struct{ name, says string }{
		{"silence", ""},
		{"HTTP", "GET / HTTP/1.1\r\nHost: b\r\n\r\n"},
		{"noise", strings.Repeat("\xff\x00\x17", 50000)},
		{"half a greeting", string(hello[:len(hello)-3])},
		{"a long greeting", "agentd\x00\x70\xff\xff" + strings.Repeat("x", 70000)},
		{"an unknown class", string(greeting(1, 1, 77, "b"))},
		{"a large frame", string(hello) + "\xff\xff\xff\xff\x03\x00\x00\x00" + strings.Repeat("\x00", 12)},
		{"an unknown frame", string(hello) + "\x00\x00\x00\x00\xee\x00\x00\x00" + strings.Repeat("\x00", 12)},
		{"a frame out of place", string(hello) + "\x00\x00\x00\x00\x06\x00\x00\x00" + strings.Repeat("\x00", 12)},
		{"silence after a greeting", string(hello)},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.node(t, "b")
				conn, err := w.net.Dialer("stranger")(t.Context(), "b:7690")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				begin := time.Now()
				go io.WriteString(conn, c.says) //nolint:errcheck // it may be refused
				n, err := io.Copy(io.Discard, conn)
				if d := time.Since(begin); d > time.Second {
					t.Errorf("closed after %s (%d bytes, %v)", d, n, err)
				}
			})
		})
	}
}

func TestPort_StrangersDoNotKeepNodesOut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node(t, "b").Handle(1, echo)
		a := w.node(t, "a")
		stranger := w.net.Dialer("stranger")
		var conns []net.Conn
		for range 3000 { // a minute of them
			if c, err := stranger(t.Context(), "b:7690"); err == nil {
				conns = append(conns, c)
			}
			time.Sleep(20 * time.Millisecond) // of the bubble
		}
		for _, c := range conns {
			c.Close()
		}
		time.Sleep(2 * time.Second) // of the bubble
		if _, err := ask(t, a, "b", peer.Calls, "hi"); err != nil {
			t.Error(err)
		}
		if n := w.log.count("\n"); n > 20 {
			t.Errorf("%d lines in the log", n)
		}
	})
}

func TestPort_TooManyStrangersAtOnceAreTurnedAway(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.node(t, "b")
		stranger := w.net.Dialer("stranger")
		for range 100 {
			c, err := stranger(t.Context(), "b:7690")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			synctest.Wait()
		}
		if n := w.net.Conns(); n != 100+64 {
			t.Errorf("%d ends of connections are open", n)
		}
	})
}

// A node is who its certificate says, whatever it says itself.
func TestPort_BelievesCertificates(t *testing.T) {
	dir := t.TempDir()
	ca, err := certs.InitCA(dir, "test", time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secure := func(name string) *peer.TLS {
		folder := filepath.Join(dir, name)
		if _, err := ca.NewNode(folder, certs.Request{Name: name}, time.Now(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		p, err := certs.PeerTLS(certs.Dir(folder), "", certs.Options{Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		return &peer.TLS{Server: p.Server, Client: p.Client, Who: func(s tls.ConnectionState) (string, string, error) {
			id, err := certs.PeerOf(s)
			return id.Cluster, id.Name, err
		}}
	}
	w := &world{net: newNet(), log: new(lines)}
	defer func() {
		for _, p := range w.open {
			p.Close()
		}
	}()
	bc := w.config(t, identity("b", 1))
	bc.TLS = secure("b")
	b := w.start(t, bc)
	b.Handle(1, echo)
	for _, c := range []struct{ name, certificate, part string }{{"a", "a", ""}, {"c", "c2", "says that it is"}} {
		ac := w.config(t, identity(c.name, 1))
		ac.TLS = secure(c.certificate)
		a := w.start(t, ac)
		got, err := ask(t, a, "b", peer.Data, strings.Repeat("x", 300000))
		if c.part == "" && (err != nil || len(got) != 300002) {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
		if c.part != "" && (err == nil || !strings.Contains(err.Error(), c.part)) {
			t.Errorf("%s with the certificate of %s: %v", c.name, c.certificate, err)
		}
	}
	plain := w.start(t, w.config(t, identity("p", 1)))
	if _, err := ask(t, plain, "b", peer.Data, "x"); agent.KindOf(err) != agent.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
}
