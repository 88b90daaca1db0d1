package listen

import "github.com/prometheus/client_golang/prometheus"

var (
	descOpen = prometheus.NewDesc("controlplane_connections",
		"Open connections, by port.", []string{"port"}, nil)
	descIdle = prometheus.NewDesc("controlplane_idle_connections",
		"Open connections without an authenticated call (xds) or a request (admin), by port.", []string{"port"}, nil)
	descWaiting = prometheus.NewDesc("controlplane_waiting_connections",
		"Open connections that are not read yet, because too many others are idle, by port.", []string{"port"}, nil)
	descClosed = prometheus.NewDesc("controlplane_connections_closed_total",
		"Connections closed by a limit: idle or waiting for too long, refused because there were too many, failed because the system had no more.",
		[]string{"port", "reason"}, nil)
)

// Metrics returns the metrics of listeners, by what their ports are called.
func Metrics(ports map[string]*Listener) prometheus.Collector { return portMetrics(ports) }

type portMetrics map[string]*Listener

// Describe implements prometheus.Collector.
func (m portMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m portMetrics) Collect(ch chan<- prometheus.Metric) {
	for port, l := range m {
		s := l.Stats()
		gauge := func(d *prometheus.Desc, v int) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), port)
		}
		gauge(descOpen, s.Open)
		gauge(descIdle, s.Idle)
		gauge(descWaiting, s.Waiting)
		for reason, n := range map[string]uint64{"idle": s.IdleClosed, "waiting": s.WaitingClosed, "refused": s.Refused, "failed": s.Failures} {
			ch <- prometheus.MustNewConstMetric(descClosed, prometheus.CounterValue, float64(n), port, reason)
		}
	}
}
