package auth

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"agentd/pkg/agent"
)

// provider is a real HTTP server that lists keys.
type provider struct {
	*httptest.Server
	mu      sync.Mutex
	keys    []byte
	status  int
	fetches atomic.Int64
	hold    chan struct{} // when set, answers wait for it
}

func newProvider(t *testing.T, signers ...signer) *provider {
	t.Helper()
	p := &provider{keys: jwks(t, signers...), status: http.StatusOK}
	mux := http.NewServeMux()
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		keys, status, hold := p.keys, p.status, p.hold
		p.mu.Unlock()
		if hold != nil {
			select {
			case <-hold:
			case <-r.Context().Done():
			}
		}
		w.WriteHeader(status)
		_, _ = w.Write(keys)
	})
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, p.URL+"/keys")
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://keys.example.org/keys", http.StatusFound)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/other/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, "https://evil.example.org", p.URL+"/keys")
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) set(keys []byte, status int, hold chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys, p.status, p.hold = keys, status, hold
}

// authenticator authenticates with the keys of p.
func (p *provider) authenticator(t *testing.T, c *clock, heard *reports) *Authenticator {
	t.Helper()
	return start(t, Config{Now: c.Now, Report: heard.hear, JWT: &JWT{Issuer: issuerName, Audiences: []string{"agentd"}, KeysURL: p.URL + "/keys"}})
}

// everywhere is a client for which every host is p.
func (p *provider) everywhere() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, p.Listener.Addr().String())
	}}}
}

// settled waits for the fetch that is under way, if there is one.
func settled(a *Authenticator) {
	s := a.jwt.keys.(*issuer)
	s.mu.Lock()
	done := s.fetching
	s.mu.Unlock()
	if done != nil {
		<-done
	}
}

func TestIssuer_AFloodOfUnknownKeysDoesNotReachIt(t *testing.T) {
	c, heard := newClock(), &reports{}
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	p := newProvider(t, s)
	a := p.authenticator(t, c, heard)
	if _, err := check(a, s.sign(t, claims(nil), nil)); err != nil || p.fetches.Load() != 1 {
		t.Fatal(err, p.fetches.Load())
	}
	flood := func() {
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 50 {
					_, err := check(a, s.sign(t, claims(nil), map[string]any{"kid": fmt.Sprint(g, "-", i)}))
					wantRefusal(t, "unknown key", "", err, agent.Unauthenticated, "does not list")
				}
			})
		}
		wg.Wait()
	}
	flood()
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("%d fetches at once, want 1", n)
	}
	c.Add(fetchEvery)
	flood()
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches after %v, want 2", n, fetchEvery)
	}
	// A key that was added in the meantime is found.
	fresh := newSigner(t, "k2", jwt.SigningMethodES256)
	p.set(jwks(t, s, fresh), http.StatusOK, nil)
	c.Add(fetchEvery)
	if _, err := check(a, fresh.sign(t, claims(nil), nil)); err != nil {
		t.Error(err)
	}
}

func TestIssuer_IsDiscovered(t *testing.T) {
	c := newClock()
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	p := newProvider(t, s)
	a := start(t, Config{Now: c.Now, JWT: &JWT{Issuer: p.URL, Audiences: []string{"agentd"}}})
	if _, err := check(a, s.sign(t, claims(map[string]any{"iss": p.URL}), nil)); err != nil {
		t.Error(err)
	}
}

func TestIssuer_WithoutKeysIsUnavailable(t *testing.T) {
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	p := newProvider(t, s)
	for name, cfg := range map[string]JWT{
		"another issuer answers": {Issuer: p.URL + "/other"},
		"no such page":           {Issuer: issuerName, KeysURL: p.URL + "/nothing"},
		"sent to another host":   {Issuer: issuerName, KeysURL: p.URL + "/away"},
		"sent round":             {Issuer: issuerName, KeysURL: p.URL + "/round"},
		"not keys":               {Issuer: issuerName, KeysURL: p.URL + "/.well-known/openid-configuration"},
	} {
		c, heard := newClock(), &reports{}
		cfg.Audiences = []string{"agentd"}
		cfg.Client = p.everywhere()
		a := start(t, Config{Now: c.Now, Report: heard.hear, JWT: &cfg})
		token := s.sign(t, claims(map[string]any{"iss": cfg.Issuer}), nil)
		for range 3 {
			_, err := check(a, token)
			wantRefusal(t, name, token, err, agent.Unavailable, "are not here")
			if err != nil && strings.Contains(err.Error(), "/keys") {
				t.Errorf("%s: the client learns where the keys are: %v", name, err)
			}
		}
		a.Close()
		if heard.count() != 1 {
			t.Errorf("%s: %d reports", name, heard.count())
		}
	}
}

