package translate

import (
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
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
	Fleet   *resource.Fleet
	Roots   []byte // the trust bundle, PEM; empty while mTLS is off
	Stage   Stage
}

// Held is a resource that could not be made, or failed a check: the last good
// one stays in its place, if there was one.
type Held struct {
	Type  resource.Type
	Name  string
	Keys  []string
	Cause string
}

// Snapshot is one state of the whole fleet's configuration.
type Snapshot struct {
	Input Input
	// The scopes and views that differ from the predecessor's, by key, and the
	// profiles whose views are gone.
	ChangedScopes []*resource.Scope
	ChangedViews  []*resource.View
	Removed       []resource.Profile
	Held          []Held
	// Notes are findings about the input for people: names that match nothing,
	// instances left out, upstreams that do not exist.
	Notes []string

	state *state // what makes the next one cheap, the scopes and the views
}

// Changed returns the scopes and views that differ from the predecessor's.
func (s *Snapshot) Changed() ([]*resource.Scope, []*resource.View) {
	return s.ChangedScopes, s.ChangedViews
}

// Scope returns the scope with the key, or nil.
func (s *Snapshot) Scope(key string) *resource.Scope {
	if scope, ok := s.state.scopes.Get(key); ok {
		return &scope.Scope
	}
	return nil
}

// View returns the view of a profile, or nil. It is put together anew on each
// call; compare the sets in it, not the pointer to it.
func (s *Snapshot) View(p resource.Profile) *resource.View {
	if proxy, ok := s.state.proxies.Get(p.Key()); ok {
		return proxy.view()
	}
	return nil
}
