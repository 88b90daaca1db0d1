package control

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/sds"
	"datapunk.dev/controlplane/sds/token"
	"datapunk.dev/controlplane/xds"
)

// newIssuer lets xds lease the proxies' SVIDs from sds.
func newIssuer(m *sds.Manager) xds.Issuer { return issuer{m} }

type issuer struct{ manager *sds.Manager }

func (i issuer) Lease(service, node string, changed func()) (xds.Lease, error) {
	l, err := i.manager.Lease(service, changed)
	if err != nil {
		return nil, err
	}
	l.HeldBy(node)
	return lease{l}, nil
}

type lease struct{ svid *sds.Lease }

// Secret implements xds.Lease.
func (l lease) Secret(name string) (*xds.Secret, error) {
	if name != "default" && name != l.svid.SPIFFEID() {
		return nil, xds.ErrNoSecret
	}
	c, err := l.svid.Certificate()
	if err != nil {
		return nil, err
	}
	body, err := c.Secret(name)
	if err != nil {
		return nil, err
	}
	return &xds.Secret{Body: body, Version: c.Version(), Serial: c.Serial(), Expires: c.Expires()}, nil
}

// Adopt implements xds.Lease.
func (l lease) Adopt(version string) bool { return l.svid.Adopt(version) }

// Release implements xds.Lease.
func (l lease) Release() { l.svid.Release() }

// newAuthenticator lets xds verify the token that a proxy shows. The client is
// not told what is wrong with it.
func newAuthenticator(t *token.Authority, refused func(error)) func(context.Context) (xds.Credential, error) {
	return func(ctx context.Context) (xds.Credential, error) {
		refused := func(err error) {
			if from, ok := peer.FromContext(ctx); ok {
				err = fmt.Errorf("%s: %w", from.Addr, err)
			}
			refused(err)
		}
		raw, err := token.FromContext(ctx)
		if err != nil {
			refused(err)
			return xds.Credential{}, status.Error(codes.Unauthenticated, "no token: see controlplane token")
		}
		claims, err := t.Verify(raw)
		if err != nil {
			refused(err)
			return xds.Credential{}, status.Error(codes.Unauthenticated, "the token is not valid")
		}
		return xds.Credential{Service: claims.Service, Node: claims.Node, Expires: claims.Expires}, nil
	}
}
