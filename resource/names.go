package resource

import (
	"slices"
	"strings"
)

// Secrets. The first two names are SPIRE's, so that the same cluster serves
// every proxy whoever issues its certificate.
const (
	SecretIdentity = "default" // the proxy's own certificate and key
	SecretRoots    = "ROOTCA"  // the trust bundle
	callersPrefix  = "callers/"
)

// SecretCallers names the secret that says who may open a connection to a
// service of TCP.
func SecretCallers(service string) string { return callersPrefix + service }

// Clusters that are no service of the mesh.
const (
	ClusterLocalApp      = "local_app"       // the proxy's own application
	ClusterLocalAppGRPC  = "local_app_grpc"  // the same, over HTTP/2
	ClusterTracing       = "tracing"         // the collector of spans
	ClusterMeshRateLimit = "mesh_rate_limit" // the server of limits, where it is no service of the mesh
	ClusterMeshAdmin     = "mesh_admin"      // static in the bootstrap: the proxy's own admin socket
	ClusterMeshZone      = "mesh_zone"       // static in the bootstrap: the proxy's own place, for zone-aware routing
	ClusterXDS           = "xds"             // static in the bootstrap: this control plane
)

// ListenerInbound is where a proxy takes the calls of its own application.
const ListenerInbound = "inbound"

// ExtensionInbound fills a place of the inbound listener, after the rules: what has a
// memory stands there, as the buckets of a rate limit.
const ExtensionInbound = "controlplane.inbound"

// RuntimeMesh is the runtime layer that the bootstrap has Envoy ask for.
const RuntimeMesh = "mesh"

// ControlPlane is the service that the control plane itself is: its identity is
// given to nobody else.
const ControlPlane = "control-plane"

// HostSuffix makes `lake_service.mesh` another name of `lake_service`, for
// callers whose HTTP library wants a name with a dot.
const HostSuffix = ".mesh"

// Reserved says why no service can have the name; it is empty if one can.
func Reserved(name string) string {
	switch {
	case name == ControlPlane:
		return "it is the control plane's own identity"
	case slices.Contains([]string{ClusterLocalApp, ClusterLocalAppGRPC, ClusterTracing, ClusterMeshRateLimit, ClusterMeshAdmin, ClusterMeshZone, ClusterXDS}, name):
		return "each proxy has a cluster of that name"
	case strings.HasSuffix(strings.ToLower(name), HostSuffix):
		return "names that end in " + HostSuffix + " are the second names of other services"
	}
	return ""
}
