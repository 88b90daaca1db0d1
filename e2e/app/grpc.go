package app

import (
	"context"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The methods of the app's gRPC service, beside grpc.health.v1.
const (
	// Unary: StringValue to StringValue, "<instance>: <text>".
	Unary = "/mesh.e2e.Echo/Unary"
	// Quiet: Duration to a stream that says nothing for so long, then sends
	// one StringValue, the instance.
	Quiet = "/mesh.e2e.Echo/Quiet"
	// Talk: StringValues to StringValues, each as by Unary, for as long as the
	// caller likes.
	Talk = "/mesh.e2e.Echo/Talk"
)

// Echo is written by hand: a service of well-known types needs no generator.
var echoService = grpc.ServiceDesc{
	ServiceName: "mesh.e2e.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Unary",
		Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			return wrapperspb.String(srv.(*App).instance + ": " + in.GetValue()), ctx.Err()
		},
	}},
	Streams: []grpc.StreamDesc{{
		StreamName:    "Talk",
		ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			for {
				in := new(wrapperspb.StringValue)
				if err := stream.RecvMsg(in); err != nil {
					return err
				}
				if err := stream.SendMsg(wrapperspb.String(srv.(*App).instance + ": " + in.GetValue())); err != nil {
					return err
				}
			}
		},
	}, {
		StreamName:    "Quiet",
		ServerStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			in := new(durationpb.Duration)
			if err := stream.RecvMsg(in); err != nil {
				return err
			}
			select {
			case <-stream.Context().Done():
				return stream.Context().Err()
			case <-time.After(in.AsDuration()):
			}
			return stream.SendMsg(wrapperspb.String(srv.(*App).instance))
		},
	}},
}

func (a *App) newGRPC() *grpc.Server {
	s := grpc.NewServer()
	s.RegisterService(&echoService, a)
	healthpb.RegisterHealthServer(s, wellness{app: a, HealthServer: health.NewServer()})
	return s
}

// wellness is grpc.health.v1 of an app that misbehaves there as elsewhere.
type wellness struct {
	healthpb.HealthServer
	app *App
}

// Check hangs while the app does, and says that it does not serve where a request
// would fail.
func (w wellness) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	_, status, ok := w.app.decide(ctx)
	switch {
	case !ok:
		return nil, ctx.Err()
	case status != http.StatusOK:
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// CallUnary calls the app's Unary over a connection.
func CallUnary(ctx context.Context, conn grpc.ClientConnInterface, text string) (string, error) {
	out := new(wrapperspb.StringValue)
	err := conn.Invoke(ctx, Unary, wrapperspb.String(text), out)
	return out.GetValue(), err
}

// CallQuiet calls the app's Quiet and returns its one message.
func CallQuiet(ctx context.Context, conn grpc.ClientConnInterface, silent time.Duration) (string, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, Quiet)
	if err != nil {
		return "", err
	}
	if err := stream.SendMsg(durationpb.New(silent)); err != nil {
		return "", err
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	out := new(wrapperspb.StringValue)
	if err := stream.RecvMsg(out); err != nil {
		return "", err
	}
	return out.GetValue(), nil
}

// Talking is a call of the app's Talk.
type Talking struct{ stream grpc.ClientStream }

// CallTalk begins one.
func CallTalk(ctx context.Context, conn grpc.ClientConnInterface) (Talking, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, Talk)
	return Talking{stream}, err
}

// Say sends a text, and returns what comes for it.
func (t Talking) Say(text string) (string, error) {
	if err := t.stream.SendMsg(wrapperspb.String(text)); err != nil {
		return "", err
	}
	out := new(wrapperspb.StringValue)
	err := t.stream.RecvMsg(out)
	return out.GetValue(), err
}
