package xds

import "datapunk.dev/controlplane/resource"

// handleSotw takes in a DiscoveryRequest.
//
// "The management server should not send a DiscoveryResponse for any
// DiscoveryRequest that has a stale nonce": the client is about to see a newer
// response, and asks again with its answer to that. Until then it is only
// remembered what the client asked for, lest a name that it gave up and took
// up again counts as one that it has.
//
// "ACK signifies successful configuration update and contains the version_info
// from the DiscoveryResponse." After a NACK, Envoy's changes of a subscription
// carry the nonce of the rejected response with the version before it.
func (f *feed) handleSotw(r *request) {
	s := f.stream
	switch sent := f.unanswered(r.nonce); {
	case sent == nil:
	case r.nack:
		f.rejected(f.answered(sent), r.failure)
	case sent.version.is(r.version):
		f.acknowledged(f.answered(sent))
	}
	first := !f.sub.active
	stale := !first && r.nonce != "" && f.nonce != "" && r.nonce != f.nonce
	if stale && len(f.inflight) == 0 {
		return // it has answered a newer one already
	}
	if first {
		f.sub = subscription{active: true, names: noNames}
		f.claims = r.version
		f.answer = true
	}
	if f.typ == resource.Secret {
		s.secrets.authorize(r)
	}
	f.resubscribe(r, first)
	if stale {
		f.answer = false
	}
}

// resubscribe replaces the subscription.
//
// "Each request must contain the full list of resource names being subscribed
// to". "When the client sends a new request that changes the set of resources
// being requested, the server must resend any newly requested resources, even
// if it previously sent those resources without having been asked for them and
// the resources have not changed since that time."
func (f *feed) resubscribe(r *request, first bool) {
	old := f.sub
	named := r.all || len(r.names) > 0
	f.sub.named = f.sub.named || named
	all := r.all
	if !f.sub.named && hasLegacyWildcard(f.typ, f.stream.slot.profile.Kind) {
		all = true
	}
	names := r.set
	if names == nil {
		names = f.stream.server.names.of(r.names)
	}
	if !first && names == old.names && all == old.wildcard {
		return // most often: an ACK
	}
	if f.base.known() {
		for _, name := range names.names {
			if old.names.has(name) {
				continue
			}
			if d := f.noted(name); d != nil {
				d.tell = true // a wildcard covers it
			} else {
				f.note(name, &diff{tell: true})
			}
			f.answer = true
			f.owed = f.owed || f.fullState()
		}
	}
	f.sub.names = names
	if all {
		// The names that were asked for one by one count as known.
		f.sub.wildcard, f.sub.names = false, old.names
		if old.wildcard {
			f.sub.wildcard = true
		}
		f.subscribeAll()
		f.sub.names = names
	} else {
		f.sub.wildcard = false
	}
	if first && f.fullState() && named {
		f.owed = true
	}
	f.forget()
}

// fullState reports whether a response must hold all that the client asked for.
//
// In SotW, for Listener and Cluster, "the server must include the complete
// state of the world, meaning that all resources of the relevant type that are
// needed by the client must be included, even if they did not change since the
// last response." What a response lacks, the client deletes.
func (f *feed) fullState() bool {
	return f.stream.protocol == sotw && (f.typ == resource.Cluster || f.typ == resource.Listener)
}

// stateOfTheWorld returns all that a response must hold so that the client has
// what it is to have, and the digest of that. What waits, for an acknowledgement
// or because it was rejected, stays in as the client has it.
func (f *feed) stateOfTheWorld() ([]*resource.Resource, digest) {
	var resources []*resource.Resource
	state := digest(0)
	add := func(r *resource.Resource) {
		resources = append(resources, r)
		state = state.toggle(r.Name, r.Version)
	}
	for r := range f.base.all() {
		if !f.sub.has(r.Name) {
			continue
		}
		if d := f.diffs[r.Name]; d != nil {
			r = d.has
		}
		if r != nil {
			add(r)
		}
	}
	for name, d := range f.diffs {
		if f.base.get(name) == nil && d.has != nil && f.sub.has(name) {
			add(d.has)
		}
	}
	return resources, state
}
