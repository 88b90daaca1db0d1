package translate

import (
	"iter"
	"maps"

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
	// Views that differ from the predecessor's, and those that are gone.
	Changed []*resource.View
	Removed []resource.Profile
	Held    []Held
	// Notes are findings about the input for people: names that match nothing,
	// instances left out, upstreams that do not exist.
	Notes []string

	state *state                              // what makes the next one cheap, and the views
	given map[resource.Profile]*resource.View // the views of NewSnapshot
}

// NewSnapshot returns a snapshot of the given views, all of them changed, that
// was made from no input. Translate does not continue it.
func NewSnapshot(views ...*resource.View) *Snapshot {
	s := &Snapshot{Changed: views, given: make(map[resource.Profile]*resource.View, len(views))}
	for _, v := range views {
		s.given[v.Profile] = v
	}
	return s
}

// View returns the view of a profile, or nil. It is put together anew on each
// call; compare the sets in it, not the pointer to it.
func (s *Snapshot) View(p resource.Profile) *resource.View {
	if s.state == nil {
		return s.given[p]
	}
	place, ok := s.state.places.Get([]byte(p.Key()))
	if !ok {
		return nil
	}
	return s.state.view(place)
}

// Views iterates over all views, those of one service together.
func (s *Snapshot) Views() iter.Seq[*resource.View] {
	if s.state == nil {
		return maps.Values(s.given)
	}
	return func(yield func(*resource.View) bool) {
		it := s.state.places.Root().Iterator()
		for _, place, ok := it.Next(); ok; _, place, ok = it.Next() {
			if !yield(s.state.view(place)) {
				return
			}
		}
	}
}
