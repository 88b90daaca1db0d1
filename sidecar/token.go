package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"datapunk.dev/controlplane/sds/token"
)

// renewTimeout bounds one attempt to renew a token at one address.
const renewTimeout = 10 * time.Second

// TokenLoop keeps the token in a file fresh, beside the Envoy or the gRPC client
// that reads it.
type TokenLoop struct {
	// Addresses of control planes, HOST:PORT or unix:PATH, tried in turn.
	Addresses []string
	// CAPEM is the root that the control planes' certificates must chain to; its
	// URI SAN says which trust domain they are of.
	CAPEM []byte
	// File holds the token, see [token.WriteSecretFile] and [token.WriteFile]: it keeps
	// its form.
	File string
	// Log gets each renewal and each failure, never a token; it is required.
	Log *slog.Logger

	// exchange stands in for the network in tests.
	exchange func(ctx context.Context, old string) (string, error)
}

// Run renews the token at half of its life until the context ends. Failures
// are tried again; a file without a token, or with one that has expired, is an
// error, since only an operator can help then. The file is read at each look,
// so it may be replaced at any time.
func (r *TokenLoop) Run(ctx context.Context) error {
	exchange := r.exchange
	if exchange == nil {
		creds, err := controlPlaneCredentials(r.CAPEM)
		if err != nil {
			return err
		}
		exchange = func(ctx context.Context, old string) (string, error) { return r.call(ctx, creds, old) }
	}
	failures := 0
	var notBefore time.Time // of the next attempt
	for {
		old, write, err := token.ReadFile(r.File)
		if err != nil {
			return err
		}
		issued, expires, err := token.Lifetime(old)
		if err != nil {
			return fmt.Errorf("token file %s: %w", r.File, err)
		}
		now := wallClock()
		if !now.Before(expires) {
			return fmt.Errorf("the token in %s expired at %s: mint a new one", r.File, expires.UTC().Format(time.RFC3339))
		}
		due := issued.Add(expires.Sub(issued) / 2)
		if !now.Before(due) && !now.Before(notBefore) {
			next, err := exchange(ctx, old)
			if err == nil {
				err = r.replace(old, next, write)
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
			wait := min(retryAfter(failures, retryMost), max(expires.Sub(now)/10, time.Second))
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
func (r *TokenLoop) replace(old, next string, write func(path, token string) error) error {
	_, expires, err := token.Lifetime(next)
	if err != nil {
		return fmt.Errorf("the control plane's answer: %w", err)
	}
	if !wallClock().Before(expires) {
		return fmt.Errorf("the control plane's token expired at %s: do the clocks agree?", expires.UTC().Format(time.RFC3339))
	}
	if current, _, err := token.ReadFile(r.File); err == nil && current != old {
		return nil
	}
	if err := write(r.File, next); err != nil {
		return err
	}
	r.Log.Info("renewed the token", "file", r.File, "expires", expires)
	return nil
}

func (r *TokenLoop) call(ctx context.Context, creds credentials.TransportCredentials, old string) (string, error) {
	if len(r.Addresses) == 0 {
		return "", errors.New("no address of a control plane")
	}
	var errs []error
	for _, address := range r.Addresses {
		next, err := renewAt(ctx, address, creds, old)
		if err == nil {
			return next, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return "", errors.Join(errs...)
}

func renewAt(ctx context.Context, address string, creds credentials.TransportCredentials, old string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // nothing is in flight
	return token.Renew(ctx, conn, old)
}
