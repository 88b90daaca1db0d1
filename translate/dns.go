package translate

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	commondnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
)

// How often a proxy asks for the addresses of an instance that is a name: when
// the records are old, by their own word. One that may not be kept at all, as
// Consul's, and one of an unreasonable second, are asked for at the usual rate.
const (
	dnsUsual      = 5 * time.Second
	dnsFirstRetry = time.Second
	dnsLastRetry  = 10 * time.Second
	dnsJitter     = time.Second
)

// resolve has a cluster find the addresses of its instances by DNS, all that
// each name has. An assignment cannot do that: Envoy refuses one that has a
// name in it. So the instances stand in the cluster itself, those with an
// address among them, for which the resolver has nothing to ask; every setting
// of the cluster holds for all of them alike.
//
// While DNS does not answer, what it said last stays. That a name has no
// address is an answer too.
func resolve(d *builder, cluster *clusterv3.Cluster, assignment *endpointv3.ClusterLoadAssignment) {
	cluster.EdsClusterConfig = nil
	cluster.LoadAssignment = assignment
	cluster.ClusterDiscoveryType = dnsDiscovery(d)
}

func dnsDiscovery(d *builder) *clusterv3.Cluster_ClusterType {
	return &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.cluster.dns",
		TypedConfig: d.pack(&dnsv3.DnsCluster{
			DnsRefreshRate:    duration(dnsUsual),
			DnsMinRefreshRate: duration(dnsUsual),
			RespectDnsTtl:     true,
			DnsFailureRefreshRate: &dnsv3.DnsCluster_RefreshRate{
				BaseInterval: duration(dnsFirstRetry), MaxInterval: duration(dnsLastRetry),
			},
			DnsJitter: duration(dnsJitter),
			// A name may have IPv6 addresses that its callers cannot reach,
			// and sidecars listen on IPv4 unless they are told otherwise.
			DnsLookupFamily: commondnsv3.DnsLookupFamily_V4_PREFERRED,
		}),
	}}
}
