package xds

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/resource"
)

// metrics are those of the whole server. No label has a value that a client
// can choose.
type metrics struct {
	streams      *prometheus.GaugeVec
	opened       *prometheus.CounterVec
	refused      *prometheus.CounterVec
	pushes       *prometheus.CounterVec
	bytes        *prometheus.CounterVec
	acks         *prometheus.CounterVec
	nacks        *prometheus.CounterVec
	own          *prometheus.CounterVec
	latency      *prometheus.HistogramVec
	superseded   prometheus.Counter
	unauthorized prometheus.Counter
	slow         prometheus.Counter
	panics       prometheus.Counter
	quarantined  prometheus.Gauge

	byType [resource.NumTypes]typeMetrics
}

// refusals are the reasons for which streams are refused.
var refusals = []string{
	"unauthenticated", "identity", "malformed", "limit", "unavailable", "rate", "streams", "node_rate", "node_streams", "node_profiles",
}

// typeMetrics are the metrics of one type that every push touches.
type typeMetrics struct {
	pushes, bytes, acks prometheus.Counter
	latency             prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) *metrics {
	const prefix = "controlplane_xds_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{label})
	}
	m := &metrics{
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: prefix + "streams", Help: "Open xDS streams.",
		}, []string{"protocol"}),
		opened:  counters("opened_streams_total", "Streams that began.", "protocol"),
		refused: counters("refused_streams_total", "Streams refused, by reason.", "reason"),
		pushes:  counters("pushes_total", "Responses sent.", "type"),
		bytes:   counters("push_bytes_total", "Bytes of the responses sent.", "type"),
		acks:    counters("acks_total", "Responses acknowledged.", "type"),
		nacks:   counters("nacks_total", "Responses rejected.", "type"),
		own:     counters("own_nacks_total", "Resources rejected for something on the proxy's own machine or in its build.", "cause"),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "push_ack_seconds", Help: "Time from a response to its acknowledgement.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15},
		}, []string{"type"}),
		superseded:   counter("superseded_streams_total", "Streams ended because a newer one came from the same node.id."),
		unauthorized: counter("unauthorized_secrets_total", "Requests for a secret that the proxy may not have."),
		slow:         counter("slow_clients_total", "Streams given up because the client did not read."),
		panics:       counter("panics_total", "Streams ended by a panic in the control plane."),
		quarantined: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: prefix + "quarantined", Help: "Contents that are not served because several proxies refused them.",
		}),
	}
	for t := range m.byType {
		name := resource.Type(t).String()
		m.byType[t] = typeMetrics{
			pushes: m.pushes.WithLabelValues(name), bytes: m.bytes.WithLabelValues(name),
			acks: m.acks.WithLabelValues(name), latency: m.latency.WithLabelValues(name),
		}
		m.nacks.WithLabelValues(name)
	}
	for _, cause := range ownCauses {
		m.own.WithLabelValues(cause)
	}
	for _, reason := range refusals {
		m.refused.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(m.streams, m.opened, m.refused, m.pushes, m.bytes, m.acks, m.nacks, m.own, m.latency,
			m.superseded, m.unauthorized, m.slow, m.panics, m.quarantined)
	}
	return m
}

func (m *metrics) pushed(t resource.Type, bytes int) {
	m.byType[t].pushes.Inc()
	m.byType[t].bytes.Add(float64(bytes))
}

func (m *metrics) acked(t resource.Type, after time.Duration) {
	m.byType[t].acks.Inc()
	m.byType[t].latency.Observe(after.Seconds())
}
