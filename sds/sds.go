// Package sds is the mesh's identity: it owns the certificate authority, the
// X.509-SVID of each proxy and when it is renewed, the certificate of the xDS
// port, and the tokens with which proxies prove who they are.
//
// It decides what a proxy's credentials are, not who may have them: the xDS
// server authenticates a stream, and only then takes a [Lease] for it. It knows
// nothing of the catalog, the mesh file or Envoy's configuration; of Envoy's
// API it uses the Secret message, and SDS where it is the client itself.
//
// All state that outlives the process lies in one data directory, see [Open].
// A second control plane with a copy of that directory serves the same fleet.
package sds

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ReservedService is the name of the control plane itself. No proxy is ever
// issued its identity, because proxies trust the xDS port by it.
const ReservedService = "control-plane"

// maxIDLength is the longest SPIFFE ID that every implementation must accept
// (SPIFFE-ID section 2.3).
const maxIDLength = 2048

// ServiceID returns the identity of a service, spiffe://<trust domain>/<service>.
// Names are taken as they are or refused, never escaped: two names must not
// become one identity.
func ServiceID(trustDomain spiffeid.TrustDomain, service string) (spiffeid.ID, error) {
	if service == ReservedService {
		return spiffeid.ID{}, fmt.Errorf("service name %q is reserved", service)
	}
	id, err := spiffeid.FromSegments(trustDomain, service)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("service name %q is no SPIFFE path segment: %w", service, err)
	}
	if n := len(id.String()); n > maxIDLength {
		return spiffeid.ID{}, fmt.Errorf("service name is too long: its SPIFFE ID has %d bytes, the limit is %d", n, maxIDLength)
	}
	return id, nil
}

func controlPlaneID(trustDomain spiffeid.TrustDomain) spiffeid.ID {
	return spiffeid.RequireFromSegments(trustDomain, ReservedService)
}

// wallClock is the time of day without Go's monotonic reading, which stands
// still while a machine is suspended.
func wallClock() time.Time { return time.Now().Round(0) }
