package server

import (
	"crypto/tls"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"
)

// handshakes are the gRPC port's credentials. They count what does not become a
// connection, of which gRPC says nothing.
type handshakes struct {
	credentials.TransportCredentials
	failed prometheus.Counter
	log    *slog.Logger
}

func newHandshakes(cfg Config) handshakes {
	h := handshakes{credentials.NewTLS(cfg.TLS), prometheus.NewCounter(prometheus.CounterOpts{
		Name: "agentd_tls_handshakes_failed_total",
		Help: "Connections to the gRPC port that ended before a request: plain text, no trusted certificate, probes of ports.",
	}), cfg.Log}
	cfg.Metrics.MustRegister(h.failed)
	return h
}

func (h handshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		h.failed.Inc()
		h.log.Debug("TLS handshake failed", "from", raw.RemoteAddr().String(), "error", err)
	}
	return conn, info, err
}

func (h handshakes) Clone() credentials.TransportCredentials {
	return handshakes{h.TransportCredentials.Clone(), h.failed, h.log}
}

// withoutClients is the configuration of the HTTP port: probes have no certificates.
func withoutClients(cfg *tls.Config) *tls.Config {
	plain := cfg.Clone()
	plain.ClientAuth, plain.VerifyConnection = tls.NoClientCert, nil
	return plain
}
