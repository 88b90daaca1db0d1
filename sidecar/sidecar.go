// Package sidecar is what runs beside a proxy, or beside a client without one, on
// its machine: it keeps their tokens and their certificates fresh in files. Of
// the control plane it knows what is said on the wire, and nothing else.
package sidecar

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc/credentials"

	"datapunk.dev/controlplane/sds/identity"
)

// tick bounds how long a loop sleeps while something is ahead: timers stand
// still while a machine is suspended.
const tick = 10 * time.Second

// Retries, with full jitter in the upper half.
const (
	retryFirst = time.Second
	retryMost  = 5 * time.Minute
)

// retryAfter returns how long to wait after the given number of failures, which
// is never longer than most.
func retryAfter(failures int, most time.Duration) time.Duration {
	d := min(retryFirst<<min(failures, 10), most)
	return d/2 + rand.N(d/2)
}

// wallClock is the time of day without Go's monotonic reading, which stands
// still while a machine is suspended.
func wallClock() time.Time { return time.Now().Round(0) }

// controlPlaneCredentials accept only the control plane of the root's trust
// domain.
func controlPlaneCredentials(caPEM []byte) (credentials.TransportCredentials, error) {
	td, err := identity.TrustDomainOf(caPEM)
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
	config := tlsconfig.TLSClientConfig(x509bundle.FromX509Authorities(td, roots), tlsconfig.AuthorizeID(identity.ControlPlaneID(td)))
	return credentials.NewTLS(config), nil
}
