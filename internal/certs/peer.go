package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"agentd/internal/reload"
	"agentd/pkg/agent"
)

// Peer makes the TLS configurations between nodes: TLS 1.3, both sides verified
// against the CA, both nodes of one cluster. Its files may change at any time; new
// connections use the new ones, those that are open live on. All methods may be
// called from any goroutine.
type Peer struct {
	ring    *reload.Value[*keyring]
	cluster string
	now     func() time.Time
}

// PeerTLS reads the node's files. An empty cluster means the one that the node's
// certificate names; it stays the same when files change. Errors are of kind
// Invalid, with words, or come from the file system.
func PeerTLS(files Files, cluster string, o Options) (*Peer, error) {
	if cluster == "" {
		ring, err := openKeyring(files, "", o)
		if err != nil {
			return nil, err
		}
		cluster = ring.Get().self.Cluster
	}
	ring, err := openKeyring(files, cluster, o)
	if err != nil {
		return nil, err
	}
	return &Peer{ring: ring, cluster: cluster, now: o.Now}, nil
}

// Self is who this node is to its peers.
func (p *Peer) Self() Identity { return p.ring.Get().self }

// Expires is the end of the certificate in force.
func (p *Peer) Expires() time.Time { return p.ring.Get().chain.Leaf.NotAfter }

// Server is for the listener of the peer port. After the handshake PeerOf says
// which node has called. The caller owns the value and may set NextProtos.
func (p *Peer) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       p.now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &p.ring.Get().chain, nil
		},
		// verify does what RequireAndVerifyClientCert would do with CAs that never change.
		ClientAuth:             tls.RequireAnyClientCert,
		VerifyConnection:       p.verify(x509.ExtKeyUsageClientAuth, ""),
		SessionTicketsDisabled: true, // every connection shows its certificate anew
	}
}

// Client is for connections to the peer port of one node; an empty name accepts any
// node of the cluster. The caller owns the value and may set NextProtos.
func (p *Peer) Client(node string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       p.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &p.ring.Get().chain, nil
		},
		// The standard check needs a host name and CAs that never change; verify checks
		// chain, cluster and node instead, and does so on every handshake.
		InsecureSkipVerify: true,
		VerifyConnection:   p.verify(x509.ExtKeyUsageServerAuth, node),
	}
}

// verify refuses everybody but the nodes of this cluster, and of those all but
// want, unless that is empty.
func (p *Peer) verify(usage x509.ExtKeyUsage, want string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		id, err := checkNode(state.PeerCertificates, p.ring.Get().roots, usage, p.now())
		switch {
		case err != nil:
			return err
		case id.Cluster != p.cluster:
			return &agent.Error{Op: "verify peer", Kind: agent.Denied, Msg: fmt.Sprintf(
				"the peer %q belongs to cluster %q, this node to %q", id.Name, id.Cluster, p.cluster)}
		case want != "" && id.Name != want:
			return &agent.Error{Op: "verify peer", Kind: agent.Denied, Msg: fmt.Sprintf(
				"node %q answers at the address of node %q", id.Name, want)}
		}
		return nil
	}
}
