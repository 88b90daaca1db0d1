package xds

import (
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// subscription is what a client has asked for of one type.
//
// "For Listener and Cluster resource types, there is also a "wildcard"
// subscription, which is triggered when subscribing to the special name "*".
// [...] For historical reasons, if the client sends a request for a given
// resource type but has never explicitly subscribed to any resource names [...],
// the server should treat that identically to how it would treat the client
// having explicitly subscribed to "*". However, once the client does explicitly
// subscribe to a resource name (whether it be "*" or any other name), then this
// legacy semantic is no longer available".
type subscription struct {
	active   bool // a request of the type has come
	named    bool // a name was subscribed to: no legacy wildcard any more
	wildcard bool
	names    *wire.NameSet // never nil once active; without "*"
}

func (s *subscription) has(name string) bool {
	return s.wildcard || s.names != nil && s.names.Has(name)
}

// hasLegacyWildcard reports whether requests without names mean everything.
func hasLegacyWildcard(t resource.Type, k resource.Kind) bool {
	return isWhole(t) && !k.NamesAll()
}

// isWhole reports whether clients ask for all of the type, and take a response of
// the state of the world for all of it. Of scoped routes the specification has
// no word; Envoy treats them so.
func isWhole(t resource.Type) bool {
	return t == resource.Cluster || t == resource.Listener || t == resource.ScopedRoute
}

// began notes when the client asked for clusters.
func (ts *typeState) began() {
	if ts.typ == resource.Cluster {
		ts.stream.order.began = time.Now()
	}
}

// subscribe adds names, and has each of them told.
//
// "A resource_names_subscribe field may contain resource names that the server
// believes the client is already subscribed to, and furthermore has the most
// recent versions of. However, the server *must* still provide those resources
// in the response". "When a resource subscribed to by a client does not exist,
// the server will send a DeltaDiscoveryResponse message that contains that
// resource's name in the removed_resources field."
func (ts *typeState) subscribe(names []string) {
	if len(names) == 0 {
		return
	}
	ts.sub.named = true
	ts.answer = true
	if ts.base.known() { // else every name is new: see plan
		for _, name := range names {
			if d := ts.track(name); d != nil {
				d.ask()
			} else {
				ts.set(name, newlyAsked())
			}
		}
	}
	ts.sub.names = ts.stream.server.names.With(ts.sub.names, names)
}

// subscribeAll turns the wildcard on. It is answered even if there is nothing:
// Envoy does not finish to start before.
func (ts *typeState) subscribeAll() {
	if ts.sub.wildcard {
		return
	}
	ts.answer, ts.owed = true, true
	if ts.base.known() {
		for r := range ts.base.all() {
			if !ts.sub.names.Has(r.Name) {
				ts.set(r.Name, clientHas(nil))
			}
		}
	}
	ts.sub.wildcard = true
}

// forget drops the notes of names that are no longer subscribed to.
func (ts *typeState) forget() {
	for name := range ts.names {
		if !ts.sub.has(name) {
			delete(ts.names, name)
		}
	}
}
