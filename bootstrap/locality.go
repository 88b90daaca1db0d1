package bootstrap

import (
	"cmp"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"datapunk.dev/controlplane/resource"
)

// locality is where the proxy is; nil if nothing is known of that.
func (o *Options) locality() *corev3.Locality {
	if o.Region == "" && o.Zone == "" && o.SubZone == "" {
		return nil
	}
	return &corev3.Locality{Region: o.Region, Zone: o.Zone, SubZone: o.SubZone}
}

// localCluster is what Envoy calls the cluster that it is of itself. Without one
// in its bootstrap, with an instance at its own place, it never prefers the
// instances of its own zone, whatever a cluster says. With one place in it,
// nothing changes until a cluster forces the local zone (force_local_zone).
//
// It is static, with this proxy alone. Envoy takes none from CDS, and to have
// its endpoints over ADS would cost more than it gives: Envoy then asks for
// endpoints before clusters on each stream that it opens, and such a client is
// sent all endpoints again.
func localCluster(o *Options) *clusterv3.Cluster {
	// Nobody dials it.
	return staticCluster(resource.ClusterMeshZone, o.locality(), address{host: cmp.Or(o.Address, "127.0.0.1"), port: o.MeshPort})
}

// addLocality says where the proxy is, in all the places that Envoy wants it.
func addLocality(b *bootstrapv3.Bootstrap, o *Options) {
	b.Node.Locality = o.locality()
	if b.GetNode().GetLocality() == nil {
		return
	}
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, localCluster(o))
	b.ClusterManager = &bootstrapv3.ClusterManager{LocalClusterName: resource.ClusterMeshZone}
}
