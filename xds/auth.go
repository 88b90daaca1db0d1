package xds

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Credential is who a proxy has proved to be.
type Credential struct {
	Service string // node.cluster must be this
	Node    string // node.id must be this
	// Expires ends the stream; zero: never.
	Expires time.Time
}

// authenticate returns the credential of a stream, nil in plaintext mode.
func (s *Server) authenticate(ctx context.Context) (*Credential, error) {
	if s.options.Authenticate == nil {
		return nil, nil
	}
	c, err := s.options.Authenticate(ctx)
	if err != nil {
		if _, ok := status.FromError(err); ok {
			return nil, err
		}
		return nil, status.Errorf(codes.Unauthenticated, "who is asking? %v", err)
	}
	if c.Service == "" || c.Node == "" {
		return nil, status.Error(codes.Unauthenticated, "the credential names no service or no node")
	}
	if !c.Expires.IsZero() && !time.Now().Before(c.Expires) {
		return nil, status.Error(codes.Unauthenticated, "the credential has expired")
	}
	return &c, nil
}

// admit checks the node of a request against the credential and against the
// node that the stream began with.
//
// "Only the first request on a stream is guaranteed to carry the node
// identifier. [...] The node identifier should always be identical if present
// more than once on the stream."
func (s *stream) admit(n *node) error {
	if c := s.credential; c != nil && (n.id != c.Node || n.cluster != c.Service) {
		return status.Errorf(codes.PermissionDenied,
			"node %q of %q asks with the credential of node %q of %q", n.id, n.cluster, c.Node, c.Service)
	}
	if s.node != nil && (n.id != s.node.id || n.cluster != s.node.cluster) {
		return status.Errorf(codes.InvalidArgument,
			"node %q of %q became node %q of %q on the same stream", s.node.id, s.node.cluster, n.id, n.cluster)
	}
	if n.id == "" {
		return status.Error(codes.InvalidArgument, "node.id is empty")
	}
	return nil
}
