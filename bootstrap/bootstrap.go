// Package bootstrap makes the bootstrap of one Envoy, or of one client with
// gRPC's own xDS: who it is, where its control planes are and how it proves
// itself to them. All else comes over the stream.
//
// A bootstrap cannot be changed from afar, so it has what later versions of the
// control plane will want of a proxy too; TestWhatABootstrapHas has the list.
//
// The package owns the keys of the node's metadata, and shares with the rest of
// the configuration the names of the static clusters ([resource.ClusterMeshAdmin],
// which the metrics listener sends scrapes to, for one). It reads no files and
// knows nothing of the mesh.
package bootstrap

import (
	"fmt"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds/identity"
)

// The ports that hold where Options leave them 0.
const (
	DefaultOutboundPort = 15001
	DefaultMetricsPort  = 9102
)

// EnvoyVersion is the version of Envoy, MAJOR.MINOR, that configuration is
// generated for and tested with.
const EnvoyVersion = "1.40"

// maxConnections is how many connections an Envoy takes in all. Without a
// limit it warns at its start, and ends when it has no file descriptors left.
const maxConnections = 50_000

// Options describe one Envoy.
type Options struct {
	Service string // which service it is the sidecar of
	NodeID  string // unique in the mesh

	AppPort      uint16 // where the application listens
	AppAddress   string // the IP that it listens at; empty: 127.0.0.1
	MeshPort     uint16 // where the sidecar takes mTLS from its peers
	OutboundPort uint16 // where the application's calls enter, on loopback; 0: [DefaultOutboundPort]
	MetricsPort  uint16 // where Prometheus scrapes; 0: [DefaultMetricsPort]
	Address      string // the IP that mesh and metrics ports are bound to; empty: every one of IPv4
	Version      string // of the application, optional

	// Tags and Meta are what the instance is registered with, beside version and zone.
	Tags []string
	Meta map[string]string

	// Where the proxy is, each optional: as its instance is registered, since
	// Envoy prefers instances that are in the same place in all three.
	Region, Zone, SubZone string

	// AdminSocket is the path of Envoy's admin socket, which only its own user
	// can open. Managed lets it be told there to drain, by a sidecar of ours.
	AdminSocket string
	Managed     bool

	// XDSAddresses are the control planes: HOST:PORT or unix:PATH.
	XDSAddresses []string
	// CAPEM is the root that their certificates must chain to, TrustDomain the
	// one that they must be of (empty: the root's own), TokenFile the path of the
	// file with the proxy's token. Plaintext stands instead of all three.
	CAPEM       []byte
	TrustDomain string
	TokenFile   string
	Plaintext   bool
}

// New returns the whole bootstrap of an Envoy. Two calls with the same options
// return equal messages.
func New(o Options) (*bootstrapv3.Bootstrap, error) {
	if o.OutboundPort == 0 {
		o.OutboundPort = DefaultOutboundPort
	}
	if o.MetricsPort == 0 {
		o.MetricsPort = DefaultMetricsPort
	}
	addresses, err := o.check()
	if err != nil {
		return nil, err
	}
	xds, err := xdsCluster(&o, addresses)
	if err != nil {
		return nil, err
	}
	overload, err := overloadManager()
	if err != nil {
		return nil, err
	}
	node, err := node(&o)
	if err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node:             node,
		Admin:            admin(o.AdminSocket, o.Managed),
		DynamicResources: dynamicResources(),
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Clusters: []*clusterv3.Cluster{xds, adminCluster(o.AdminSocket)},
		},
		LayeredRuntime:  layeredRuntime(),
		OverloadManager: overload,
		HdsConfig:       hdsConfig(o.Plaintext),
		StatsConfig:     statsConfig(),
	}
	addLocality(b, &o)
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return b, nil
}

