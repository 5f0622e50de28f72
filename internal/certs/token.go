package certs

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"agentd/pkg/agent"
)

// Limits of join tokens.
const (
	DefaultJoinTTL = time.Hour
	MaxJoinTTL     = 7 * 24 * time.Hour
	// MinSecretBytes is the least length of the cluster's secret, from a random source.
	MinSecretBytes = 32

	maxJoinBytes = 512
	joinPrefix   = "agentd-join-1"
	noCA         = "none"
)

// JoinToken is what a token says, to whoever holds it. Only a node with the
// cluster's secret can tell whether it is true.
type JoinToken struct {
	Cluster string
	Expires time.Time   // whole seconds
	CA      Fingerprint // zero if the cluster runs without TLS
}

// NewJoinToken makes one line of text with which nodes may join the cluster until
// it expires. ttl 0 means one hour; at most a week is allowed. It can be used more
// than once. Errors are of kind Invalid.
func NewJoinToken(secret []byte, cluster string, ca Fingerprint, now time.Time, ttl time.Duration) (string, error) {
	if ttl == 0 {
		ttl = DefaultJoinTTL
	}
	if err := checkSecret(secret); err != nil {
		return "", err
	}
	if err := ValidateCluster(cluster); err != nil {
		return "", err
	}
	if ttl < time.Second || ttl > MaxJoinTTL {
		return "", &agent.Error{Op: "make join token", Kind: agent.Invalid,
			Msg: fmt.Sprintf("a join token cannot be valid for %v; 1s to %v are allowed", ttl, MaxJoinTTL)}
	}
	pin := noCA
	if ca != (Fingerprint{}) {
		pin = hex.EncodeToString(ca[:])
	}
	said := strings.Join([]string{joinPrefix, cluster, strconv.FormatInt(now.Add(ttl).Unix(), 10), pin}, ".")
	return said + "." + base64.RawURLEncoding.EncodeToString(joinMAC(secret, said)), nil
}

// ParseJoinToken reads a token without judging it, for a node that wants to join.
// The error is of kind Invalid.
func ParseJoinToken(text string) (JoinToken, error) {
	token, _, _, err := splitJoinToken(text)
	return token, err
}

// CheckJoinToken says whether the token was made with the secret, for this cluster,
// and has not expired. The error is of kind Unauthenticated (Invalid for a secret that is
// too short); the comparison takes the same time wherever a forged token differs.
func CheckJoinToken(secret []byte, cluster, text string, now time.Time) (JoinToken, error) {
	bad := func(msg string) (JoinToken, error) {
		return JoinToken{}, &agent.Error{Op: "check join token", Kind: agent.Unauthenticated, Msg: msg}
	}
	if err := checkSecret(secret); err != nil {
		return JoinToken{}, err
	}
	token, said, mac, err := splitJoinToken(text)
	switch {
	case err != nil:
		return bad("the join token is malformed")
	case !hmac.Equal(mac, joinMAC(secret, said)):
		return bad("the join token was not made by this cluster, or its secret has changed since")
	case token.Cluster != cluster:
		return bad(fmt.Sprintf("the join token is for cluster %q, this one is %q", token.Cluster, cluster))
	case !now.Before(token.Expires):
		return bad("the join token expired on " + day(token.Expires) + ": make a new one with `agentd cluster join-token`")
	}
	return token, nil
}

// splitJoinToken gives what the token says, the text that is signed, and the
// signature. Only the spelling of NewJoinToken is accepted.
func splitJoinToken(text string) (token JoinToken, said string, mac []byte, err error) {
	malformed := &agent.Error{Op: "read join token", Kind: agent.Invalid,
		Msg: "this is no join token: copy the whole line that `agentd cluster join-token` printed"}
	parts := strings.Split(text[:min(len(text), maxJoinBytes)], ".")
	if len(text) > maxJoinBytes || len(parts) != 5 || parts[0] != joinPrefix || ValidateCluster(parts[1]) != nil {
		return token, "", nil, malformed
	}
	seconds, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil || seconds <= 0 || strconv.FormatInt(seconds, 10) != parts[2] {
		return token, "", nil, malformed
	}
	token = JoinToken{Cluster: parts[1], Expires: time.Unix(seconds, 0).UTC()}
	if parts[3] != noCA {
		pin, err := hex.DecodeString(parts[3])
		if err != nil || len(pin) != len(token.CA) || strings.ToLower(parts[3]) != parts[3] {
			return JoinToken{}, "", nil, malformed
		}
		token.CA = Fingerprint(pin)
	}
	mac, err = base64.RawURLEncoding.Strict().DecodeString(parts[4])
	if err != nil || len(mac) != sha256.Size {
		return JoinToken{}, "", nil, malformed
	}
	return token, text[:len(text)-len(parts[4])-1], mac, nil
}

func joinMAC(secret []byte, said string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(said)) // begins with joinPrefix, which keeps other uses of the secret apart
	return h.Sum(nil)
}

func checkSecret(secret []byte) error {
	if len(secret) < MinSecretBytes {
		return &agent.Error{Op: "use cluster secret", Kind: agent.Invalid,
			Msg: fmt.Sprintf("the cluster's secret has %d bytes; at least %d random ones are needed", len(secret), MinSecretBytes)}
	}
	return nil
}

// Dial is the configuration with which a node that has only the token speaks to a
// member: the member's chain must end in the CA that the token names, and the
// member must be a node of the token's cluster. It is of kind Invalid to ask for it
// when the token names no CA.
func (t JoinToken) Dial(now func() time.Time) (*tls.Config, error) {
	if t.CA == (Fingerprint{}) {
		return nil, &agent.Error{Op: "use join token", Kind: agent.Invalid, Msg: "the join token names no CA: its cluster runs without TLS"}
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Time:               now,
		InsecureSkipVerify: true, // t.verify checks against the one CA that is known
		VerifyConnection:   func(state tls.ConnectionState) error { return t.verify(state, now()) },
	}, nil
}

func (t JoinToken) verify(state tls.ConnectionState, now time.Time) error {
	roots := x509.NewCertPool()
	found := false
	for _, cert := range state.PeerCertificates {
		if cert.IsCA && FingerprintOf(cert) == t.CA {
			roots.AddCert(cert)
			found = true
		}
	}
	if !found {
		return &agent.Error{Op: "verify peer", Kind: agent.Unauthenticated,
			Msg: "the peer does not show the CA " + t.CA.String() + " that the join token names: it is of another cluster, or the CA was replaced since the token was made"}
	}
	id, err := checkNode(state.PeerCertificates, roots, x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return err
	}
	if id.Cluster != t.Cluster {
		return &agent.Error{Op: "verify peer", Kind: agent.Denied, Msg: fmt.Sprintf(
			"the peer %q belongs to cluster %q, the join token to %q", id.Name, id.Cluster, t.Cluster)}
	}
	return nil
}
