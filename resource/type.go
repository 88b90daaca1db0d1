package resource

// Type is a kind of xDS resource.
type Type uint8

// The types that the mesh uses, in the order in which they are added; package xds
// knows that of removals. Runtime comes first: Envoy asks for it first, and for
// nothing else before it has an answer, and routes may be written with its keys.
const (
	Runtime Type = iota
	Cluster
	Endpoint
	Secret
	Listener
	Extension
	ScopedRoute
	Route
	NumTypes
)

// types has what each type is called: in the protocol, and by people in the log,
// in metrics and in the status of a proxy.
var types = [NumTypes]struct{ url, name string }{
	Runtime:     {"type.googleapis.com/envoy.service.runtime.v3.Runtime", "runtime"},
	Cluster:     {"type.googleapis.com/envoy.config.cluster.v3.Cluster", "cluster"},
	Endpoint:    {"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "endpoint"},
	Secret:      {"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "secret"},
	Listener:    {"type.googleapis.com/envoy.config.listener.v3.Listener", "listener"},
	Extension:   {"type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "extension"},
	ScopedRoute: {"type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration", "scoped_route"},
	Route:       {"type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "route"},
}

// URL returns the type URL of the xDS protocol.
func (t Type) URL() string { return types[t].url }

// String returns the type's name for people.
func (t Type) String() string { return types[t].name }

// TypeNamed returns the type with the name for people.
func TypeNamed(name string) (Type, bool) {
	for t, known := range types {
		if known.name == name {
			return Type(t), true
		}
	}
	return 0, false
}

// TypeOf returns the type with the type URL.
func TypeOf(url string) (Type, bool) {
	for t, known := range types {
		if known.url == url {
			return Type(t), true
		}
	}
	return 0, false
}
