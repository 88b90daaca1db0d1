package xds

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/resource"
)

var (
	descProxies = prometheus.NewDesc("controlplane_xds_proxies",
		"Streams that have asked for a type, by how far their proxy is with it.", []string{"type", "state"}, nil)
	descOldest = prometheus.NewDesc("controlplane_xds_oldest_pending_seconds",
		"For how long a connected proxy has left a response unanswered: the longest of all. 0: none does.", nil, nil)
)

// states counts the states of the types of all streams, for whoever scrapes: what
// /api/v1/proxies says of each, without names.
type states struct{ server *Server }

// Describe implements prometheus.Collector.
func (c states) Describe(ch chan<- *prometheus.Desc) { ch <- descProxies; ch <- descOldest }

// Collect implements prometheus.Collector.
func (c states) Collect(ch chan<- prometheus.Metric) {
	c.server.mu.Lock()
	streams := make([]*stream, 0, len(c.server.streams))
	for st := range c.server.streams {
		streams = append(streams, st)
	}
	c.server.mu.Unlock()

	counted := [...]State{Synced, Pending, Rejected}
	var counts [resource.NumTypes][len(counted)]int
	var oldest time.Duration
	for _, st := range streams {
		oldest = max(oldest, st.status.count(func(t resource.Type, s State) {
			for i, state := range counted {
				if s == state {
					counts[t][i]++
				}
			}
		}))
	}
	for t, byState := range counts {
		for i, n := range byState {
			ch <- prometheus.MustNewConstMetric(descProxies, prometheus.GaugeValue, float64(n), resource.Type(t).String(), string(counted[i]))
		}
	}
	ch <- prometheus.MustNewConstMetric(descOldest, prometheus.GaugeValue, oldest.Seconds())
}

// count tells the state of each type, and returns for how long the client has left a
// response unanswered.
func (t *streamStatus) count(one func(resource.Type, State)) (unanswered time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.slot == nil {
		return 0
	}
	for i := range t.types {
		one(resource.Type(i), t.stateNowLocked(resource.Type(i)))
		if t.types[i].State == Pending {
			unanswered = max(unanswered, time.Since(t.types[i].pending))
		}
	}
	return unanswered
}
