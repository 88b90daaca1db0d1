package xds

import (
	"slices"

	"datapunk.dev/controlplane/resource"
)

// handleDelta takes in a DeltaDiscoveryRequest.
//
// "ACK or NACK is determined by the absence or presence of error_detail. [...]
// The server must honor changes to the subscription state even if the nonce is
// stale. The nonce may be used to correlate an ack/nack with a server response,
// but should *not* be used to reject stale requests."
func (f *feed) handleDelta(r *request) {
	s := f.stream
	switch sent := f.unanswered(r.nonce); {
	case sent == nil:
	case r.nack:
		f.rejected(f.answered(sent), r.failure)
	default:
		f.acknowledged(f.answered(sent))
	}
	first := !f.sub.active
	if first {
		f.sub = subscription{active: true, names: noNames}
	}
	if f.typ == resource.Secret {
		s.secrets.authorize(r)
	}
	if r.all {
		f.sub.named = true
		f.subscribeAll()
	}
	if !f.sub.named && len(r.names)+len(r.unsubscribe) == 0 && hasLegacyWildcard(f.typ, s.slot.profile.Kind) {
		f.subscribeAll()
	}
	f.subscribe(r.names)
	if first {
		f.reconnected(r.initial)
	}
	if len(r.unsubscribe) > 0 {
		f.unsubscribe(r.unsubscribe)
	}
}

// reconnected takes in what the client kept from an earlier stream.
//
// "On reconnect the Incremental xDS client may tell the server of its known
// resources to avoid resending them over the network by sending them in
// initial_resource_versions."
func (f *feed) reconnected(versions map[string]string) {
	s := f.stream
	f.reported = len(versions)
	if len(versions) > 0 && len(f.sub.names.names) == 0 {
		f.owed = false // it started long ago, and waits for nothing
	}
	if f.typ == resource.Endpoint && s.aggregated &&
		(!s.feeds[resource.Cluster].sub.active || s.order.everyCluster) {
		// A stream that was lost between CDS and EDS comes back with EDS
		// first: Envoy has the clusters, and they wait for assignments that
		// it calls current.
		return
	}
	for name, version := range versions {
		if !f.sub.has(name) || version == "" {
			continue
		}
		if f.typ == resource.Endpoint {
			if _, ok := s.order.rewarm[name]; ok {
				continue
			}
		}
		// There is a lease only for what the client may have: not in plaintext
		// mode, nor for the identity of another service.
		if f.typ == resource.Secret && leased(name) && s.secrets.mayHave(name) && !s.secrets.adopt(name, version) {
			continue
		}
		f.note(name, &diff{version: version})
	}
	if f.typ == resource.Endpoint {
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
func (f *feed) unsubscribe(names []string) {
	if slices.Contains(names, wildcard) {
		f.sub.wildcard, f.sub.named = false, true
	}
	var known []string
	for _, name := range names {
		if f.sub.names.has(name) {
			known = append(known, name)
		}
	}
	if len(known) > 0 {
		f.sub.names = f.stream.server.names.without(f.sub.names, known)
	}
	if f.sub.wildcard && f.base.known() {
		for _, name := range known {
			f.answer, f.owed = true, true
			f.noted(name).tell = true
		}
	}
	f.forget()
}
