// Package auth says who sends a request and what it may touch: bearer tokens, whose
// hashes are in a file, and JWTs of one issuer. It does not read requests (the edge
// hands it the token), knows no methods (the edge names service and namespace), and
// leaves certificates to internal/certs.
package auth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"agentd/internal/reload"
	"agentd/pkg/agent"
)

// MaxBearerBytes bounds a token, also a JWT; longer ones are refused unread.
const MaxBearerBytes = 8 << 10

// Config says which proofs are accepted. At least one of TokensFile and JWT is
// needed.
type Config struct {
	TokensFile string // YAML, see ParseTokens; read again when it changes, at most once a second
	JWT        *JWT
	Now        func() time.Time // required
	// Report hears of files that cannot be used and of an issuer that cannot be
	// reached, while what was loaded before stays in force. It may be called from any
	// goroutine and must not block. Nil drops it.
	Report func(error)
	// Audit hears of refusals, at most 10 a second and 20 at once; the next one says how many
	// were left out. It may be called from any goroutine that calls Check or Allow, and
	// gets its context. Nil drops them.
	Audit func(context.Context, Refusal)
}

// Authenticator checks tokens. All methods but Close may be called from any
// goroutine.
type Authenticator struct {
	now    func() time.Time
	tokens *reload.Value[*table] // nil without a file
	jwt    *verifier             // nil without an issuer
	audit  *auditor
}

// New reads the files that cfg names; keys of an issuer are fetched when they are
// first needed. Errors are of kind Invalid, or come from the file system.
func New(cfg Config) (*Authenticator, error) {
	bad := func(msg string) (*Authenticator, error) {
		return nil, &agent.Error{Op: "configure authentication", Kind: agent.Invalid, Msg: msg}
	}
	switch {
	case cfg.Now == nil:
		return bad("no clock is given")
	case cfg.TokensFile == "" && cfg.JWT == nil:
		return bad("neither a file of tokens nor an issuer of JWTs is given")
	}
	a := &Authenticator{now: cfg.Now, audit: newAuditor(cfg.Audit)}
	var err error
	if cfg.TokensFile != "" {
		if a.tokens, err = openTable(cfg); err != nil {
			return nil, err
		}
	}
	if cfg.JWT != nil {
		if a.jwt, err = newVerifier(*cfg.JWT, cfg); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// Close ends a fetch of keys that is under way and waits for it. Check must not be
// called any more.
func (a *Authenticator) Close() {
	if a.jwt != nil {
		a.jwt.keys.close()
	}
}

// Check says who holds the token. A request without one has an empty bearer (see
// Bearer). Errors are of kind Unauthenticated, or Unavailable while the keys of the
// issuer cannot be had; no error tells whether a token that was guessed is near one
// that exists. Check waits only for such keys, and no longer than ctx.
func (a *Authenticator) Check(ctx context.Context, bearer string) (Principal, error) {
	p, err := a.check(ctx, bearer, a.now())
	if err != nil {
		a.audit.refuse(ctx, a.now(), "", err)
	}
	return p, err
}

// CheckNow is Check for a caller that must not wait. Where only a fetch of keys can
// decide, which it begins, decided is false and nothing is audited: ask Check then.
func (a *Authenticator) CheckNow(ctx context.Context, bearer string) (p Principal, decided bool, err error) {
	p, err = a.check(ended, bearer, a.now())
	if agent.KindOf(err) == agent.Canceled {
		return Principal{}, false, nil
	}
	if err != nil {
		a.audit.refuse(ctx, a.now(), "", err)
	}
	return p, true, err
}

// ended is a context in which nothing waits.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (a *Authenticator) check(ctx context.Context, bearer string, now time.Time) (Principal, error) {
	switch {
	case bearer == "":
		return Principal{}, unauthenticated("a token is needed: send `authorization: Bearer TOKEN` (agentd --token, AGENTD_TOKEN)")
	case !wellFormed(bearer):
		return Principal{}, unauthenticated("the token is malformed")
	}
	var room [1 << 10]byte // holds most JWTs without an allocation
	sum := sha256.Sum256(append(room[:0], bearer...))
	if a.tokens != nil {
		if g := a.tokens.Get().find(sum); g != nil {
			if g.expired(now) {
				return Principal{}, unauthenticated(fmt.Sprintf("the token %q expired on %s", g.name, day(g.expires)))
			}
			return Principal{g}, nil
		}
	}
	if a.jwt != nil && strings.Count(bearer, ".") == 2 {
		return a.jwt.check(ctx, bearer, sum, now)
	}
	return Principal{}, unauthenticated("the token is not known here: it may be mistyped, or withdrawn")
}

// Allow is p.Allows, and lets the audit hear of a refusal.
func (a *Authenticator) Allow(ctx context.Context, p Principal, namespace, service string, write bool) error {
	err := p.Allows(namespace, service, write)
	if err != nil {
		a.audit.refuse(ctx, a.now(), p.Name(), err)
	}
	return err
}

// Bearer takes the token out of the value of an authorization header. An empty
// value is no token; another scheme than Bearer is of kind Unauthenticated.
func Bearer(header string) (string, error) {
	if header == "" {
		return "", nil
	}
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimLeft(token, " ")
	if !ok || token == "" || !strings.EqualFold(scheme, "bearer") {
		return "", unauthenticated("the authorization header must read `Bearer TOKEN`")
	}
	return token, nil
}

// wellFormed accepts the characters that RFC 6750 allows in a token.
func wellFormed(bearer string) bool {
	if len(bearer) > MaxBearerBytes {
		return false
	}
	ok := true
	for i := 0; i < len(bearer); i++ {
		ok = ok && tokenChars[bearer[i]]
	}
	return ok
}

var tokenChars = func() (set [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/=") {
		set[c] = true
	}
	return set
}()

func unauthenticated(msg string) error {
	return &agent.Error{Op: "authenticate", Kind: agent.Unauthenticated, Msg: msg}
}

// day is a time for people.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
