package node

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/peer"

	"agentd/internal/certs"
	"agentd/pkg/agent"
	"agentd/pkg/auth"
)

// certificateWarning is how long before its end a certificate is warned about at
// start.
const certificateWarning = 14 * 24 * time.Hour

// Security says how clients are known. All files are read again when they change, at
// most once a second; what cannot be used then changes nothing and is logged.
type Security struct {
	TLSCert     string    // PEM, certificate of both ports, then intermediates; empty: plain text
	TLSKey      string    // PEM; given with TLSCert
	TLSClientCA string    // PEM, CAs: gRPC clients must show a certificate of one of them; empty: they show none
	AuthTokens  string    // YAML, see auth.CheckTokens
	JWT         *auth.JWT // nil: no JWTs. Without it and AuthTokens everybody may do everything
}

// check refuses what contradicts itself, and addresses that strangers can reach
// while nothing is encrypted or nobody authenticated.
func (c *Security) check(insecure bool, addrs ...string) error {
	bad := func(msg string) error {
		return &agent.Error{Op: "configure node", Kind: agent.Invalid, Msg: msg}
	}
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return bad("a certificate and its key belong together: give both --tls-cert and --tls-key")
	case c.TLSClientCA != "" && c.TLSCert == "":
		return bad("certificates of clients need TLS: give --tls-cert and --tls-key too")
	}
	for _, addr := range addrs {
		if err := auth.CheckListen(addr, c.TLSCert != "", c.AuthTokens != "" || c.JWT != nil, insecure); err != nil {
			return err
		}
	}
	return nil
}

// door is what a request passes before the server hears it. Its parts may be missing.
type door struct {
	tls  *certs.Serving
	auth *auth.Authenticator
}

// openDoor reads the files of cfg.
func openDoor(cfg Config) (door, error) {
	var d door
	var err error
	report := func(err error) {
		cfg.Log.Warn("a security file or issuer cannot be used; what was loaded before stays in force", "error", err)
	}
	if cfg.TLSCert != "" {
		d.tls, err = certs.ClientTLS(certs.ClientFiles{Cert: cfg.TLSCert, Key: cfg.TLSKey, ClientCA: cfg.TLSClientCA, RequireClient: cfg.TLSClientCA != ""},
			certs.Options{Now: time.Now, Report: report})
		if err != nil {
			return d, err
		}
		if end := d.tls.Expires(); time.Until(end) < certificateWarning {
			cfg.Log.Warn("the certificate of the client ports ends soon; replace its files, no restart is needed", "expires", end)
		}
	}
	if cfg.AuthTokens != "" || cfg.JWT != nil {
		d.auth, err = auth.New(auth.Config{TokensFile: cfg.AuthTokens, JWT: cfg.JWT, Now: time.Now, Report: report, Audit: audit(cfg.Log)})
	}
	return d, err
}

// audit logs who was not let in. pkg/auth bounds how often.
func audit(log *slog.Logger) func(context.Context, auth.Refusal) {
	return func(ctx context.Context, r auth.Refusal) {
		from := "?"
		if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
			from = p.Addr.String()
		}
		log.WarnContext(ctx, "request refused", "from", from, "principal", r.Principal, "kind", r.Kind.String(), "reason", r.Reason, "left_out", r.LeftOut)
	}
}

// config is for the server; nil without TLS.
func (d door) config() *tls.Config {
	if d.tls == nil {
		return nil
	}
	return d.tls.Config()
}

// watch adds the gauge of the certificate's end.
func (d door) watch(registry *prometheus.Registry) {
	if d.tls == nil {
		return
	}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "agentd_tls_certificate_expiry_timestamp_seconds",
		Help: "When the certificate of the client ports that is in force ends, in seconds since 1970.",
	}, func() float64 { return float64(d.tls.Expires().Unix()) }))
}

// close is called when no request is under way any more.
func (d door) close() {
	if d.auth != nil {
		d.auth.Close()
	}
}
