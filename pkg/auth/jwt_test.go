package auth

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"agentd/pkg/agent"
)

var methods = map[string]jwt.SigningMethod{"RS256": jwt.SigningMethodRS256, "ES256": jwt.SigningMethodES256, "EdDSA": jwt.SigningMethodEdDSA}

func TestJWT_GrantsWhatItsClaimsSay(t *testing.T) {
	for alg, method := range methods {
		c := newClock()
		s := newSigner(t, "k1", method)
		a, _ := trusting(t, c, s, newSigner(t, "other", jwt.SigningMethodES256))
		p, err := check(a, s.sign(t, claims(nil), nil))
		if err != nil {
			t.Fatal(alg, err)
		}
		if p.Name() != "alice" || !p.Expires().Equal(epoch.Add(time.Hour+Leeway)) {
			t.Errorf("%s: %q until %v", alg, p.Name(), p.Expires())
		}
		for _, ask := range []struct {
			namespace, service string
			write, ok          bool
		}{{"team-a", "agent", true, true}, {"team-b", "class", false, true}, {"team-c", "agent", false, false}, {"team-a", "fiber", false, false}, {"", "cluster", false, false}} {
			if err := p.Allows(ask.namespace, ask.service, ask.write); (err == nil) != ask.ok {
				t.Errorf("%s: %+v: %v", alg, ask, err)
			}
		}
	}
}

