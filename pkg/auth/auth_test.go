package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
)

func TestCheck_Tokens(t *testing.T) {
	c, file := newClock(), newTokensFile(t)
	good := file.add(t, TokenSpec{Name: "ci", Namespaces: []string{"team-a"}, Services: []string{"agent"}, Access: Write})
	short := file.add(t, TokenSpec{Name: "short", Namespaces: []string{"*"}, Services: []string{"*"}, Access: Admin, Expires: epoch.Add(time.Hour)})
	a := start(t, Config{TokensFile: file.path, Now: c.Now})
	p, err := check(a, good)
	if err != nil || p.Name() != "ci" || !p.Expires().IsZero() {
		t.Fatal(p.Name(), err)
	}
	if p, err = check(a, short); err != nil || !p.Expires().Equal(epoch.Add(time.Hour)) {
		t.Fatal(err)
	}
	c.Add(time.Hour)
	_, err = check(a, short)
	wantRefusal(t, "expired", short, err, agent.Unauthenticated, `the token "short" expired on 2051-03-01 13:00 UTC`)
	_, err = check(a, "")
	wantRefusal(t, "missing", "", err, agent.Unauthenticated, "a token is needed: send `authorization: Bearer TOKEN`")
	for _, bearer := range []string{"a b", "tök", "a\x00", strings.Repeat("x", MaxBearerBytes+1)} {
		_, err = check(a, bearer)
		wantRefusal(t, "malformed", bearer, err, agent.Unauthenticated, "malformed")
	}
	// What is near a token gets the same words as what is far from it.
	for _, bearer := range []string{"x", good[:len(good)-1], good + "A", short[:len(short)-1] + "_", "a.b.c"} {
		_, err = check(a, bearer)
		wantRefusal(t, "unknown", bearer, err, agent.Unauthenticated, "the token is not known here")
	}
}

func TestCheck_TakesInAndWithdrawsTokensWithoutRestart(t *testing.T) {
	c, file, heard := newClock(), newTokensFile(t), &reports{}
	a := start(t, Config{TokensFile: file.path, Now: c.Now, Report: heard.hear})
	spec := TokenSpec{Name: "ci", Namespaces: []string{"*"}, Services: []string{"*"}, Access: Read}
	token := file.add(t, spec)
	if _, err := check(a, token); err == nil {
		t.Error("the file was read twice in a second")
	}
	c.Add(time.Second)
	if _, err := check(a, token); err != nil {
		t.Error(err)
	}
	file.save(t, "tokens: [oops")
	c.Add(time.Second)
	if _, err := check(a, token); err != nil || heard.count() != 1 {
		t.Errorf("a broken file: %v, %d reports", err, heard.count())
	}
	file.save(t, "tokens: []\n")
	c.Add(time.Second)
	if _, err := check(a, token); err == nil {
		t.Error("the withdrawn token is still good")
	}
}

// A hash that agrees in the part that finds it must agree in all of it.
func TestTable_ComparesTheWholeHash(t *testing.T) {
	sum := sha256.Sum256([]byte("token"))
	table, err := parseTokens([]byte(fmt.Sprintf("tokens:\n- {name: a, sha256: \"%x\", namespaces: \"*\", services: \"*\", access: read}\n", sum)), "f")
	if err != nil {
		t.Fatal(err)
	}
	if table.find(sum) == nil {
		t.Error("the token is not found")
	}
	for _, i := range []int{0, 7, 8, 31} {
		near := sum
		near[i] ^= 1
		if table.find(near) != nil {
			t.Errorf("byte %d does not count", i)
		}
	}
	if table.find([32]byte{}) != nil {
		t.Error("the hash of nothing is found")
	}
}

