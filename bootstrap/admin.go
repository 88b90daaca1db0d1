package bootstrap

import (
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"datapunk.dev/controlplane/resource"
)

// socketMode lets only Envoy's own user open its admin socket.
const socketMode = 0o600

// admin opens the admin interface on a Unix socket, and of it only what shows
// things: nothing that ends the process, drains it or changes its log.
func admin(socket string) *bootstrapv3.Admin {
	exact := func(path string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: path}}
	}
	prefix := func(path string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: path}}
	}
	return &bootstrapv3.Admin{
		Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: socket, Mode: socketMode}}},
		AllowPaths: []*matcherv3.StringMatcher{
			prefix("/stats"), prefix("/clusters"), prefix("/config_dump"), prefix("/listeners"),
			exact("/certs"), exact("/ready"), exact("/server_info"),
		},
	}
}

// adminCluster is the admin socket as a cluster, for the metrics listener.
func adminCluster(socket string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 resource.ClusterMeshAdmin,
		ConnectTimeout:       durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: resource.ClusterMeshAdmin,
			Endpoints:   []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{endpoint(address{socket: socket})}}},
		},
	}
}
