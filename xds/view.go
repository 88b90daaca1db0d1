package xds

import (
	"iter"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"datapunk.dev/controlplane/resource"
)

// slot is the place of a profile's current view. Streams of the profile hold
// the slot; publishing swaps the view in it.
type slot struct {
	profile resource.Profile
	view    atomic.Pointer[view] // nil: not built yet
	streams map[*stream]struct{} // guarded by Server.mu
}

// view is what a slot's streams read: an offer of each type.
type view struct {
	offers  [resource.NumTypes]*offer
	missing []string
}

// get returns the resource that the view's clients are to have, or nil.
func (v *view) get(t resource.Type, name string) *resource.Resource {
	return v.offers[t].get(name)
}

// sets returns what the snapshot says.
func (v *view) sets() (sets [resource.NumTypes]*resource.Set) {
	for t, o := range v.offers {
		sets[t] = o.set
	}
	return sets
}

// offer is what is served of one type: a set of the snapshot, but for what is
// in quarantine. Its content is immutable. Streams compare offers as they would compare
// sets, at the same cost.
type offer struct {
	id  uint64 // no other has it
	set *resource.Set
	// instead is what is served in the place of quarantined contents, by name;
	// nil most often.
	instead map[string]substitute
	digest  digest // of what is served: equal on every replica that serves the same
	whole   digest // of the set, as if nothing were in quarantine
	parcels parcels
}

// offerIDs counts the offers. A parcel remembers the one before it by number,
// so as not to keep it.
var offerIDs atomic.Uint64

func newOffer(set *resource.Set, d digest) *offer {
	return &offer{id: offerIDs.Add(1), set: set, digest: d, whole: d}
}

// substitute is the last content of a place that some proxy acknowledged.
type substitute struct {
	cause    *quarantine
	withheld *resource.Resource
	resource *resource.Resource // nil if there was none: a client keeps what it has
}

// get returns what is served under the name, or nil.
func (o *offer) get(name string) *resource.Resource {
	if o.instead != nil {
		if s, ok := o.instead[name]; ok {
			return s.resource
		}
	}
	return o.set.Get(name)
}

// withholds reports whether a resource of the name exists and nothing is
// served of it.
func (o *offer) withholds(name string) bool {
	s, ok := o.instead[name]
	return ok && s.resource == nil
}

// with returns the offer with a substitute in it.
func (o *offer) with(s substitute) *offer {
	next := newOffer(o.set, o.digest)
	next.whole = o.whole
	next.instead = make(map[string]substitute, len(o.instead)+1)
	maps.Copy(next.instead, o.instead)
	next.instead[s.withheld.Name] = s
	next.digest = next.digest.toggle(s.withheld.Name, s.withheld.Version)
	if s.resource != nil {
		next.digest = next.digest.toggle(s.resource.Name, s.resource.Version)
	}
	return next
}

// equal reports whether two offers, the first of which may be nil, are the
// same.
func (o *offer) equal(p *offer) bool {
	return o != nil && o.set == p.set && maps.Equal(o.instead, p.instead)
}

// all iterates over what is served, in the order of names.
func (o *offer) all() iter.Seq[*resource.Resource] {
	if o.instead == nil {
		return o.set.All()
	}
	return func(yield func(*resource.Resource) bool) {
		for r := range o.set.All() {
			if s, ok := o.instead[r.Name]; ok {
				r = s.resource
			}
			if r != nil && !yield(r) {
				return
			}
		}
	}
}

// changedSince returns the names that may differ between base and o. It is
// false when that is not known, and the two must be compared whole.
func (o *offer) changedSince(base *offer) ([]string, bool) {
	names, ok := o.set.ChangedSince(base.set)
	if !ok {
		return nil, false
	}
	if base.instead != nil || o.instead != nil {
		names = slices.Clone(names) // they are the set's
		for name := range base.instead {
			names = append(names, name)
		}
		for name := range o.instead {
			names = append(names, name)
		}
	}
	return names, true
}

var noResources = resource.NewSet()

// digest sums up names and versions of resources, in any order. Adding a
// resource twice takes it out again.
type digest uint64

func (d digest) toggle(name, version string) digest {
	h := xxhash.New()
	_, _ = h.WriteString(name)
	_, _ = h.Write([]byte{0})
	_, _ = h.WriteString(version)
	return d ^ digest(h.Sum64())
}

func (d digest) String() string {
	const digits = "0123456789abcdef"
	var b [16]byte
	for i := range b {
		b[i] = digits[d>>(60-4*i)&15]
	}
	return string(b[:])
}
