package server

import (
	"context"
	"encoding/json"
	"testing"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// BenchmarkUnary measures what the edge adds: an empty call to an agent against
// the smallest request that gRPC can carry. The ratio is what counts.
func BenchmarkUnary(b *testing.B) {
	conn, _ := start(b, Config{Agents: &world{call: func(context.Context, agent.Call) (agent.Result, error) {
		return agent.Result{Value: json.RawMessage("1")}, nil
	}}})
	ctx := b.Context()
	health := healthv1.NewHealthClient(conn)
	agents := agentdv1.NewAgentServiceClient(conn)
	requests := map[string]func() error{
		"health": func() error { _, err := health.Check(ctx, &healthv1.HealthCheckRequest{}); return err },
		"invoke": func() error { _, err := agents.Invoke(ctx, add()); return err },
	}
	for _, name := range []string{"health", "invoke"} {
		request := requests[name]
		b.Run(name+"/one", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := request(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/many", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := request(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