func TestIssuer_TooManyKeysBytesAreRefused(t *testing.T) {
	c, heard := newClock(), &reports{}
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	p := newProvider(t, s)
	p.set(append(jwks(t, s), bytes.Repeat([]byte{' '}, maxKeysBytes)...), http.StatusOK, nil)
	a := p.authenticator(t, c, heard)
	_, err := check(a, s.sign(t, claims(nil), nil))
	wantRefusal(t, "large", "", err, agent.Unavailable, "")
	c.Add(fetchRetry)
	p.set(jwks(t, s), http.StatusOK, nil)
	if _, err := check(a, s.sign(t, claims(nil), nil)); err != nil {
		t.Errorf("not tried again after %v: %v", fetchRetry, err)
	}
}

func TestIssuer_KeysAreRenewedAndGivenUp(t *testing.T) {
	c, heard := newClock(), &reports{}
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	p := newProvider(t, s)
	a := p.authenticator(t, c, heard)
	token := s.sign(t, claims(map[string]any{"exp": epoch.Add(1000 * time.Hour).Unix()}), nil)
	ask := func() error {
		_, err := check(a, token)
		settled(a)
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	// The same keys keep what was verified with them.
	before := a.jwt.keys.current()
	c.Add(keysFresh)
	if err := ask(); err != nil || p.fetches.Load() != 2 || a.jwt.keys.current() != before {
		t.Fatal(err, p.fetches.Load())
	}
	// The issuer is away: the old keys serve for a day, and it is asked in peace.
	p.set(nil, http.StatusBadGateway, nil)
	for range 23 {
		c.Add(time.Hour)
		if err := ask(); err != nil {
			t.Fatal("the keys are gone too soon:", err)
		}
	}
	if n := p.fetches.Load(); n != 2+23 {
		t.Errorf("%d fetches", n)
	}
	c.Add(time.Hour)
	wantRefusal(t, "a day later", token, ask(), agent.Unavailable, "")
	// The key is withdrawn.
	p.set(jwks(t, newSigner(t, "k2", jwt.SigningMethodEdDSA)), http.StatusOK, nil)
	c.Add(fetchRetry)
	wantRefusal(t, "withdrawn", token, ask(), agent.Unauthenticated, "does not list")
}

func TestIssuer_ACallerThatLeavesDoesNotSpoilTheFetch(t *testing.T) {
	c, heard := newClock(), &reports{}
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	p := newProvider(t, s)
	hold := make(chan struct{})
	p.set(jwks(t, s), http.StatusOK, hold)
	a := p.authenticator(t, c, heard)
	token := s.sign(t, claims(nil), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.Check(ctx, token)
	wantRefusal(t, "left", token, err, agent.Canceled, "")
	close(hold)
	settled(a)
	if _, err := check(a, token); err != nil || p.fetches.Load() != 1 {
		t.Error(err, p.fetches.Load())
	}
}

func TestIssuer_FewWaitForAFetch(t *testing.T) {
	c, heard := newClock(), &reports{}
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	p := newProvider(t, s)
	hold := make(chan struct{})
	p.set(jwks(t, s), http.StatusOK, hold)
	a := p.authenticator(t, c, heard)
	token := s.sign(t, claims(nil), nil)
	const callers = maxWaiting + 36
	results := make(chan error, callers)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			_, err := check(a, token)
			results <- err
		})
	}
	for range callers - maxWaiting { // these return while the issuer is silent
		wantRefusal(t, "too many", token, <-results, agent.Unavailable, "too many requests wait")
	}
	close(hold)
	wg.Wait()
	for range maxWaiting {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestIssuer_CloseEndsAFetch(t *testing.T) {
	c, heard := newClock(), &reports{}
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	p := newProvider(t, s)
	p.set(nil, http.StatusOK, make(chan struct{})) // never answers
	a := p.authenticator(t, c, heard)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = a.Check(ctx, s.sign(t, claims(nil), nil))
	begin := time.Now()
	a.Close()
	if took := time.Since(begin); took >= fetchTimeout {
		t.Errorf("Close waited %v", took)
	}
	if _, err := check(a, s.sign(t, claims(nil), nil)); agent.KindOf(err) != agent.Unavailable {
		t.Errorf("after Close: %v", err)
	}
	if heard.count() != 0 {
		t.Errorf("closing is reported: %v", heard.errs)
	}
}

// CheckNow begins the fetch that a token needs and leaves the waiting to Check.
func TestCheckNow_NeverWaits(t *testing.T) {
	s := newSigner(t, "k", jwt.SigningMethodEdDSA)
	p, hold := newProvider(t, s), make(chan struct{})
	p.set(jwks(t, s), http.StatusOK, hold)
	a := p.authenticator(t, newClock(), &reports{})
	bearer := s.sign(t, claims(nil), nil)
	if _, decided, err := a.CheckNow(t.Context(), bearer); decided || err != nil {
		t.Errorf("while the keys are fetched: decided %v, %v", decided, err)
	}
	close(hold)
	if _, err := check(a, bearer); err != nil {
		t.Fatal(err)
	}
	if _, decided, err := a.CheckNow(t.Context(), bearer); !decided || err != nil {
		t.Errorf("with the keys there: decided %v, %v", decided, err)
	}
	if _, decided, err := a.CheckNow(t.Context(), ""); !decided || agent.KindOf(err) != agent.Unauthenticated {
		t.Errorf("without a token: decided %v, %v", decided, err)
	}
}
