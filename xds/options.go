package xds

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"datapunk.dev/controlplane/resource"
)

// Options configure a [Server]. Only Logger is required.
type Options struct {
	// Logger gets lines that clients cause: it should bear any number of them.
	Logger *slog.Logger
	// Metrics is where the server's metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// OnFleet is told when the set of distinct profiles changes. Calls come one
	// at a time, from a goroutine that holds up no stream.
	OnFleet func(*resource.Fleet)
	// OnInbound is told where proxies take the mesh's connections: which such
	// places came, with the first stream of a proxy there, and which left with the
	// last. Calls come as those of OnFleet do.
	OnInbound func(came, left []resource.Inbound)
	// OnPresence is told when a sidecar has its listeners, and when its stream has
	// ended. Calls come one at a time, in order, under a lock: it must not wait.
	OnPresence func(p Presence, connected bool)
	// OnNack is told of each response that a proxy has refused. It is called by the
	// stream: it must not wait. May be nil.
	OnNack func(node string, p resource.Profile, n *Nack)
	// Checks are how the applications of proxies are checked, by HDS.
	Checks Checks
	// OnRefusals is told that [Server.Refusals] may return something else. It is called
	// under a lock: it must not wait, nor call back.
	OnRefusals func()
	// Authenticate says who makes a call, from the context that its headers made.
	// An error refuses the call, before anything of its body is read. It is called
	// by the goroutine that reads the connection, so it does not wait. Nil is
	// plaintext mode: a proxy is what its node.cluster says, and no private key is
	// sent to anyone.
	Authenticate func(context.Context) (Credential, error)
	// Operator says until when a caller may see the status of the proxies, by CSDS, zero:
	// for ever; or why it may not. Nil: nobody may, and it is not served.
	Operator func(context.Context) (expires time.Time, err error)
	// Joins are the full names of the methods that callers without a credential of
	// a proxy may call, of other services on the same server: the handler of each
	// finds out who they are, and must not read the body before.
	Joins []string
	// Issuer has the certificates of the proxies; nil while mTLS is off.
	Issuer Issuer
	// Locate returns the place in the mesh file ("mesh.yaml:28:7") that made a
	// resource with the given keys, or an empty string. It is called when a
	// client rejects one.
	Locate func(keys []string) string
	// Quorum is how many distinct proxies decide on a content of a resource: so
	// many that refuse it take it away from the fleet, so many that acknowledge
	// it prove it good. Zero: 3.
	Quorum   int
	Limits   Limits
	Timeouts Timeouts // a zero field takes its default
}

// Timeouts bound how long a stream waits for its client.
type Timeouts struct {
	// Warm is how long a route or listener waits for the acknowledgement of
	// the clusters that it needs, and removed clusters for that of the routes.
	// Envoy acknowledges once the cluster is warm, at the latest after the
	// timeout of its first health check or 15 s for its endpoints, so the
	// default is 15 s.
	Warm time.Duration
	// Initialize is for how long an Envoy that has its first clusters is sent no
	// other ones in their place, before it asks for listeners: 20 s by default. It
	// waits 15 s for endpoints that do not come.
	Initialize time.Duration
	// Coalesce is how long changes of a type wait for the acknowledgement of
	// the response before them, and become one response: 500 ms by default.
	Coalesce time.Duration
	// Send is how long the transport may take for one response before the
	// stream is given up: 20 s by default, and a second more for every 10 KB of
	// it. When a fleet comes back at once the wire is what is slow, and to
	// begin again would not make it faster.
	Send time.Duration
	// Identify is how long a client may take to send its first request after
	// it opened a stream: 30 s by default.
	Identify time.Duration
	// SecretRetry is how long a stream waits after a certificate could not be
	// had: 5 s by default.
	SecretRetry time.Duration
}

func (t Timeouts) withDefaults() Timeouts {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Warm, 15 * time.Second},
		{&t.Initialize, 20 * time.Second},
		{&t.Coalesce, 500 * time.Millisecond},
		{&t.Send, 20 * time.Second},
		{&t.Identify, 30 * time.Second},
		{&t.SecretRetry, 5 * time.Second},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return t
}

// Limits bound what all clients together may cost; a zero field takes its
// default.
type Limits struct {
	// Streams is how many there may be at once: 40,000 by default.
	Streams int
	// StreamRate is how many may begin a second at most, after StreamBurst at once:
	// 1,000 each by default. A fleet that comes back after a restart is let in
	// within seconds, and those who wait come again.
	StreamRate, StreamBurst int
	// ConnectionAge is how old a connection may be: its client then looks for a
	// server again. gRPC adds a tenth, or takes one off, so that not all do so at
	// once. Zero: there is no such age.
	ConnectionAge time.Duration
	// CPU is what this process has used. With it fewer streams may begin where each
	// is dear: see streamCost.
	CPU func() time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.Streams, 40_000}, {&l.StreamRate, 1000}, {&l.StreamBurst, 1000}} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}
