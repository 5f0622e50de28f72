package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"agentd/pkg/agent"
)

// Leeway is how far the clocks of the issuer and of this node may differ.
const Leeway = 60 * time.Second

// maxListed bounds the namespaces and services that one JWT names.
const maxListed = 256

// algorithms are all that is accepted. Each key is good for one of them, so that a
// public key is never taken for a shared secret.
var algorithms = []string{"RS256", "ES256", "EdDSA"}

// JWT says whose JWTs are accepted and how their claims read.
type JWT struct {
	Issuer    string   // the claim "iss", compared byte for byte
	Audiences []string // one of them must be in the claim "aud"; at least one
	// Keys: a JWKS file, read again when it changes, or the URL of a JWKS; with
	// neither, the issuer's OpenID configuration names the URL. URLs are https, or
	// http on loopback.
	KeysFile string
	KeysURL  string
	// Names of claims. The values are strings, with spaces between several, or lists
	// of strings; what names no namespace, service or access is passed over. A token
	// without one of the three may do nothing.
	NamespacesClaim string // default "agentd_namespaces"
	ServicesClaim   string // default "agentd_services"
	AccessClaim     string // default "agentd_access"; the highest of several counts
	NameClaim       string // default "sub"
	// Client fetches keys; nil for one that trusts the system's CAs. Its redirects are
	// limited, its other settings kept.
	Client *http.Client
}

func (c JWT) withDefaults() (JWT, error) {
	for field, name := range map[*string]string{
		&c.NamespacesClaim: "agentd_namespaces", &c.ServicesClaim: "agentd_services", &c.AccessClaim: "agentd_access", &c.NameClaim: "sub",
	} {
		if *field == "" {
			*field = name
		}
	}
	bad := func(msg string) (JWT, error) {
		return c, &agent.Error{Op: "configure authentication", Kind: agent.Invalid, Msg: msg}
	}
	switch {
	case c.Issuer == "":
		return bad("JWTs need an issuer")
	case len(c.Audiences) == 0 || slices.Contains(c.Audiences, ""):
		return bad("JWTs need an audience: without one, every token that the issuer made for anybody would be good here")
	case c.KeysFile != "" && c.KeysURL != "":
		return bad("JWTs need a file of keys or the URL of one, not both")
	}
	return c, nil
}

// verifier checks JWTs and remembers those that were good.
type verifier struct {
	cfg    JWT
	keys   keySource
	parser *jwt.Parser // reads only; used from any goroutine
	known  cache
}

func newVerifier(cfg JWT, common Config) (*verifier, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	v := &verifier{cfg: cfg, known: cache{entries: map[[sha256.Size]byte]cached{}}}
	if v.keys, err = openKeys(cfg, common); err != nil {
		return nil, err
	}
	v.parser = jwt.NewParser(
		jwt.WithValidMethods(algorithms),
		jwt.WithAudience(cfg.Audiences...),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(Leeway),
		jwt.WithTimeFunc(common.Now),
		jwt.WithStrictDecoding(),
	)
	return v, nil
}

// check verifies a JWT, or finds that it was verified before with the keys that are
// still in force.
func (v *verifier) check(ctx context.Context, bearer string, sum [sha256.Size]byte, now time.Time) (Principal, error) {
	set := v.keys.current()
	if g := v.known.get(sum, set, now); g != nil {
		return Principal{g}, nil
	}
	claims := jwt.MapClaims{}
	_, err := v.parser.ParseWithClaims(bearer, claims, func(token *jwt.Token) (any, error) {
		key, used, err := v.key(ctx, token, set)
		set = used
		return key, err
	})
	if err != nil {
		return Principal{}, explain(err)
	}
	g := v.grant(claims)
	v.known.put(sum, cached{grant: g, keys: set})
	return Principal{g}, nil
}

// key finds the key of a token, and says in which set. Nothing of the token has
// been proved yet.
func (v *verifier) key(ctx context.Context, token *jwt.Token, set *keySet) (any, *keySet, error) {
	if issuer, err := token.Claims.GetIssuer(); err != nil || issuer != v.cfg.Issuer {
		return nil, set, unauthenticated("the token is of another issuer than the one trusted here")
	}
	if _, critical := token.Header["crit"]; critical {
		return nil, set, unauthenticated("the token asks for extensions that are not known here")
	}
	kid, ok := token.Header["kid"].(string)
	if _, present := token.Header["kid"]; present && !ok || !acceptedType(token.Header["typ"]) {
		return nil, set, unauthenticated("the token's header is not that of a JWT for access")
	}
	algorithm := token.Method.Alg()
	if key := set.find(kid, algorithm); key != nil {
		return key, set, nil
	}
	set, err := v.keys.refresh(ctx, set)
	if err != nil {
		return nil, set, err
	}
	if key := set.find(kid, algorithm); key != nil {
		return key, set, nil
	}
	return nil, set, unauthenticated("the token is signed with a key that its issuer does not list")
}

// acceptedType keeps out JWTs that the same issuer makes for other ends, such as
// logout.
func acceptedType(typ any) bool {
	if typ == nil {
		return true
	}
	text, ok := typ.(string)
	return ok && slices.Contains([]string{"jwt", "at+jwt", "application/at+jwt"}, strings.ToLower(text))
}

// explain says what is wrong. The claims are judged after the signature, so what is
// said about them is said to a holder of a true token.
func explain(err error) error {
	var typed *agent.Error
	switch {
	case errors.As(err, &typed):
		return typed
	case errors.Is(err, jwt.ErrTokenMalformed):
		return unauthenticated("the token is malformed")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return unauthenticated("the token's signature is not valid; accepted are " + strings.Join(algorithms, ", "))
	case errors.Is(err, jwt.ErrTokenExpired):
		return unauthenticated("the token has expired")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return unauthenticated("the token is not valid yet")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return unauthenticated("the token is for another audience")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return unauthenticated("the token lacks a claim that is needed: aud and exp")
	}
	return unauthenticated("the token is not acceptable")
}

// grant reads the claims. What is not understood grants nothing.
func (v *verifier) grant(claims jwt.MapClaims) *grant {
	g := &grant{name: "without a name", namespaces: map[string]struct{}{}}
	if name, ok := claims[v.cfg.NameClaim].(string); ok && name != "" {
		g.name = strings.ToValidUTF8(name[:min(len(name), MaxTokenNameBytes)], "")
	}
	for _, name := range words(claims[v.cfg.NamespacesClaim]) {
		switch {
		case name == everything:
			g.allNamespaces = true
		case agent.ValidateNamespace(name) == nil:
			g.namespaces[name] = struct{}{}
		}
	}
	for _, name := range words(claims[v.cfg.ServicesClaim]) {
		bit, _ := serviceBit(name)
		if name == everything {
			bit = allServices
		}
		g.services |= bit
	}
	for _, name := range words(claims[v.cfg.AccessClaim]) {
		access, _ := ParseAccess(name)
		g.access = max(g.access, access)
	}
	if end, err := claims.GetExpirationTime(); err == nil && end != nil {
		g.expires = end.Add(Leeway)
	}
	return g
}

// words is a claim as a list.
func words(claim any) []string {
	var out []string
	switch c := claim.(type) {
	case string:
		out = strings.Fields(c)
	case []any:
		for _, item := range c {
			if s, ok := item.(string); ok {
				out = append(out, s)
			}
		}
	}
	return out[:min(len(out), maxListed)]
}
