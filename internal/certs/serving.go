package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"agentd/internal/reload"
	"agentd/pkg/agent"
)

// ClientFiles are the paths for the ports that clients use.
type ClientFiles struct {
	Cert          string // PEM, the server's certificate, then intermediates
	Key           string // PEM
	ClientCA      string // PEM, CAs of client certificates; empty: clients show none
	RequireClient bool   // refuse clients without a certificate; needs ClientCA
}

// Serving makes the TLS configuration of the gRPC and HTTP ports. Files may change
// as those of Peer may. All methods may be called from any goroutine.
type Serving struct {
	now     func() time.Time
	files   ClientFiles
	current *reload.Value[*serving]
}

// serving is one usable state of the files. It is immutable.
type serving struct {
	chain   tls.Certificate
	clients *x509.CertPool // nil without ClientCA
}

// ClientTLS reads the files. Errors are of kind Invalid, or come from the file
// system.
func ClientTLS(files ClientFiles, o Options) (*Serving, error) {
	if files.RequireClient && files.ClientCA == "" {
		return nil, &agent.Error{Op: "load certificates", Kind: agent.Invalid, Msg: "client certificates are required, and no CA for them is given"}
	}
	s := &Serving{now: o.Now, files: files}
	paths := []string{files.Cert, files.Key}
	if files.ClientCA != "" {
		paths = append(paths, files.ClientCA)
	}
	var err error
	s.current, err = reload.Open(reload.Config[*serving]{
		Paths: paths, Limit: maxFileBytes, Now: o.Now, Report: o.Report,
		Parse: func(contents [][]byte) (*serving, error) {
			made, err := parseServing(contents, o.Now())
			if err != nil {
				return nil, &agent.Error{Op: "load certificates", Kind: agent.Invalid, Err: err,
					Msg: fmt.Sprintf("%s and %s cannot be used", files.Cert, files.Key)}
			}
			return made, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// parseServing reads certificate, key and, if there is a third, the clients' CAs.
func parseServing(contents [][]byte, now time.Time) (*serving, error) {
	pair, err := parsePair(contents[0], contents[1])
	if err != nil {
		return nil, err
	}
	if now.Before(pair.Leaf.NotBefore) || now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate is valid from %s to %s", day(pair.Leaf.NotBefore), day(pair.Leaf.NotAfter))
	}
	s := &serving{chain: pair}
	if len(contents) == 2 {
		return s, nil
	}
	cas, err := decodeCAs(contents[2])
	if err != nil {
		return nil, fmt.Errorf("the file of clients' CAs %w", err)
	}
	s.clients = x509.NewCertPool()
	for _, ca := range cas {
		s.clients.AddCert(ca)
	}
	return s, nil
}

// Expires is the end of the certificate in force.
func (s *Serving) Expires() time.Time { return s.current.Get().chain.Leaf.NotAfter }

// Config is for the listeners: TLS 1.2 or 1.3. The caller owns the value and may
// set NextProtos.
func (s *Serving) Config() *tls.Config {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		Time:       s.now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.current.Get().chain, nil
		},
	}
	if s.files.ClientCA != "" {
		cfg.ClientAuth = tls.RequestClientCert // verify says which answers will do
		cfg.VerifyConnection = s.verify        // also on a resumed session
	}
	return cfg
}

func (s *Serving) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 && !s.files.RequireClient {
		return nil
	}
	return verifyChain(state.PeerCertificates, s.current.Get().clients, x509.ExtKeyUsageClientAuth, s.now())
}

// DialTLS is the configuration of a client. caPath is empty for the system's CAs,
// certPath and keyPath are empty for a client without a certificate. Errors are of
// kind Invalid, or come from the file system.
func DialTLS(caPath, certPath, keyPath string) (*tls.Config, error) {
	bad := func(err error) error {
		return &agent.Error{Op: "load certificates", Kind: agent.Invalid, Msg: "the client's TLS files cannot be used", Err: err}
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if caPath != "" {
		data, err := readFile(caPath)
		if err != nil {
			return nil, err
		}
		cas, err := decodeCAs(data)
		if err != nil {
			return nil, bad(fmt.Errorf("%s %w", caPath, err))
		}
		cfg.RootCAs = x509.NewCertPool()
		for _, ca := range cas {
			cfg.RootCAs.AddCert(ca)
		}
	}
	if certPath == "" && keyPath == "" {
		return cfg, nil
	}
	certPEM, err := readFile(certPath)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(keyPath)
	if err != nil {
		return nil, err
	}
	pair, err := parsePair(certPEM, keyPEM)
	if err != nil {
		return nil, bad(err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}
