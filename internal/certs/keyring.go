package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"agentd/internal/reload"
	"agentd/pkg/agent"
)

// Files are the paths that a node's identity is read from.
type Files struct {
	CA   string // PEM, the CAs to trust; several while one is replaced by another
	Cert string // PEM, the node's certificate, then intermediates
	Key  string // PEM
}

// Dir are the files as NewNode names them in dir.
func Dir(dir string) Files {
	return Files{CA: filepath.Join(dir, CACertFile), Cert: filepath.Join(dir, NodeCertFile), Key: filepath.Join(dir, NodeKeyFile)}
}

// Options are common to the configurations of this package.
type Options struct {
	Now func() time.Time // required; judges validity and paces the looks at the files
	// Report hears of files that changed and cannot be used (the old ones stay in
	// force), at once and then every minute. It may be called from any goroutine in a
	// handshake and must not block. Nil drops it.
	Report func(error)
}

// keyring is one usable state of a node's files: a chain, and whom it trusts.
// It is immutable.
type keyring struct {
	chain tls.Certificate
	roots *x509.CertPool
	self  Identity
}

func openKeyring(files Files, cluster string, o Options) (*reload.Value[*keyring], error) {
	return reload.Open(reload.Config[*keyring]{
		Paths: []string{files.CA, files.Cert, files.Key}, Limit: maxFileBytes, Now: o.Now, Report: o.Report,
		Parse: func(c [][]byte) (*keyring, error) {
			k, err := parseKeyring(c[0], c[1], c[2], cluster, o.Now())
			if err != nil {
				return nil, &agent.Error{Op: "load certificates", Kind: agent.Invalid, Err: err,
					Msg: fmt.Sprintf("%s, %s and %s cannot be used together", files.CA, files.Cert, files.Key)}
			}
			return k, nil
		},
	})
}

// parseKeyring accepts only what the node's peers, with the same ca.crt, would
// accept too: a mistake shows when files are loaded, not at the next handshake.
func parseKeyring(caPEM, certPEM, keyPEM []byte, cluster string, now time.Time) (*keyring, error) {
	cas, err := decodeCAs(caPEM)
	if err != nil {
		return nil, fmt.Errorf("the file of CAs %w", err)
	}
	k := &keyring{roots: x509.NewCertPool()}
	for _, ca := range cas {
		k.roots.AddCert(ca)
	}
	if k.chain, err = parsePair(certPEM, keyPEM); err != nil {
		return nil, err
	}
	chain := make([]*x509.Certificate, 0, len(k.chain.Certificate))
	for _, der := range k.chain.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the certificate's chain is broken: %w", err)
		}
		chain = append(chain, cert)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if k.self, err = checkNode(chain, k.roots, usage, now); err != nil {
			return nil, err
		}
	}
	if cluster != "" && k.self.Cluster != cluster {
		return nil, fmt.Errorf("the certificate is for cluster %q, and this node belongs to %q", k.self.Cluster, cluster)
	}
	return k, nil
}

func parsePair(certPEM, keyPEM []byte) (tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return pair, fmt.Errorf("the certificate and the key do not fit: %w", err)
	}
	if len(pair.Certificate) > maxCAs {
		return pair, fmt.Errorf("the certificate's chain has %d parts; at most %d are allowed", len(pair.Certificate), maxCAs)
	}
	return pair, nil
}

// checkNode verifies a chain, leaf first, and says which node it is.
func checkNode(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) (Identity, error) {
	if err := verifyChain(chain, roots, usage, now); err != nil {
		return Identity{}, err
	}
	id, err := identityOf(chain[0])
	if err != nil {
		return Identity{}, err
	}
	if id.Role != RoleNode {
		return Identity{}, &agent.Error{Op: "verify node", Kind: agent.Denied, Msg: fmt.Sprintf(
			"%s is the certificate of a %s, not of a node", id, id.Role)}
	}
	return id, nil
}

// verifyChain checks signatures, dates and usage up to one of roots.
func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) error {
	if len(chain) == 0 {
		return &agent.Error{Op: "verify certificate", Kind: agent.Unauthenticated, Msg: "no certificate was shown"}
	}
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err == nil {
		return nil
	}
	return &agent.Error{Op: "verify certificate", Kind: agent.Unauthenticated, Msg: why(chain[0], err, now), Err: err}
}

// why says in words what is wrong with a certificate and what helps.
func why(leaf *x509.Certificate, err error, now time.Time) string {
	who := fmt.Sprintf("the certificate of %.80q ", leaf.Subject.CommonName)
	var unknown x509.UnknownAuthorityError
	switch {
	case now.After(leaf.NotAfter):
		return who + "expired on " + day(leaf.NotAfter) + ": make a new one with `agentd cluster init-tls --renew`"
	case now.Before(leaf.NotBefore):
		return who + "is not valid before " + day(leaf.NotBefore) + ": is a clock wrong?"
	case errors.As(err, &unknown):
		return who + "is signed by none of the CAs that this machine trusts: it is of another cluster, or ca.crt lacks the new CA"
	}
	return who + "is not acceptable"
}
