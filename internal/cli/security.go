package cli

import (
	"crypto/tls"
	"strings"

	"agentd/internal/certs"
	"agentd/pkg/auth"
	"agentd/pkg/client"
	"agentd/pkg/node"
)

// ports is embedded by the commands that run a node: how its clients are known.
type ports struct {
	TLSCert     string     `setting:"" name:"tls-cert" group:"security" placeholder:"FILE" help:"Certificate of the gRPC and HTTP ports, PEM. Without it they speak plain text."`
	TLSKey      string     `setting:"" name:"tls-key" group:"security" placeholder:"FILE" help:"Its private key, PEM."`
	TLSClientCA string     `setting:"" name:"tls-client-ca" group:"security" placeholder:"FILE" help:"CAs of clients: the gRPC port then wants a certificate too."`
	AuthTokens  string     `setting:"" group:"security" placeholder:"FILE" help:"File of tokens, as agentd token new makes them. Without it and --jwt-issuer everybody may do everything."`
	JWTIssuer   string     `setting:"" name:"jwt-issuer" group:"security" placeholder:"URL" help:"Accept JWTs of this issuer."`
	JWTAudience string     `setting:"" name:"jwt-audience" group:"security" placeholder:"NAME,…" help:"Audiences of which a JWT must name one."`
	JWTKeys     string     `setting:"" name:"jwt-keys" group:"security" placeholder:"FILE|URL" help:"The issuer's keys (JWKS), default what its OpenID configuration names."`
	JWTClaims   claimNames `setting:"" name:"jwt-claims" group:"security" placeholder:"WHAT=CLAIM,…" help:"Claims to read namespaces, services, access and name from, default agentd_namespaces, agentd_services, agentd_access, sub."`
}

// security is what the flags say, for node.Config.
func (c *ports) security(s *session) (node.Security, error) {
	sec := node.Security{TLSCert: s.optionalPath(c.TLSCert), TLSKey: s.optionalPath(c.TLSKey),
		TLSClientCA: s.optionalPath(c.TLSClientCA), AuthTokens: s.optionalPath(c.AuthTokens)}
	if c.JWTIssuer == "" {
		if c.JWTAudience != "" || c.JWTKeys != "" {
			return sec, &usageError{msg: "--jwt-audience and --jwt-keys need --jwt-issuer"}
		}
		return sec, nil
	}
	if c.JWTAudience == "" {
		return sec, &usageError{msg: "--jwt-issuer needs --jwt-audience: without one, every token that the issuer made for anybody would be good here"}
	}
	sec.JWT = &auth.JWT{Issuer: c.JWTIssuer, Audiences: strings.Split(c.JWTAudience, ","), NamespacesClaim: c.JWTClaims.namespaces,
		ServicesClaim: c.JWTClaims.services, AccessClaim: c.JWTClaims.access, NameClaim: c.JWTClaims.name}
	if strings.Contains(c.JWTKeys, "://") {
		sec.JWT.KeysURL = c.JWTKeys
	} else {
		sec.JWT.KeysFile = s.optionalPath(c.JWTKeys)
	}
	return sec, nil
}

// claimNames are names of claims; empty ones are the defaults of pkg/auth.
type claimNames struct{ namespaces, services, access, name string }

// UnmarshalText reads "namespaces=CLAIM,access=CLAIM".
func (c *claimNames) UnmarshalText(text []byte) error {
	*c = claimNames{}
	for part := range strings.SplitSeq(string(text), ",") {
		what, claim, ok := strings.Cut(part, "=")
		field := map[string]*string{"namespaces": &c.namespaces, "services": &c.services, "access": &c.access, "name": &c.name}[what]
		if !ok || claim == "" || field == nil {
			return &usageError{msg: "write namespaces=CLAIM, services=CLAIM, access=CLAIM or name=CLAIM, with commas between them"}
		}
		*field = claim
	}
	return nil
}

// secured is embedded by the commands that talk to a server: how they know it, and
// prove themselves.
type secured struct {
	TLS      bool   `setting:"" name:"tls" group:"connection" help:"Speak TLS, trusting the CAs of the system. Implied by the next three."`
	TLSCA    string `setting:"" name:"tls-ca" group:"connection" placeholder:"FILE" help:"CAs that sign the server's certificate, PEM."`
	TLSCert  string `setting:"" name:"tls-cert" group:"connection" placeholder:"FILE" help:"Certificate to show to the server, PEM."`
	TLSKey   string `setting:"" name:"tls-key" group:"connection" placeholder:"FILE" help:"Its private key, PEM."`
	Insecure bool   `setting:"" group:"connection" help:"Send the token to another machine although the connection is not encrypted."`
}

// wanted says whether the connection is encrypted.
func (c *secured) wanted() bool { return c.TLS || c.TLSCA != "" || c.TLSCert != "" || c.TLSKey != "" }

// config is the TLS configuration, nil for plain text.
func (c *secured) config(s *session) (*tls.Config, error) {
	if !c.wanted() {
		return nil, nil
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return nil, &usageError{msg: "a certificate and its key belong together: give both --tls-cert and --tls-key"}
	}
	cfg, err := certs.DialTLS(s.optionalPath(c.TLSCA), s.optionalPath(c.TLSCert), s.optionalPath(c.TLSKey))
	if err != nil {
		return nil, &usageError{msg: err.Error(), cause: err}
	}
	return cfg, nil
}

// options are for client.Dial.
func (c *secured) options(s *session) ([]client.Option, error) {
	cfg, err := c.config(s)
	if err != nil {
		return nil, err
	}
	opts := []client.Option{client.WithTLS(cfg)}
	if c.Insecure {
		opts = append(opts, client.WithPlainToken())
	}
	return opts, nil
}

// flags are what a command to try must repeat.
func (c *secured) flags() string {
	var b strings.Builder
	for _, f := range []struct{ name, value string }{{"--tls-ca", c.TLSCA}, {"--tls-cert", c.TLSCert}, {"--tls-key", c.TLSKey}} {
		if f.value != "" {
			b.WriteString(" " + f.name + " " + bare(f.value))
		}
	}
	switch {
	case c.TLS && c.TLSCA == "" && c.TLSCert == "":
		b.WriteString(" --tls")
	case c.Insecure:
		b.WriteString(" --insecure")
	}
	return b.String()
}

// optionalPath is path for a setting that may be empty.
func (s *session) optionalPath(name string) string {
	if name == "" {
		return ""
	}
	return s.path(name)
}
