package certs

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"agentd/pkg/agent"
)

// InitCommand is `agentd cluster init-tls`.
type InitCommand struct {
	Dir      string        // folder of the CA; each node gets a folder of its own inside
	Cluster  string        // name of the cluster; default that of the CA in Dir, else agentd- and eight random digits
	Node     string        // NAME[,HOST...]: the node, and where clients reach it
	Validity time.Duration // of the node's certificate; default one year
	Renew    bool          // replace the node's certificate
}

// InitResult says what InitTLS made.
type InitResult struct {
	Cluster     string
	Node        string
	NodeDir     string // what to copy to the node, whole: ca.crt, node.crt, node.key
	MadeCA      bool   // ca.crt and ca.key are new; ca.key belongs in a safe, on no node
	Fingerprint Fingerprint
	Expires     time.Time // of the node's certificate
}

// InitTLS makes a CA in a folder that has none, then the certificate of one node.
// It is called once for each node with the same folder. It overwrites nothing
// unless Renew says so, and then never the CA. Errors are of kind Invalid
// (arguments, another cluster's CA) or Conflict (the node has a certificate).
func InitTLS(c InitCommand, now time.Time, random io.Reader) (InitResult, error) {
	var result InitResult
	if random == nil {
		random = rand.Reader
	}
	name, hosts, _ := strings.Cut(c.Node, ",")
	req := Request{Name: name, Validity: c.Validity, Renew: c.Renew}
	if hosts != "" {
		req.Hosts = strings.Split(hosts, ",")
	}
	if c.Dir == "" {
		return result, &agent.Error{Op: "init TLS", Kind: agent.Invalid, Msg: "no folder for the certificates is given: use --dir DIR"}
	}
	if err := ValidateName(name); err != nil {
		return result, err
	}
	ca, made, err := openCA(c, now, random)
	if err != nil {
		return result, err
	}
	dir := filepath.Join(c.Dir, name)
	if c.Renew {
		if _, err := os.Stat(filepath.Join(dir, NodeCertFile)); err != nil {
			return result, &agent.Error{Op: "init TLS", Kind: agent.NotFound, Msg: "node " + name + " has no certificate here to renew", Err: err}
		}
	}
	expires, err := ca.NewNode(dir, req, now, random)
	if err != nil {
		return result, err
	}
	return InitResult{Cluster: ca.Cluster(), Node: name, NodeDir: dir, MadeCA: made, Fingerprint: ca.Fingerprint(), Expires: expires}, nil
}

// openCA loads the CA of the folder, or makes one in a folder without any part of
// one.
func openCA(c InitCommand, now time.Time, random io.Reader) (ca *CA, made bool, err error) {
	_, certErr := os.Stat(filepath.Join(c.Dir, CACertFile))
	_, keyErr := os.Stat(filepath.Join(c.Dir, CAKeyFile))
	if !errors.Is(certErr, fs.ErrNotExist) || !errors.Is(keyErr, fs.ErrNotExist) {
		if ca, err = LoadCA(c.Dir); err != nil {
			return nil, false, err
		}
		if c.Cluster != "" && c.Cluster != ca.Cluster() {
			return nil, false, &agent.Error{Op: "init TLS", Kind: agent.Invalid, Msg: fmt.Sprintf(
				"the CA in %s is that of cluster %q, not of %q: use another folder", c.Dir, ca.Cluster(), c.Cluster)}
		}
		return ca, false, nil
	}
	cluster := c.Cluster
	if cluster == "" {
		var digits [4]byte
		if _, err := io.ReadFull(random, digits[:]); err != nil {
			return nil, false, fmt.Errorf("name the cluster: %w", err)
		}
		cluster = "agentd-" + hex.EncodeToString(digits[:])
	}
	ca, err = InitCA(c.Dir, cluster, now, random)
	return ca, true, err
}
