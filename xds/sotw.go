package xds

import (
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

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
func (ts *typeState) handleSotw(r *wire.Request) {
	s := ts.stream
	switch sent := ts.unanswered(r.Nonce); {
	case sent == nil:
	case r.Nack:
		ts.rejected(ts.answered(sent), r.Failure)
	case sent.version.is(r.Version):
		ts.acknowledged(ts.answered(sent))
	}
	first := !ts.sub.active
	stale := !first && r.Nonce != "" && ts.nonce != "" && r.Nonce != ts.nonce
	if stale && len(ts.inflight) == 0 {
		return // it has answered a newer one already
	}
	if first {
		ts.sub = subscription{active: true, names: wire.NoNames}
		ts.began()
		ts.claims = r.Version
		ts.answer = true
	}
	if ts.typ == resource.Secret {
		s.secrets.authorize(r)
	}
	ts.resubscribe(r, first)
	if stale {
		ts.answer = false
	}
}

// resubscribe replaces the subscription.
//
// "Each request must contain the full list of resource names being subscribed
// to". "When the client sends a new request that changes the set of resources
// being requested, the server must resend any newly requested resources, even
// if it previously sent those resources without having been asked for them and
// the resources have not changed since that time."
func (ts *typeState) resubscribe(r *wire.Request, first bool) {
	old := ts.sub
	named := r.All || len(r.Names) > 0
	ts.sub.named = ts.sub.named || named
	all := r.All
	if !ts.sub.named && hasLegacyWildcard(ts.typ, ts.stream.slot.profile.Kind) {
		all = true
	}
	names := r.Set
	if names == nil {
		names = ts.stream.server.names.Of(r.Names)
	}
	if !first && names == old.names && all == old.wildcard {
		return // most often: an ACK
	}
	if ts.base.known() {
		for _, name := range names.Names {
			if old.names.Has(name) {
				continue
			}
			if d := ts.track(name); d != nil {
				d.request() // a wildcard covers it
			} else {
				ts.set(name, newlyRequested())
			}
			ts.answer = true
			ts.owed = ts.owed || ts.fullState()
		}
	}
	ts.sub.names = names
	if all {
		// The names that were asked for one by one count as known.
		ts.sub.wildcard, ts.sub.names = false, old.names
		if old.wildcard {
			ts.sub.wildcard = true
		}
		ts.subscribeAll()
		ts.sub.names = names
	} else {
		ts.sub.wildcard = false
	}
	if first && ts.fullState() && named {
		ts.owed = true
	}
	ts.forget()
}

// fullState reports whether a response must hold all that the client asked for.
//
// In SotW, for Listener and Cluster, and for what Envoy treats like them, "the server must include the complete
// state of the world, meaning that all resources of the relevant type that are
// needed by the client must be included, even if they did not change since the
// last response." What a response lacks, the client deletes.
func (ts *typeState) fullState() bool {
	return ts.stream.protocol == wire.SotW && isWhole(ts.typ)
}

// stateOfTheWorld returns all that a response must hold so that the client has
// what it is to have, and the digest of that. What waits, for an acknowledgement
// or because it was rejected, stays in as the client has it.
func (ts *typeState) stateOfTheWorld() ([]*resource.Resource, digest) {
	var resources []*resource.Resource
	state := digest(0)
	add := func(r *resource.Resource) {
		resources = append(resources, r)
		state = state.toggle(r.Name, r.Version)
	}
	for r := range ts.base.all() {
		if !ts.sub.has(r.Name) {
			continue
		}
		if d := ts.names[r.Name]; d != nil {
			r = d.has
		}
		if r != nil {
			add(r)
		}
	}
	for name, d := range ts.names {
		if ts.base.get(name) == nil && d.has != nil && ts.sub.has(name) {
			add(d.has)
		}
	}
	return resources, state
}
