package certs

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"agentd/pkg/agent"
)

func TestPeer_NodesOfOneClusterMeet(t *testing.T) {
	c := newClock()
	ca, _ := newCA(t, "prod")
	a, b := newPeer(t, ca, "n1", c), newPeer(t, ca, "n2.example", c)
	m := handshake(t, a.Server(), b.Client("n1"))
	if m.server != nil || m.client != nil {
		t.Fatal(m.server, m.client)
	}
	if id := must[Identity](t)(PeerOf(m.serverSaw)); id != (Identity{"prod", RoleNode, "n2.example"}) {
		t.Errorf("the server met %v", id)
	}
	if id := must[Identity](t)(PeerOf(m.clientSaw)); id != a.Self() || id.Name != "n1" {
		t.Errorf("the client met %v", id)
	}
	if m.serverSaw.Version != tls.VersionTLS13 {
		t.Errorf("TLS version %x", m.serverSaw.Version)
	}
	if _, err := PeerOf(tls.ConnectionState{}); agent.KindOf(err) != agent.Unauthenticated {
		t.Errorf("a connection without a handshake has a peer: %v", err)
	}
}

func TestPeer_Refuses(t *testing.T) {
	prod, _ := newCA(t, "prod")
	foreign, _ := newCA(t, "prod") // the same name, another key
	tests := []struct {
		name   string
		server func(t *testing.T, p *Peer) *tls.Config
		client func(t *testing.T, p *Peer) *tls.Config
		by     string // who refuses
		kind   agent.Kind
		words  string
	}{
		{"a server of another CA", func(t *testing.T, _ *Peer) *tls.Config { return newPeer(t, foreign, "n1", newClock()).Server() },
			nil, "client", agent.Unauthenticated, "signed by none of the CAs"},
		{"a client of another CA", nil, func(t *testing.T, _ *Peer) *tls.Config {
			cfg := newPeer(t, foreign, "n2", newClock()).Client("")
			cfg.VerifyConnection = nil
			return cfg
		}, "server", agent.Unauthenticated, "signed by none of the CAs"},
		{"a client without certificate", nil, func(_ *testing.T, p *Peer) *tls.Config {
			cfg := p.Client("")
			cfg.GetClientCertificate = nil
			return cfg
		}, "server", agent.Internal, "didn't provide a certificate"},
		{"another node than the one called", nil, func(_ *testing.T, p *Peer) *tls.Config { return p.Client("n3") },
			"client", agent.Denied, `node "n1" answers at the address of node "n3"`},
		{"a client's certificate on the peer port", nil, func(t *testing.T, _ *Peer) *tls.Config {
			dir := t.TempDir()
			must[time.Time](t)(prod.NewClient(dir, Request{Name: "laptop"}, epoch, rand.Reader))
			cfg := must[*tls.Config](t)(DialTLS("", filepath.Join(dir, ClientCertFile), filepath.Join(dir, ClientKeyFile)))
			cfg.InsecureSkipVerify = true
			return cfg
		}, "server", agent.Denied, "is the certificate of a client, not of a node"},
		{"TLS 1.2 from a client", nil, func(_ *testing.T, p *Peer) *tls.Config {
			cfg := p.Client("")
			cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return cfg
		}, "server", agent.Internal, "unsupported versions"},
		{"TLS 1.2 from a server", func(_ *testing.T, p *Peer) *tls.Config {
			cfg := p.Server()
			cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return cfg
		}, nil, "server", agent.Internal, "unsupported versions"},
		{"an expired client", nil, func(t *testing.T, _ *Peer) *tls.Config {
			early := &clock{now: epoch}
			dir := newNode(t, prod, Request{Name: "n2", Validity: time.Hour})
			return must[*Peer](t)(PeerTLS(Dir(dir), "prod", Options{Now: early.Now})).Client("")
		}, "server", agent.Unauthenticated, "expired on 2051-03-01 13:00 UTC: make a new one"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newClock()
			a, b := newPeer(t, prod, "n1", c), newPeer(t, prod, "n2", c)
			server, client := a.Server(), b.Client("")
			if test.server != nil {
				server = test.server(t, a)
			}
			if test.client != nil {
				client = test.client(t, b)
			}
			if strings.Contains(test.name, "expired") {
				c.Add(2 * time.Hour)
			}
			m := handshake(t, server, client)
			err := m.server
			if test.by == "client" {
				err = m.client
			}
			wantKind(t, err, test.kind)
			if err != nil && !strings.Contains(err.Error(), test.words) {
				t.Errorf("%s says %q; want %q", test.by, err, test.words)
			}
		})
	}
}

