package xds

import "datapunk.dev/controlplane/translate"

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
	names    *nameSet // never nil once active; without "*"
}

const wildcard = "*"

func (s *subscription) has(name string) bool {
	return s.wildcard || s.names != nil && s.names.has(name)
}

// hasLegacyWildcard reports whether requests without names mean everything.
func hasLegacyWildcard(t translate.Type, k translate.Kind) bool {
	// gRPC always names what it wants: an empty list wants nothing.
	return (t == translate.Cluster || t == translate.Listener) && k != translate.Proxyless
}
