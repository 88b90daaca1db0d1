package translate

import (
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/composite/v3"
	clusterprovidedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/cluster_provided/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// serviceCluster is the cluster of a destination, the same bytes in every proxy.
// The targets matter to one that resolves them.
func serviceCluster(c *compiler, to destination, keys []string, targets []target, order *failoverOrder) (*resource.Resource, error) {
	if to.hasMembers() {
		return fallbackInFront(c, to, keys)
	}
	var d builder
	mode := c.upstreamHTTP(to.protocol)
	cluster := &clusterv3.Cluster{
		Name:                          to.name,
		AltStatName:                   statName(to.name),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:              eds(),
		ConnectTimeout:                duration(to.connectTimeout),
		PerConnectionBufferLimitBytes: u32(connectionBuffer),
		LoadBalancingPolicy:           loadBalancing(&d, c, lbKey{to.balancing, to.prefersZone, to.slowStart}),
		CommonLbConfig:                commonLoadBalancing(to.panicThreshold),
		CircuitBreakers:               circuitBreakers(c, to.breakers),
		OutlierDetection:              outlierDetection(&d, c, to.outliers),
		// An instance that the catalog removed is gone, even if checks
		// still pass; the catalog's watcher guards against empty lies.
		IgnoreHealthOnHostRemoval:     true,
		UpstreamConnectionOptions:     tcpKeepalive(),
		TypedExtensionProtocolOptions: httpOptions(&d, c, mode, responseAtCaller, to.idleTimeout),
	}
	if to.checked {
		cluster.HealthChecks = healthChecks(&d, to.checks, mode)
	}
	var refs []resource.Ref
	if to.resolves {
		checkWeights(&d, targets)
		resolve(&d, cluster, assignmentOf(c.globals, to.name, targets, order))
	} else {
		refs = append(refs, resource.Endpoint.Ref(to.name))
	}
	if c.dial != tlsOff {
		refs = append(refs, resource.Secret.Ref(resource.SecretIdentity), resource.Secret.Ref(resource.SecretRoots))
		c.secure(&d, cluster, to)
	}
	return d.finish(resource.Cluster, to.name, cluster, keys, refs)
}

// fallbackInFront is the cluster in front of a subset. Connections, and whom to
// eject, are its members' affair. Retries are its own: their limit counts here.
func fallbackInFront(c *compiler, to destination, keys []string) (*resource.Resource, error) {
	var d builder
	composite := &compositev3.ClusterConfig{}
	var refs []resource.Ref
	for _, name := range to.fallback.members() {
		composite.Clusters = append(composite.Clusters, &compositev3.ClusterConfig_ClusterEntry{Name: name})
		if ref := resource.Cluster.Ref(name); !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	return d.finish(resource.Cluster, to.name, &clusterv3.Cluster{
		Name:        to.name,
		AltStatName: statName(to.name),
		ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.composite", TypedConfig: d.pack(composite),
		}},
		ConnectTimeout:      duration(to.connectTimeout),
		LoadBalancingPolicy: balancingPolicy(&d, "cluster_provided", &clusterprovidedv3.ClusterProvided{}),
		CircuitBreakers:     circuitBreakers(c, to.breakers),
	}, keys, refs)
}

// statName is a cluster's name in statistics where it is another: Envoy cuts
// them at dots, and Prometheus would be told of half a name.
func statName(name string) string {
	if !strings.Contains(name, ".") {
		return ""
	}
	return strings.ReplaceAll(name, ".", "_")
}

// clusterSettings are what a cluster is made of, most often edited first.
var clusterSettings = []policy.Setting{
	policy.SettingCircuitBreakers, policy.SettingOutlierDetection, policy.SettingHealthChecks, policy.SettingLoadBalancing,
	policy.SettingTimeout, policy.SettingProtocol, policy.SettingSubsets,
}

func clusterKeys(s *policy.Service) []string { return s.Keys(clusterSettings...) }

