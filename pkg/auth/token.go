package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"agentd/pkg/agent"
)

const (
	tokenBytes  = 32
	tokenPrefix = "agentd_" // lets scanners for leaked secrets recognise a token
	// MaxTokenNameBytes bounds the name of a token.
	MaxTokenNameBytes = 128
)

// TokenSpec says what a new token is to allow.
type TokenSpec struct {
	Name       string
	Namespaces []string // "*" for all; at least one
	Services   []string // "*" for all; at least one
	Access     Access
	Expires    time.Time // zero for never; whole seconds
}

// NewToken draws a token of 256 random bits. It returns the token, to be shown once,
// and its entry for the file of tokens, which does not hold it. Errors are of kind
// Invalid, or come from rand.
func NewToken(n TokenSpec, rand io.Reader) (token, entry string, err error) {
	if err := validateTokenName(n.Name); err != nil {
		return "", "", err
	}
	var g grant
	if err := g.limitNamespaces(n.Namespaces); err != nil {
		return "", "", err
	}
	if err := g.limitServices(n.Services); err != nil {
		return "", "", err
	}
	bad := func(format string, args ...any) (string, string, error) {
		return "", "", &agent.Error{Op: "make token", Kind: agent.Invalid, Msg: fmt.Sprintf(format, args...)}
	}
	switch {
	case n.Access < Read || n.Access > Admin:
		return bad("access must be read, write or admin")
	case len(n.Namespaces) == 0 || len(n.Services) == 0:
		return bad("name the namespaces and services of the token, or \"*\" for all")
	case len(n.Namespaces) > maxNamespaces || len(n.Services) > maxNamespaces:
		return bad("more than %d namespaces or services for one token; \"*\" stands for all", maxNamespaces)
	}
	secret := make([]byte, tokenBytes)
	if _, err := io.ReadFull(rand, secret); err != nil {
		return "", "", fmt.Errorf("make token: %w", err)
	}
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(secret)
	return token, n.entry(sha256.Sum256([]byte(token))), nil
}

// entry is YAML that can be put under "tokens:". The parts were validated and need
// no escapes inside quotes.
func (n TokenSpec) entry(sum [sha256.Size]byte) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: \"%s\"\n    sha256: \"%s\"\n", n.Name, hex.EncodeToString(sum[:]))
	fmt.Fprintf(&b, "    namespaces: %s\n    services: %s\n    access: %s\n", list(n.Namespaces), list(n.Services), n.Access)
	if !n.Expires.IsZero() {
		fmt.Fprintf(&b, "    expires: \"%s\"\n", n.Expires.UTC().Format(time.RFC3339))
	}
	return b.String()
}

// list writes one name a line: lines of the file are bounded.
func list(names []string) string {
	return "\n      - \"" + strings.Join(names, "\"\n      - \"") + "\""
}

// validateTokenName keeps names readable in logs and YAML.
func validateTokenName(name string) error {
	ok := name != "" && len(name) <= MaxTokenNameBytes
	for i := 0; i < len(name); i++ {
		c := name[i]
		letter := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		ok = ok && (letter || strings.IndexByte("-._@+/:", c) >= 0)
	}
	if ok {
		return nil
	}
	return &agent.Error{Op: "validate token name", Kind: agent.Invalid, Msg: fmt.Sprintf(
		"%.80q cannot name a token: use 1 to %d letters, digits and any of -._@+/:", name, MaxTokenNameBytes)}
}
