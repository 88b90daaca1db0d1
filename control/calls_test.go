package control

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/internal/testlog"
)

// panicking panics in whatever is called.
type panicking struct {
	healthpb.UnimplementedHealthServer
}

func (panicking) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	panic("unary")
}

func (panicking) Watch(*healthpb.HealthCheckRequest, grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	panic("stream")
}

func TestAPanicInACallEndsThatCallAlone(t *testing.T) {
	log := &testlog.Buffer{}
	server := grpc.NewServer(containCalls(slog.New(slog.NewTextHandler(log, nil)))...)
	healthpb.RegisterHealthServer(server, panicking{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := healthpb.NewHealthClient(conn)
	for range 2 {
		if _, err := client.Check(t.Context(), nil); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "unary") {
			t.Errorf("got %v", err)
		}
		stream, err := client.Watch(t.Context(), nil)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Internal {
			t.Errorf("got %v", err)
		}
	}
	if n := strings.Count(log.String(), "panic in a call"); n != 4 {
		t.Errorf("%d panics are logged:\n%s", n, log)
	}
}
