package translate

import (
	"iter"
	"maps"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
)

// Type is a kind of xDS resource.
type Type uint8

// The types that the mesh uses, in the order in which they are added. Removals
// go the other way.
const (
	Cluster Type = iota
	Endpoint
	Secret
	Listener
	Route
	NumTypes
)

var typeURLs = [NumTypes]string{
	Cluster:  "type.googleapis.com/envoy.config.cluster.v3.Cluster",
	Endpoint: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	Secret:   "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
	Listener: "type.googleapis.com/envoy.config.listener.v3.Listener",
	Route:    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}

// URL returns the type URL of the xDS protocol.
func (t Type) URL() string { return typeURLs[t] }

// TypeOf returns the type with the type URL.
func TypeOf(url string) (Type, bool) {
	for t, u := range typeURLs {
		if u == url {
			return Type(t), true
		}
	}
	return 0, false
}

// Ref names a resource that another one needs.
type Ref struct {
	Type Type
	Name string
}

// Resource is one Envoy resource, checked and encoded once. Every view and
// every stream shares the pointer.
type Resource struct {
	Type    Type
	Name    string
	Version string // hash of the content: equal on every replica
	Body    []byte // the message, encoded deterministically: the value of its Any
	// Keys of the mesh file that made it, most specific first
	// ("circuit_breakers.custom.lake_service"); policy.Mesh.Source has the line.
	Keys []string
	// Refs are what it needs to work: a listener its secrets and routes, a
	// cluster its secrets, a route its clusters.
	Refs []Ref
}

// same reports whether two resources of one type and name are alike in all
// that is told of them.
func (r *Resource) same(o *Resource) bool {
	return r == o || r.Version == o.Version && slices.Equal(r.Keys, o.Keys) && slices.Equal(r.Refs, o.Refs)
}

// Profile is what makes one proxy's configuration differ from another's.
// Proxies with equal profiles share a [View].
type Profile struct {
	Service string
	Kind    Kind
	Address string // where inbound and metrics bind; empty: every address
	Zone    string

	AppPort, MeshPort uint16 // 0: unknown, no inbound listener
	OutboundPort      uint16
	MetricsPort       uint16 // 0: that of the mesh file, if it has one
}

// Kind is the kind of client.
type Kind uint8

// The kinds of clients.
const (
	Sidecar   Kind = iota
	Proxyless      // grpc-go's own xDS client
)

// Stage is how far the fleet is between mTLS off and on. A change of one proxy
// is not one of all at the same time: they must take mTLS before others speak
// it to them, and know their callers before they refuse any.
type Stage uint8

// The stages, in the order in which mTLS comes; it goes the other way.
const (
	Settled   Stage = iota // as the mesh file says
	Listening              // sidecars take both mTLS and plaintext, and speak plaintext
	Calling                // they take both, and speak mTLS; nobody is refused
)

// Input is all that a snapshot is made of.
type Input struct {
	Mesh    *policy.Mesh
	Catalog *watch.Catalog
	Fleet   *Fleet
	Roots   []byte // the trust bundle, PEM; empty while mTLS is off
	Stage   Stage
}

// View is what one profile's proxies see: a set of resources a type. Sets are
// shared with every view that has the same content.
type View struct {
	Profile Profile
	Sets    [NumTypes]*Set
	// Missing says, for people, what was left out for want of metadata.
	Missing []string
}

// Held is a resource that could not be made, or failed a check: the last good
// one stays in its place, if there was one.
type Held struct {
	Type  Type
	Name  string
	Keys  []string
	Cause string
}

// Snapshot is one state of the whole fleet's configuration.
type Snapshot struct {
	Input Input
	// Views that differ from the predecessor's, and those that are gone.
	Changed []*View
	Removed []Profile
	Held    []Held
	// Notes are findings about the input for people: names that match nothing,
	// instances left out, upstreams that do not exist.
	Notes []string

	state *state            // what makes the next one cheap, and the views
	given map[Profile]*View // the views of NewSnapshot
}

// NewSnapshot returns a snapshot of the given views, all of them changed, that
// was made from no input. Translate does not continue it.
func NewSnapshot(views ...*View) *Snapshot {
	s := &Snapshot{Changed: views, given: make(map[Profile]*View, len(views))}
	for _, v := range views {
		s.given[v.Profile] = v
	}
	return s
}

// View returns the view of a profile, or nil. It is put together anew on each
// call; compare the sets in it, not the pointer to it.
func (s *Snapshot) View(p Profile) *View {
	if s.state == nil {
		return s.given[p]
	}
	place, ok := s.state.places.Get(profileKey(p))
	if !ok {
		return nil
	}
	return s.state.view(place)
}

// Views iterates over all views, those of one service together.
func (s *Snapshot) Views() iter.Seq[*View] {
	if s.state == nil {
		return maps.Values(s.given)
	}
	return func(yield func(*View) bool) {
		it := s.state.places.Root().Iterator()
		for _, place, ok := it.Next(); ok; _, place, ok = it.Next() {
			if !yield(s.state.view(place)) {
				return
			}
		}
	}
}