func TestJWT_ClaimsThatAreNotUnderstoodGrantNothing(t *testing.T) {
	c := newClock()
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	a, _ := trusting(t, c, s)
	for name, edit := range map[string]map[string]any{
		"no namespaces":   {"agentd_namespaces": nil},
		"no services":     {"agentd_services": nil},
		"no access":       {"agentd_access": nil},
		"a number":        {"agentd_namespaces": 7},
		"an object":       {"agentd_namespaces": map[string]any{"team-a": true}},
		"a list of lists": {"agentd_namespaces": []any{[]any{"team-a"}}},
		"other words":     {"agentd_services": "openid profile"},
		"unknown access":  {"agentd_access": "root"},
		"upper case":      {"agentd_namespaces": "TEAM-A"},
	} {
		p, err := check(a, s.sign(t, claims(edit), nil))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := p.Allows("team-a", "agent", true); agent.KindOf(err) != agent.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := check(a, s.sign(t, claims(map[string]any{"agentd_namespaces": []string{"*"}, "agentd_services": "openid *", "agentd_access": []string{"read", "admin", "x"}}), nil))
	if err != nil || p.Allows("", "cluster", true) != nil {
		t.Errorf("%v, %v", err, p.Allows("", "cluster", true))
	}
}

func TestJWT_ConfiguredClaims(t *testing.T) {
	c := newClock()
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	_, path := trusting(t, c, s)
	a := start(t, Config{Now: c.Now, JWT: &JWT{Issuer: issuerName, Audiences: []string{"x", "agentd"}, KeysFile: path,
		NamespacesClaim: "https://example.org/ns", ServicesClaim: "scope", AccessClaim: "roles", NameClaim: "email"}})
	p, err := check(a, s.sign(t, claims(map[string]any{"https://example.org/ns": "n", "scope": "agent", "roles": []string{"read"}, "email": "a@b.c"}), nil))
	if err != nil || p.Name() != "a@b.c" || p.Allows("n", "agent", false) != nil || p.Allows("team-a", "agent", false) == nil {
		t.Errorf("%q, %v", p.Name(), err)
	}
}

func TestJWT_Refuses(t *testing.T) {
	c := newClock()
	rs, es, ed := newSigner(t, "r", jwt.SigningMethodRS256), newSigner(t, "e", jwt.SigningMethodES256), newSigner(t, "d", jwt.SigningMethodEdDSA)
	stranger := newSigner(t, "d", jwt.SigningMethodEdDSA) // the same id, another key
	a, _ := trusting(t, c, rs, es, ed)
	signedBy := func(method jwt.SigningMethod, key any, kid string) string {
		token := jwt.NewWithClaims(method, claims(nil))
		token.Header["kid"] = kid
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	der, err := x509.MarshalPKIXPublicKey(rs.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	good := ed.sign(t, claims(nil), nil)
	parts := strings.Split(good, ".")
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	with := func(edit map[string]any) string { return ed.sign(t, claims(edit), nil) }
	head := func(header map[string]any) string { return ed.sign(t, claims(nil), header) }
	tests := []struct{ name, token, words string }{
		{"alg none", signedBy(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "d"), "signature is not valid"},
		{"alg none, other spelling", part(map[string]any{"alg": "None", "kid": "d"}) + "." + parts[1] + ".", "not acceptable"},
		{"no alg", part(map[string]any{"kid": "d"}) + "." + parts[1] + "." + parts[2], "not acceptable"},
		{"no signature", parts[0] + "." + parts[1] + ".", "signature is not valid"},
		{"HMAC with the public key", signedBy(jwt.SigningMethodHS256, publicPEM, "r"), "signature is not valid"},
		{"HMAC with the DER of the public key", signedBy(jwt.SigningMethodHS256, der, "r"), "signature is not valid"},
		{"RSA with another hash", signedBy(jwt.SigningMethodRS512, rs.key, "r"), "signature is not valid"},
		{"RSA-PSS", signedBy(jwt.SigningMethodPS256, rs.key, "r"), "signature is not valid"},
		{"a key of another algorithm", signedBy(jwt.SigningMethodRS256, rs.key, "e"), "key that its issuer does not list"},
		{"a key of a stranger", stranger.sign(t, claims(nil), nil), "signature is not valid"},
		{"an unknown key", ed.sign(t, claims(nil), map[string]any{"kid": "x"}), "key that its issuer does not list"},
		{"a key inside the token", stranger.sign(t, claims(nil), map[string]any{"jwk": stranger.jwk(t), "jku": "https://evil.example.org"}), "signature is not valid"},
		{"kid is a number", head(map[string]any{"kid": 7}), "header"},
		{"critical extension", head(map[string]any{"crit": []string{"exp"}}), "extensions"},
		{"a logout token", head(map[string]any{"typ": "logout+jwt"}), "header"},
		{"typ is a number", head(map[string]any{"typ": 1}), "header"},
		{"claims changed", parts[0] + "." + part(claims(map[string]any{"agentd_access": "admin"})) + "." + parts[2], "signature is not valid"},
		{"another issuer", with(map[string]any{"iss": "https://login.example.com/"}), "another issuer"},
		{"issuer without slash", with(map[string]any{"iss": strings.TrimSuffix(issuerName, "/")}), "another issuer"},
		{"no issuer", with(map[string]any{"iss": nil}), "another issuer"},
		{"issuer is a list", with(map[string]any{"iss": []string{issuerName}}), "another issuer"},
		{"another audience", with(map[string]any{"aud": "billing"}), "another audience"},
		{"no audience", with(map[string]any{"aud": nil}), "lacks a claim"},
		{"expired", with(map[string]any{"exp": epoch.Add(-Leeway).Unix()}), "has expired"},
		{"no end", with(map[string]any{"exp": nil}), "lacks a claim"},
		{"end is text", with(map[string]any{"exp": "never"}), "not acceptable"},
		{"end beyond numbers", with(map[string]any{"exp": -1e300}), ""},
		{"not yet", with(map[string]any{"nbf": epoch.Add(Leeway + time.Second).Unix()}), "not valid yet"},
		{"not base64", "%%." + parts[1] + "." + parts[2], "malformed"},
		{"not JSON", base64.RawURLEncoding.EncodeToString([]byte("{")) + "." + parts[1] + "." + parts[2], "malformed"},
		{"null", base64.RawURLEncoding.EncodeToString([]byte("null")) + "." + parts[1] + "." + parts[2], "not acceptable"},
		{"four parts", good + ".x", "not known"},
		{"claims null", ed.method.Alg() + ".bnVsbA.x", "malformed"},
	}
	for _, test := range tests {
		_, err := check(a, test.token)
		wantRefusal(t, test.name, "", err, agent.Unauthenticated, test.words)
	}
	for name, token := range map[string]string{
		"as it was":    good,
		"just expired": with(map[string]any{"exp": epoch.Add(-Leeway + time.Second).Unix()}),
		"almost valid": with(map[string]any{"nbf": epoch.Add(Leeway).Unix()}),
		"without kid":  head(map[string]any{"kid": nil}),
		"RFC 9068":     head(map[string]any{"typ": "at+jwt"}),
		"two for whom": with(map[string]any{"aud": []string{"billing", "agentd"}}),
	} {
		if _, err := check(a, token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJWT_EndsInTheCacheToo(t *testing.T) {
	c := newClock()
	s := newSigner(t, "k1", jwt.SigningMethodEdDSA)
	a, path := trusting(t, c, s)
	token := s.sign(t, claims(nil), nil)
	for range 2 {
		if _, err := check(a, token); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(a.jwt.known.entries); n != 1 {
		t.Errorf("%d tokens are remembered", n)
	}
	c.Add(time.Hour + Leeway)
	_, err := check(a, token)
	wantRefusal(t, "expired", token, err, agent.Unauthenticated, "has expired")

	long := s.sign(t, claims(map[string]any{"exp": epoch.Add(100 * time.Hour).Unix()}), nil)
	if _, err := check(a, long); err != nil {
		t.Fatal(err)
	}
	// The key is withdrawn: what was verified with it is worth nothing.
	if err := os.WriteFile(path, jwks(t, newSigner(t, "k2", jwt.SigningMethodEdDSA)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Add(time.Second)
	_, err = check(a, long)
	wantRefusal(t, "withdrawn key", long, err, agent.Unauthenticated, "does not list")
}

func TestCache_IsBounded(t *testing.T) {
	c := cache{entries: map[[32]byte]cached{}}
	for i := range maxCached + 100 {
		c.put([32]byte{byte(i), byte(i >> 8)}, cached{grant: &grant{}})
	}
	if len(c.entries) != maxCached {
		t.Errorf("%d entries", len(c.entries))
	}
}

func TestKeys_RefusesWeakAndBrokenOnes(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	big := strings.Repeat("x", 256)
	tests := map[string]struct {
		keys string
		ok   bool
	}{
		"RSA of 1024 bits":   {`{"kty":"RSA","n":"` + b64([]byte(big[:128])) + `","e":"AQAB"}`, false},
		"RSA of 16384 bits":  {`{"kty":"RSA","n":"` + b64([]byte(strings.Repeat(big, 8)+"y")) + `","e":"AQAB"}`, false},
		"RSA with e of 1":    {`{"kty":"RSA","n":"` + b64([]byte(big[:255]+"y")) + `","e":"AQ"}`, false},
		"even modulus":       {`{"kty":"RSA","n":"` + b64([]byte(big)) + `","e":"AQAB"}`, false},
		"RSA of 2047 bits":   {`{"kty":"RSA","n":"` + b64([]byte("\x7f"+big[:254]+"y")) + `","e":"AQAB"}`, false},
		"RSA of 2048 bits":   {`{"kty":"RSA","n":"` + b64([]byte("\x80"+big[:254]+"y")) + `","e":"AQAB"}`, true},
		"for encryption":     {`{"kty":"RSA","use":"enc","n":"` + b64([]byte("\x80"+big[:254]+"y")) + `","e":"AQAB"}`, false},
		"for RS512":          {`{"kty":"RSA","alg":"RS512","n":"` + b64([]byte("\x80"+big[:254]+"y")) + `","e":"AQAB"}`, false},
		"shared secret":      {`{"kty":"oct","alg":"HS256","k":"AAAA"}`, false},
		"point off the line": {`{"kty":"EC","crv":"P-256","x":"` + b64([]byte(big[:32])) + `","y":"` + b64([]byte(big[:32])) + `"}`, false},
		"other curve":        {`{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}`, false},
		"short Ed25519":      {`{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`, false},
	}
	for name, test := range tests {
		set, err := parseKeys([]byte(`{"keys":[` + test.keys + `]}`))
		if (err == nil) != test.ok {
			t.Errorf("%s: %v, %v", name, set, err)
		}
	}
	one := tests["RSA of 2048 bits"].keys
	if _, err := parseKeys([]byte(`{"keys":[` + strings.Repeat(one+",", maxKeys) + one + `]}`)); err == nil {
		t.Error("too many keys are accepted")
	}
	// Which of two keys is meant is not guessed.
	set, err := parseKeys([]byte(`{"keys":[` + one + "," + one + `]}`))
	if err != nil || set.find("", "RS256") != nil {
		t.Errorf("%v", err)
	}
}
