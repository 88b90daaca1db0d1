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
// things: nothing that ends the process or changes its log, and what drains it
// only where a sidecar manages it.
func admin(socket string, managed bool) *bootstrapv3.Admin {
	a := &bootstrapv3.Admin{
		Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: socket, Mode: socketMode}}},
		AllowPaths: []*matcherv3.StringMatcher{
			prefix("/stats"), prefix("/clusters"), prefix("/config_dump"), prefix("/listeners"),
			exact("/certs"), exact("/ready"), exact("/server_info"),
		},
	}
	if managed {
		a.AllowPaths = append(a.AllowPaths, prefix("/drain_listeners"), exact("/healthcheck/fail"))
	}
	return a
}

// adminCluster is the admin socket as a cluster, for the metrics listener.
func adminCluster(socket string) *clusterv3.Cluster {
	return staticCluster(resource.ClusterMeshAdmin, nil, address{socket: socket})
}

// staticCluster is a cluster of one endpoint on this machine.
func staticCluster(name string, at *corev3.Locality, a address) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 name,
		ConnectTimeout:       durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints:   []*endpointv3.LocalityLbEndpoints{{Locality: at, LbEndpoints: []*endpointv3.LbEndpoint{endpoint(a)}}},
		},
	}
}
