package xds

import (
	"slices"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// handleDelta takes in a DeltaDiscoveryRequest.
//
// "ACK or NACK is determined by the absence or presence of error_detail. [...]
// The server must honor changes to the subscription state even if the nonce is
// stale. The nonce may be used to correlate an ack/nack with a server response,
// but should *not* be used to reject stale requests."
func (ts *typeState) handleDelta(r *wire.Request) {
	s := ts.stream
	switch sent := ts.unanswered(r.Nonce); {
	case sent == nil:
	case r.Nack:
		ts.rejected(ts.answered(sent), r.Failure)
	default:
		ts.acknowledged(ts.answered(sent))
	}
	first := !ts.sub.active
	if first {
		ts.sub = subscription{active: true, names: wire.NoNames}
		ts.began()
	}
	if ts.typ == resource.Secret {
		s.secrets.authorize(r)
	}
	if r.All {
		ts.sub.named = true
		ts.subscribeAll()
	}
	if !ts.sub.named && len(r.Names)+len(r.Unsubscribe) == 0 && hasLegacyWildcard(ts.typ, s.slot.profile.Kind) {
		ts.subscribeAll()
	}
	ts.subscribe(r.Names)
	if first {
		ts.reconnected(r.Initial)
	}
	if len(r.Unsubscribe) > 0 {
		ts.unsubscribe(r.Unsubscribe)
	}
}

// reconnected takes in what the client kept from an earlier stream.
//
// "On reconnect the Incremental xDS client may tell the server of its known
// resources to avoid resending them over the network by sending them in
// initial_resource_versions."
func (ts *typeState) reconnected(versions map[string]string) {
	s := ts.stream
	ts.reported = len(versions)
	if len(versions) > 0 && len(ts.sub.names.Names) == 0 {
		ts.owed = false // it started long ago, and waits for nothing
	}
	if ts.typ == resource.Endpoint && s.aggregated &&
		(!s.types[resource.Cluster].sub.active || s.order.everyCluster) {
		// A stream that was lost between CDS and EDS comes back with EDS
		// first: Envoy has the clusters, and they wait for assignments that
		// it calls current.
		return
	}
	for name, version := range versions {
		if !ts.sub.has(name) || version == "" {
			continue
		}
		if ts.typ == resource.Endpoint {
			if _, ok := s.order.rewarm[name]; ok {
				continue
			}
		}
		// There is a lease only for what the client may have: not in plaintext
		// mode, nor for the identity of another service.
		if ts.typ == resource.Secret && leased(name) && s.secrets.mayHave(name) && !s.secrets.adopt(name, version) {
			continue
		}
		ts.set(name, clientReports(version))
	}
	if ts.typ == resource.Endpoint {
		s.order.rewarm = nil
	}
}

// unsubscribe removes names.
//
// "A server does not need to send any response if a request does nothing except
// unsubscribe from a resource [...]. However, there is one exception to the
// above: When a client has a wildcard subscription ("*") *and* a subscription
// to another specific resource name, [...] the server must send a response that
// includes the specific resource in either the removed_resources field (if it
// is not included in the wildcard) or in the resources field (if it *is*
// included in the wildcard)."
func (ts *typeState) unsubscribe(names []string) {
	if slices.Contains(names, wire.Wildcard) {
		ts.sub.wildcard, ts.sub.named = false, true
	}
	var known []string
	for _, name := range names {
		if ts.sub.names.Has(name) {
			known = append(known, name)
		}
	}
	if len(known) > 0 {
		ts.sub.names = ts.stream.server.names.Without(ts.sub.names, known)
	}
	if ts.sub.wildcard && ts.base.known() {
		for _, name := range known {
			ts.answer, ts.owed = true, true
			ts.track(name).request()
		}
	}
	ts.forget()
}
