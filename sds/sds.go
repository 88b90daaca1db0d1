// Package sds is the mesh's certificates: it owns the certificate authority, the
// X.509-SVID of each proxy and when it is renewed, and the certificate of the
// xDS port. Who is who is in package identity, how proxies prove it in package
// token.
//
// It decides what a proxy's credentials are, not who may have them: the xDS
// server authenticates a stream, and only then takes a [Lease] for it. It knows
// nothing of the catalog, the mesh file or Envoy's configuration; of Envoy's
// API it uses the Secret message.
//
// All state that outlives the process lies in one data directory, see [Open].
// A second control plane with a copy of that directory serves the same fleet.
package sds

import "time"

// wallClock is the time of day without Go's monotonic reading, which stands
// still while a machine is suspended.
func wallClock() time.Time { return time.Now().Round(0) }
