package translate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	wrrlocalityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/xds"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	svids "datapunk.dev/controlplane/sds"
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

func proxylessView(t *testing.T, mtls bool, port uint16) *sight {
	t.Helper()
	_, view := proxylessSnapshot(t, mtls, &watch.Instance{ID: "1", Address: netip.MustParseAddr(loopback), MeshPort: port, Weight: 1})
	return view
}

func proxylessSnapshot(t *testing.T, mtls bool, greeters ...*watch.Instance) (*Snapshot, *sight) {
	t.Helper()
	profile := resource.Profile{Service: "client", Kind: resource.Proxyless}
	in := Input{
		Mesh:    parse(t, fmt.Sprintf(proxylessFile, mtls)),
		Catalog: watch.NewCatalog().Update([]*watch.Service{{Name: "greeter", Instances: greeters}}, nil),
		Fleet:   resource.NewFleet(profile),
	}
	if mtls {
		in.Roots = testRoots(t)
	}
	snapshot := Translate(nil, in)
	if len(snapshot.Held) > 0 {
		t.Fatalf("held: %+v", snapshot.Held)
	}
	return snapshot, sightOf(snapshot, profile)
}

// TestProxylessClientCallsAService has gRPC's own xDS client take the view, and
// call. It refuses more than Envoy does.
func TestProxylessClientCallsAService(t *testing.T) {
	app := listen(t, insecure.NewCredentials())
	resolver := xdsResolver(t, proxylessView(t, false, app.Port()), "{}")
	for _, service := range []string{"greeter", "hashed"} {
		err := ask(t, service, insecure.NewCredentials(), resolver)
		if empty := service == "hashed"; (err != nil) != empty {
			t.Errorf("%s: %v", service, err)
		}
	}
}

// TestProxylessClientCallsAServiceByName: gRPC takes one name for a cluster, or
// addresses. What it cannot be given is left out, and said.
func TestProxylessClientCallsAServiceByName(t *testing.T) {
	app := listen(t, insecure.NewCredentials())
	byName := func(host string, health watch.Health) *watch.Instance {
		return &watch.Instance{ID: host, Host: host, MeshPort: app.Port(), Weight: 1, Health: health}
	}
	address := &watch.Instance{ID: "address", Address: netip.MustParseAddr(loopback), MeshPort: app.Port(), Weight: 1}
	for _, tt := range []struct {
		what      string
		instances []*watch.Instance
		left      string
	}{
		{"one name", []*watch.Instance{byName("localhost", watch.Passing)}, ""},
		{"a healthy name of two", []*watch.Instance{byName("gone.invalid", watch.Critical), byName("localhost", watch.Passing)}, "gone.invalid"},
		{"an address beside a name", []*watch.Instance{address, byName("gone.invalid", watch.Passing)}, "gone.invalid"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			snapshot, view := proxylessSnapshot(t, false, tt.instances...)
			check(t, view)
			if err := ask(t, "greeter", insecure.NewCredentials(), xdsResolver(t, view, "{}")); err != nil {
				t.Error(err)
			}
			notes := strings.Join(snapshot.Notes, "\n")
			if said := strings.Contains(notes, "do not call "+tt.left+": "); tt.left != "" && !said || tt.left == "" && strings.Contains(notes, "do not call") {
				t.Errorf("notes: %s", notes)
			}
		})
	}
}

// TestProxylessClientTrustsTheServiceAloneNotTheMesh has a server of another
// identity stand where the service should: its certificate is of the mesh.
func TestProxylessClientTrustsTheServiceAloneNotTheMesh(t *testing.T) {
	ca, _, err := svids.Open(t.TempDir(), "proxyless")
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := svids.NewManager(ca, svids.Options{Rotation: time.Hour, TTL: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	client, roots := svidFiles(t, issuer, "client")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(issuer.Roots())
	providers := fmt.Sprintf(`{"default": {"plugin_name": "file_watcher", "config": {
		"certificate_file": %q, "private_key_file": %q, "ca_certificate_file": %q}}}`, client[0], client[1], roots)
	creds, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: insecure.NewCredentials()})
	if err != nil {
		t.Fatal(err)
	}

	for _, identity := range []string{"greeter", "impostor"} {
		t.Run(identity, func(t *testing.T) {
			server, _ := svidFiles(t, issuer, identity)
			pair, err := tls.LoadX509KeyPair(server[0], server[1])
			if err != nil {
				t.Fatal(err)
			}
			app := listen(t, credentials.NewTLS(&tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
			}))
			err = ask(t, "greeter", creds, xdsResolver(t, proxylessView(t, true, app.Port()), providers))
			if (err == nil) != (identity == "greeter") {
				t.Errorf("a call of greeter, where %s answers: %v", identity, err)
			}
			if err != nil && !strings.Contains(err.Error(), "do not match any of the accepted SANs") {
				t.Errorf("refused for another reason: %v", err)
			}
		})
	}
}

