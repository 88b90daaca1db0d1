package xds

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// TestOneMethodIsForWhoHasNoCredentialYet: its handler finds out who calls, and
// has to answer before the body is there. Everything else stays closed.
func TestOneMethodIsForWhoHasNoCredentialYet(t *testing.T) {
	s := testServer(func(o *Options) {
		o.Authenticate = func(context.Context) (Credential, error) { return Credential{}, errors.New("nobody has one") }
		o.Joins = []string{"/test.Joins/Join"}
	})
	answer := func(name string) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, _ func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			return intercept(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/test.Joins/" + name}, func(context.Context, any) (any, error) { return new(emptypb.Empty), nil })
		}}
	}
	server := grpc.NewServer(s.ServerOptions()...)
	s.Register(server)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Joins", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{answer("Join"), answer("Other")},
	}, new(any))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }()
	defer func() { server.Stop(); <-served }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // nothing is in flight
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := conn.Invoke(ctx, "/test.Joins/Join", new(emptypb.Empty), new(emptypb.Empty)); err != nil {
		t.Errorf("Join: %v", err)
	}
	if err := conn.Invoke(ctx, "/test.Joins/Other", new(emptypb.Empty), new(emptypb.Empty)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Other: %v", err)
	}
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("ADS: %v", err)
	}
	// A body that never ends holds nothing up.
	open, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/test.Joins/Join")
	if err != nil {
		t.Fatal(err)
	}
	if err := open.RecvMsg(new(emptypb.Empty)); err != nil {
		t.Errorf("Join without an end: %v", err)
	}
}
