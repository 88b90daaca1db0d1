package xds

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/xds"

	"datapunk.dev/controlplane/resource"

	clusterpb "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointpb "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// grpc-go's own xDS client: SotW, everything by name, and not our code. It
// resolves a service, calls it, and follows it to another instance.
func TestGRPCClient(t *testing.T) {
	s := testServer()
	w := newWorld(s)
	w.profile.Kind = resource.Proxyless
	one, two := backend(t), backend(t)
	w.put(apiListener("lake"), vhost("lake", "1", "lake"), lakeCluster("lake"), lakeEndpoints("lake", "1", one)).publish()
	addr := serveGRPC(t, s)

	bootstrap, err := json.Marshal(map[string]any{
		"xds_servers": []any{map[string]any{
			"server_uri": addr.String(), "channel_creds": []any{map[string]any{"type": "insecure"}}, "server_features": []string{"xds_v3"},
		}},
		"node": map[string]any{"id": "app-1", "cluster": "nexus"},
	})
	if err != nil {
		t.Fatal(err)
	}
	resolver, err := xds.NewXDSResolverWithConfigForTesting(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///lake", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(resolver))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	client := healthpb.NewHealthClient(conn)
	call := func(want net.Addr) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for {
			r, err := client.List(ctx, &healthpb.HealthListRequest{}, grpc.WaitForReady(true))
			if err != nil && strings.Contains(err.Error(), "unknown cluster selected for RPC") {
				// gRPC takes new routes into use a moment before the picker that
				// knows their clusters, whatever order they came in.
				continue
			}
			if err != nil {
				t.Fatalf("%v; %+v", err, s.Proxies())
			}
			if _, ok := r.Statuses[want.String()]; ok {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	call(one)
	w.put(lakeEndpoints("lake", "2", two)).publish()
	call(two)
	w.put(lakeCluster("other"), lakeEndpoints("other", "1", one), vhost("lake", "2", "other")).remove(cds, "lake").publish()
	call(one)

	p := s.Proxies()
	if len(p) != 1 || p[0].Profile.Kind != resource.Proxyless {
		t.Fatalf("%+v", p)
	}
	for name, ts := range p[0].Types {
		if ts.LastNack != nil {
			t.Errorf("%s: %+v", name, ts.LastNack)
		}
	}
}

// backend serves a health service that knows its own address.
func backend(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := health.NewServer()
	h.SetServingStatus(l.Addr().String(), healthpb.HealthCheckResponse_SERVING)
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, h)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr()
}

func apiListener(name string) *resource.Resource {
	return encode(lds, name, "1", &listenerpb.Listener{
		Name: name,
		ApiListener: &listenerpb.ApiListener{ApiListener: pack(&hcmpb.HttpConnectionManager{
			RouteSpecifier: &hcmpb.HttpConnectionManager_Rds{Rds: &hcmpb.Rds{RouteConfigName: name, ConfigSource: ads}},
			HttpFilters: []*hcmpb.HttpFilter{{
				Name: "router", ConfigType: &hcmpb.HttpFilter_TypedConfig{TypedConfig: pack(&routerpb.Router{})},
			}},
		})},
	})
}

func vhost(name, version, cluster string) *resource.Resource {
	return encode(rds, name, version, &routepb.RouteConfiguration{
		Name: name,
		VirtualHosts: []*routepb.VirtualHost{{
			Name: name, Domains: []string{"*"},
			Routes: []*routepb.Route{{
				Match:  &routepb.RouteMatch{PathSpecifier: &routepb.RouteMatch_Prefix{Prefix: ""}},
				Action: &routepb.Route_Route{Route: &routepb.RouteAction{ClusterSpecifier: &routepb.RouteAction_Cluster{Cluster: cluster}}},
			}},
		}},
	}, cds.Ref(cluster))
}

func lakeCluster(name string) *resource.Resource {
	return encode(cds, name, "1", &clusterpb.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterpb.Cluster_Type{Type: clusterpb.Cluster_EDS},
		EdsClusterConfig:     &clusterpb.Cluster_EdsClusterConfig{EdsConfig: ads},
	})
}

func lakeEndpoints(name, version string, to net.Addr) *resource.Resource {
	return encode(eds, name, fmt.Sprint(version), &endpointpb.ClusterLoadAssignment{
		ClusterName: name,
		Endpoints: []*endpointpb.LocalityLbEndpoints{{
			Locality:            &corepb.Locality{Zone: "a"},
			LoadBalancingWeight: wrapperspb.UInt32(1),
			LbEndpoints: []*endpointpb.LbEndpoint{{
				HostIdentifier: &endpointpb.LbEndpoint_Endpoint{Endpoint: &endpointpb.Endpoint{Address: address(to.(*net.TCPAddr).Port)}},
			}},
		}},
	})
}
