package xds

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/xds/wire"
)

// Credential is who a proxy has proved to be.
//
// It ends the stream and not the connection, which is right for a token: a
// proxy reads it again for each stream. A client certificate is shown once a
// connection, so a credential of that kind would have to close that.
type Credential struct {
	Service string // node.cluster must be this
	Node    string // node.id must be this
	// Expires ends the stream; zero: never.
	Expires time.Time
}

// authenticate returns the credential of a call, nil in plaintext mode. It
// counts those that it refuses; who verifies credentials logs why.
func (s *Server) authenticate(ctx context.Context) (*Credential, error) {
	if a, ok := ctx.Value(admissionKey{}).(admission); ok {
		if a.joins {
			return nil, status.Error(codes.Unauthenticated, "the call has shown no credential")
		}
		return a.credential, a.refused // the headers were looked at
	}
	if s.options.Authenticate == nil {
		return nil, nil
	}
	c, err := s.options.Authenticate(ctx)
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.Errorf(codes.Unauthenticated, "who is asking? %v", err)
		}
		s.metrics.refused.WithLabelValues("unauthenticated").Inc()
		return nil, err
	}
	switch {
	case c.Service == "" || c.Node == "":
		err = status.Error(codes.Unauthenticated, "the credential names no service or no node")
	case !c.Expires.IsZero() && !time.Now().Before(c.Expires):
		err = status.Error(codes.Unauthenticated, "the credential has expired")
	default:
		return &c, nil
	}
	s.metrics.refused.WithLabelValues("unauthenticated").Inc()
	s.options.Logger.Warn("call refused", "peer", peerAddress(ctx), "err", err)
	return nil, err
}

// admitNode checks the node of a request against the credential and against the
// node that the stream began with.
//
// "Only the first request on a stream is guaranteed to carry the node
// identifier. [...] The node identifier should always be identical if present
// more than once on the stream."
func (s *stream) admitNode(n *wire.Node) error {
	if c := s.credential; c != nil && (n.ID != c.Node || n.Cluster != c.Service) {
		return status.Errorf(codes.PermissionDenied,
			"node %q of %q asks with the credential of node %q of %q", n.ID, n.Cluster, c.Node, c.Service)
	}
	if s.node != nil && (n.ID != s.node.ID || n.Cluster != s.node.Cluster) {
		return status.Errorf(codes.InvalidArgument,
			"node %q of %q became node %q of %q on the same stream", s.node.ID, s.node.Cluster, n.ID, n.Cluster)
	}
	switch {
	case n.ID == "":
		return status.Error(codes.InvalidArgument, "node.id is empty: it must name this proxy among all others")
	case n.Cluster == "":
		return status.Errorf(codes.InvalidArgument, "node.cluster of %q is empty: it must be the service that the proxy belongs to", n.ID)
	}
	return nil
}
