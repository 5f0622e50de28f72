package certs

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

func TestInitCA_OverwritesNothing(t *testing.T) {
	ca, dir := newCA(t, "prod")
	before := get(t, filepath.Join(dir, CAKeyFile))
	_, err := InitCA(dir, "prod", epoch, rand.Reader)
	wantKind(t, err, agent.Conflict)
	if string(get(t, filepath.Join(dir, CAKeyFile))) != string(before) {
		t.Error("the key has changed")
	}
	// With only the certificate there, nothing is left behind.
	if err := os.Remove(filepath.Join(dir, CAKeyFile)); err != nil {
		t.Fatal(err)
	}
	_, err = InitCA(dir, "prod", epoch, rand.Reader)
	wantKind(t, err, agent.Conflict)
	if _, err := os.Stat(filepath.Join(dir, CAKeyFile)); !os.IsNotExist(err) {
		t.Errorf("a key was left without its certificate: %v", err)
	}
	node := newNode(t, ca, Request{Name: "n1"})
	_, err = ca.NewNode(node, Request{Name: "n1"}, epoch, rand.Reader)
	wantKind(t, err, agent.Conflict)
}

func TestInitCA_FilesAreForTheOwnerOnly(t *testing.T) {
	ca, dir := newCA(t, "prod")
	node := newNode(t, ca, Request{Name: "n1"})
	must[time.Time](t)(ca.NewNode(node, Request{Name: "n1", Renew: true}, epoch, rand.Reader))
	for _, folder := range []string{dir, node} {
		for _, entry := range must[[]os.DirEntry](t)(os.ReadDir(folder)) {
			if mode := must[os.FileInfo](t)(entry.Info()).Mode(); mode.Perm() != 0o600 {
				t.Errorf("%s has mode %v", entry.Name(), mode)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(node, CAKeyFile)); !os.IsNotExist(err) {
		t.Error("the node has got the CA's key")
	}
}

func TestNewNode_Refuses(t *testing.T) {
	ca, _ := newCA(t, "prod")
	many := make([]string, maxHosts)
	for i := range many {
		many[i] = "h"
	}
	tests := []struct {
		name string
		req  Request
		now  time.Time
		kind agent.Kind
	}{
		{"no name", Request{}, epoch, agent.Invalid},
		{"a path as name", Request{Name: "../n1"}, epoch, agent.Invalid},
		{"a slash", Request{Name: "n1/x"}, epoch, agent.Invalid},
		{"a host with port", Request{Name: "n1", Hosts: []string{"n1:7600"}}, epoch, agent.Invalid},
		{"an empty host", Request{Name: "n1", Hosts: []string{""}}, epoch, agent.Invalid},
		{"too many hosts", Request{Name: "n1", Hosts: many}, epoch, agent.TooLarge},
		{"negative validity", Request{Name: "n1", Validity: -time.Hour}, epoch, agent.Invalid},
		{"after the CA's end", Request{Name: "n1"}, epoch.Add(CAValidity + time.Hour), agent.Invalid},
	}
	for _, test := range tests {
		dir := filepath.Join(t.TempDir(), "x")
		_, err := ca.NewNode(dir, test.req, test.now, rand.Reader)
		if agent.KindOf(err) != test.kind || err == nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: files were made", test.name)
		}
	}
	end := must[time.Time](t)(ca.NewNode(t.TempDir(), Request{Name: "n1", Validity: 2 * CAValidity}, epoch, rand.Reader))
	if !end.Equal(ca.cert.NotAfter) {
		t.Errorf("the certificate outlives its CA: %v", end)
	}
}

func TestInitTLS_MakesAClusterNodeByNode(t *testing.T) {
	dir := t.TempDir()
	first := must[InitResult](t)(InitTLS(InitCommand{Dir: dir, Node: "n1,10.0.0.1,agents.example.org"}, epoch, rand.Reader))
	second := must[InitResult](t)(InitTLS(InitCommand{Dir: dir, Node: "n2"}, epoch, nil))
	if !first.MadeCA || second.MadeCA || first.Cluster != second.Cluster || first.Fingerprint != second.Fingerprint || !strings.HasPrefix(first.Cluster, "agentd-") {
		t.Fatalf("%+v\n%+v", first, second)
	}
	c := newClock()
	a := must[*Peer](t)(PeerTLS(Dir(first.NodeDir), "", Options{Now: c.Now}))
	b := must[*Peer](t)(PeerTLS(Dir(second.NodeDir), first.Cluster, Options{Now: c.Now}))
	if m := handshake(t, a.Server(), b.Client("n1")); m.err() != nil {
		t.Fatal(m.err())
	}
	if !a.Expires().Equal(first.Expires) || !first.Expires.Equal(epoch.Add(DefaultValidity)) {
		t.Errorf("expires %v, said %v", a.Expires(), first.Expires)
	}
	refused := map[string]struct {
		c    InitCommand
		kind agent.Kind
	}{
		"a node twice":     {InitCommand{Dir: dir, Node: "n1"}, agent.Conflict},
		"another cluster":  {InitCommand{Dir: dir, Node: "n3", Cluster: "other"}, agent.Invalid},
		"no folder":        {InitCommand{Node: "n3"}, agent.Invalid},
		"no node":          {InitCommand{Dir: dir}, agent.Invalid},
		"a bad host":       {InitCommand{Dir: dir, Node: "n3,a b"}, agent.Invalid},
		"a bad cluster":    {InitCommand{Dir: t.TempDir(), Node: "n3", Cluster: "Über"}, agent.Invalid},
		"nothing to renew": {InitCommand{Dir: dir, Node: "n9", Renew: true}, agent.NotFound},
	}
	for name, test := range refused {
		if _, err := InitTLS(test.c, epoch, rand.Reader); err == nil || agent.KindOf(err) != test.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	must[InitResult](t)(InitTLS(InitCommand{Dir: dir, Node: "n1", Renew: true}, epoch.Add(time.Hour), rand.Reader))
	c.Add(time.Hour + 2*time.Second)
	if a.Expires().Equal(first.Expires) {
		t.Error("the renewed certificate is not in use")
	}
}

func TestLoadCA_RefusesAKeyOfAnotherCA(t *testing.T) {
	_, dir := newCA(t, "prod")
	_, other := newCA(t, "prod")
	put(t, filepath.Join(dir, CAKeyFile), get(t, filepath.Join(other, CAKeyFile)))
	_, err := LoadCA(dir)
	wantKind(t, err, agent.Invalid)
	both := append(get(t, filepath.Join(dir, CACertFile)), get(t, filepath.Join(other, CACertFile))...)
	put(t, filepath.Join(dir, CACertFile), both)
	ca := must[*CA](t)(LoadCA(dir))
	if ca.Fingerprint() != must[*CA](t)(LoadCA(other)).Fingerprint() {
		t.Error("the wrong one of two CAs signs")
	}
}
