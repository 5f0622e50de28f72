package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"agentd/pkg/agent"
)

// healthInterval is how soon a health watch notices a change.
const healthInterval = time.Second

// health is grpc.health.v1.Health: every service of this server, and "" for all,
// is as ready as the node.
type health struct {
	healthv1.UnimplementedHealthServer
	ready    func() error
	drained  <-chan struct{}
	services []string
}

func (h *health) status() healthv1.HealthCheckResponse_ServingStatus {
	if h.ready() != nil {
		return healthv1.HealthCheckResponse_NOT_SERVING
	}
	return healthv1.HealthCheckResponse_SERVING
}

func (h *health) known(service string) bool {
	return service == "" || slices.Contains(h.services, service)
}

func (h *health) Check(_ context.Context, req *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if !h.known(req.GetService()) {
		return nil, &agent.Error{Op: "check health", Kind: agent.NotFound,
			Msg: fmt.Sprintf("no service %.120q here; \"\" asks for the whole server", req.GetService())}
	}
	return &healthv1.HealthCheckResponse{Status: h.status()}, nil
}

func (h *health) List(context.Context, *healthv1.HealthListRequest) (*healthv1.HealthListResponse, error) {
	statuses := make(map[string]*healthv1.HealthCheckResponse, len(h.services)+1)
	status := h.status()
	for _, name := range append([]string{""}, h.services...) {
		statuses[name] = &healthv1.HealthCheckResponse{Status: status}
	}
	return &healthv1.HealthListResponse{Statuses: statuses}, nil
}

// Watch sends the status and each change of it, at most one a second, until the
// client leaves or the server stops.
func (h *health) Watch(req *healthv1.HealthCheckRequest, stream grpc.ServerStreamingServer[healthv1.HealthCheckResponse]) error {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	last := healthv1.HealthCheckResponse_ServingStatus(-1)
	for {
		status := healthv1.HealthCheckResponse_SERVICE_UNKNOWN
		if h.known(req.GetService()) {
			status = h.status()
		}
		if status != last {
			if err := stream.Send(&healthv1.HealthCheckResponse{Status: status}); err != nil {
				return err
			}
			last = status
		}
		select {
		case <-ticker.C:
		case <-stream.Context().Done():
			return agent.FromContext(stream.Context(), "watch health", agent.ID{})
		case <-h.drained:
			if last == healthv1.HealthCheckResponse_SERVING {
				if err := stream.Send(&healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING}); err != nil {
					return err
				}
			}
			return &agent.Error{Op: "watch health", Kind: agent.Unavailable, Msg: "the server is shutting down"}
		}
	}
}

// Limits of the HTTP side, which serves small answers to probes.
const (
	headerTimeout  = 10 * time.Second
	writeTimeout   = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
)

// newHTTP serves the probes: /healthz says that the process answers, /readyz that
// the node accepts calls (503 and the reason if not).
// /metrics needs a token where tokens are asked for.
func newHTTP(cfg Config, ready func() error, g *guard) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			writeText(w, http.StatusServiceUnavailable, err.Error()+"\n")
			return
		}
		writeText(w, http.StatusOK, "ready\n")
	})
	mux.Handle("GET /metrics", g.scrape(promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4})))
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug), // handshakes that failed
	}
	if cfg.TLS != nil {
		server.TLSConfig = withoutClients(cfg.TLS)
	}
	return server
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // a probe that left needs no answer
}
