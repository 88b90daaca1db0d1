package bootstrap

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds/token"
)

// connectTimeout has room for the TLS handshakes of a whole fleet that comes back
// at once, and is short enough to find another control plane soon.
const connectTimeout = 3 * time.Second

// xdsCluster holds the control planes. They are equals, so they stand in one
// priority and each Envoy begins at a random one: the fleet spreads over them,
// and loses only one's share when that one goes. Priorities would send all
// proxies to the first and let the second get them all at once.
func xdsCluster(o *Options, addresses []address) (*clusterv3.Cluster, error) {
	c := &clusterv3.Cluster{
		Name:                 resource.ClusterXDS,
		ConnectTimeout:       durationpb.New(connectTimeout),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: resource.ClusterXDS,
			Endpoints:   []*endpointv3.LocalityLbEndpoints{{}},
		},
	}
	if slices.ContainsFunc(addresses, func(a address) bool { return a.isName }) {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
	}
	locality := c.LoadAssignment.Endpoints[0]
	for _, a := range addresses {
		locality.LbEndpoints = append(locality.LbEndpoints, endpoint(a))
	}

	options := &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
				// Notices a control plane that is gone without a word. Not more
				// often than the server's enforcement policy allows.
				ConnectionKeepalive: &corev3.KeepaliveSettings{
					Interval: durationpb.New(30 * time.Second),
					Timeout:  durationpb.New(5 * time.Second),
				},
			}},
		}},
	}
	if !o.Plaintext {
		filters, err := tokenFilters(o.TokenFile)
		if err != nil {
			return nil, err
		}
		options.HttpFilters = filters
		if c.TransportSocket, err = transportSocket(o); err != nil {
			return nil, err
		}
	}
	packed, err := pack(options)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", resource.ClusterXDS, err)
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed}
	return c, nil
}

func endpoint(a address) *endpointv3.LbEndpoint {
	where := &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       a.host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.port)},
	}}}
	if a.socket != "" {
		where = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: a.socket}}}
	}
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: where}}}
}

// tokenFilters put the token of a file into the authorization header of each
// new stream. Envoy follows the file when it is replaced by a rename, and shows
// the token in no dump, as it would initial metadata.
func tokenFilters(file string) ([]*hcmv3.HttpFilter, error) {
	generic, err := pack(&genericv3.Generic{
		Header: "authorization",
		Credential: &tlsv3.SdsSecretConfig{
			Name: token.SecretName,
			SdsConfig: &corev3.ConfigSource{
				ResourceApiVersion: corev3.ApiVersion_V3,
				ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{
					Path:             file,
					WatchedDirectory: &corev3.WatchedDirectory{Path: filepath.Dir(file)},
				}},
			},
		},
	})
	if err != nil {
		return nil, err
	}
	injector, err := pack(&injectorv3.CredentialInjector{
		Overwrite:  true,
		Credential: &corev3.TypedExtensionConfig{Name: "envoy.http.injected_credentials.generic", TypedConfig: generic},
	})
	if err != nil {
		return nil, err
	}
	codec, err := pack(&codecv3.UpstreamCodec{})
	if err != nil {
		return nil, err
	}
	filter := func(name string, config *anypb.Any) *hcmv3.HttpFilter {
		return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
	}
	return []*hcmv3.HttpFilter{
		filter("envoy.filters.http.credential_injector", injector),
		filter("envoy.filters.http.upstream_codec", codec),
	}, nil
}

// transportSocket trusts one root, and of all its certificates only the
// control plane's.
func transportSocket(o *Options) (*corev3.TransportSocket, error) {
	config, err := pack(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		// Envoy's own maximum for a client is TLS 1.2.
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(o.CAPEM)}},
			MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
				SanType: tlsv3.SubjectAltNameMatcher_URI,
				Matcher: exact("spiffe://" + o.TrustDomain + "/" + resource.ControlPlane),
			}},
		}},
	}})
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: config},
	}, nil
}
