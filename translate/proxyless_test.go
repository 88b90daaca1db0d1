package translate

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/xds"

	"datapunk.dev/controlplane/watch"
)

const proxylessFile = `mesh:
  name: proxyless
  security: {mtls: {enabled: %t}, authorization: {enabled: false}}
  policies: {retry: {attempts: 2, timeout: 1s, conditions: [5xx]}}
  services:
    greeter: {protocol: grpc}
    hashed: {load_balancing: {policy: ring_hash, hash_policy: [{header: x-user}]}}
    db: {protocol: tcp}
`

func proxylessView(t *testing.T, mtls bool, port uint16) *View {
	t.Helper()
	profile := Profile{Service: "client", Kind: Proxyless}
	in := Input{
		Mesh: parse(t, fmt.Sprintf(proxylessFile, mtls)),
		Catalog: watch.NewCatalog().Update([]*watch.Service{{Name: "greeter", Instances: []*watch.Instance{
			{ID: "1", Address: netip.MustParseAddr(loopback), Port: port, Weight: 1},
		}}}, nil),
		Fleet: NewFleet(slices.Values([]Profile{profile})),
	}
	if mtls {
		in.Roots = testRoots(t)
	}
	snapshot := Translate(nil, in)
	if len(snapshot.Held) > 0 {
		t.Fatalf("held: %+v", snapshot.Held)
	}
	return snapshot.View(profile)
}

// TestProxylessClientCallsAService has gRPC's own xDS client take the view, and
// call. It refuses more than Envoy does.
func TestProxylessClientCallsAService(t *testing.T) {
	app := listen(t, func(s *grpc.Server) { healthv1.RegisterHealthServer(s, health.NewServer()) })
	view := proxylessView(t, false, app.Port())

	ads := cachev3.NewSnapshotCache(false, cachev3.IDHash{}, nil)
	resources := make(map[string][]types.Resource)
	for kind, set := range view.Sets {
		for r := range set.All() {
			resources[Type(kind).URL()] = append(resources[Type(kind).URL()], decode(t, r, newMessage(r.Type)))
		}
	}
	snapshot, err := cachev3.NewSnapshot("1", resources)
	if err != nil {
		t.Fatal(err)
	}
	if err := ads.SetSnapshot(t.Context(), "client", snapshot); err != nil {
		t.Fatal(err)
	}
	server := listen(t, func(s *grpc.Server) {
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, serverv3.NewServer(t.Context(), ads, nil))
	})

	resolver, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil, `{
		"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "client"}
	}`, server.String()))
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"greeter", "hashed"} {
		conn, err := grpc.NewClient("xds:///"+service, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(resolver))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		if empty := service == "hashed"; (err != nil) != empty {
			t.Errorf("%s: %v", service, err)
		}
	}
}

// TestProxylessClientWithoutCertificates: it could not dial anybody.
func TestProxylessClientWithoutCertificates(t *testing.T) {
	view := proxylessView(t, true, 1)
	for kind, set := range view.Sets {
		if set.Len() > 0 {
			t.Errorf("it is served %d of %s", set.Len(), typeNames[kind])
		}
	}
	if !slices.Equal(view.Missing, []string{noCertificates}) {
		t.Errorf("missing: %q", view.Missing)
	}
}

// listen serves gRPC on loopback until the test ends.
func listen(t *testing.T, register func(*grpc.Server)) netip.AddrPort {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().(*net.TCPAddr).AddrPort()
}