// TestProxylessClientMayHaveTheTrustBundle with which somebody else keeps its
// files.
func TestProxylessClientMayHaveTheTrustBundle(t *testing.T) {
	for mtls, want := range map[bool]int{true: 1, false: 0} {
		view := proxylessView(t, mtls, 1)
		check(t, view)
		if secrets := view.Sets[resource.Secret]; secrets.Len() != want || (secrets.Get(resource.SecretRoots) != nil) != mtls {
			t.Errorf("mTLS %t: %d secrets", mtls, secrets.Len())
		}
	}
}

// TestProxylessBalancing: what gRPC does not have becomes what it has.
func TestProxylessBalancing(t *testing.T) {
	header, cookie := []policy.HashPolicy{{Header: "x-user"}}, []policy.HashPolicy{{Cookie: "session"}}
	for _, c := range []struct {
		lb   policy.LoadBalancing
		want []string
	}{
		{policy.LoadBalancing{Policy: "least_request"}, []string{"wrr_locality", "least_request", "round_robin"}},
		{policy.LoadBalancing{Policy: "round_robin"}, []string{"wrr_locality", "round_robin"}},
		{policy.LoadBalancing{Policy: "random"}, []string{"wrr_locality", "round_robin"}},
		{policy.LoadBalancing{Policy: "ring_hash", HashPolicy: header}, []string{"ring_hash"}},
		{policy.LoadBalancing{Policy: "maglev", HashPolicy: header}, []string{"ring_hash"}},
		{policy.LoadBalancing{Policy: "maglev", HashPolicy: cookie}, []string{"wrr_locality", "round_robin"}},
	} {
		var d builder
		var got []string
		names := func(lb *clusterv3.LoadBalancingPolicy) {
			for _, p := range lb.GetPolicies() {
				got = append(got, strings.TrimPrefix(p.TypedExtensionConfig.Name, "envoy.load_balancing_policies."))
			}
		}
		to := destinationsOf(&policy.Service{LoadBalancing: c.lb})[0]
		outer := proxylessBalancing(&d, to.balancing, to.hashesHeader)
		names(outer)
		inner := new(wrrlocalityv3.WrrLocality)
		if any := outer.Policies[0].TypedExtensionConfig.TypedConfig; any.MessageIs(inner) {
			if err := any.UnmarshalTo(inner); err != nil {
				t.Fatal(err)
			}
			names(inner.EndpointPickingPolicy)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.lb, got, c.want)
		}
	}
}

// xdsResolver resolves xds:/// names by a server that has the view.
func xdsResolver(t *testing.T, view *sight, providers string) resolver.Builder {
	t.Helper()
	ads := cachev3.NewSnapshotCache(false, cachev3.IDHash{}, nil)
	resources := make(map[string][]types.Resource)
	for kind, set := range view.Sets {
		for r := range set.All() {
			resources[resource.Type(kind).URL()] = append(resources[resource.Type(kind).URL()], decode(t, r, newMessage(r.Type)))
		}
	}
	snapshot, err := cachev3.NewSnapshot("1", resources)
	if err != nil {
		t.Fatal(err)
	}
	if err := ads.SetSnapshot(t.Context(), "client", snapshot); err != nil {
		t.Fatal(err)
	}
	server := listen(t, insecure.NewCredentials(), func(s *grpc.Server) {
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, serverv3.NewServer(t.Context(), ads, nil))
	})
	built, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil, `{
		"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "client"},
		"certificate_providers": %s
	}`, server.String(), providers))
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// ask makes one call, and waits no longer than it takes to be refused.
func ask(t *testing.T, service string, creds credentials.TransportCredentials, from resolver.Builder) error {
	t.Helper()
	conn, err := grpc.NewClient("xds:///"+service, grpc.WithTransportCredentials(creds), grpc.WithResolvers(from))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return err
}

// svidFiles writes the certificate and the key of a service, and the roots.
func svidFiles(t *testing.T, issuer *svids.Manager, service string) (pair [2]string, roots string) {
	t.Helper()
	lease, err := issuer.Lease(service, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lease.Release)
	certificate, err := lease.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	body, err := certificate.Secret(resource.SecretIdentity)
	if err != nil {
		t.Fatal(err)
	}
	secret := new(tlsv3.Secret)
	if err := proto.Unmarshal(body, secret); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pair, roots = [2]string{filepath.Join(dir, "svid.pem"), filepath.Join(dir, "svid_key.pem")}, filepath.Join(dir, "svid_bundle.pem")
	for path, data := range map[string][]byte{
		pair[0]: secret.GetTlsCertificate().GetCertificateChain().GetInlineBytes(),
		pair[1]: secret.GetTlsCertificate().GetPrivateKey().GetInlineBytes(),
		roots:   issuer.Roots(),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pair, roots
}

// listen serves gRPC on loopback until the test ends: health, if nothing else.
func listen(t *testing.T, creds credentials.TransportCredentials, register ...func(*grpc.Server)) netip.AddrPort {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", loopback+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(creds))
	if len(register) == 0 {
		healthv1.RegisterHealthServer(s, health.NewServer())
	}
	for _, r := range register {
		r(s)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().(*net.TCPAddr).AddrPort()
}
