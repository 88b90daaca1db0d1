package token

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The service on the xDS port that renews tokens. It needs no messages of its
// own: Renew takes google.protobuf.Empty and returns google.protobuf.StringValue,
// the token in force is in the authorization metadata.
const (
	tokensService = "controlplane.v1.Tokens"
	renewMethod   = "/" + tokensService + "/Renew"
)

type renewer interface {
	renew(ctx context.Context) (*wrapperspb.StringValue, error)
}

var tokensDesc = grpc.ServiceDesc{
	ServiceName: tokensService,
	HandlerType: (*renewer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Renew",
		Handler: func(srv any, ctx context.Context, _ func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			// The body says nothing, so it is not read: whoever does not end it
			// holds up nothing.
			in := new(emptypb.Empty)
			handle := func(ctx context.Context, _ any) (any, error) { return srv.(renewer).renew(ctx) }
			if intercept == nil {
				return handle(ctx, in)
			}
			return intercept(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: renewMethod}, handle)
		},
	}},
}

// renewalServer exchanges a valid token for the next one.
type renewalServer struct {
	tokens *Authority
	log    *slog.Logger
	rates  *renewalRates
}

// RegisterRenewal serves the renewal of tokens: whoever shows a valid one over
// TLS gets the next, for the same service and node, with the lifetime that the
// shown one was minted with.
func RegisterRenewal(s grpc.ServiceRegistrar, tokens *Authority, log *slog.Logger) {
	s.RegisterService(&tokensDesc, &renewalServer{tokens: tokens, log: log, rates: newRenewalRates()})
}

func (s *renewalServer) renew(ctx context.Context) (*wrapperspb.StringValue, error) {
	from, _ := peer.FromContext(ctx)
	// In the clear the next token would be anybody's.
	if from == nil {
		return nil, status.Error(codes.Unauthenticated, "who are you?")
	}
	if _, ok := from.AuthInfo.(credentials.TLSInfo); !ok {
		return nil, status.Error(codes.FailedPrecondition, "tokens are renewed over TLS only")
	}
	raw, err := FromContext(ctx)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	c, err := s.tokens.Verify(raw)
	if err != nil {
		s.log.Warn("refused to renew a token", "peer", from.Addr.String(), "error", err)
		return nil, status.Error(codes.Unauthenticated, "token refused")
	}
	if !s.rates.allow(c.Node, time.Now()) {
		return nil, status.Error(codes.ResourceExhausted, "too many renewals for this node: one a second")
	}
	next, err := s.tokens.Mint(c.Service, c.Node, c.Expires.Sub(c.Issued))
	if err != nil {
		s.log.Error("mint the next token", "service", c.Service, "node", c.Node, "error", err)
		return nil, status.Error(codes.Internal, "no token could be made")
	}
	s.log.Info("renewed a token", "service", c.Service, "node", c.Node, "token", c.ID)
	return wrapperspb.String(next), nil
}

// Renew has a control plane exchange a valid token for the next one.
func Renew(ctx context.Context, conn grpc.ClientConnInterface, raw string) (string, error) {
	out := new(wrapperspb.StringValue)
	if err := conn.Invoke(NewContext(ctx, raw), renewMethod, &emptypb.Empty{}, out); err != nil {
		return "", err
	}
	return out.GetValue(), nil
}

// NewContext returns the context of a call that shows a token.
func NewContext(ctx context.Context, raw string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", bearer+raw)
}

// FromContext returns the token in a call's authorization metadata. There must
// be exactly one: of two, somebody else might believe the other.
func FromContext(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return "", errors.New("want exactly one authorization header")
	}
	token, ok := strings.CutPrefix(values[0], bearer)
	if !ok || token == "" {
		return "", errors.New("want a bearer token")
	}
	return token, nil
}
