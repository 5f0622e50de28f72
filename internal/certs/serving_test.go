package certs

import (
	"crypto/rand"
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

// serveFiles are the files of a node whose clients may show certificates of ca.
func serveFiles(dir string, require bool) ClientFiles {
	return ClientFiles{Cert: filepath.Join(dir, NodeCertFile), Key: filepath.Join(dir, NodeKeyFile), ClientCA: filepath.Join(dir, CACertFile), RequireClient: require}
}

// dialer is a client's configuration; its clock is the tests'.
func dialer(t *testing.T, ca *CA, caDir string, withCert bool, c *clock) *tls.Config {
	t.Helper()
	var cert, key string
	if withCert {
		dir := t.TempDir()
		must[time.Time](t)(ca.NewClient(dir, Request{Name: "laptop"}, epoch, rand.Reader))
		cert, key = filepath.Join(dir, ClientCertFile), filepath.Join(dir, ClientKeyFile)
	}
	cfg := must[*tls.Config](t)(DialTLS(filepath.Join(caDir, CACertFile), cert, key))
	cfg.Time, cfg.ServerName = c.Now, "localhost"
	return cfg
}

func TestServing_ClientCertificates(t *testing.T) {
	ca, caDir := newCA(t, "prod")
	foreign, _ := newCA(t, "prod")
	tests := []struct {
		name              string
		require, withCert bool
		signer            *CA
		ok                bool
	}{
		{"optional, none", false, false, ca, true},
		{"optional, good", false, true, ca, true},
		{"optional, of another CA", false, true, foreign, false},
		{"required, none", true, false, ca, false},
		{"required, good", true, true, ca, true},
		{"required, of another CA", true, true, foreign, false},
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, test := range tests {
			t.Run(tls.VersionName(version)+" "+test.name, func(t *testing.T) {
				c := newClock()
				serving := must[*Serving](t)(ClientTLS(serveFiles(newNode(t, ca, Request{Name: "n1"}), test.require), Options{Now: c.Now}))
				client := dialer(t, test.signer, caDir, test.withCert, c)
				client.MaxVersion = version
				m := handshake(t, serving.Config(), client)
				if (m.err() == nil) != test.ok {
					t.Fatal(m.server, m.client)
				}
				if !test.ok || !test.withCert {
					return
				}
				if id := must[Identity](t)(PeerOf(m.serverSaw)); id != (Identity{"prod", RoleClient, "laptop"}) {
					t.Errorf("the server met %v", id)
				}
			})
		}
	}
}

func TestServing_IsVerifiedByItsHosts(t *testing.T) {
	ca, caDir := newCA(t, "prod")
	c := newClock()
	dir := newNode(t, ca, Request{Name: "n1", Hosts: []string{"agents.example.org", "10.1.2.3"}})
	serving := must[*Serving](t)(ClientTLS(serveFiles(dir, false), Options{Now: c.Now}))
	for name, ok := range map[string]bool{"agents.example.org": true, "10.1.2.3": true, "n1": true, "127.0.0.1": true, "other.example.org": false} {
		client := dialer(t, ca, caDir, false, c)
		client.ServerName = name
		if m := handshake(t, serving.Config(), client); (m.err() == nil) != ok {
			t.Errorf("%s: %v", name, m.err())
		}
	}
}

func TestServing_UsesNewFilesWithoutRestart(t *testing.T) {
	ca, caDir := newCA(t, "prod")
	c, heard := newClock(), &reports{}
	dir := newNode(t, ca, Request{Name: "n1", Validity: time.Hour})
	serving := must[*Serving](t)(ClientTLS(serveFiles(dir, false), Options{Now: c.Now, Report: heard.hear}))
	cfg := serving.Config()
	before := serving.Expires()
	put(t, filepath.Join(dir, NodeCertFile), []byte("half a certificate"))
	c.Add(time.Second)
	if m := handshake(t, cfg, dialer(t, ca, caDir, false, c)); m.err() != nil || !serving.Expires().Equal(before) {
		t.Fatal(m.err())
	}
	if len(heard.all()) != 1 {
		t.Errorf("heard %v", heard.all())
	}
	must[time.Time](t)(ca.NewNode(dir, Request{Name: "n1", Renew: true}, epoch, rand.Reader))
	c.Add(2 * time.Hour)
	if m := handshake(t, cfg, dialer(t, ca, caDir, false, c)); m.err() != nil {
		t.Fatal("the old certificate, now expired, still serves:", m.err())
	}
}

func TestServing_RefusesAtStart(t *testing.T) {
	ca, _ := newCA(t, "prod")
	c := newClock()
	dir := newNode(t, ca, Request{Name: "n1", Validity: time.Hour})
	_, err := ClientTLS(ClientFiles{RequireClient: true}, Options{Now: c.Now})
	wantKind(t, err, agent.Invalid)
	_, err = ClientTLS(ClientFiles{Cert: filepath.Join(dir, "none"), Key: filepath.Join(dir, NodeKeyFile)}, Options{Now: c.Now})
	if err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a missing file: %v", err)
	}
	c.Add(2 * time.Hour)
	_, err = ClientTLS(serveFiles(dir, false), Options{Now: c.Now})
	if wantKind(t, err, agent.Invalid); !strings.Contains(err.Error(), "is valid from") {
		t.Errorf("an expired certificate: %v", err)
	}
	_, err = PeerTLS(Dir(dir), "prod", Options{Now: c.Now})
	if wantKind(t, err, agent.Invalid); !strings.Contains(err.Error(), "expired on") {
		t.Errorf("an expired certificate: %v", err)
	}
}
