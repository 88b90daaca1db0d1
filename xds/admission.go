package xds

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"datapunk.dev/controlplane/listen"
)

// Who calls is known from the headers of a call, before anything of its body is
// read: grpc-go would take a whole message for a handler that then refuses it.

// admission is what the headers of a call have proved.
type admission struct {
	credential *Credential // nil in plaintext mode
	refused    error
	joins      bool // the handler is to find out who calls: see [Options.Joins]
}

type admissionKey struct{}

// tap looks at the headers of a call. The goroutine that reads the connection
// calls it, so one connection proves itself once at a time.
func (s *Server) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	if slices.Contains(s.options.Joins, info.FullMethodName) {
		return context.WithValue(ctx, admissionKey{}, admission{joins: true}), nil
	}
	var a admission
	a.credential, a.refused = s.authenticate(ctx)
	if from, ok := peer.FromContext(ctx); ok && a.refused != nil {
		if c := listen.Of(from.Addr); c != nil {
			c.Refused()
		}
	}
	if _, timed := ctx.Deadline(); a.refused != nil && !timed {
		return nil, a.refused
	}
	// The context of a call that is refused here is never cancelled. With a
	// deadline, which the client chooses, its timer would stay for as long: such
	// a call is refused by admit instead.
	return context.WithValue(ctx, admissionKey{}, a), nil
}

// admit refuses a call whose headers have proved nothing. While one lasts that
// is admitted its connection is not idle.
func admit(ctx context.Context, call func() error) error {
	a, _ := ctx.Value(admissionKey{}).(admission)
	if a.refused != nil {
		return a.refused
	}
	if a.joins {
		return admitJoin(ctx, call)
	}
	defer occupy(ctx)()
	return call()
}

// occupy says that the connection of a call whose caller is known is not idle, until done
// is called.
func occupy(ctx context.Context) (done func()) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return func() {}
	}
	c := listen.Of(from.Addr)
	if c == nil {
		return func() {}
	}
	c.Busy()
	return c.Idle
}

// admitJoin lets a call find out who makes it. Its connection counts as idle
// meanwhile, unless its handler says otherwise, and the call like one that was
// refused if it fails.
func admitJoin(ctx context.Context, call func() error) error {
	err := call()
	if from, ok := peer.FromContext(ctx); ok && err != nil {
		if c := listen.Of(from.Addr); c != nil {
			c.Refused()
		}
	}
	return err
}

func admitStream(srv any, gs grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return admit(gs.Context(), func() error { return handle(srv, gs) })
}

func admitUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (reply any, err error) {
	err = admit(ctx, func() error {
		reply, err = handle(ctx, req)
		return err
	})
	return reply, err
}

// errFetch refuses polling.
var errFetch = status.Error(codes.Unimplemented, "polling is not supported, open a stream")

// streamsOnly registers services without their unary methods: each would read a
// whole message first.
type streamsOnly struct{ grpc.ServiceRegistrar }

// RegisterService implements [grpc.ServiceRegistrar].
func (r streamsOnly) RegisterService(desc *grpc.ServiceDesc, impl any) {
	streams := *desc
	streams.Methods = nil
	for _, m := range desc.Methods {
		streams.Methods = append(streams.Methods, grpc.MethodDesc{
			MethodName: m.MethodName,
			Handler: func(_ any, ctx context.Context, _ func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
				refuse := func(context.Context, any) (any, error) { return nil, errFetch }
				if intercept == nil {
					return refuse(ctx, nil)
				}
				return intercept(ctx, nil, &grpc.UnaryServerInfo{Server: impl, FullMethod: "/" + desc.ServiceName + "/" + m.MethodName}, refuse)
			},
		})
	}
	r.ServiceRegistrar.RegisterService(&streams, impl)
}
