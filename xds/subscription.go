package xds

import "datapunk.dev/controlplane/translate"

// subscription is what a client has asked for of one type.
//
// "There are two ways to subscribe to everything: the explicit '*', and for
// Listener and Cluster, as long as a stream has never named a resource of the
// type, a request without names" (the legacy wildcard).
type subscription struct {
	active   bool // a request of the type has come
	named    bool // a name was subscribed to: no legacy wildcard any more
	wildcard bool
	names    *nameSet // never nil once active; without "*"
}

const wildcard = "*"

func (s *subscription) has(name string) bool {
	return s.wildcard || s.names != nil && s.names.has(name)
}

// hasLegacyWildcard reports whether an empty first request for the type means
// everything.
func hasLegacyWildcard(t translate.Type, k translate.Kind) bool {
	// gRPC always names what it wants: an empty list wants nothing.
	return (t == translate.Cluster || t == translate.Listener) && k != translate.Proxyless
}
