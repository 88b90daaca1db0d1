package sds

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// renewTimeout bounds one attempt to renew a token at one address.
const renewTimeout = 10 * time.Second

// RenewLoop keeps the token in a file fresh, beside the Envoy or the gRPC client
// that reads it.
type RenewLoop struct {
	// Addresses of control planes, HOST:PORT or unix:PATH, tried in turn.
	Addresses []string
	// CAPEM is the root that the control planes' certificates must chain to; its
	// URI SAN says which trust domain they are of.
	CAPEM []byte
	// File holds the token, see [WriteSecretFile] and [WriteTokenFile]: it keeps
	// its form.
	File string
	// Log gets each renewal and each failure, never a token; it is required.
	Log *slog.Logger

	// exchange stands in for the network in tests.
	exchange func(ctx context.Context, token string) (string, error)
}

// Run renews the token at half of its life until the context ends. Failures
// are tried again; a file without a token, or with one that has expired, is an
// error, since only an operator can help then. The file is read at each look,
// so it may be replaced at any time.
func (r *RenewLoop) Run(ctx context.Context) error {
	exchange := r.exchange
	if exchange == nil {
		creds, err := controlPlaneCredentials(r.CAPEM)
		if err != nil {
			return err
		}
		exchange = func(ctx context.Context, token string) (string, error) { return r.call(ctx, creds, token) }
	}
	failures := 0
	var notBefore time.Time // of the next attempt
	for {
		token, write, err := ReadTokenFile(r.File)
		if err != nil {
			return err
		}
		issued, expires, err := lifeOf(token)
		if err != nil {
			return fmt.Errorf("token file %s: %w", r.File, err)
		}
		now := wallClock()
		if !now.Before(expires) {
			return fmt.Errorf("the token in %s expired at %s: mint a new one", r.File, expires.UTC().Format(time.RFC3339))
		}
		due := issued.Add(expires.Sub(issued) / 2)
		if !now.Before(due) && !now.Before(notBefore) {
			next, err := exchange(ctx, token)
			if err == nil {
				err = r.replace(token, next, write)
			}
			switch {
			case err == nil:
				failures = 0
				// Also when the control plane's clock is late, and what it mints is
				// past its half already.
				notBefore = now.Add(expires.Sub(issued) / 10)
				continue
			case ctx.Err() != nil:
				return nil //nolint:nilerr // ended from outside, which is no failure
			}
			wait := min(retryAfter(failures, false), max(expires.Sub(now)/10, time.Second))
			notBefore = now.Add(wait)
			failures++
			r.Log.Warn("the token was not renewed", "file", r.File, "expires", expires, "retry_in", wait, "error", err)
		}
		if due.Before(notBefore) {
			due = notBefore
		}
		// Short steps, for machines that are suspended in between.
		timer := time.NewTimer(min(max(due.Sub(wallClock()), 0), tick))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// replace writes the next token, unless somebody has put another one there in
// the meantime.
func (r *RenewLoop) replace(old, next string, write func(path, token string) error) error {
	_, expires, err := lifeOf(next)
	if err != nil {
		return fmt.Errorf("the control plane's answer: %w", err)
	}
	if !wallClock().Before(expires) {
		return fmt.Errorf("the control plane's token expired at %s: do the clocks agree?", expires.UTC().Format(time.RFC3339))
	}
	if current, _, err := ReadTokenFile(r.File); err == nil && current != old {
		return nil
	}
	if err := write(r.File, next); err != nil {
		return err
	}
	r.Log.Info("renewed the token", "file", r.File, "expires", expires)
	return nil
}

// lifeOf reads when a token was issued and when it expires. Its signature is
// the control plane's business.
func lifeOf(token string) (issued, expires time.Time, err error) {
	var c claims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &c); err != nil {
		return issued, expires, errors.New("not a token")
	}
	if c.IssuedAt == nil || c.ExpiresAt == nil || !c.ExpiresAt.After(c.IssuedAt.Time) {
		return issued, expires, errors.New("the token does not say how long it lives")
	}
	return c.IssuedAt.Time, c.ExpiresAt.Time, nil
}

// controlPlaneCredentials accept only the control plane of the root's trust
// domain.
func controlPlaneCredentials(caPEM []byte) (credentials.TransportCredentials, error) {
	td, err := TrustDomainOf(caPEM)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	var roots []*x509.Certificate
	for rest := caPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("CA: %w", err)
		}
		roots = append(roots, cert)
	}
	config := tlsconfig.TLSClientConfig(x509bundle.FromX509Authorities(td, roots), tlsconfig.AuthorizeID(controlPlaneID(td)))
	return credentials.NewTLS(config), nil
}

func (r *RenewLoop) call(ctx context.Context, creds credentials.TransportCredentials, token string) (string, error) {
	if len(r.Addresses) == 0 {
		return "", errors.New("no address of a control plane")
	}
	var errs []error
	for _, address := range r.Addresses {
		next, err := renewAt(ctx, address, creds, token)
		if err == nil {
			return next, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return "", errors.Join(errs...)
}

func renewAt(ctx context.Context, address string, creds credentials.TransportCredentials, token string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // nothing is in flight
	out := new(wrapperspb.StringValue)
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", bearer+token)
	if err := conn.Invoke(ctx, renewMethod, &emptypb.Empty{}, out); err != nil {
		return "", err
	}
	return out.GetValue(), nil
}