// One CA may serve several clusters, as a company's does.
func TestPeer_RefusesAnotherClusterOfTheSameCA(t *testing.T) {
	c := newClock()
	ca, _ := newCA(t, "prod")
	staging := *ca
	staging.cluster = "staging"
	a, b := newPeer(t, ca, "n1", c), newPeer(t, &staging, "n2", c)
	const words = `belongs to cluster "staging", this node to "prod"`
	m := handshake(t, a.Server(), b.Client(""))
	if wantKind(t, m.client, agent.Denied); !strings.Contains(m.client.Error(), `"prod"`) {
		t.Errorf("the client says %v", m.client)
	}
	trusting := b.Client("")
	trusting.VerifyConnection = nil
	m = handshake(t, a.Server(), trusting)
	if wantKind(t, m.server, agent.Denied); !strings.Contains(m.server.Error(), words) {
		t.Errorf("the server says %v", m.server)
	}
	_, err := PeerTLS(Dir(newNode(t, &staging, Request{Name: "n3"})), "prod", Options{Now: c.Now})
	if wantKind(t, err, agent.Invalid); !strings.Contains(err.Error(), `certificate is for cluster "staging", and this node belongs to "prod"`) {
		t.Errorf("start says %v", err)
	}
}

func TestPeer_UsesNewFilesWithoutRestart(t *testing.T) {
	c := newClock()
	ca, _ := newCA(t, "prod")
	dir := newNode(t, ca, Request{Name: "n1"})
	a := must[*Peer](t)(PeerTLS(Dir(dir), "prod", Options{Now: c.Now}))
	b := newPeer(t, ca, "n2", c)
	server, client := a.Server(), b.Client("n1")
	first := handshake(t, server, client).clientSaw.PeerCertificates[0]

	must[time.Time](t)(ca.NewNode(dir, Request{Name: "n1", Renew: true}, epoch, rand.Reader))
	c.Add(500 * time.Millisecond)
	if again := handshake(t, server, client).clientSaw.PeerCertificates[0]; !again.Equal(first) {
		t.Error("the files were looked at twice in a second")
	}
	c.Add(500 * time.Millisecond)
	if again := handshake(t, server, client).clientSaw.PeerCertificates[0]; again.Equal(first) {
		t.Error("the new certificate is not in use after a second")
	}
}

func TestPeer_KeepsOldPairWhenNewOneIsBroken(t *testing.T) {
	ca, _ := newCA(t, "prod")
	foreign, _ := newCA(t, "prod")
	breaks := map[string]func(t *testing.T, dir string){
		"no PEM": func(t *testing.T, dir string) { put(t, filepath.Join(dir, NodeCertFile), []byte("oops")) },
		"key of another": func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, NodeKeyFile), get(t, filepath.Join(newNode(t, ca, Request{Name: "n1"}), NodeKeyFile)))
		},
		"empty CA file": func(t *testing.T, dir string) { put(t, filepath.Join(dir, CACertFile), nil) },
		"CA of another": func(t *testing.T, dir string) { put(t, filepath.Join(dir, CACertFile), foreign.bundle) },
		"leaf as CA": func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, CACertFile), get(t, filepath.Join(dir, NodeCertFile)))
		},
		"too large": func(t *testing.T, dir string) { put(t, filepath.Join(dir, NodeCertFile), make([]byte, maxFileBytes+1)) },
		"already expired": func(t *testing.T, dir string) {
			must[time.Time](t)(ca.NewNode(dir, Request{Name: "n1", Validity: time.Minute, Renew: true}, epoch.Add(-time.Hour), rand.Reader))
		},
		"a client's": func(t *testing.T, dir string) { clientAsNode(t, ca, dir) },
	}
	for name, spoil := range breaks {
		t.Run(name, func(t *testing.T) {
			c, heard := newClock(), &reports{}
			dir := newNode(t, ca, Request{Name: "n1"})
			saved := map[string][]byte{}
			for _, f := range []string{CACertFile, NodeCertFile, NodeKeyFile} {
				saved[f] = get(t, filepath.Join(dir, f))
			}
			a := must[*Peer](t)(PeerTLS(Dir(dir), "prod", Options{Now: c.Now, Report: heard.hear}))
			b := newPeer(t, ca, "n2", c)
			spoil(t, dir)
			for range 5 {
				c.Add(time.Second)
				if m := handshake(t, a.Server(), b.Client("n1")); m.err() != nil {
					t.Fatal("the old pair is gone:", m.err())
				}
			}
			if n := len(heard.all()); n != 1 {
				t.Fatalf("heard %d reports, want one: %v", n, heard.all())
			}
			c.Add(time.Minute)
			_ = a.Self()
			if n := len(heard.all()); n != 2 {
				t.Errorf("heard %d reports after a minute, want two", n)
			}
			for f, data := range saved {
				put(t, filepath.Join(dir, f), data)
			}
			c.Add(time.Second)
			if _ = a.Self(); len(heard.all()) != 2 {
				t.Errorf("repaired files are reported: %v", heard.all())
			}
		})
	}
}

func clientAsNode(t *testing.T, ca *CA, dir string) {
	t.Helper()
	from := t.TempDir()
	must[time.Time](t)(ca.NewClient(from, Request{Name: "laptop"}, epoch, rand.Reader))
	put(t, filepath.Join(dir, NodeCertFile), get(t, filepath.Join(from, ClientCertFile)))
	put(t, filepath.Join(dir, NodeKeyFile), get(t, filepath.Join(from, ClientKeyFile)))
}

