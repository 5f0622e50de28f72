package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"agentd/pkg/agent"
)

var epoch = time.Date(2051, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: epoch} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// reports collects what Config.Report hears.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) hear(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.errs)
}

// tokensFile is a file of tokens that grows.
type tokensFile struct {
	path    string
	entries string
}

func newTokensFile(t testing.TB) *tokensFile {
	t.Helper()
	f := &tokensFile{path: filepath.Join(t.TempDir(), "tokens.yaml")}
	f.save(t, "tokens: []\n")
	return f
}

func (f *tokensFile) save(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// add makes a token and puts it into the file.
func (f *tokensFile) add(t testing.TB, spec TokenSpec) string {
	t.Helper()
	token, entry, err := NewToken(spec, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f.entries += entry
	f.save(t, "tokens:\n"+f.entries)
	return token
}

func start(t testing.TB, cfg Config) *Authenticator {
	t.Helper()
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// signer is one key of an issuer.
type signer struct {
	id     string
	method jwt.SigningMethod
	key    crypto.Signer
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newSigner(t testing.TB, id string, method jwt.SigningMethod) signer {
	t.Helper()
	s := signer{id: id, method: method}
	var err error
	switch method.Alg() {
	case "RS256":
		s.key = rsaKey()
	case "ES256":
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, s.key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// jwk is the public half as an issuer lists it.
func (s signer) jwk(t testing.TB) map[string]any {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	switch public := s.key.Public().(type) {
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "kid": s.id, "use": "sig", "n": b64(public.N.Bytes()), "e": b64(big.NewInt(int64(public.E)).Bytes())}
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return map[string]any{"kty": "EC", "crv": "P-256", "kid": s.id, "x": b64(point[1:33]), "y": b64(point[33:])}
	case ed25519.PublicKey:
		return map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": s.id, "alg": "EdDSA", "x": b64(public)}
	}
	t.Fatal("no such key")
	return nil
}

func jwks(t testing.TB, signers ...signer) []byte {
	t.Helper()
	list := []any{}
	for _, s := range signers {
		list = append(list, s.jwk(t))
	}
	text, err := json.Marshal(map[string]any{"keys": list})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const issuerName = "https://login.example.org/"

// claims of a good token, changed by edit.
func claims(edit map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{
		"iss": issuerName, "aud": "agentd", "sub": "alice", "exp": epoch.Add(time.Hour).Unix(),
		"agentd_namespaces": "team-a team-b", "agentd_services": []string{"agent", "class"}, "agentd_access": "write",
	}
	for name, value := range edit {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	return c
}

// sign makes a token; header adds to or replaces parts of the header.
func (s signer) sign(t testing.TB, c jwt.Claims, header map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, c)
	token.Header["kid"] = s.id
	for name, value := range header {
		if token.Header[name] = value; value == nil {
			delete(token.Header, name)
		}
	}
	text, err := token.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// trusting is an authenticator that trusts signers through a file.
func trusting(t testing.TB, c *clock, signers ...signer) (a *Authenticator, keysPath string) {
	t.Helper()
	keysPath = filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(keysPath, jwks(t, signers...), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, Config{Now: c.Now, JWT: &JWT{Issuer: issuerName, Audiences: []string{"agentd"}, KeysFile: keysPath}}), keysPath
}

// wantRefusal checks kind and words, and that no part of the token is in the error.
func wantRefusal(t testing.TB, name, bearer string, err error, kind agent.Kind, words string) {
	t.Helper()
	if err == nil || agent.KindOf(err) != kind || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: %v of kind %v; want %v, %q", name, err, agent.KindOf(err), kind, words)
	}
	if err != nil && len(bearer) > 8 && bytes.Contains([]byte(err.Error()), []byte(bearer[:8])) {
		t.Errorf("%s: the error holds the token: %v", name, err)
	}
}

func check(a *Authenticator, bearer string) (Principal, error) {
	return a.Check(context.Background(), bearer)
}
