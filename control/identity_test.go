package control

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/xds"
)

// The log says where the client is and what is wrong with its token; the client
// is told neither.
func TestARefusedClientIsKnownByItsAddress(t *testing.T) {
	_, tokens, err := sds.Open(t.TempDir(), "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string]metadata.MD{
		"no token":    nil,
		"a wrong one": metadata.Pairs("authorization", "Bearer e30.e30.secret"),
	} {
		t.Run(name, func(t *testing.T) {
			var said error
			authenticate := newAuthenticator(tokens, func(err error) { said = err })
			ctx := peer.NewContext(context.Background(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 4711}})
			_, err := authenticate(metadata.NewIncomingContext(ctx, header))
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("error %v, want Unauthenticated", err)
			}
			if said == nil || !strings.HasPrefix(said.Error(), "10.0.0.9:4711: ") || strings.Contains(said.Error(), "secret") {
				t.Errorf("the log says %v, want the address, and nothing of the token", said)
			}
		})
	}
}

// What is said of a secret is said of the certificate that is in it. That a
// renewal in between changes nothing is tested where renewals are, in sds.
func TestASecretAndWhatIsSaidOfItAreOneCertificate(t *testing.T) {
	ca, _, err := sds.Open(t.TempDir(), "datapunk")
	if err != nil {
		t.Fatal(err)
	}
	m, err := sds.NewManager(ca, sds.Options{Rotation: time.Hour, TTL: 2 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	l, err := newIssuer(m).Lease("web", "web-1", func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	for _, name := range []string{"default", "spiffe://datapunk/web"} {
		secret, err := l.Secret(name)
		if err != nil {
			t.Fatal(err)
		}
		message := &tlsv3.Secret{}
		if err := proto.Unmarshal(secret.Body, message); err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(message.GetTlsCertificate().GetCertificateChain().GetInlineBytes())
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		serial := hex.EncodeToString(cert.SerialNumber.Bytes())
		if secret.Serial != serial || !strings.HasSuffix(secret.Version, "."+serial) || !cert.NotAfter.Equal(secret.Expires.Truncate(time.Second)) {
			t.Errorf("the body is of %s until %s, said to be %s of %s until %s", serial, cert.NotAfter, secret.Version, secret.Serial, secret.Expires)
		}
	}
	if _, err := l.Secret("spiffe://datapunk/lake"); !errors.Is(err, xds.ErrNoSecret) {
		t.Errorf("another's: %v", err)
	}
}
