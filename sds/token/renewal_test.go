package token_test

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/identity"
	"datapunk.dev/controlplane/sds/token"
)

const (
	day         = 24 * time.Hour
	renewMethod = "/controlplane.v1.Tokens/Renew"
)

// open makes the data directory of a control plane.
func open(t *testing.T) (*sds.CA, *token.Authority) {
	t.Helper()
	ca, tokens, err := sds.Open(filepath.Join(t.TempDir(), "data"), "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	return ca, tokens
}

func mint(t *testing.T, tokens *token.Authority, service, node string, life time.Duration) string {
	t.Helper()
	raw, err := tokens.Mint(service, node, life)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// serve runs an xDS port that only renews tokens, and connects to it.
func serve(t *testing.T, tokens *token.Authority, server, client credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(server))
	token.RegisterRenewal(s, tokens, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(client))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestRenewalsThatAreRefused(t *testing.T) {
	ca, tokens := open(t)
	manager, err := sds.NewManager(ca, sds.Options{Rotation: day, TTL: 2 * day})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := x509bundle.Parse(ca.TrustDomain(), ca.Roots())
	if err != nil {
		t.Fatal(err)
	}
	client := tlsconfig.TLSClientConfig(roots, tlsconfig.AuthorizeID(identity.ControlPlaneID(ca.TrustDomain())))
	conn := serve(t, tokens, credentials.NewTLS(manager.ServerTLS()), credentials.NewTLS(client))
	good := mint(t, tokens, "web", "web-1", day)
	for name, headers := range map[string][]string{
		"no token":      {},
		"two tokens":    {"Bearer " + good, "Bearer " + good},
		"no scheme":     {good},
		"another one":   {"Basic " + good},
		"a forged one":  {"Bearer " + good + "x"},
		"an empty one":  {"Bearer "},
		"spelled small": {"bearer " + good},
	} {
		ctx := t.Context()
		for _, h := range headers {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", h)
		}
		err := conn.Invoke(ctx, renewMethod, &emptypb.Empty{}, new(wrapperspb.StringValue))
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoTokenLeavesInTheClear(t *testing.T) {
	_, tokens := open(t)
	conn := serve(t, tokens, insecure.NewCredentials(), insecure.NewCredentials())
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+mint(t, tokens, "web", "web-1", day))
	if err := conn.Invoke(ctx, renewMethod, &emptypb.Empty{}, new(wrapperspb.StringValue)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("error %v", err)
	}
}