// The way to a new CA: both in every ca.crt, then new certificates, then only the
// new one. Nodes at neighbouring steps meet at any time.
func TestPeer_MovesToANewCA(t *testing.T) {
	c := newClock()
	old, _ := newCA(t, "prod")
	fresh, _ := newCA(t, "prod")
	both := append(append([]byte(nil), old.bundle...), fresh.bundle...)
	dirs := map[string]string{"n1": newNode(t, old, Request{Name: "n1"}), "n2": newNode(t, old, Request{Name: "n2"})}
	peers := map[string]*Peer{}
	for name, dir := range dirs {
		peers[name] = must[*Peer](t)(PeerTLS(Dir(dir), "prod", Options{Now: c.Now, Report: func(err error) { t.Errorf("reported: %v", err) }}))
	}
	renew := *fresh
	renew.bundle = both
	steps := map[string]func(name string){
		"1 both": func(name string) { put(t, filepath.Join(dirs[name], CACertFile), both) },
		"2 new pair": func(name string) {
			must[time.Time](t)(renew.NewNode(dirs[name], Request{Name: name, Renew: true}, epoch, rand.Reader))
		},
		"3 only new": func(name string) { put(t, filepath.Join(dirs[name], CACertFile), fresh.bundle) },
	}
	for _, step := range []string{"1 both", "2 new pair", "3 only new"} {
		for _, name := range []string{"n1", "n2"} {
			steps[step](name)
			c.Add(time.Second)
			for _, pair := range [][2]string{{"n1", "n2"}, {"n2", "n1"}} {
				if m := handshake(t, peers[pair[0]].Server(), peers[pair[1]].Client(pair[0])); m.err() != nil {
					t.Fatalf("step %s of %s: %s does not meet %s: %v", step, name, pair[1], pair[0], m.err())
				}
			}
		}
	}
	if m := handshake(t, peers["n1"].Server(), unverified(newPeer(t, old, "n3", c))); m.server == nil {
		t.Error("the old CA is still trusted")
	}
}

func unverified(p *Peer) *tls.Config {
	cfg := p.Client("")
	cfg.VerifyConnection = nil
	return cfg
}

func TestPeer_RotatesUnderLoad(t *testing.T) {
	c := newClock()
	ca, _ := newCA(t, "prod")
	dir := newNode(t, ca, Request{Name: "n1"})
	// A pair is two files: between them the old one serves, and that is reported.
	a := must[*Peer](t)(PeerTLS(Dir(dir), "prod", Options{Now: c.Now}))
	b := newPeer(t, ca, "n2", c)
	server, client := a.Server(), b.Client("n1")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if m := handshake(t, server, client); m.err() != nil {
					t.Error(m.server, m.client)
					return
				}
				c.Add(300 * time.Millisecond)
			}
		})
	}
	for range 20 {
		must[time.Time](t)(ca.NewNode(dir, Request{Name: "n1", Renew: true}, epoch, rand.Reader))
	}
	close(stop)
	wg.Wait()
	c.Add(3 * time.Second)
	leaf := handshake(t, server, client).clientSaw.PeerCertificates[0]
	if now := must[tls.Certificate](t)(tls.LoadX509KeyPair(filepath.Join(dir, NodeCertFile), filepath.Join(dir, NodeKeyFile))); !leaf.Equal(now.Leaf) {
		t.Error("the last certificate is not in use")
	}
}

func TestIdentity_NeedsExactlyOneInACertificate(t *testing.T) {
	uri := func(texts ...string) (out []*url.URL) {
		for _, text := range texts {
			out = append(out, must[*url.URL](t)(url.Parse(text)))
		}
		return out
	}
	tests := map[string]struct {
		uris []*url.URL
		ok   bool
	}{
		"one":             {uri("agentd://prod/node/n1"), true},
		"beside others":   {uri("spiffe://x/y", "agentd://prod/node/n1"), true},
		"none":            {uri("spiffe://x/y"), false},
		"two":             {uri("agentd://prod/node/n1", "agentd://prod/node/n2"), false},
		"escaped":         {uri("agentd://prod/node/%6e1"), false},
		"escaped slash":   {uri("agentd://prod/node%2fn1/x"), false},
		"port":            {uri("agentd://prod:1/node/n1"), false},
		"user":            {uri("agentd://me@prod/node/n1"), false},
		"query":           {uri("agentd://prod/node/n1?x"), false},
		"empty query":     {uri("agentd://prod/node/n1?"), false},
		"fragment":        {uri("agentd://prod/node/n1#x"), false},
		"other role":      {uri("agentd://prod/admin/n1"), false},
		"name with slash": {uri("agentd://prod/node/n1/x"), false},
		"dots":            {uri("agentd://prod/node/.."), false},
		"opaque":          {uri("agentd:prod/node/n1"), false},
	}
	for name, test := range tests {
		id, err := identityOf(&x509.Certificate{URIs: test.uris})
		if (err == nil) != test.ok {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
}
