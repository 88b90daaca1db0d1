package bootstrap

import (
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"datapunk.dev/controlplane/resource"
)

// latencyBuckets are the bounds of the latency histograms, in milliseconds. They
// are close together where a rollout has to tell a slower version from noise: a
// quantile read from a histogram is as exact as the bucket that it falls into.
// Envoy's own go from 250 to 500, and to an hour.
var latencyBuckets = [...]float64{1, 2.5, 5, 10, 25, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2500, 5000, 10000}

// subsetTag makes the label mesh_subset of the statistics of a cluster that is
// part of a service: "canary" of `lake_service|canary`. The name of the cluster
// stays whole. A tag cannot be given to a running Envoy.
const (
	subsetTag     = "mesh_subset"
	subsetPattern = `^cluster\.[^|]+(\|([^.|]+))[.|]`
)

// statsConfig leaves out the statistics that multiply with clusters and
// answer no question that the others don't. It excludes rather than includes,
// so that what is new in Envoy is seen.
func statsConfig() *metricsv3.StatsConfig {
	return &metricsv3.StatsConfig{
		StatsTags: []*metricsv3.TagSpecifier{{TagName: subsetTag, TagValue: &metricsv3.TagSpecifier_Regex{Regex: subsetPattern}}},
		StatsMatcher: &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_ExclusionList{ExclusionList: &matcherv3.ListStringMatcher{
			Patterns: []*matcherv3.StringMatcher{
				prefix("vhost."),                                                     // the route's numbers again
				prefix("http.outbound.rds."),                                         // of each route configuration: there may be one a service
				prefix("cluster." + resource.ClusterMeshZone + "."),                  // nobody calls it
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
