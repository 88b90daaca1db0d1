package sidecar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"datapunk.dev/controlplane/sds/token"
	"datapunk.dev/controlplane/sidecar/api"
)

// maxCredential bounds the file of a credential to join by.
const maxCredential = 8 << 10

// finalError is one that no waiting helps.
type finalError struct{ error }

func (e finalError) Unwrap() error { return e.error }

// final reports whether a failure stays one until somebody does something.
func final(err error) bool { return errors.As(err, new(finalError)) }

// joined reports whether the machine has a token of its own that is good.
func (p *Proxy) joined() bool {
	raw, err := token.ReadSecretFile(p.state.path(tokenFile))
	if err != nil {
		return false
	}
	_, expires, err := token.Lifetime(raw)
	if err != nil || !wallClock().Before(expires) {
		return false
	}
	id, node, err := token.Holder(raw)
	if err != nil || p.NodeID != "" && node != p.NodeID {
		return false
	}
	service := strings.TrimPrefix(id.Path(), "/")
	if p.Service != "" && service != p.Service {
		return false
	}
	p.state.Service, p.state.Node = service, node
	return true
}

// joinUntil joins, if that is needed.
func (p *Proxy) joinUntil(ctx context.Context) error {
	return p.until(ctx, "this machine could not join", func() (bool, error) {
		if p.joined() {
			return true, p.state.save()
		}
		err := p.join(ctx)
		return err == nil, err
	})
}

func (p *Proxy) join(ctx context.Context) error {
	if p.JoinFile == "" {
		return finalError{errors.New("this machine has no token that is good, and nothing to join by: name a file with a credential (--join-token-file)")}
	}
	data, err := os.ReadFile(p.JoinFile)
	if err != nil {
		return finalError{fmt.Errorf("what to join by: %w", err)}
	}
	credential := strings.TrimSpace(string(data))
	if credential == "" || len(credential) > maxCredential || strings.ContainsFunc(credential, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return finalError{fmt.Errorf("%s holds no credential of one line", p.JoinFile)}
	}
	var got *api.Joined
	err = p.planes.any(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		ctx, cancel := context.WithTimeout(token.NewContext(ctx, credential), callTime)
		defer cancel()
		var err error
		got, err = api.Join(ctx, conn, &api.JoinRequest{Kind: p.JoinKind, Service: p.state.Service, Node: p.state.Node, Attempt: p.state.Attempt})
		switch status.Code(err) {
		case codes.Unauthenticated, codes.PermissionDenied:
			return finalError{err}
		default:
			return err
		}
	})
	if err != nil {
		return err
	}
	if err := token.WriteSecretFile(p.state.path(tokenFile), got.Token); err != nil {
		return finalError{err}
	}
	p.state.Service, p.state.Node = got.Service, got.Node
	// The next time that it joins is another use.
	if p.state.Attempt, err = randomHex(16); err != nil {
		return err
	}
	p.Log.Info("this machine has joined", "service", got.Service, "node", got.Node)
	return p.state.save()
}

// keepToken keeps the node's token fresh; one that has expired, after the
// machine slept for long, is got anew.
func (p *Proxy) keepToken(ctx context.Context) error {
	loop := &TokenLoop{Addresses: p.XDSAddresses, CAPEM: p.caPEM, File: p.state.path(tokenFile), Log: p.Log}
	for failures := 0; ; failures++ {
		err := loop.Run(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // ended from outside
		}
		p.Log.Error("the token of this node cannot be kept fresh", "err", err)
		if err := p.join(ctx); err == nil {
			failures = 0
			continue
		} else if ctx.Err() == nil {
			p.Log.Error("this machine could not join again: Envoy goes on with what it has", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryAfter(failures, retryMost)):
		}
	}
}
