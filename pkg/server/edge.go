package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"agentd/internal/wire"
	"agentd/pkg/agent"
	"agentd/pkg/sandbox"
)

// edge is what surrounds every request: panics become errors, errors become
// statuses, failures are logged once, everything is counted.
type edge struct {
	log      *slog.Logger
	now      func() time.Time
	errors   wire.Encoder
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newEdge(cfg Config) *edge {
	e := &edge{
		log:    cfg.Log,
		now:    cfg.Now,
		errors: wire.Encoder{Dev: cfg.DevErrors, Locate: locate},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentd_rpc_requests_total", Help: "Requests answered, by method and status code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "agentd_rpc_seconds", Help: "Time from the request to its answer; streams are not in it.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "agentd_rpc_in_flight", Help: "Requests and streams under way.",
		}),
	}
	cfg.Metrics.MustRegister(e.requests, e.seconds, e.inFlight)
	return e
}

// locate finds where a program does not compile.
func locate(err error) *wire.SourceError {
	var at *sandbox.SourceError
	if !errors.As(err, &at) {
		return nil
	}
	return &wire.SourceError{File: at.File, Line: at.Line, Column: at.Column, Text: at.Text, SourceLine: at.SourceLine}
}

func (e *edge) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := e.now()
	e.inFlight.Inc()
	resp, err := callSafely(func() (any, error) { return handler(ctx, req) })
	e.inFlight.Dec()
	elapsed := e.now().Sub(start)
	e.seconds.WithLabelValues(info.FullMethod).Observe(elapsed.Seconds())
	if err = e.finish(ctx, info.FullMethod, elapsed, err); err != nil {
		return nil, err
	}
	return resp, nil
}

func (e *edge) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := e.now()
	e.inFlight.Inc()
	_, err := callSafely(func() (any, error) { return nil, handler(srv, stream) })
	e.inFlight.Dec()
	return e.finish(stream.Context(), info.FullMethod, e.now().Sub(start), err)
}

// finish counts, logs and encodes the outcome.
func (e *edge) finish(ctx context.Context, method string, elapsed time.Duration, err error) error {
	if err == nil {
		e.requests.WithLabelValues(method, codes.OK.String()).Inc()
		return nil
	}
	st := e.status(err)
	e.requests.WithLabelValues(method, st.Code().String()).Inc()
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("method", method), slog.String("code", st.Code().String()),
		slog.Duration("elapsed", elapsed), slog.Any("error", err)}
	switch st.Code() {
	case codes.Internal, codes.DataLoss:
		level = slog.LevelWarn
	}
	var crash *panicError
	if errors.As(err, &crash) {
		level = slog.LevelError
		attrs = append(attrs, slog.String("stack", crash.stack))
	}
	e.log.LogAttrs(ctx, level, "request failed", attrs...)
	return st.Err()
}

// status encodes err. A status without an agent.Error comes from gRPC itself,
// such as a Send on a broken stream, and is passed on.
func (e *edge) status(err error) *status.Status {
	var typed *agent.Error
	if st, ok := status.FromError(err); ok && !errors.As(err, &typed) {
		return st
	}
	return e.errors.Status(err)
}

// panicError is a panic in a handler: a defect that costs one request.
type panicError struct {
	value any
	stack string
}

func (p *panicError) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func callSafely(fn func() (any, error)) (resp any, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicError{value: value, stack: string(debug.Stack())}
		}
	}()
	return fn()
}
