package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"agentd/pkg/actor"
	"agentd/pkg/storage"
)

// countTimeout bounds what a scrape may wait for the catalog.
const countTimeout = 2 * time.Second

// metrics are the facts about agents at /metrics; the server adds those about
// requests. Safe for use from any goroutine.
type metrics struct {
	registry    *prometheus.Registry
	events      *prometheus.CounterVec
	activations prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "agentd_agent_events_total",
			Help: "What happened to agents: activated, hibernated, evicted, reset, quarantined, lifted.",
		}, []string{"event"}),
		activations: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "agentd_activation_seconds",
			Help:    "From the first event of a hibernated agent to the end of its start-up.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 10),
		}),
	}
	m.registry.MustRegister(m.events, m.activations, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// record is the host's event listener; it does not block.
func (m *metrics) record(e actor.Event) {
	m.events.WithLabelValues(string(e.Kind)).Inc()
	if e.Kind == actor.EventActivated {
		m.activations.Observe(e.Took.Seconds())
	}
}

// watch adds the gauges that are read when somebody looks.
func (m *metrics) watch(host *actor.Host, catalog storage.Catalog) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "agentd_agents_live", Help: "Agents in memory."},
			func() float64 { return float64(host.Live()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "agentd_agents", Help: "Agents in the catalog, -1 when it cannot be read."},
			func() float64 {
				ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
				defer cancel()
				n, err := catalog.Count(ctx)
				if err != nil {
					return -1
				}
				return float64(n)
			}))
}
