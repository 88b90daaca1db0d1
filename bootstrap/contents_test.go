package bootstrap

import (
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"datapunk.dev/controlplane/resource"
)

// What a bootstrap has, each with the reason why it has to be there: nothing of
// it can be given to an Envoy that runs, or that has started without.
func TestWhatABootstrapHas(t *testing.T) {
	placed := sidecar(t, func(o *Options) { o.Region, o.Zone, o.SubZone = "eu-1", "eu-1a", "rack-7" })
	for _, has := range []struct {
		what, why string
		is        func(*bootstrapv3.Bootstrap) bool
	}{
		{"the node's id and service", "the control plane knows by them who asks", func(b *bootstrapv3.Bootstrap) bool {
			return b.GetNode().GetId() == "lake-1" && b.GetNode().GetCluster() == "lake_service"
		}},
		{"ports and zone in the node's metadata", "listeners are made of them", func(b *bootstrapv3.Bootstrap) bool {
			m := b.GetNode().GetMetadata().AsMap()
			return m["service"] == "lake_service" && m["app_port"] == 8080.0 && m["mesh_port"] == 15443.0 &&
				m["outbound_port"] == 15001.0 && m["metrics_port"] == 9102.0 && m["zone"] == "eu-1a"
		}},
		{"the locality", "an Envoy compares that of instances with its own", func(b *bootstrapv3.Bootstrap) bool {
			l := b.GetNode().GetLocality()
			return l.GetRegion() == "eu-1" && l.GetZone() == "eu-1a" && l.GetSubZone() == "rack-7"
		}},
		{"a static local cluster with one instance at that locality", "without it no cluster can prefer its own zone; CDS cannot bring it, and EDS would come before CDS on each stream", func(b *bootstrapv3.Bootstrap) bool {
			for _, c := range b.GetStaticResources().GetClusters() {
				if c.GetName() == b.GetClusterManager().GetLocalClusterName() {
					places := c.GetLoadAssignment().GetEndpoints()
					return c.GetName() == resource.ClusterMeshZone && len(places) == 1 && len(places[0].GetLbEndpoints()) == 1 &&
						places[0].GetLocality().String() == b.GetNode().GetLocality().String()
				}
			}
			return false
		}},
		{"the clusters xds and mesh_admin", "the stream itself, and what the metrics listener sends scrapes to", func(b *bootstrapv3.Bootstrap) bool {
			c := b.GetStaticResources().GetClusters()
			pipe := c[1].GetLoadAssignment().GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetPipe()
			return c[0].GetName() == resource.ClusterXDS && c[1].GetName() == resource.ClusterMeshAdmin &&
				pipe.GetPath() == b.GetAdmin().GetAddress().GetPipe().GetPath()
		}},
		{"HDS, and the word that there is", "the control plane has the application checked by it, and calls nobody critical who cannot say better", func(b *bootstrapv3.Bootstrap) bool {
			return b.GetHdsConfig().GetGrpcServices()[0].GetEnvoyGrpc().GetClusterName() == resource.ClusterXDS &&
				b.GetNode().GetMetadata().AsMap()["checks"] == "http,tcp"
		}},
		{"an admin socket of mode 0600", "others on the machine may not open it", func(b *bootstrapv3.Bootstrap) bool {
			return b.GetAdmin().GetAddress().GetPipe().GetMode() == 0o600
		}},
		{"clusters and listeners over one delta stream, waited for without end", "VHDS and on-demand clusters are delta alone, and half a configuration would refuse calls", func(b *bootstrapv3.Bootstrap) bool {
			d := b.GetDynamicResources()
			for _, source := range []*corev3.ConfigSource{d.GetCdsConfig(), d.GetLdsConfig()} {
				if source.GetAds() == nil || source.GetInitialFetchTimeout() == nil || source.GetInitialFetchTimeout().AsDuration() != 0 {
					return false
				}
			}
			return d.GetAdsConfig().GetApiType() == corev3.ApiConfigSource_DELTA_GRPC
		}},
		{"one runtime layer over that stream, waited for 1 s", "its values take effect without another resource; a control plane that does not answer would hold the clusters for ever", func(b *bootstrapv3.Bootstrap) bool {
			layers := b.GetLayeredRuntime().GetLayers()
			rtds := layers[0].GetRtdsLayer()
			return len(layers) == 1 && rtds.GetName() == resource.RuntimeMesh && rtds.GetRtdsConfig().GetAds() != nil &&
				rtds.GetRtdsConfig().GetInitialFetchTimeout().AsDuration() == time.Second
		}},
		{"the node on the first message of a stream alone", "it is 61 KB", func(b *bootstrapv3.Bootstrap) bool {
			return b.GetDynamicResources().GetAdsConfig().GetSetNodeOnFirstMessageOnly()
		}},
		{"a limit of connections", "Envoy has none, and ends when it has no file descriptors left", func(b *bootstrapv3.Bootstrap) bool {
			return len(b.GetOverloadManager().GetResourceMonitors()) == 1
		}},
		{"the label mesh_subset", "statistics are named when their cluster comes", func(b *bootstrapv3.Bootstrap) bool {
			tags := b.GetStatsConfig().GetStatsTags()
			return len(tags) == 1 && tags[0].GetTagName() == "mesh_subset"
		}},
		{"latency buckets at 150, 200 and 300 ms", "a quantile is as exact as its bucket, and a rollout has to tell a slower version by it", func(b *bootstrapv3.Bootstrap) bool {
			buckets := b.GetStatsConfig().GetHistogramBucketSettings()[0].GetBuckets()
			return slices.IsSorted(buckets) && slices.Contains(buckets, 150) && slices.Contains(buckets, 200) && slices.Contains(buckets, 300)
		}},
		{"no statistics of each route configuration", "with one a service they are 35 MB at 5,000 services", func(b *bootstrapv3.Bootstrap) bool {
			return excludes(b, "http.outbound.rds.lake_service.update_success") && !excludes(b, "http.outbound.downstream_rq_total")
		}},
		{"statistics of clusters, listeners and the streams", "people look at them when something is wrong", func(b *bootstrapv3.Bootstrap) bool {
			return !slices.ContainsFunc([]string{
				"cluster.lake_service.upstream_rq_total", "cluster.lake_service|canary.upstream_rq_time", "cluster.xds.upstream_cx_connect_fail",
				"cluster.lake_service.outlier_detection.ejections_active", "cluster.lake_service.ssl.handshake", "cluster_manager.cds.update_success",
				"listener_manager.lds.update_success", "http.inbound.rbac.allowed", "http.inbound.downstream_rq_time", "control_plane.connected_state", "runtime.load_success",
			}, func(stat string) bool { return excludes(b, stat) })
		}},
	} {
		b, err := New(placed)
		if err != nil {
			t.Fatal(err)
		}
		if !has.is(b) {
			t.Errorf("a bootstrap has not: %s (%s)", has.what, has.why)
		}
	}
}

// An Envoy of which nobody says where it is has no place, and no local cluster:
// one of an empty place would match every instance of which nobody says it.
func TestWithoutALocalityThereIsNoLocalCluster(t *testing.T) {
	b, err := New(sidecar(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if b.GetNode().GetLocality() != nil || b.GetClusterManager() != nil || len(b.GetStaticResources().GetClusters()) != 2 {
		t.Errorf("locality %v, local cluster %v", b.GetNode().GetLocality(), b.GetClusterManager())
	}
}

func excludes(b *bootstrapv3.Bootstrap, stat string) bool {
	for _, p := range b.GetStatsConfig().GetStatsMatcher().GetExclusionList().GetPatterns() {
		if p.GetPrefix() != "" && strings.HasPrefix(stat, p.GetPrefix()) || p.GetContains() != "" && strings.Contains(stat, p.GetContains()) {
			return true
		}
	}
	return false
}
