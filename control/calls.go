package control

import (
	"context"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// containCalls turns a panic in a call into the error of this one call. The
// streams of xDS do so themselves, and count it; this is for what else a
// client may call.
func containCalls(log *slog.Logger) []grpc.ServerOption {
	contain := func(method string, err *error) {
		if r := recover(); r != nil {
			log.Error("panic in a call", "method", method, "panic", r, "stack", string(debug.Stack()))
			*err = status.Error(codes.Internal, "internal error")
		}
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
			defer contain(info.FullMethod, &err)
			return handle(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
			defer contain(info.FullMethod, &err)
			return handle(srv, s)
		}),
	}
}
