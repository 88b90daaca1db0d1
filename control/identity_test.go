package control

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/sds"
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
			authenticate := Authenticator(tokens, func(err error) { said = err })
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
