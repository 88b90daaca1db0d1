//go:build component

package bootstrap

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"datapunk.dev/controlplane/internal/tool"
)

// What a bootstrap has for later is of use once a cluster asks for it, and
// changes nothing before. The clusters here are static, as the control plane
// might send them.
func TestEnvoyCanPreferItsOwnZoneAndTellSubsetsApart(t *testing.T) {
	near, far := application(t, "near"), application(t, "far")
	dir := socketDir(t)
	o := sidecar(t, func(o *Options) { o.Region, o.Zone = "eu-1", "eu-1a" })
	settle(t, dir, &o)
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.DynamicResources, b.LayeredRuntime = nil, nil
	forced := &commonv3.LocalityLbConfig_ZoneAwareLbConfig{
		MinClusterSize: wrapperspb.UInt64(1),
		ForceLocalZone: &commonv3.LocalityLbConfig_ZoneAwareLbConfig_ForceLocalZone{MinSize: wrapperspb.UInt32(1)},
	}
	// Six or more: below that Envoy does not look at zones unless it is told to.
	places := map[string][]string{"eu-1a": {near}, "eu-1b": {far, far, far, far, far, far, far}}
	b.StaticResources.Clusters = append(b.StaticResources.Clusters,
		zonedCluster(t, "lake_service", places, nil),
		zonedCluster(t, "lake_service|canary", places, forced),
	)
	var ports tool.Ports
	t.Cleanup(ports.Close)
	port, err := ports.Take()
	if err != nil {
		t.Fatal(err)
	}
	b.StaticResources.Listeners = []*listenerv3.Listener{outboundTo(t, uint16(port), "lake_service", "lake_service|canary")}
	out, err := YAML(b)
	if err != nil {
		t.Fatal(err)
	}
	admin := startFrom(t, dir, out, o.AdminSocket)

	const calls = 80
	for cluster, want := range map[string]struct{ min, max int }{
		"lake_service":        {1, calls / 2}, // one of eight
		"lake_service|canary": {calls, calls},
	} {
		answers := map[string]int{}
		for range calls {
			answers[ask(t, port, cluster)]++
		}
		if n := answers["near"]; n < want.min || n > want.max {
			t.Errorf("%s: the own zone got %d of %d calls, want %d to %d (%v)", cluster, n, calls, want.min, want.max, answers)
		}
	}

	_, metrics := get(t, admin, "/stats/prometheus")
	for _, want := range []string{
		fmt.Sprintf(`envoy_cluster_upstream_rq_total{envoy_cluster_name="lake_service"} %d`, calls),
		fmt.Sprintf(`envoy_cluster_upstream_rq_total{envoy_cluster_name="lake_service|canary",mesh_subset="canary"} %d`, calls),
		`envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="lake_service|canary",mesh_subset="canary",le="300"} `,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %s among the metrics", want)
		}
	}
	if strings.Contains(metrics, "mesh_zone") {
		t.Error("there are statistics of a cluster that nobody calls")
	}
}

// application answers everything with its name.
func application(t *testing.T, name string) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func ask(t *testing.T, port int, host string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = strings.ReplaceAll(host, "|", ".") // no name of a host has a bar
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close() //nolint:errcheck // read only
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func zonedCluster(t *testing.T, name string, places map[string][]string, zones *commonv3.LocalityLbConfig_ZoneAwareLbConfig) *clusterv3.Cluster {
	t.Helper()
	policy := &leastrequestv3.LeastRequest{}
	if zones != nil {
		policy.LocalityLbConfig = &commonv3.LocalityLbConfig{
			LocalityConfigSpecifier: &commonv3.LocalityLbConfig_ZoneAwareLbConfig_{ZoneAwareLbConfig: zones},
		}
	}
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment:       &endpointv3.ClusterLoadAssignment{ClusterName: name},
		LoadBalancingPolicy: &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{{
			TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.load_balancing_policies.least_request", TypedConfig: packed(t, policy)},
		}}},
	}
	for zone, addresses := range places {
		at := &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Region: "eu-1", Zone: zone}}
		for _, a := range addresses {
			host, port, err := net.SplitHostPort(a)
			if err != nil {
				t.Fatal(err)
			}
			var n uint16
			if _, err := fmt.Sscan(port, &n); err != nil {
				t.Fatal(err)
			}
			at.LbEndpoints = append(at.LbEndpoints, endpoint(address{host: host, port: n}))
		}
		c.LoadAssignment.Endpoints = append(c.LoadAssignment.Endpoints, at)
	}
	return c
}

func outboundTo(t *testing.T, port uint16, clusters ...string) *listenerv3.Listener {
	t.Helper()
	routes := &routev3.RouteConfiguration{}
	for _, c := range clusters {
		routes.VirtualHosts = append(routes.VirtualHosts, &routev3.VirtualHost{
			Name: c, Domains: []string{strings.ReplaceAll(c, "|", ".")},
			Routes: []*routev3.Route{{
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c}}},
			}},
		})
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:     "outbound",
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes},
		HttpFilters: []*hcmv3.HttpFilter{{
			Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed(t, &routerv3.Router{})},
		}},
		// A caller's own x-envoy-* headers mean nothing, and Envoy warns where nobody says so.
		InternalAddressConfig: &hcmv3.HttpConnectionManager_InternalAddressConfig{},
	}
	return &listenerv3.Listener{
		Name:    "outbound",
		Address: endpoint(address{host: "127.0.0.1", port: port}).GetEndpoint().GetAddress(),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, manager)},
		}}}},
	}
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := pack(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
