package translate

import (
	"reflect"

	"datapunk.dev/controlplane/policy"
)

// globals are the settings of the mesh as a whole that reach many resources.
// They stand apart from the [policy.Mesh] so that two meshes can be compared
// in these alone.
type globals struct {
	tls         tlsMode // what sidecars take
	dial        tlsMode // what they speak to each other
	trustDomain string
	tracing     policy.Tracing
	accessLogs  policy.AccessLogs
	metrics     metricsSettings
	limits      policy.LimitServer
}

// metricsSettings is the part of the metrics settings that a listener needs;
// the scrape interval is Prometheus's affair alone.
type metricsSettings struct {
	enabled bool
	path    string
	port    uint16 // where a proxy's metadata has none; 0: no listener
}

func globalsOf(m *policy.Mesh, stage Stage) *globals {
	g := &globals{
		trustDomain: m.MTLS.TrustDomain,
		tracing:     m.Tracing,
		accessLogs:  m.AccessLogs,
		limits:      m.LimitServer,
		metrics:     metricsSettings{enabled: m.Metrics.Enabled, path: m.Metrics.Path, port: m.Metrics.Port},
	}
	switch {
	case !m.MTLS.Enabled:
		g.tls = tlsOff
	case m.MTLS.Mode == policy.Permissive:
		g.tls = tlsPermissive
	default:
		g.tls = tlsStrict
	}
	g.dial = g.tls
	switch stage {
	case Listening:
		g.tls, g.dial = tlsPermissive, tlsOff
	case Calling:
		g.tls, g.dial = tlsPermissive, tlsPermissive
	}
	return g
}

// sameTransport reports whether clusters and assignments made under g and
// under o are alike.
func (g *globals) sameTransport(o *globals) bool {
	return g.dial == o.dial && g.trustDomain == o.trustDomain
}

func (g *globals) equal(o *globals) bool { return reflect.DeepEqual(g, o) }

// identity is the SPIFFE ID of a service.
//
// SPIFFE-ID section 2: the trust domain is the authority, and each service is
// one path segment.
func (g *globals) identity(service string) string {
	return g.anyIdentity() + service
}

// anyIdentity is the prefix of every SPIFFE ID of the mesh. The slash at its
// end is what keeps `datapunk.evil` out of `datapunk`.
func (g *globals) anyIdentity() string { return "spiffe://" + g.trustDomain + "/" }
