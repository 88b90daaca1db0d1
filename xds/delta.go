package xds

import (
	"slices"

	"datapunk.dev/controlplane/translate"
)

// handleDelta takes in a DeltaDiscoveryRequest.
//
// "DeltaDiscoveryRequest plays two independent roles: informing the server of
// what resources the client has gained or lost interest in, and (N)ACKing an
// earlier resource update." A request may do both, and a stale nonce makes a
// subscription no less valid.
func (f *feed) handleDelta(r *request) {
	s := f.stream
	if done := f.answered(r.nonce); done != nil {
		if r.nack {
			f.rejected(done, r.failure)
		} else {
			f.acknowledged(done)
		}
	}

	first := !f.sub.active
	if first {
		f.sub = subscription{active: true, names: noNames}
	}
	if f.typ == translate.Secret {
		r.names = s.secrets.authorised(r.names)
	}
	asked := r.names
	if slices.Contains(asked, wildcard) {
		f.sub.named = true
		asked = without(asked, wildcard)
		f.subscribeAll()
	}
	// "If the initial request on the stream for a given resource type contains
	// no resource names, the server should treat that as a subscription to
	// everything."
	if first && len(r.names) == 0 && hasLegacyWildcard(f.typ, s.slot.profile.Kind) {
		f.subscribeAll()
	}
	f.subscribe(asked)
	if first {
		f.reconnected(r.initial)
	}
	if len(r.unsubscribe) > 0 {
		f.unsubscribe(r.unsubscribe)
	}
}

// reconnected takes in what the client kept from an earlier stream.
//
// "initial_resource_versions: the client reports the versions of the resources
// that it has, so that the server need not send them again. The server must
// tell it of those that are gone."
func (f *feed) reconnected(versions map[string]string) {
	s := f.stream
	f.reported = len(versions)
	if f.typ == translate.Endpoint && s.aggregated &&
		(!s.feeds[translate.Cluster].sub.active || s.order.everyCluster) {
		// A stream that was lost between CDS and EDS comes back with EDS
		// first: Envoy has the clusters, and they wait for assignments that
		// it calls current.
		return
	}
	for name, version := range versions {
		if !f.sub.has(name) || version == "" {
			continue
		}
		if f.typ == translate.Endpoint {
			if _, ok := s.order.rewarm[name]; ok {
				continue
			}
		}
		if f.typ == translate.Secret && s.secrets.leased(name) && !s.secrets.adopt(name, version) {
			continue
		}
		f.note(name, &diff{version: version})
	}
	if f.typ == translate.Endpoint {
		s.order.rewarm = nil
	}
}

// unsubscribe removes names. "The server need not answer, but when the client
// still has a wildcard subscription it must say again whether a name that is no
// longer subscribed to by itself is part of that."
func (f *feed) unsubscribe(names []string) {
	if slices.Contains(names, wildcard) {
		f.sub.wildcard = false
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
	if f.sub.wildcard && f.base != nil {
		for _, name := range known {
			f.answer, f.owed = true, true
			f.differs(name).tell = true
		}
	}
	f.forget()
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}
