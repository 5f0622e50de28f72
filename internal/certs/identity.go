package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"agentd/pkg/agent"
)

// Limits of the parts of an identity, in bytes. A node's name fits a host name.
const (
	MaxClusterBytes = 63
	MaxNameBytes    = 64
)

// Role says what a certificate is for.
type Role string

const (
	RoleNode   Role = "node"   // a member: may speak to the peer port, and serve clients
	RoleClient Role = "client" // may speak to the client port only
	roleCA     Role = "ca"
)

// Identity is who a certificate says its holder is. Its text form, the URI
// agentd://CLUSTER/ROLE/NAME, is the certificate's only subject that agentd reads.
type Identity struct {
	Cluster string // [a-z0-9-], 1 to 63 bytes, no dash at either end
	Role    Role
	Name    string // [A-Za-z0-9._-], 1 to 64 bytes, begins with a letter or digit
}

func (id Identity) String() string {
	return "agentd://" + id.Cluster + "/" + string(id.Role) + "/" + id.Name
}

func (id Identity) url() *url.URL {
	return &url.URL{Scheme: "agentd", Host: id.Cluster, Path: "/" + string(id.Role) + "/" + id.Name}
}

// ParseIdentity reads the text form. Only one spelling of an identity is accepted:
// no escapes, ports, queries. The error is of kind Invalid.
func ParseIdentity(text string) (Identity, error) {
	rest, ok := strings.CutPrefix(text, "agentd://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return Identity{}, &agent.Error{Op: "parse identity", Kind: agent.Invalid,
			Msg: fmt.Sprintf("%.120q is no identity of agentd; those read agentd://CLUSTER/node/NAME", text)}
	}
	id := Identity{Cluster: parts[0], Role: Role(parts[1]), Name: parts[2]}
	if err := ValidateCluster(id.Cluster); err != nil {
		return Identity{}, err
	}
	if err := ValidateName(id.Name); err != nil {
		return Identity{}, err
	}
	switch id.Role {
	case RoleNode, RoleClient, roleCA:
		return id, nil
	}
	return Identity{}, &agent.Error{Op: "parse identity", Kind: agent.Invalid, Msg: fmt.Sprintf("%.60q is no role of agentd", parts[1])}
}

// ValidateCluster checks the name of a cluster. The error is of kind Invalid.
func ValidateCluster(name string) error {
	ok := name != "" && len(name) <= MaxClusterBytes && name[0] != '-' && name[len(name)-1] != '-'
	for i := 0; i < len(name); i++ {
		c := name[i]
		ok = ok && (c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z')
	}
	if ok {
		return nil
	}
	return &agent.Error{Op: "validate cluster name", Kind: agent.Invalid, Msg: fmt.Sprintf(
		"%.80q cannot name a cluster: use 1 to %d of a-z, 0-9 and dashes, with no dash at either end", name, MaxClusterBytes)}
}

// ValidateName checks the name of a node or client; it is also safe as the name of
// a file. The error is of kind Invalid.
func ValidateName(name string) error {
	ok := name != "" && len(name) <= MaxNameBytes
	for i := 0; i < len(name); i++ {
		c := name[i]
		letter := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		ok = ok && (letter || i > 0 && (c == '-' || c == '.' || c == '_'))
	}
	if ok {
		return nil
	}
	return &agent.Error{Op: "validate node name", Kind: agent.Invalid, Msg: fmt.Sprintf(
		"%.80q cannot name a node: use 1 to %d letters, digits, dots, dashes and underscores, with a letter or digit first", name, MaxNameBytes)}
}

// identityOf reads the one identity in cert. Two would leave open which one counts.
func identityOf(cert *x509.Certificate) (Identity, error) {
	var found []string
	for _, uri := range cert.URIs {
		if uri.Scheme == "agentd" {
			found = append(found, uri.String())
		}
	}
	if len(found) != 1 {
		return Identity{}, &agent.Error{Op: "read certificate", Kind: agent.Denied, Msg: fmt.Sprintf(
			"the certificate of %.80q holds %d identities of agentd, not one: it needs the URI agentd://CLUSTER/node/NAME as a subject alternative name", cert.Subject.CommonName, len(found))}
	}
	return ParseIdentity(found[0])
}

// PeerOf is who is at the other end of a connection whose handshake, with a
// configuration of this package, has succeeded. The error, when there is no
// certificate or it names nobody, is of kind Unauthenticated or Denied.
func PeerOf(state tls.ConnectionState) (Identity, error) {
	if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return Identity{}, &agent.Error{Op: "identify peer", Kind: agent.Unauthenticated, Msg: "the connection has shown no certificate"}
	}
	return identityOf(state.PeerCertificates[0])
}
