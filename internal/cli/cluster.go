package cli

import (
	"crypto/rand"
	"time"

	"agentd/internal/certs"
	"agentd/pkg/agent"
)

type clusterCommands struct {
	InitTLS initTLSCommand `cmd:"" name:"init-tls" help:"Make a CA and the certificates of nodes."`
}

type initTLSCommand struct {
	Dir      string        `required:"" placeholder:"DIR" help:"Folder for ca.crt and ca.key, made when absent, and one folder for each node."`
	Cluster  string        `placeholder:"NAME" help:"Name of the cluster, default that of the CA in the folder, else a random one."`
	Node     []string      `required:"" sep:"none" placeholder:"NAME[,HOST…]" help:"A node, and the host names and IP addresses at which clients reach it. May be repeated."`
	Validity time.Duration `default:"8760h" placeholder:"DURATION" help:"How long the certificates are valid, default 8760h (a year); never longer than the CA."`
	Renew    bool          `help:"Replace certificates that are there."`
	output
}

// madeCert is the JSON form; its names are part of the interface.
type madeCert struct {
	Cluster string    `json:"cluster"`
	Name    string    `json:"name"`
	Dir     string    `json:"dir"`
	Expires time.Time `json:"expires"`
	CA      string    `json:"ca"` // fingerprint
	MadeCA  bool      `json:"made_ca"`
}

// Run makes one certificate after another; those before a failure stay.
func (c *initTLSCommand) Run(s *session) error {
	var made []madeCert
	for _, node := range c.Node {
		r, err := certs.InitTLS(certs.InitCommand{Dir: s.path(c.Dir), Cluster: c.Cluster, Node: node, Validity: c.Validity, Renew: c.Renew}, s.Now(), rand.Reader)
		if agent.KindOf(err) == agent.Invalid {
			return &usageError{msg: err.Error(), cause: err}
		}
		if err != nil {
			return err
		}
		made = append(made, madeCert{Cluster: r.Cluster, Name: r.Node, Dir: r.NodeDir, Expires: r.Expires, CA: r.Fingerprint.String(), MadeCA: r.MadeCA})
	}
	if s.json {
		return s.printValue(made)
	}
	t := newTable(s.Stdout)
	t.row("NODE", "FOLDER", "EXPIRES")
	for _, m := range made {
		t.row(m.Name, m.Dir, m.Expires.UTC().Format(time.DateOnly))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if made[0].MadeCA {
		_, err := s.Stderr.Write([]byte("The CA's key, ca.key in " + s.path(c.Dir) + ", can make members of this cluster: keep it away from the nodes.\n"))
		return err
	}
	return nil
}