func TestPrincipal_Allows(t *testing.T) {
	grantOf := func(namespaces, services []string, access Access) Principal {
		g := &grant{name: "p", access: access}
		if err := g.limitNamespaces(namespaces); err != nil {
			t.Fatal(err)
		}
		if err := g.limitServices(services); err != nil {
			t.Fatal(err)
		}
		return Principal{g}
	}
	one := []string{"team-a"}
	all := []string{"*"}
	tests := []struct {
		name               string
		p                  Principal
		namespace, service string
		write              bool
		words              string // empty: allowed
	}{
		{"read", grantOf(one, all, Read), "team-a", "agent", false, ""},
		{"write with read", grantOf(one, all, Read), "team-a", "agent", true, `has read access to the service "agent", and this needs write access`},
		{"write", grantOf(one, all, Write), "team-a", "agent", true, ""},
		{"other namespace", grantOf(one, all, Admin), "team-b", "agent", false, `may not use the namespace "team-b"`},
		{"namespace named like all", grantOf(one, all, Admin), "*", "agent", false, `may not use the namespace`},
		{"other service", grantOf(all, []string{"agent", "fiber"}, Admin), "team-a", "class", false, `may not use the service "class"`},
		{"named service", grantOf(all, []string{"agent", "fiber"}, Write), "x", "fiber", true, ""},
		{"all namespaces", grantOf(all, all, Write), "any", "workflow", true, ""},
		{"unknown service", grantOf(all, all, Admin), "any", "secrets", false, `may not use the service "secrets"`},
		{"no service", grantOf(all, all, Admin), "any", "", false, `may not use the service ""`},
		{"cluster with write", grantOf(all, all, Write), "", "cluster", true, "needs admin access"},
		{"cluster with admin", grantOf(all, all, Admin), "", "cluster", true, ""},
		{"cluster read", grantOf(one, all, Read), "", "cluster", false, ""},
		{"cluster with admin of one namespace", grantOf(one, all, Admin), "", "cluster", true, "is limited to namespaces"},
		{"nobody", Principal{}, "team-a", "agent", false, "nobody is authenticated"},
		{"no access", Principal{&grant{allNamespaces: true, services: allServices}}, "a", "agent", false, "has none access"},
		{"unrestricted", Unrestricted("local"), "a", "cluster", true, ""},
	}
	for _, test := range tests {
		err := test.p.Allows(test.namespace, test.service, test.write)
		if test.words == "" {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		wantRefusal(t, test.name, "", err, agent.Denied, test.words)
	}
}

func TestBearer(t *testing.T) {
	for header, want := range map[string]string{"": "", "Bearer abc": "abc", "bearer  abc": "abc", "BEARER a b": "a b"} {
		if got, err := Bearer(header); err != nil || got != want {
			t.Errorf("%q gave %q, %v", header, got, err)
		}
	}
	for _, header := range []string{"Bearer", "Bearer ", "Basic abc", "abc", " Bearer abc"} {
		_, err := Bearer(header)
		wantRefusal(t, header, "", err, agent.Unauthenticated, "must read `Bearer TOKEN`")
	}
}

func TestAudit_HearsOfRefusalsWithinARate(t *testing.T) {
	c, file := newClock(), newTokensFile(t)
	token := file.add(t, TokenSpec{Name: "ci", Namespaces: []string{"team-a"}, Services: []string{"agent"}, Access: Read})
	var heard []Refusal
	a := start(t, Config{TokensFile: file.path, Now: c.Now, Audit: func(_ context.Context, r Refusal) { heard = append(heard, r) }})
	p, err := check(a, token)
	if err != nil || len(heard) != 0 {
		t.Fatal(err, heard)
	}
	if err := a.Allow(context.Background(), p, "team-a", "agent", false); err != nil || len(heard) != 0 {
		t.Fatal(err, heard)
	}
	if err := a.Allow(context.Background(), p, "team-b", "agent", false); err == nil || len(heard) != 1 || heard[0].Principal != "ci" || heard[0].Kind != agent.Denied {
		t.Fatalf("%v, %+v", err, heard)
	}
	for range 1000 {
		if _, err := check(a, "guess"); err == nil {
			t.Fatal("a guess is good")
		}
	}
	if len(heard) != auditBurst {
		t.Errorf("heard %d refusals at once, want %d", len(heard), auditBurst)
	}
	heard = nil
	c.Add(time.Second)
	for range 1000 {
		_, _ = check(a, "guess")
	}
	if len(heard) != auditPerSecond || heard[0].LeftOut != 1001-auditBurst || heard[1].LeftOut != 0 {
		t.Errorf("heard %d refusals in a second, the first after %d others", len(heard), heard[0].LeftOut)
	}
}

func TestCheckListen(t *testing.T) {
	tests := []struct {
		addr                string
		tls, auth, insecure bool
		kind                agent.Kind
		words               string
	}{
		{"127.0.0.1:7600", false, false, false, 0, ""},
		{"127.9.9.9:0", false, false, false, 0, ""},
		{"[::1]:7600", false, false, false, 0, ""},
		{"localhost:7600", false, false, false, 0, ""},
		{"0.0.0.0:7600", true, true, false, 0, ""},
		{"0.0.0.0:7600", false, false, true, 0, ""},
		{"0.0.0.0:7600", false, false, false, agent.Denied, "0.0.0.0:7600 can be reached from other machines, and neither TLS nor authentication"},
		{":7600", true, false, false, agent.Denied, "everybody who reaches it may do everything"},
		{"[::]:7600", false, true, false, agent.Denied, "can read the tokens"},
		{"10.0.0.1:7600", false, false, false, agent.Denied, "agentd cluster init-tls"},
		{"localhost.example.org:1", false, false, false, agent.Denied, "--insecure"},
		{"[::ffff:127.0.0.1]:1", false, false, false, 0, ""},
		{"7600", true, true, true, agent.Invalid, "write HOST:PORT"},
	}
	for _, test := range tests {
		err := CheckListen(test.addr, test.tls, test.auth, test.insecure)
		if test.words == "" {
			if err != nil {
				t.Errorf("%s: %v", test.addr, err)
			}
			continue
		}
		wantRefusal(t, test.addr, "", err, test.kind, test.words)
	}
}

func TestNew_RefusesAConfigurationThatLetsEverybodyIn(t *testing.T) {
	c, file := newClock(), newTokensFile(t)
	tests := map[string]Config{
		"nothing":        {Now: c.Now},
		"no clock":       {TokensFile: file.path},
		"no issuer":      {Now: c.Now, JWT: &JWT{Audiences: []string{"a"}}},
		"no audience":    {Now: c.Now, JWT: &JWT{Issuer: issuerName}},
		"empty audience": {Now: c.Now, JWT: &JWT{Issuer: issuerName, Audiences: []string{""}}},
		"two sources":    {Now: c.Now, JWT: &JWT{Issuer: issuerName, Audiences: []string{"a"}, KeysFile: "f", KeysURL: "https://x"}},
		"plain http":     {Now: c.Now, JWT: &JWT{Issuer: "http://login.example.org", Audiences: []string{"a"}}},
		"keys over http": {Now: c.Now, JWT: &JWT{Issuer: issuerName, Audiences: []string{"a"}, KeysURL: "http://10.0.0.1/keys"}},
		"no host":        {Now: c.Now, JWT: &JWT{Issuer: "https:///x", Audiences: []string{"a"}}},
	}
	for name, cfg := range tests {
		_, err := New(cfg)
		wantRefusal(t, name, "", err, agent.Invalid, "")
	}
}

func BenchmarkCheck(b *testing.B) {
	c, file := newClock(), newTokensFile(b)
	var token string
	for i := range 100 {
		token = file.add(b, TokenSpec{Name: fmt.Sprint("t", i), Namespaces: []string{"team-a"}, Services: []string{"agent"}, Access: Write})
	}
	s := newSigner(b, "k", methods["ES256"])
	a := start(b, Config{TokensFile: file.path, Now: c.Now})
	j, _ := trusting(b, c, s)
	for name, run := range map[string]struct {
		a     *Authenticator
		token string
	}{"token": {a, token}, "jwt": {j, s.sign(b, claims(nil), nil)}, "unknown": {a, "agentd_" + rand.Text()}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p, err := run.a.Check(b.Context(), run.token)
				if err == nil {
					err = run.a.Allow(b.Context(), p, "team-a", "agent", true)
				}
				if (err == nil) != (name != "unknown") {
					b.Fatal(err)
				}
			}
		})
	}
}
