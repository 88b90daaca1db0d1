package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"datapunk.dev/controlplane/e2e/harness"
	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
)

const (
	clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	secretType  = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// discoveryClient is an xDS client that asks for what no Envoy would.
type discoveryClient struct {
	conn *grpc.ClientConn
}

// dialDiscovery connects to the control plane over TLS, and checks that it is
// the control plane.
func dialDiscovery(t *testing.T, m *harness.Mesh) *discoveryClient {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(certificateOf(t, m.Plane.CAFile()))
	config := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // no name of the DNS: verified below
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			leaf := s.PeerCertificates[0]
			if len(leaf.URIs) != 1 || leaf.URIs[0].String() != meshID("control-plane") {
				return fmt.Errorf("the xDS port is %v", leaf.URIs)
			}
			_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between})
			return err
		},
	}
	return dialDiscoveryWith(t, m, credentials.NewTLS(config))
}

func dialDiscoveryWith(t *testing.T, m *harness.Mesh, creds credentials.TransportCredentials) *discoveryClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.Plane.XDSAddress(), grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	noError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &discoveryClient{conn: conn}
}

// dialDiscoveryInPlaintext is for a control plane with --xds-plaintext.
func dialDiscoveryInPlaintext(t *testing.T, m *harness.Mesh) *discoveryClient {
	return dialDiscoveryWith(t, m, insecure.NewCredentials())
}

// stream is one xDS stream of either protocol, ADS or SDS.
type discoveryStream struct {
	node *corev3.Node
	send func(typ string, names ...string) error
	recv func() (typ string, resources map[string]*anypb.Any, err error)
}

// open begins a stream of a node, with these authorization headers.
func (c *discoveryClient) open(ctx context.Context, kind string, node *corev3.Node, authorization ...string) (*discoveryStream, error) {
	for _, a := range authorization {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", a)
	}
	s := &discoveryStream{node: node}
	switch kind {
	case "delta ADS", "delta SDS":
		var stream grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
		var err error
		if kind == "delta ADS" {
			stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(c.conn).DeltaAggregatedResources(ctx)
		} else {
			stream, err = secretv3.NewSecretDiscoveryServiceClient(c.conn).DeltaSecrets(ctx)
		}
		if err != nil {
			return nil, err
		}
		s.send = func(typ string, names ...string) error {
			return stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: s.node, TypeUrl: typ, ResourceNamesSubscribe: names})
		}
		s.recv = func() (string, map[string]*anypb.Any, error) {
			r, err := stream.Recv()
			got := make(map[string]*anypb.Any)
			for _, res := range r.GetResources() {
				got[res.GetName()] = res.GetResource()
			}
			return r.GetTypeUrl(), got, err
		}
	case "SotW ADS", "SotW SDS":
		var stream grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
		var err error
		if kind == "SotW ADS" {
			stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(c.conn).StreamAggregatedResources(ctx)
		} else {
			stream, err = secretv3.NewSecretDiscoveryServiceClient(c.conn).StreamSecrets(ctx)
		}
		if err != nil {
			return nil, err
		}
		s.send = func(typ string, names ...string) error {
			return stream.Send(&discoveryv3.DiscoveryRequest{Node: s.node, TypeUrl: typ, ResourceNames: names})
		}
		s.recv = func() (string, map[string]*anypb.Any, error) {
			r, err := stream.Recv()
			got := make(map[string]*anypb.Any)
			for i, res := range r.GetResources() {
				name := fmt.Sprint(i)
				secret := new(tlsv3.Secret)
				if r.GetTypeUrl() == secretType && res.UnmarshalTo(secret) == nil {
					name = secret.GetName()
				}
				got[name] = res
			}
			return r.GetTypeUrl(), got, err
		}
	}
	return s, nil
}

// kinds are all the ways to ask for a secret.
var kinds = []string{"delta ADS", "SotW ADS", "delta SDS", "SotW SDS"}

// nodeOf is the node of a proxy.
func nodeOf(service, id string) *corev3.Node { return &corev3.Node{Id: id, Cluster: service} }

// trustBundle is the secret with the trust bundle, which every proxy may have.
const trustBundle = "ROOTCA"

// demand opens a stream, asks for the secrets, and then for the roots, and
// returns all that came until those did, or how the stream ended. Responses are
// sent in the order of the requests: what has not come then was not given.
func (c *discoveryClient) demand(t *testing.T, kind string, node *corev3.Node, names []string, authorization ...string) (map[string]*tlsv3.Secret, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := c.open(ctx, kind, node, authorization...)
	if err != nil {
		return nil, err
	}
	got := make(map[string]*tlsv3.Secret)
	if err := s.send(secretType, names...); err != nil && !errors.Is(err, io.EOF) {
		return got, err
	}
	again := []string{trustBundle}
	if strings.HasPrefix(kind, "SotW") { // which names all that it wants each time
		again = append(slices.Clone(names), trustBundle)
	}
	if err := s.send(secretType, again...); err != nil && !errors.Is(err, io.EOF) {
		return got, err
	}
	for got[trustBundle] == nil {
		_, resources, err := s.recv()
		if err != nil {
			return got, err
		}
		for _, res := range resources {
			secret := new(tlsv3.Secret)
			noError(t, res.UnmarshalTo(secret))
			got[secret.GetName()] = secret
		}
	}
	return got, nil
}

// ids returns the identities of the certificates among secrets.
func ids(t *testing.T, secrets map[string]*tlsv3.Secret) []string {
	t.Helper()
	var out []string
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		chain := secrets[name].GetTlsCertificate().GetCertificateChain().GetInlineBytes()
		if chain == nil {
			continue
		}
		block, _ := pem.Decode(chain)
		cert, err := x509.ParseCertificate(block.Bytes)
		noError(t, err)
		out = append(out, name+" is "+cert.URIs[0].String())
	}
	return out
}

// token returns the token of a sidecar, as its Envoy shows it.
func tokenOf(t *testing.T, file string) string {
	t.Helper()
	token, err := token.ReadSecretFile(file)
	noError(t, err)
	return "Bearer " + token
}

// forge signs a token with the key of the data directory, changed as the test
// likes: tokens that `controlplane token` would not write.
func forge(t *testing.T, m *harness.Mesh, change func(header map[string]any, claims jwt.MapClaims)) string {
	t.Helper()
	key := privateKeyOf(t, filepath.Join(filepath.Dir(m.Plane.CAFile()), "token-key.pem"))
	genuine, err := sds.OpenTokens(filepath.Dir(m.Plane.CAFile()))
	noError(t, err)
	raw, err := genuine.Mint("nexus", "nexus-1", time.Hour)
	noError(t, err)
	claims := jwt.MapClaims{}
	token, _, err := jwt.NewParser().ParseUnverified(raw, claims)
	noError(t, err)
	change(token.Header, claims)
	changed := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	changed.Header = token.Header
	signed, err := changed.SignedString(key)
	noError(t, err)
	return "Bearer " + signed
}

// refused checks that a stream ended with a code, and that nothing was given.
func refused(t *testing.T, got map[string]*tlsv3.Secret, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%v; want %s", err, want)
	}
	if len(got) > 0 {
		t.Errorf("got %v", slices.Sorted(maps.Keys(got)))
	}
}
