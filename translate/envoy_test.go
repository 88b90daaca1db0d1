//go:build component

package translate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/internal/tool"
	"datapunk.dev/controlplane/resource"
)

func TestEnvoyAcceptsEveryCase(t *testing.T) { eachSight(t, validate) }

// validate has Envoy construct everything in the view, and fails the test for
// whatever it refuses or warns of. ValidateAll cannot know what constructors
// check; this can.
func validate(t *testing.T, v *sight) {
	t.Helper()
	config, err := protojson.Marshal(staticBootstrap(t, v))
	if err != nil {
		t.Fatal(err)
	}
	if err := tool.EnvoyAccepts(t.Context(), config); err != nil {
		t.Errorf("the view of %+v: %v", v.Profile, err)
	}
}

// staticBootstrap is a bootstrap with all resources of a view in it: routes
// and assignments inlined, so that Envoy looks at them too.
func staticBootstrap(t *testing.T, v *sight) *bootstrapv3.Bootstrap {
	t.Helper()
	b := &bootstrapv3.Bootstrap{
		Node: &corev3.Node{Id: "test", Cluster: v.Profile.Service},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{AdsConfig: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: resource.ClusterXDS},
			}}},
		}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Clusters: []*clusterv3.Cluster{bootstrapCluster(t, resource.ClusterXDS, http2), bootstrapCluster(t, resource.ClusterMeshAdmin, http1)},
		},
	}
	static := b.StaticResources
	for r := range v.Sets[resource.Cluster].All() {
		c := decode(t, r, &clusterv3.Cluster{})
		if a := v.Sets[resource.Endpoint].Get(r.Name); a != nil && c.GetType() == clusterv3.Cluster_EDS {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
			c.EdsClusterConfig = nil
			c.LoadAssignment = decode(t, a, &endpointv3.ClusterLoadAssignment{})
		}
		static.Clusters = append(static.Clusters, c)
	}
	static.Secrets = []*tlsv3.Secret{identitySecret(t)}
	for r := range v.Sets[resource.Secret].All() {
		static.Secrets = append(static.Secrets, decode(t, r, &tlsv3.Secret{}))
	}
	for r := range v.Sets[resource.Listener].All() {
		l := decode(t, r, &listenerv3.Listener{})
		for _, chain := range l.FilterChains {
			for _, f := range chain.Filters {
				inlineRoutes(t, v, f)
			}
		}
		static.Listeners = append(static.Listeners, l)
	}
	// Envoy 1.40 crashes when it validates a secret of ADS.
	rewrite(t, b.ProtoReflect(), func(m proto.Message) {
		if s, ok := m.(*tlsv3.SdsSecretConfig); ok {
			s.SdsConfig = nil
		}
	})
	return b
}

// identitySecret is the secret that sds makes for each proxy.
func identitySecret(t *testing.T) *tlsv3.Secret {
	t.Helper()
	certificate, key := certificate(t)
	return &tlsv3.Secret{Name: resource.SecretIdentity, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(certificate), PrivateKey: inline(key),
	}}}
}

// certificate is one that signs itself, and its key, in PEM.
func certificate(t testing.TB) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Host: "datapunk", Path: "/test"}},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func inlineRoutes(t *testing.T, v *sight, f *listenerv3.Filter) {
	t.Helper()
	manager := &hcmv3.HttpConnectionManager{}
	if f.GetTypedConfig().UnmarshalTo(manager) != nil {
		return
	}
	routes := func(name string) *routev3.RouteConfiguration {
		r := v.Sets[resource.Route].Get(name)
		if r == nil {
			t.Fatalf("no route configuration %s", name)
		}
		return decode(t, r, &routev3.RouteConfiguration{})
	}
	switch {
	case manager.GetRds() != nil:
		manager.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes(manager.GetRds().RouteConfigName)}
	case manager.GetScopedRoutes() != nil:
		// A list cannot be empty.
		all := []*routev3.ScopedRouteConfiguration{{
			Name: "none", RouteConfiguration: &routev3.RouteConfiguration{Name: "none"},
			Key: &routev3.ScopedRouteConfiguration_Key{Fragments: []*routev3.ScopedRouteConfiguration_Key_Fragment{{
				Type: &routev3.ScopedRouteConfiguration_Key_Fragment_StringKey{StringKey: "none"},
			}}},
		}}
		for r := range v.Sets[resource.ScopedRoute].All() {
			scope := decode(t, r, &routev3.ScopedRouteConfiguration{})
			scope.RouteConfiguration, scope.RouteConfigurationName = routes(scope.RouteConfigurationName), ""
			all = append(all, scope)
		}
		scopes := manager.GetScopedRoutes()
		scopes.RdsConfigSource = nil
		scopes.ConfigSpecifier = &hcmv3.ScopedRoutes_ScopedRouteConfigurationsList{
			ScopedRouteConfigurationsList: &hcmv3.ScopedRouteConfigurationsList{ScopedRouteConfigurations: all},
		}
	}
	for _, filter := range manager.GetHttpFilters() {
		if r := v.Sets[resource.Extension].Get(filter.GetName()); r != nil && filter.GetConfigDiscovery() != nil {
			filter.ConfigType = &hcmv3.HttpFilter_TypedConfig{TypedConfig: decode(t, r, &corev3.TypedExtensionConfig{}).TypedConfig}
		}
	}
	packed, err := anypb.New(manager)
	if err != nil {
		t.Fatal(err)
	}
	f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed}
}

func bootstrapCluster(t *testing.T, name string, mode httpMode) *clusterv3.Cluster {
	t.Helper()
	var d builder
	options := httpOptions(&d, newCompiler(&globals{}), mode, responseAtCaller, time.Minute)
	if len(d.errs) > 0 {
		t.Fatal(d.errs)
	}
	return &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment:                fixedAssignment(name, loopback, 1),
		TypedExtensionProtocolOptions: options,
	}
}
