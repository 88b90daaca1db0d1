package sidecar

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/atomicfile"
	"datapunk.dev/controlplane/sds/token"
	"datapunk.dev/controlplane/sidecar/api"
)

// request asks for the bootstrap.
func (p *Proxy) request() (*api.BootstrapRequest, error) {
	tokenPath, err := filepath.Abs(p.state.path(tokenFile))
	if err != nil {
		return nil, err
	}
	s := p.state
	return &api.BootstrapRequest{
		AppPort: p.AppPort, MeshPort: s.Ports.Mesh, OutboundPort: s.Ports.Outbound, MetricsPort: s.Ports.Metrics, Address: p.Address,
		Region: p.Region, Zone: p.Zone, SubZone: p.SubZone, Version: p.Version, Tags: p.Tags, Meta: p.Meta,
		XDSAddresses: p.XDSAddresses, AdminSocket: p.socket, TokenFile: tokenPath,
	}, nil
}

// bootstrapUntil gets the bootstrap from a control plane. While none answers,
// that of the last time will do, if nothing else was asked for since.
func (p *Proxy) bootstrapUntil(ctx context.Context) error {
	return p.until(ctx, "no control plane gave a bootstrap", func() (bool, error) {
		err := p.bootstrap(ctx)
		if err == nil || final(err) {
			return err == nil, err
		}
		r, requestErr := p.request()
		if _, statErr := os.Stat(p.state.path(bootstrapFile)); requestErr == nil && statErr == nil && p.state.Asked != nil && equalRequests(p.state.Asked, r) {
			p.Log.Warn("no control plane gave a bootstrap: Envoy starts with that of the last time", "err", err)
			return true, nil
		}
		return false, err
	})
}

// bootstrap gets the bootstrap from a control plane, and keeps it if the Envoy
// of this machine can start with it.
func (p *Proxy) bootstrap(ctx context.Context) error {
	r, err := p.request()
	if err != nil {
		return err
	}
	var got *api.Bootstrap
	err = p.asNode(ctx, callTime, p.planes.any, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		var err error
		if got, err = api.FetchBootstrap(ctx, conn, r); status.Code(err) == codes.InvalidArgument {
			return finalError{err}
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := p.checkVersion(ctx, got.EnvoyVersion); err != nil {
		return err
	}
	next := p.state.path("next-" + bootstrapFile)
	if err := atomicfile.Write(next, []byte(got.YAML), 0o600); err != nil {
		return finalError{err}
	}
	if err := envoyAccepts(ctx, p.envoyBin, next); err != nil {
		return finalError{err}
	}
	if err := os.Rename(next, p.state.path(bootstrapFile)); err != nil {
		return finalError{err}
	}
	p.state.Asked = r
	if err := p.state.save(); err != nil {
		return finalError{err}
	}
	return nil
}

// asNode makes a call with the node's token.
func (p *Proxy) asNode(ctx context.Context, within time.Duration,
	where func(context.Context, func(context.Context, grpc.ClientConnInterface) error) error,
	call func(context.Context, grpc.ClientConnInterface) error,
) error {
	raw, err := token.ReadSecretFile(p.state.path(tokenFile))
	if err != nil {
		return err
	}
	return where(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		ctx, cancel := context.WithTimeout(token.NewContext(ctx, raw), within)
		defer cancel()
		return call(ctx, conn)
	})
}

func equalRequests(a, b *api.BootstrapRequest) bool {
	x, y := *a, *b
	if !slices.Equal(x.Tags, y.Tags) || !slices.Equal(x.XDSAddresses, y.XDSAddresses) || len(x.Meta) != len(y.Meta) {
		return false
	}
	for key, value := range x.Meta {
		if other, ok := y.Meta[key]; !ok || other != value {
			return false
		}
	}
	x.Tags, x.Meta, x.XDSAddresses, y.Tags, y.Meta, y.XDSAddresses = nil, nil, nil, nil, nil, nil
	return fmt.Sprintf("%+v", x) == fmt.Sprintf("%+v", y)
}

// checkVersion refuses an Envoy that is older than what configuration is
// generated for: it may not know parts of it.
func (p *Proxy) checkVersion(ctx context.Context, want string) error {
	have, err := envoyVersion(ctx, p.envoyBin)
	if err != nil {
		return finalError{err}
	}
	c, err := compareVersions(have, want)
	switch {
	case err != nil:
		return finalError{err}
	case c < 0 && !p.AnyVersion:
		return finalError{fmt.Errorf("%s is Envoy %s, and the control plane generates configuration for %s: install that (--any-envoy-version tries it with this one)", p.envoyBin, have, want)}
	case c != 0:
		p.Log.Warn("Envoy is of another version than the control plane generates configuration for", "envoy", have, "for", want)
	}
	return nil
}
