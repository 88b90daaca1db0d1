package xds

import (
	"context"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/resource"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(fleetVariable); spec != "" {
		beFleet(spec)
		return
	}
	goleak.VerifyTestMain(m)
}

// serveGRPC serves on loopback until the test ends.
func serveGRPC(t testing.TB, s *Server, options ...grpc.ServerOption) net.Addr {
	t.Helper()
	g := grpc.NewServer(append(s.ServerOptions(), options...)...)
	s.Register(g)
	healthpb.RegisterHealthServer(g, health.NewServer()) // another service, through the same codec
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	t.Cleanup(func() {
		s.Drain()
		g.GracefulStop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr()
}

func dial(t testing.TB, addr net.Addr, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr.String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// The same exchange over a real transport: plaintext and TLS, both protocols.
func TestOverGRPC(t *testing.T) {
	serverTLS, clientTLS := throwAway()
	for _, tt := range []struct {
		name   string
		server credentials.TransportCredentials
		client credentials.TransportCredentials
	}{
		{"plaintext", insecure.NewCredentials(), insecure.NewCredentials()},
		{"TLS", serverTLS, clientTLS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testServer()
			w := newWorld(s, cluster("a", "1"), endpoint("a", "1"))
			w.publish()
			conn := dial(t, serveGRPC(t, s, grpc.Creds(tt.server)), tt.client)
			node := &corepb.Node{Id: "n", Cluster: "nexus"}

			ads, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := ads.Send(&discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: cds.URL()}); err != nil {
				t.Fatal(err)
			}
			m, err := ads.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got := summary(m); got != "cluster a@1" {
				t.Errorf("got %s", got)
			}

			only, err := clusterservice.NewClusterDiscoveryServiceClient(conn).StreamClusters(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if err := only.Send(&discovery.DiscoveryRequest{Node: node}); err != nil {
				t.Fatal(err)
			}
			r, err := only.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if got := sotwSummary(t, r); got != "cluster a@1" {
				t.Errorf("got %s", got)
			}

			_, err = clusterservice.NewClusterDiscoveryServiceClient(conn).FetchClusters(t.Context(), &discovery.DiscoveryRequest{Node: node})
			if status.Code(err) != codes.Unimplemented {
				t.Errorf("a unary fetch: %v", err)
			}
			if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
				t.Errorf("another service on the same port: %v", err)
			}
		})
	}
}

// Bodies above and below the limit for copying arrive as they are, in order.
func TestLargeBodiesAreShared(t *testing.T) {
	s := testServer()
	var all []*resource.Resource
	for i := range 40 {
		r := cluster(string(rune('A'+i)), "1")
		if i%3 == 0 {
			r.Body = append(r.Body, 0xfa, 0x3f) // field 1023, bytes
			r.Body = append(r.Body, 0x80, 0x20) // of 4096
			r.Body = append(r.Body, make([]byte, 4096)...)
		}
		all = append(all, r)
	}
	newWorld(s, all...).publish()
	conn := dial(t, serveGRPC(t, s), insecure.NewCredentials())
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := ads.Send(&discovery.DeltaDiscoveryRequest{Node: &corepb.Node{Id: "n", Cluster: "nexus"}, TypeUrl: cds.URL()}); err != nil {
		t.Fatal(err)
	}
	m, err := ads.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Resources) != len(all) {
		t.Fatalf("%d resources", len(m.Resources))
	}
	for i, r := range m.Resources {
		if r.Name != all[i].Name || string(r.Resource.Value) != string(all[i].Body) {
			t.Errorf("resource %d is %s with %d bytes", i, r.Name, len(r.Resource.Value))
		}
	}
}

// Many streams, many changes, connections that come and go: every client ends
// with the newest state.
func TestManyStreams(t *testing.T) {
	s := testServer()
	w := newWorld(s, cluster("a", "1"), endpoint("a", "0"))
	w.publish()
	conn := dial(t, serveGRPC(t, s), insecure.NewCredentials())
	const last = "last"
	var clients sync.WaitGroup
	for i := range 50 {
		clients.Go(func() {
			for attempt := 0; ; attempt++ {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				got, err := follow(ctx, conn, i, last, attempt == 0 && i%2 == 0)
				cancel()
				if err != nil {
					t.Error(err)
				}
				if got == last || err != nil {
					return
				}
			}
		})
	}
	for i := range 200 {
		w.put(endpoint("a", string(rune('a'+i)))).publish()
		time.Sleep(100 * time.Microsecond)
	}
	w.put(endpoint("a", last)).publish()
	clients.Wait()
}

// follow acknowledges changes of assignment a until it has the version last,
// or for a few, and returns the version it has.
func follow(ctx context.Context, conn *grpc.ClientConn, id int, last string, leave bool) (string, error) {
	ads, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return "", err
	}
	err = ads.Send(&discovery.DeltaDiscoveryRequest{
		Node:    &corepb.Node{Id: string(rune('A' + id)), Cluster: "nexus"},
		TypeUrl: eds.URL(), ResourceNamesSubscribe: []string{"a"},
	})
	if err != nil {
		return "", err
	}
	for n := 0; ; n++ {
		m, err := ads.Recv()
		if err != nil {
			return "", err
		}
		version := m.Resources[0].Version
		if version == last || leave && n == 3 {
			return version, nil
		}
		if err := ads.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: eds.URL(), ResponseNonce: m.Nonce}); err != nil {
			return "", err
		}
	}
}
