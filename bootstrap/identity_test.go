//go:build component

package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	echov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/echo/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
)

const (
	clusterURL  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	listenerURL = "type.googleapis.com/envoy.config.listener.v3.Listener"
	secretURL   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// identityServer is just enough of a control plane to hand an Envoy one
// listener, whose certificate comes from a lease.
type identityServer struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	tokens   *token.Authority
	manager  *sds.Manager
	listener *listenerv3.Listener

	streams chan token.Claims // one for each stream that proved itself
	refused atomic.Int64
	hangUp  chan struct{} // ends a stream
	nacks   chan string
}

func (s *identityServer) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	raw, err := token.FromContext(stream.Context())
	if err != nil {
		s.refused.Add(1)
		return err
	}
	claims, err := s.tokens.Verify(raw)
	if err != nil {
		s.refused.Add(1)
		return err
	}
	s.streams <- claims
	rotated := make(chan struct{}, 1)
	lease, err := s.manager.Lease(claims.Service, func() { rotated <- struct{}{} })
	if err != nil {
		return err
	}
	defer lease.Release()

	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	go func() {
		defer close(requests)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	for {
		var err error
		select {
		case <-s.hangUp:
			return errors.New("hung up")
		case <-rotated:
			err = s.sendSecret(stream, lease)
		case r, ok := <-requests:
			switch {
			case !ok:
				return nil
			case r.GetErrorDetail() != nil:
				s.nacks <- r.GetErrorDetail().GetMessage()
			case r.GetResponseNonce() != "": // acknowledged
			case r.GetTypeUrl() == clusterURL:
				err = stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: clusterURL, Nonce: "c"})
			case r.GetTypeUrl() == listenerURL:
				body, packErr := pack(s.listener)
				if packErr != nil {
					return packErr
				}
				err = stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: listenerURL, Nonce: "l", Resources: []*discoveryv3.Resource{{Name: s.listener.GetName(), Version: "1", Resource: body}}})
			case r.GetTypeUrl() == secretURL && len(r.GetResourceNamesSubscribe()) > 0:
				if held := r.GetInitialResourceVersions()["default"]; held == "" || !lease.Adopt(held) {
					err = s.sendSecret(stream, lease)
				}
			}
		}
		if err != nil {
			return err
		}
	}
}

func (s *identityServer) sendSecret(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer, lease *sds.Lease) error {
	certificate, err := lease.Certificate()
	if err != nil {
		return err
	}
	body, err := certificate.Secret("default")
	if err != nil {
		return err
	}
	return stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: secretURL, Nonce: "s", Resources: []*discoveryv3.Resource{{
		Name: "default", Version: certificate.Version(), Resource: &anypb.Any{TypeUrl: secretURL, Value: body},
	}}})
}

// serveIdentity runs such a control plane with TLS and returns its address.
func serveIdentity(t *testing.T, ca *sds.CA, tokens *token.Authority, listener *listenerv3.Listener) (*identityServer, string) {
	t.Helper()
	manager, err := sds.NewManager(ca, sds.Options{Rotation: time.Hour, TTL: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	s := &identityServer{
		tokens: tokens, manager: manager, listener: listener,
		streams: make(chan token.Claims, 100), hangUp: make(chan struct{}), nacks: make(chan string, 100),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(manager.ServerTLS())))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, 2)
	go func() { _ = server.Serve(l); done <- struct{}{} }()
	go func() { _ = manager.Run(ctx); done <- struct{}{} }()
	t.Cleanup(func() { server.Stop(); cancel(); <-done; <-done })
	return s, l.Addr().String()
}

// echoListener answers TLS with the certificate called default.
func echoListener(t *testing.T, port uint32) *listenerv3.Listener {
	t.Helper()
	must := func(m proto.Message) *anypb.Any {
		a, err := pack(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	return &listenerv3.Listener{
		Name: "inbound",
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: "127.0.0.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}},
		FilterChains: []*listenerv3.FilterChain{{
			Filters: []*listenerv3.Filter{{Name: "envoy.filters.network.echo", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: must(&echov3.Echo{})}}},
			TransportSocket: &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: must(&tlsv3.DownstreamTlsContext{
				CommonTlsContext: &tlsv3.CommonTlsContext{TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{
					Name: "default",
					SdsConfig: &corev3.ConfigSource{
						ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
						ResourceApiVersion:    corev3.ApiVersion_V3,
						InitialFetchTimeout:   durationpb.New(0),
					},
				}}},
			})}},
		}},
	}
}

func freePort(t *testing.T) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // only its number was wanted
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// runEnvoy starts Envoy with a token for the node and returns its admin
// interface and the token's file.
func runEnvoy(t *testing.T, o Options, raw string) (*http.Client, string) {
	t.Helper()
	dir := socketDir(t)
	o.TokenFile = filepath.Join(dir, "token")
	if err := token.WriteSecretFile(o.TokenFile, raw); err != nil {
		t.Fatal(err)
	}
	o.AdminSocket = filepath.Join(dir, "admin.sock")
	return start(t, dir, o, "gRPC config stream to xds closed"), o.TokenFile
}

