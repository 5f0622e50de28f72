package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"agentd/internal/certs"
	"agentd/pkg/agent"
	"agentd/pkg/auth"
	"agentd/pkg/client"
)

// fortress is a node with TLS and tokens.
type fortress struct {
	*world
	dir     string // of the CA
	ca      *tls.Config
	entries map[string]string // of the tokens file, by name
	tokens  map[string]string
	log     *journal
}

// journal is a log that a test reads.
type journal struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

const guardedSource = `export class Counter extends Agent {
  add(n: number) { this.setState({ n: ((this.state as any)?.n ?? 0) + n }); return (this.state as any).n; }
}`

// fortify starts a node whose admin has deployed Counter to default and team-a.
func fortify(t *testing.T, change func(*fortress, *Config)) *fortress {
	t.Helper()
	f := &fortress{dir: t.TempDir(), entries: map[string]string{}, tokens: map[string]string{}, log: &journal{}}
	f.certify(t, false)
	f.grant(t, auth.TokenSpec{Name: "admin", Namespaces: []string{"*"}, Services: []string{"*"}, Access: auth.Admin})
	node := certs.Dir(filepath.Join(f.dir, "n1"))
	var err error
	if f.ca, err = certs.DialTLS(node.CA, "", ""); err != nil {
		t.Fatal(err)
	}
	f.world = start(t, func(c *Config) {
		c.Security = Security{TLSCert: node.Cert, TLSKey: node.Key, AuthTokens: f.tokensFile()}
		c.Log = slog.New(slog.NewTextHandler(f.log, nil))
		if change != nil {
			change(f, c)
		}
	})
	return f
}

func (f *fortress) tokensFile() string { return filepath.Join(f.dir, "tokens.yaml") }

func (f *fortress) certify(t *testing.T, renew bool) {
	t.Helper()
	if _, err := certs.InitTLS(certs.InitCommand{Dir: f.dir, Cluster: "test", Node: "n1", Renew: renew}, time.Now(), rand.Reader); err != nil {
		t.Fatal(err)
	}
}