// secure adds the transport sockets. In permissive mode the assignment says of
// each instance whether it is in the mesh; ALPN is left out there, because
// Envoy would take the protocol of the call from it instead of from the caller.
func (c *compiler) secure(d *builder, cluster *clusterv3.Cluster, to destination) {
	identity := c.identity(to.service)
	if c.dial == tlsStrict {
		if to.protocol == policy.TCP {
			cluster.TransportSocket = upstreamTLS(d, identity)
		} else {
			cluster.TransportSocket = upstreamTLS(d, identity, "h2")
		}
		return
	}
	cluster.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{
		{Name: "mtls", Match: inMesh(), TransportSocket: upstreamTLS(d, identity)},
		{Name: "plaintext", Match: &structpb.Struct{}, TransportSocket: plaintextSocket(d)},
	}
}

// inMesh marks the instances that have a sidecar.
func inMesh() *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"mtls": structpb.NewBoolValue(true)}}
}

// eds takes the assignment from the ADS stream. It has no initial fetch
// timeout of its own: with one of zero, a changed cluster whose assignment is
// not sent again would warm for ever, and hold up every later cluster.
func eds() *clusterv3.Cluster_EdsClusterConfig {
	return &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// adsUntilThere waits for the resource for as long as it takes. After a timeout
// Envoy would go on without it: a listener answers 404, or opens its port
// without a certificate.
func adsUntilThere() *corev3.ConfigSource {
	s := ads()
	s.InitialFetchTimeout = &durationpb.Duration{}
	return s
}

// tcpKeepalive notices a peer that vanished without a FIN: 60 s of silence,
// then three probes 10 s apart.
func tcpKeepalive() *clusterv3.UpstreamConnectionOptions {
	return &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
		KeepaliveProbes: u32(3), KeepaliveTime: u32(60), KeepaliveInterval: u32(10),
	}}
}

// localKey is what the clusters of a proxy's own application depend on.
type localKey struct {
	address       string
	port          uint16
	protocol      policy.Protocol
	connect, idle time.Duration
}

// localClusters reach the application. HTTP services have two: by the
// application's own protocol, and over HTTP/2 for gRPC calls.
func localClusters(c *compiler, key localKey) ([]*resource.Resource, error) {
	modes := map[string]httpMode{resource.ClusterLocalApp: http1, resource.ClusterLocalAppGRPC: http2}
	switch key.protocol {
	case policy.HTTP2, policy.GRPC:
		modes[resource.ClusterLocalApp] = http2
	case policy.TCP:
		modes = map[string]httpMode{resource.ClusterLocalApp: notHTTP}
	}
	var made []*resource.Resource
	for _, name := range []string{resource.ClusterLocalApp, resource.ClusterLocalAppGRPC} {
		mode, ok := modes[name]
		if !ok {
			continue
		}
		var d builder
		r, err := d.finish(resource.Cluster, name, &clusterv3.Cluster{
			Name:                          name,
			ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
			ConnectTimeout:                duration(key.connect),
			PerConnectionBufferLimitBytes: u32(connectionBuffer),
			LoadBalancingPolicy:           loadBalancing(&d, c, lbKey{policy: "least_request"}),
			CircuitBreakers:               noCircuitBreakers(),
			LoadAssignment:                fixedAssignment(name, key.address, key.port),
			TypedExtensionProtocolOptions: httpOptions(&d, c, mode, responseAtCallee, key.idle),
		}, nil, nil)
		if err != nil {
			return nil, err
		}
		made = append(made, r)
	}
	return made, nil
}

// loopback is where outbound listeners are, and the application unless its proxy
// says otherwise.
const loopback = "127.0.0.1"

// fixedAssignment has one endpoint, an address or a name to resolve.
func fixedAssignment(cluster, host string, port uint16) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: cluster,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socketAddress(host, port)}},
		}}}},
	}
}

func socketAddress(host string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}
