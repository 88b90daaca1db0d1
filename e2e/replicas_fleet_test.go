package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/structpb"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
)

// standIns are proxies that are no Envoys: each has an address, a token and a connection
// of its own, asks for what an Envoy asks for, acknowledges all of it, and looks for
// another control plane as an Envoy does when its stream ends.
type standIns struct {
	addresses []string // of the control planes
	tls       *tls.Config
	all       []*standIn

	connected atomic.Int64 // streams on which all was subscribed to
	sentAgain atomic.Int64 // resources to proxies that had all of them
	streams   atomic.Int64
}

type standIn struct {
	node   *corev3.Node
	token  string
	dialer net.Dialer
	// have is the version of each resource, by type.
	have map[string]map[string]string
}

// startStandIns starts n proxies of the service, until the test ends.
func startStandIns(t testing.TB, dataDir string, addresses []string, service string, n int) *standIns {
	t.Helper()
	tokens, err := sds.OpenTokens(dataDir)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(dataDir + "/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	f := &standIns{addresses: addresses, tls: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{"h2"}}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	for i := range n {
		ip := fmt.Sprintf("127.1.%d.%d", i/250, i%250+1)
		p := &standIn{
			dialer: net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}, have: make(map[string]map[string]string),
			node: &corev3.Node{Id: fmt.Sprint("stand-in-", i), Cluster: service, Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
				"address":  structpb.NewStringValue(ip),
				"app_port": structpb.NewNumberValue(8080), "mesh_port": structpb.NewNumberValue(20000), "outbound_port": structpb.NewNumberValue(15001),
			}}},
		}
		if p.token, err = tokens.Mint(service, p.node.Id, 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		f.all = append(f.all, p)
		running.Go(func() {
			time.Sleep(rand.N(time.Duration(n) * time.Second / 300)) // 300 a second
			f.live(ctx, p)
		})
	}
	return f
}

// live has the proxy connected to one control plane after the other.
func (f *standIns) live(ctx context.Context, p *standIn) {
	next := rand.IntN(len(f.addresses))
	for failures := 0; ctx.Err() == nil; {
		if f.stream(ctx, p, f.addresses[next]) {
			failures = 0
		}
		next = (next + 1) % len(f.addresses)
		// Envoy waits for a random part of 500 ms, 1 s, 2 s … 30 s.
		most := min(30*time.Second, 500*time.Millisecond<<min(failures, 6))
		failures++
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(most)):
		}
	}
}

// stream is one stream to its end. It reports whether it was served.
func (f *standIns) stream(ctx context.Context, p *standIn, address string) (served bool) {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(f.tls)), grpc.WithNoProxy(),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return p.dialer.DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(token.NewContext(ctx, p.token))
	if err != nil {
		return false
	}
	f.streams.Add(1)
	again := len(p.have) > 0
	whole := len(p.have[resource.Secret.URL()]) == 2 && len(p.have[resource.Listener.URL()]) > 0 // these come last
	asked := 0
	counted := false
	defer func() {
		if counted {
			f.connected.Add(-1)
		}
	}()
	node := p.node
	ask := func(t resource.Type, names ...string) {
		_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: t.URL(), ResourceNamesSubscribe: names, InitialResourceVersions: p.have[t.URL()]})
		node = nil
		if asked++; asked == 4 {
			counted = true
			f.connected.Add(1)
		}
	}
	names := func(t resource.Type) (all []string) {
		for name := range p.have[t.URL()] {
			all = append(all, name)
		}
		slices.Sort(all)
		return all
	}
	if again { // as an Envoy: all that it has, at once
		ask(resource.Cluster)
		ask(resource.Endpoint, names(resource.Endpoint)...)
		ask(resource.Secret, resource.SecretIdentity, resource.SecretRoots)
		ask(resource.Listener)
	} else {
		ask(resource.Cluster)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return counted
		}
		if whole {
			f.sentAgain.Add(int64(len(m.Resources) + len(m.RemovedResources)))
		}
		have := p.have[m.TypeUrl]
		if have == nil {
			have = make(map[string]string)
			p.have[m.TypeUrl] = have
		}
		for _, r := range m.Resources {
			have[r.Name] = r.Version
		}
		for _, name := range m.RemovedResources {
			delete(have, name)
		}
		_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce})
		if asked == 1 {
			ask(resource.Endpoint, names(resource.Cluster)...)
			ask(resource.Secret, resource.SecretIdentity, resource.SecretRoots)
			ask(resource.Listener)
		}
	}
}
