package xds

import (
	"slices"

	"datapunk.dev/controlplane/translate"
)

// handleSotw takes in a DiscoveryRequest.
//
// "The server should not process a request with a stale nonce": the client is
// about to see a newer response and to ask again. "An ACK has the version and
// the nonce of the response": after a NACK, Envoy's subscription changes carry
// the nonce of the rejected response with the version before it, and are none.
func (f *feed) handleSotw(r *request) {
	s := f.stream
	first := !f.sub.active
	if !first && r.nonce != "" && f.nonce != "" && r.nonce != f.nonce {
		return
	}
	if r.nonce != "" && r.nonce == f.nonce {
		if r.nack {
			if done := f.answered(r.nonce); done != nil {
				f.rejected(done, r.failure)
			}
		} else if r.version == f.version {
			if done := f.answered(r.nonce); done != nil {
				f.acknowledged(done)
			}
		}
	}
	if first {
		f.sub = subscription{active: true, names: noNames}
		f.claims = r.version
		f.answer = true
	}
	names := r.names
	if f.typ == translate.Secret {
		names = s.secrets.authorised(names)
	}
	f.resubscribe(names, first)
}

// resubscribe replaces the subscription: every SotW request lists all names.
func (f *feed) resubscribe(list []string, first bool) {
	old := f.sub
	if len(list) > 0 {
		f.sub.named = true
	}
	all := slices.Contains(list, wildcard)
	if all {
		list = without(list, wildcard)
	}
	if !f.sub.named && hasLegacyWildcard(f.typ, f.stream.slot.profile.Kind) {
		all = true
	}
	names := f.stream.server.names.of(list)
	if !first && names == old.names && all == old.wildcard {
		return // most often: an ACK
	}
	if f.base != nil {
		for _, name := range names.names {
			if old.names.has(name) {
				continue
			}
			if d := f.differs(name); d != nil {
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
	if first && f.fullState() && len(list) > 0 {
		f.owed = true
	}
	f.forget()
}

// fullState reports whether a response must hold all that the client asked
// for: "In SotW, for Listener and Cluster, a resource that the response lacks
// is deleted. For the other types the server may send only what changed."
func (f *feed) fullState() bool {
	return f.stream.protocol == sotw && (f.typ == translate.Cluster || f.typ == translate.Listener)
}

// stateOfTheWorld returns what a response must hold so that the client has the
// changes, and the version of that. What waits, for an acknowledgement or
// because it was rejected, stays in as the client has it.
func (f *feed) stateOfTheWorld(v *view, changes []change) ([]*translate.Resource, string) {
	if !f.fullState() {
		resources, _ := split(changes)
		return resources, v.digests[f.typ].String()
	}
	var resources []*translate.Resource
	version := digest(0)
	add := func(r *translate.Resource) {
		resources = append(resources, r)
		version = version.toggle(r.Name, r.Version)
	}
	for r := range f.base.All() {
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
		if f.base.Get(name) == nil && d.has != nil && f.sub.has(name) {
			add(d.has)
		}
	}
	return resources, version.String()
}
