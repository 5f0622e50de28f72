package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"agentd/pkg/agent"
)

// Validity of certificates.
const (
	CAValidity      = 10 * 365 * 24 * time.Hour
	DefaultValidity = 365 * 24 * time.Hour
	// backdate lets a machine whose clock is behind use a new certificate at once.
	backdate = 5 * time.Minute
)

// maxHosts bounds the names in one certificate.
const maxHosts = 64

// Names of the files in a folder of certificates.
const (
	CACertFile     = "ca.crt"
	CAKeyFile      = "ca.key"
	NodeCertFile   = "node.crt"
	NodeKeyFile    = "node.key"
	ClientCertFile = "client.crt"
	ClientKeyFile  = "client.key"
)

// Fingerprint names a CA by the SHA-256 of its public key, so that it stays when
// the CA's certificate is renewed. The zero Fingerprint names none.
type Fingerprint [sha256.Size]byte

func (f Fingerprint) String() string { return "sha256:" + hex.EncodeToString(f[:]) }

// FingerprintOf is the fingerprint of a certificate's key.
func FingerprintOf(cert *x509.Certificate) Fingerprint {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// CA signs the certificates of one cluster. It is immutable.
type CA struct {
	cluster string
	cert    *x509.Certificate
	key     crypto.Signer
	bundle  []byte // ca.crt, which may hold more than this CA
}

// Cluster is the name of the cluster that the CA is for.
func (ca *CA) Cluster() string { return ca.cluster }

// Fingerprint names the CA.
func (ca *CA) Fingerprint() Fingerprint { return FingerprintOf(ca.cert) }

// InitCA makes a CA for a cluster: ca.crt and ca.key (P-256, ten years) in dir,
// which is made when absent. A CA that is there is never overwritten: the error is
// of kind Conflict then. rand gives serial numbers; keys come from the system's
// generator, whatever rand is.
func InitCA(dir, cluster string, now time.Time, rand io.Reader) (*CA, error) {
	if err := ValidateCluster(cluster); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return nil, fmt.Errorf("make the CA's key: %w", err)
	}
	serial, err := newSerial(rand)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "agentd CA of " + cluster[:min(len(cluster), 40)]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(CAValidity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // signs nodes and clients, no further CAs
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs:                  []*url.URL{Identity{Cluster: cluster, Role: roleCA, Name: "root"}.url()},
	}
	der, err := x509.CreateCertificate(rand, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the CA's certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	// The key first: a certificate without its key would look like a finished CA.
	err = writeNew(dir, []file{{CAKeyFile, keyPEM}, {CACertFile, encodeCerts(der)}})
	if err != nil {
		return nil, err
	}
	return LoadCA(dir)
}

// LoadCA reads what InitCA made. Where ca.crt holds several certificates, as it
// does while a CA is being replaced, the one that ca.key belongs to signs.
func LoadCA(dir string) (*CA, error) {
	bundle, err := readFile(filepath.Join(dir, CACertFile))
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, err
	}
	ca, err := parseCA(bundle, keyPEM)
	if err != nil {
		return nil, &agent.Error{Op: "load CA", Kind: agent.Invalid, Msg: "the CA in " + dir + " cannot be used", Err: err}
	}
	return ca, nil
}

func parseCA(bundle, keyPEM []byte) (*CA, error) {
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", CAKeyFile, err)
	}
	all, err := decodeCAs(bundle)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", CACertFile, err)
	}
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	for _, cert := range all {
		if !ok || !public.Equal(cert.PublicKey) {
			continue
		}
		id, err := identityOf(cert)
		if err != nil {
			return nil, err
		}
		return &CA{cluster: id.Cluster, cert: cert, key: key, bundle: bundle}, nil
	}
	return nil, fmt.Errorf("%s belongs to none of the certificates in %s", CAKeyFile, CACertFile)
}

// Request says what a new certificate is for.
type Request struct {
	Name     string        // of the node or client
	Hosts    []string      // further DNS names and IP addresses at which clients reach a node; at most 64
	Validity time.Duration // default one year; never past that of the CA
	Renew    bool          // replace a certificate and key that are there
}