// node says who the Envoy is. The control plane reads these keys and no others.
func node(o *Options) (*corev3.Node, error) {
	metadata := map[string]any{
		"service":       o.Service,
		"app_port":      int64(o.AppPort),
		"mesh_port":     int64(o.MeshPort),
		"outbound_port": int64(o.OutboundPort),
		"metrics_port":  int64(o.MetricsPort),
	}
	for key, value := range map[string]string{"address": o.Address, "app_address": o.AppAddress, "version": o.Version, "zone": o.Zone} {
		if value != "" {
			metadata[key] = value
		}
	}
	if !o.Plaintext {
		metadata["roots"] = rootIDs(o.CAPEM)
		// What can be checked of its application, by HDS or by who stands beside it.
		metadata["checks"] = "http,tcp"
		if o.Managed {
			metadata["checks"] = "http,tcp,grpc"
		}
	}
	if len(o.Tags) > 0 {
		tags := make([]any, len(o.Tags))
		for i, tag := range o.Tags {
			tags[i] = tag
		}
		metadata["tags"] = tags
	}
	if len(o.Meta) > 0 {
		meta := make(map[string]any, len(o.Meta))
		for k, v := range o.Meta {
			meta[k] = v
		}
		metadata["meta"] = meta
	}
	fields, err := structpb.NewStruct(metadata)
	if err != nil {
		return nil, fmt.Errorf("node metadata: %w", err)
	}
	return &corev3.Node{Id: o.NodeID, Cluster: o.Service, Metadata: fields}, nil
}

// dynamicResources let clusters and listeners come over one delta stream, and
// with it all that those refer to.
func dynamicResources() *bootstrapv3.Bootstrap_DynamicResources {
	return &bootstrapv3.Bootstrap_DynamicResources{
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			// The node is 61 KB, most of it a list of extensions.
			SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{
				TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName: resource.ClusterXDS,
					RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
						// Envoy's own goes to 30 s, which a proxy then stays away
						// after a restart of 12.
						BaseInterval: durationpb.New(250 * time.Millisecond),
						MaxInterval:  durationpb.New(5 * time.Second),
					}},
				}},
			}},
		},
		// Never go on without them: an Envoy that starts before its control
		// plane waits for it.
		CdsConfig: overADS(0),
		LdsConfig: overADS(0),
	}
}

// hdsConfig has the Envoy ask how to check its own application. It comes back twice a
// second where that is refused, whatever the retry policy says. Whoever proves nothing
// is registered nowhere, and has nothing to check.
func hdsConfig(plaintext bool) *corev3.ApiConfigSource {
	if plaintext {
		return nil
	}
	return &corev3.ApiConfigSource{
		ApiType:             corev3.ApiConfigSource_GRPC,
		TransportApiVersion: corev3.ApiVersion_V3,
		GrpcServices: []*corev3.GrpcService{{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: resource.ClusterXDS}},
		}},
	}
}

// overADS has resources come over the one stream. Envoy waits so long for the
// first of them, 0: for ever.
func overADS(wait time.Duration) *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(wait),
	}
}

// runtimeWait bounds how long an Envoy waits for its runtime layer. It asks for
// nothing else meanwhile, and there are control planes that do not answer.
const runtimeWait = time.Second

// layeredRuntime has runtime values come over the stream too: switches and
// shares that take effect without a change of any other resource. It is the one
// layer, so that nothing on the machine overrides what the mesh says.
func layeredRuntime() *bootstrapv3.LayeredRuntime {
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: resource.RuntimeMesh,
		LayerSpecifier: &bootstrapv3.RuntimeLayer_RtdsLayer_{RtdsLayer: &bootstrapv3.RuntimeLayer_RtdsLayer{
			Name:       resource.RuntimeMesh,
			RtdsConfig: overADS(runtimeWait),
		}},
	}}}
}

func overloadManager() (*overloadv3.OverloadManager, error) {
	config, err := pack(&connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: maxConnections})
	if err != nil {
		return nil, err
	}
	return &overloadv3.OverloadManager{ResourceMonitors: []*overloadv3.ResourceMonitor{{
		Name:       "envoy.resource_monitors.global_downstream_max_connections",
		ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: config},
	}}}, nil
}

// pack encodes a message for an Any, always to the same bytes.
func pack(m proto.Message) (*anypb.Any, error) {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return nil, err
	}
	return a, nil
}

// maxRootIDs bounds what the control plane has to keep of a proxy; two are in use while
// a root is replaced.
const maxRootIDs = 8

// rootIDs names the roots that are pinned: no push changes them, so the control plane
// has to know who cannot follow it to another root.
func rootIDs(bundle []byte) string {
	var ids []string
	for _, hash := range identity.HashRoots(bundle) {
		if len(ids) == maxRootIDs {
			break
		}
		ids = append(ids, hash.ID())
	}
	return strings.Join(ids, ",")
}