// grant makes a token and puts it into the file.
func (f *fortress) grant(t *testing.T, spec auth.TokenSpec) string {
	t.Helper()
	token, entry, err := auth.NewToken(spec, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.tokens[spec.Name], f.entries[spec.Name] = token, entry
	f.save(t)
	return token
}

func (f *fortress) revoke(t *testing.T, name string) {
	t.Helper()
	delete(f.entries, name)
	f.save(t)
}

// save replaces the file as `agentd token new --out` does.
func (f *fortress) save(t *testing.T) {
	t.Helper()
	text := "tokens:\n"
	for _, entry := range f.entries {
		text += entry
	}
	if err := os.WriteFile(f.tokensFile()+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.tokensFile()+".new", f.tokensFile()); err != nil {
		t.Fatal(err)
	}
}

// as is a client with a token ("" for none) of a namespace.
func (f *fortress) as(t *testing.T, token, namespace string, opts ...client.Option) *client.Client {
	t.Helper()
	opts = append([]client.Option{client.WithAddr(f.node.GRPCAddr()), client.WithNamespace(namespace), client.WithTLS(f.ca), client.WithToken(token)}, opts...)
	c, err := client.Dial(f.ctx, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (f *fortress) add(c *client.Client) error {
	return c.Agent("Counter", "a").Invoke(f.ctx, "add", nil, 1)
}

func wantRefusal(t *testing.T, err error, kind agent.Kind, say ...string) {
	t.Helper()
	if err == nil || agent.KindOf(err) != kind {
		t.Errorf("kind %v, want %v: %v", agent.KindOf(err), kind, err)
		return
	}
	for _, text := range say {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q lacks %q", err, text)
		}
	}
}

func TestSecurity_TokenDecides(t *testing.T) {
	var teamA, reader, ended string
	f := fortify(t, func(f *fortress, _ *Config) {
		teamA = f.grant(t, auth.TokenSpec{Name: "team-a", Namespaces: []string{"team-a"}, Services: []string{auth.ServiceAgent}, Access: auth.Write})
		reader = f.grant(t, auth.TokenSpec{Name: "reader", Namespaces: []string{"default"}, Services: []string{"*"}, Access: auth.Read})
		ended = f.grant(t, auth.TokenSpec{Name: "ended", Namespaces: []string{"*"}, Services: []string{"*"}, Access: auth.Admin, Expires: time.Now().Add(-time.Hour)})
	})
	for _, namespace := range []string{"default", "team-a"} {
		f.deployTo(f.as(t, f.tokens["admin"], namespace), guardedSource)
	}
	if err := f.add(f.as(t, teamA, "team-a")); err != nil {
		t.Errorf("in its own namespace: %v", err)
	}
	if state, ok, err := f.as(t, reader, "default").Agent("Counter", "a").State(f.ctx); err != nil || ok {
		t.Errorf("reading with a token to read: %s, %v, %v", state, ok, err)
	}
	wantRefusal(t, f.add(f.as(t, "", "default")), agent.Unauthenticated, "a token is needed", "AGENTD_TOKEN")
	wantRefusal(t, f.add(f.as(t, "agentd_guessed", "default")), agent.Unauthenticated, "not known here")
	wantRefusal(t, f.add(f.as(t, ended, "default")), agent.Unauthenticated, `"ended" expired on`)
	wantRefusal(t, f.add(f.as(t, teamA, "default")), agent.Denied, `"team-a" may not use the namespace "default"`)
	wantRefusal(t, f.add(f.as(t, reader, "default")), agent.Denied, `"reader" has read access`, "needs write")
	_, err := f.as(t, teamA, "team-a").Classes(f.ctx)
	wantRefusal(t, err, agent.Denied, `service "class"`)
	_, err = f.as(t, teamA, "default").List(f.ctx, client.ListOptions{})
	wantRefusal(t, err, agent.Denied, `namespace "default"`)

	if log := f.log.String(); !strings.Contains(log, `msg="request refused" from=127.0.0.1:`) || !strings.Contains(log, "principal=team-a") {
		t.Errorf("the refusals are not in the log:\n%s", log)
	}
	for name, token := range f.tokens {
		if strings.Contains(f.log.String(), token) {
			t.Errorf("the log holds the token of %s", name)
		}
	}
}

func TestSecurity_WatchEndsWithTheToken(t *testing.T) {
	end := time.Now().Add(5 * time.Second).Truncate(time.Second)
	f := fortify(t, func(f *fortress, _ *Config) {
		f.grant(t, auth.TokenSpec{Name: "brief", Namespaces: []string{"*"}, Services: []string{"*"}, Access: auth.Read, Expires: end})
	})
	f.deployTo(f.as(t, f.tokens["admin"], "default"), guardedSource)
	c := f.as(t, f.tokens["brief"], "default").Agent("Counter", "a")
	states := 0
	for _, err := range c.WatchState(f.ctx) {
		if err == nil {
			states++
			continue
		}
		wantRefusal(t, err, agent.Unauthenticated, "the stream was ended", "expired")
		if late := time.Since(end); late < 0 || late > 10*time.Second {
			t.Errorf("the watch ended %v after the token", late)
		}
	}
	if states != 1 {
		t.Errorf("%d states were seen, want the one that was there", states)
	}
}

// A watch gets nothing more once its token is withdrawn.
func TestSecurity_WatchEndsWhenTheTokenIsWithdrawn(t *testing.T) {
	f := fortify(t, func(f *fortress, _ *Config) {
		f.grant(t, auth.TokenSpec{Name: "guest", Namespaces: []string{"*"}, Services: []string{"*"}, Access: auth.Read})
	})
	admin := f.as(t, f.tokens["admin"], "default")
	f.deployTo(admin, guardedSource)
	guest := f.as(t, f.tokens["guest"], "default")
	seen := 0
	for _, err := range guest.Agent("Counter", "a").WatchState(f.ctx) {
		if err != nil {
			wantRefusal(t, err, agent.Unauthenticated, "the stream was ended", "withdrawn")
			break
		}
		if seen++; seen > 1 {
			t.Fatal("a withdrawn token was sent a state")
		}
		f.revoke(t, "guest")
		f.await("the withdrawal to be read", func() bool { return agent.KindOf(guest.Health(f.ctx)) == agent.Unauthenticated })
		if err := f.add(admin); err != nil {
			t.Fatal(err)
		}
	}
	if seen != 1 {
		t.Errorf("%d states were seen, want 1", seen)
	}
}

func TestSecurity_TokensRotateWithoutARestart(t *testing.T) {
	f := fortify(t, nil)
	old := f.as(t, f.tokens["admin"], "default") // its connection stays open
	f.deployTo(old, guardedSource)
	fresh := f.as(t, f.grant(t, auth.TokenSpec{Name: "next", Namespaces: []string{"*"}, Services: []string{"*"}, Access: auth.Admin}), "default")
	f.await("the new token to be good", func() bool { return f.add(fresh) == nil })
	if err := f.add(old); err != nil {
		t.Errorf("the old token, still in the file: %v", err)
	}
	f.revoke(t, "admin")
	f.await("the old token to be refused", func() bool { return agent.KindOf(f.add(old)) == agent.Unauthenticated })

	if err := os.WriteFile(f.tokensFile(), []byte("tokens: [oops"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.await("the broken file to be reported", func() bool {
		if err := f.add(fresh); err != nil {
			t.Fatalf("a broken file changed who may come in: %v", err)
		}
		return strings.Contains(f.log.String(), "tokens.yaml")
	})
}

// JWTs of the issuer's keys are as good as tokens; their claims say what they allow.
func TestSecurity_JWT(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := fortify(t, func(f *fortress, c *Config) {
		keys := filepath.Join(f.dir, "keys.json")
		text := `{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"k","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}]}`
		if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.JWT = &auth.JWT{Issuer: "https://issuer.example", Audiences: []string{"agentd"}, KeysFile: keys, NamespacesClaim: "teams"}
	})
	sign := func(audience string) string {
		token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"iss": "https://issuer.example", "aud": audience, "sub": "me",
			"exp": time.Now().Add(time.Hour).Unix(), "teams": "default", "agentd_services": "*", "agentd_access": "read"})
		token.Header["kid"] = "k"
		text, err := token.SignedString(private)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	me := f.as(t, sign("agentd"), "default")
	if _, err := me.List(f.ctx, client.ListOptions{}); err != nil {
		t.Error(err)
	}
	wantRefusal(t, f.add(me), agent.Denied, `"me" has read access`)
	wantRefusal(t, f.add(f.as(t, sign("other"), "default")), agent.Unauthenticated, "another audience")
}

func TestSecurity_CertificateRotatesWithoutARestart(t *testing.T) {
	f := fortify(t, nil)
	serial := func() string {
		conn, err := tls.Dial("tcp", f.node.HTTPAddr(), f.ca.Clone())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	f.certify(t, true)
	f.await("the new certificate", func() bool { return serial() != before })
	if err := f.as(t, f.tokens["admin"], "default").Health(f.ctx); err != nil {
		t.Errorf("gRPC with the new certificate: %v", err)
	}
}

func TestSecurity_ConnectionsThatFitNotAreExplained(t *testing.T) {
	f := fortify(t, nil)
	other := t.TempDir()
	if _, err := certs.InitCA(other, "test", time.Now(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	stranger, err := certs.DialTLS(filepath.Join(other, certs.CACertFile), "", "")
	if err != nil {
		t.Fatal(err)
	}
	wrongHost := f.ca.Clone()
	wrongHost.ServerName = "elsewhere.example"
	token := f.tokens["admin"]
	wantRefusal(t, f.as(t, token, "default", client.WithTLS(stranger)).Health(f.ctx), agent.Unavailable, "no CA that is trusted here", "--tls-ca")
	wantRefusal(t, f.as(t, token, "default", client.WithTLS(wrongHost)).Health(f.ctx), agent.Unavailable, "not acceptable", "elsewhere.example")
	wantRefusal(t, f.as(t, token, "default", client.WithTLS(nil)).Health(f.ctx), agent.Unavailable, "does it speak TLS", "--tls-ca")

	plain := start(t, nil)
	wantRefusal(t, f.as(t, "", "default", client.WithAddr(plain.node.GRPCAddr())).Health(f.ctx), agent.Unavailable, "does not speak TLS")

	resp, err := http.Get("http://" + f.node.HTTPAddr() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "HTTPS") {
		t.Errorf("plain HTTP: %s %s %v", resp.Status, body, err)
	}
}

func TestSecurity_ClientsMustShowCertificates(t *testing.T) {
	f := fortify(t, func(f *fortress, c *Config) { c.TLSClientCA = filepath.Join(f.dir, certs.CACertFile) })
	ca, err := certs.LoadCA(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(f.dir, "me")
	if _, err := ca.NewClient(dir, certs.Request{Name: "me"}, time.Now(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	cfg, err := certs.DialTLS(filepath.Join(dir, certs.CACertFile), filepath.Join(dir, certs.ClientCertFile), filepath.Join(dir, certs.ClientKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	token := f.tokens["admin"]
	if err := f.as(t, token, "default", client.WithTLS(cfg)).Health(f.ctx); err != nil {
		t.Errorf("with certificate and token: %v", err)
	}
	wantRefusal(t, f.as(t, "", "default", client.WithTLS(cfg)).Health(f.ctx), agent.Unauthenticated, "a token is needed")
	wantRefusal(t, f.as(t, token, "default").Health(f.ctx), agent.Unavailable, "--tls-cert")
	if code, _ := f.get(t, "/healthz", ""); code != http.StatusOK {
		t.Errorf("a probe without a certificate: %d", code)
	}
}

// get asks the HTTP port.
func (f *fortress) get(t *testing.T, path, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(f.ctx, http.MethodGet, "https://"+f.node.HTTPAddr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	once := &http.Client{Transport: &http.Transport{TLSClientConfig: f.ca.Clone(), DisableKeepAlives: true}}
	resp, err := once.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestSecurity_WhatIsOpenAndWhatIsNot(t *testing.T) {
	var tenant string
	f := fortify(t, func(f *fortress, _ *Config) {
		tenant = f.grant(t, auth.TokenSpec{Name: "tenant", Namespaces: []string{"team-a"}, Services: []string{auth.ServiceAgent}, Access: auth.Write})
	})
	for path, want := range map[string]int{"/healthz": http.StatusOK, "/readyz": http.StatusOK, "/metrics": http.StatusUnauthorized} {
		if code, body := f.get(t, path, ""); code != want {
			t.Errorf("%s without a token: %d %s, want %d", path, code, body, want)
		}
	}
	if code, _ := f.get(t, "/metrics", tenant); code != http.StatusForbidden {
		t.Errorf("/metrics with a tenant's token: %d", code)
	}
	code, body := f.get(t, "/metrics", f.tokens["admin"])
	for _, line := range []string{`agentd_auth_refused_total{reason="missing"} 1`, `agentd_auth_refused_total{reason="denied"} 1`, "agentd_tls_certificate_expiry_timestamp_seconds 1."} {
		if code != http.StatusOK || !strings.Contains(body, line) {
			t.Errorf("/metrics gives %d and lacks %q", code, line)
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+f.node.GRPCAddr(), grpc.WithTransportCredentials(credentials.NewTLS(f.ca.Clone())))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthv1.NewHealthClient(conn).Check(f.ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("health without a token: %v", err)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("reflection without a token: %v", err)
	}
}

func TestSecurity_ConfigurationsThatCannotWork(t *testing.T) {
	f := &fortress{dir: t.TempDir(), entries: map[string]string{}, tokens: map[string]string{}}
	f.certify(t, false)
	f.grant(t, auth.TokenSpec{Name: "x", Namespaces: []string{"*"}, Services: []string{"*"}, Access: auth.Read})
	node := certs.Dir(filepath.Join(f.dir, "n1"))
	secured := Security{TLSCert: node.Cert, TLSKey: node.Key, AuthTokens: f.tokensFile()}
	for name, c := range map[string]struct {
		change func(*Config)
		kind   agent.Kind
		say    string
	}{
		"stranger, nothing":        {func(c *Config) { c.GRPCAddr, c.Security = "0.0.0.0:0", Security{} }, agent.Denied, "neither TLS nor authentication"},
		"stranger, tokens only":    {func(c *Config) { c.GRPCAddr, c.TLSCert, c.TLSKey = "0.0.0.0:0", "", "" }, agent.Denied, "without TLS"},
		"stranger, TLS only":       {func(c *Config) { c.HTTPAddr, c.AuthTokens = "[::]:0", "" }, agent.Denied, "may do everything"},
		"certificate without key":  {func(c *Config) { c.TLSKey = "" }, agent.Invalid, "--tls-key"},
		"clients' CAs without TLS": {func(c *Config) { c.Security = Security{TLSClientCA: node.CA} }, agent.Invalid, "--tls-cert"},
		"key of another":           {func(c *Config) { c.TLSKey = filepath.Join(f.dir, certs.CAKeyFile) }, agent.Invalid, "cannot be used"},
		"no tokens file":           {func(c *Config) { c.AuthTokens = filepath.Join(f.dir, "none") }, agent.Internal, "none"},
		"issuer without audience":  {func(c *Config) { c.JWT = &auth.JWT{Issuer: "https://issuer.example"} }, agent.Invalid, "audience"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := local(t.TempDir())
			cfg.Security = secured
			c.change(&cfg)
			n, err := Start(t.Context(), cfg)
			if err == nil {
				_ = n.Close(t.Context())
			}
			wantRefusal(t, err, c.kind, c.say)
		})
	}
	cfg := local(t.TempDir())
	cfg.Security, cfg.GRPCAddr, cfg.HTTPAddr = secured, "0.0.0.0:0", "[::]:0"
	if err := cfg.Validate(); err != nil {
		t.Errorf("with TLS and tokens: %v", err)
	}
	var e *agent.Error
	if err := (&Config{DataDir: "d", GRPCAddr: "nowhere"}).Validate(); !errors.As(err, &e) || e.Kind != agent.Invalid {
		t.Errorf("%v", err)
	}
}