// NewNode makes node.crt, node.key and a copy of ca.crt in dir: what one node
// needs, and not the CA's key. The certificate serves the node's peers and its
// clients; it is valid for the node's name, localhost and the hosts. It returns
// the end of the validity.
func (ca *CA) NewNode(dir string, req Request, now time.Time, rand io.Reader) (time.Time, error) {
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, req.Hosts...)
	if isHost(req.Name) {
		hosts = append(hosts, req.Name)
	}
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if err := addHosts(template, hosts); err != nil {
		return time.Time{}, err
	}
	return ca.issue(dir, RoleNode, req, template, now, rand)
}

// NewClient makes client.crt, client.key and a copy of ca.crt in dir, for a client
// that proves itself by certificate. Nodes refuse it as a peer.
func (ca *CA) NewClient(dir string, req Request, now time.Time, rand io.Reader) (time.Time, error) {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	return ca.issue(dir, RoleClient, req, template, now, rand)
}

// issue completes the template, signs it and writes the files.
func (ca *CA) issue(dir string, role Role, req Request, template *x509.Certificate, now time.Time, rand io.Reader) (time.Time, error) {
	none := time.Time{}
	if err := ValidateName(req.Name); err != nil {
		return none, err
	}
	if req.Validity == 0 {
		req.Validity = DefaultValidity
	}
	end := now.Add(req.Validity)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	if !end.After(now) {
		return none, &agent.Error{Op: "make certificate", Kind: agent.Invalid, Msg: fmt.Sprintf(
			"the certificate would not be valid: it would end on %s (the CA ends on %s)", day(end), day(ca.cert.NotAfter))}
	}
	serial, err := newSerial(rand)
	if err != nil {
		return none, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand)
	if err != nil {
		return none, fmt.Errorf("make the key of %s: %w", req.Name, err)
	}
	template.SerialNumber = serial
	template.Subject = pkix.Name{CommonName: req.Name}
	template.NotBefore, template.NotAfter = now.Add(-backdate), end
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.URIs = []*url.URL{Identity{Cluster: ca.cluster, Role: role, Name: req.Name}.url()}
	der, err := x509.CreateCertificate(rand, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return none, fmt.Errorf("sign the certificate of %s: %w", req.Name, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return none, err
	}
	// The CA goes along, so that whoever has only its fingerprint can check the chain.
	chain := encodeCerts(der, ca.cert.Raw)
	files := []file{{NodeKeyFile, keyPEM}, {NodeCertFile, chain}, {CACertFile, ca.bundle}}
	if role == RoleClient {
		files = []file{{ClientKeyFile, keyPEM}, {ClientCertFile, chain}, {CACertFile, ca.bundle}}
	}
	if req.Renew {
		return end, replace(dir, files)
	}
	return end, writeNew(dir, files)
}

func addHosts(template *x509.Certificate, hosts []string) error {
	if len(hosts) > maxHosts {
		return &agent.Error{Op: "make certificate", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("%d hosts for one certificate; at most %d are allowed", len(hosts), maxHosts)}
	}
	for _, host := range hosts {
		ip := net.ParseIP(host)
		switch {
		case ip != nil:
			template.IPAddresses = append(template.IPAddresses, ip)
		case isHost(host):
			template.DNSNames = append(template.DNSNames, host)
		default:
			return &agent.Error{Op: "make certificate", Kind: agent.Invalid,
				Msg: fmt.Sprintf("%.80q is neither an IP address nor a host name; write it without a port", host)}
		}
	}
	return nil
}

// isHost says whether s is a DNS name in ASCII; its first label may be "*".
func isHost(s string) bool {
	s = strings.TrimPrefix(s, "*.")
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := 0; i < len(label); i++ {
			c := label[i]
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

func newSerial(rand io.Reader) (*big.Int, error) {
	buf := make([]byte, 16)
	if _, err := io.ReadFull(rand, buf); err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	buf[0] = buf[0]&0x7f | 0x40 // positive, always 16 bytes
	return new(big.Int).SetBytes(buf), nil
}

// day is a date for people.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