func next(t *testing.T, streams <-chan token.Claims) token.Claims {
	t.Helper()
	select {
	case c := <-streams:
		return c
	case <-time.After(15 * time.Second):
		t.Fatal("no stream")
		return token.Claims{}
	}
}

// shownBy returns the certificate that a peer of the listener sees.
func shownBy(t *testing.T, port uint32, roots []byte) *x509.Certificate {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(roots)
	deadline := time.Now().Add(15 * time.Second)
	for {
		conn, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{
			InsecureSkipVerify: true, // there is no host name in it; the chain is verified below
			MinVersion:         tls.VersionTLS12,
		})
		if err != nil {
			if time.Now().After(deadline) {
				t.Fatalf("the listener does not come up: %v", err)
			}
			time.Sleep(20 * time.Millisecond)
			continue
		}
		chain := conn.ConnectionState().PeerCertificates
		_ = conn.Close()
		intermediates := x509.NewCertPool()
		for _, c := range chain[1:] {
			intermediates.AddCert(c)
		}
		if _, err := chain[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Fatal(err)
		}
		return chain[0]
	}
}

func TestEnvoyProvesItselfAndServesItsSVID(t *testing.T) {
	ca, tokens, err := sds.Open(filepath.Join(t.TempDir(), "data"), "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	server, address := serveIdentity(t, ca, tokens, echoListener(t, port))
	mint := func() string {
		raw, err := tokens.Mint("lake_service", "lake-1", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	admin, tokenFile := runEnvoy(t, sidecar(t, func(o *Options) {
		// The first is down: Envoy goes on to the next.
		o.CAPEM, o.XDSAddresses = ca.Roots(), []string{"127.0.0.1:1", address}
	}), mint())

	first := next(t, server.streams)
	if first.Service != "lake_service" || first.Node != "lake-1" {
		t.Errorf("it proved to be %+v", first)
	}
	svid := shownBy(t, port, ca.Roots())
	if got := svid.URIs[0].String(); got != "spiffe://datapunk/lake_service" {
		t.Errorf("its peers see %s", got)
	}
	// This control plane knows nothing of runtime layers, as those of before:
	// Envoy has waited for a second, once, and gone on.
	if _, body := get(t, admin, "/stats?filter=init_fetch_timeout"); !strings.Contains(body, "runtime.init_fetch_timeout: 1") || strings.Count(body, ": 0\n") != strings.Count(body, "\n")-1 {
		t.Errorf("fetches that it waited for in vain:\n%s", body)
	}

	// A new rotation reaches the listener through the one secret.
	if err := server.manager.SetLifetimes(4*time.Second, time.Minute); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(15 * time.Second)
	for shownBy(t, port, ca.Roots()).SerialNumber.Cmp(svid.SerialNumber) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("its peers never see another serial number")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := server.manager.SetLifetimes(time.Hour, 2*time.Hour); err != nil {
		t.Fatal(err)
	}

	// The next stream carries the token that lies in the file by then.
	if err := token.WriteSecretFile(tokenFile, mint()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // Envoy has seen the rename
	// A renewal that fell due before the lifetimes became longer may be under way.
	issued := server.manager.Stats().Issued
	for last := issued - 1; last != issued; issued = server.manager.Stats().Issued {
		last = issued
		time.Sleep(time.Second)
	}
	server.hangUp <- struct{}{}
	if second := next(t, server.streams); second.ID == first.ID {
		t.Error("it came back with the old token")
	}
	shownBy(t, port, ca.Roots())
	time.Sleep(200 * time.Millisecond) // it has asked for its secret again
	if now := server.manager.Stats().Issued; now != issued {
		t.Errorf("%d certificates were issued for a proxy that has one", now-issued)
	}
	select {
	case nack := <-server.nacks:
		t.Errorf("NACK: %s", nack)
	default:
	}
}

func TestEnvoyTellsItsTokenToNobodyElse(t *testing.T) {
	ca, tokens, err := sds.Open(filepath.Join(t.TempDir(), "data"), "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	server, address := serveIdentity(t, ca, tokens, echoListener(t, freePort(t)))
	raw, err := tokens.Mint("lake_service", "lake-1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"another root":         func(*Options) {}, // the test's, not the server's
		"another trust domain": func(o *Options) { o.CAPEM, o.TrustDomain = ca.Roots(), "elsewhere" },
	} {
		t.Run(name, func(t *testing.T) {
			admin, _ := runEnvoy(t, sidecar(t, func(o *Options) {
				o.XDSAddresses = []string{address}
				change(o)
			}), raw)
			deadline := time.Now().Add(10 * time.Second)
			for {
				_, stats := get(t, admin, "/stats?filter=cluster.xds.ssl.fail_verify_(error|san)")
				if !strings.Contains(stats, "fail_verify_error: 0") || !strings.Contains(stats, "fail_verify_san: 0") {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("no handshake failed:\n%s", stats)
				}
				time.Sleep(50 * time.Millisecond)
			}
			if n := len(server.streams) + int(server.refused.Load()); n != 0 {
				t.Errorf("%d streams came through", n)
			}
		})
	}
}
