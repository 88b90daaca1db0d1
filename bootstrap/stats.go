package bootstrap

import (
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// latencyBuckets are the bounds of the latency histograms, in milliseconds:
// twelve in place of Envoy's nineteen, which go to an hour.
var latencyBuckets = [...]float64{1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10000}

// statsConfig leaves out the statistics that multiply with clusters and
// answer no question that the others don't. It excludes rather than includes,
// so that what is new in Envoy is seen.
func statsConfig() *metricsv3.StatsConfig {
	contains := func(s string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: s}}
	}
	prefix := func(s string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
	}
	return &metricsv3.StatsConfig{
		StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_ExclusionList{ExclusionList: &matcherv3.ListStringMatcher{
			Patterns: []*matcherv3.StringMatcher{
				prefix("vhost."),                                                     // the route's numbers again
				contains(".internal.upstream_rq"), contains(".external.upstream_rq"), // the cluster's again, by origin
				contains(".zone."),   // likewise, by pair of zones
				contains(".worker_"), // the listener's again, by thread
				contains("_flow_control_"),
				contains("_cx_length_ms"), // a histogram of the pool's habits
				contains(".ssl.ciphers."), contains(".ssl.curves."), contains(".ssl.sigalgs."),
			},
		}}},
		HistogramBucketSettings: []*metricsv3.HistogramBucketSettings{{
			Match:   contains("_rq_time"),
			Buckets: latencyBuckets[:],
		}},
	}
}
