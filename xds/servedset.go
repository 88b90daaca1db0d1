package xds

import (
	"iter"
	"maps"
	"slices"
	"sync/atomic"

	"datapunk.dev/controlplane/resource"
)

// servedSet is what one half serves of one type: a set of the snapshot, but for what
// is in quarantine. What is served is immutable; streams compare it as they would
// compare sets, at the same cost.
type servedSet struct {
	id  uint64 // no other has it
	set *resource.Set
	// fallbacks are what is served in the place of quarantined contents, by name;
	// nil most often.
	fallbacks map[string]fallback
	// acked are the last contents that some proxy had acknowledged when others took
	// their place, by name: what is served where such another one turns out bad.
	acked     ackedContents
	untilLook int    // how many changes there may be before acked is looked through
	digest    digest // of what is served: equal on every replica that serves the same
	whole     digest // of the set, as if nothing were in quarantine
	payloads  payloads
}

// servedSetIDs counts the served sets. A payload remembers the one before it by number,
// so as not to keep it.
var servedSetIDs atomic.Uint64

func newServedSet(set *resource.Set, d digest) *servedSet {
	return &servedSet{id: servedSetIDs.Add(1), set: set, digest: d, whole: d}
}

// fallback is what is served in the place of a quarantined content: the last one
// there that some proxy acknowledged.
type fallback struct {
	cause    *quarantine
	withheld *resource.Resource
	resource *resource.Resource // nil if there was none: a client keeps what it has
}

// get returns what is served under the name, or nil.
func (s *servedSet) get(name string) *resource.Resource {
	if s.fallbacks != nil {
		if f, ok := s.fallbacks[name]; ok {
			return f.resource
		}
	}
	return s.set.Get(name)
}

// withholds reports whether a resource of the name exists and nothing is
// served of it.
func (s *servedSet) withholds(name string) bool {
	f, ok := s.fallbacks[name]
	return ok && f.resource == nil
}

// with returns the served set with a substitute in it.
func (s *servedSet) with(f fallback) *servedSet {
	next := newServedSet(s.set, s.digest)
	next.whole, next.acked = s.whole, s.acked
	next.fallbacks = make(map[string]fallback, len(s.fallbacks)+1)
	maps.Copy(next.fallbacks, s.fallbacks)
	next.fallbacks[f.withheld.Name] = f
	next.digest = next.digest.toggle(f.withheld.Name, f.withheld.Version)
	if f.resource != nil {
		next.digest = next.digest.toggle(f.resource.Name, f.resource.Version)
	}
	return next
}

// equal reports whether two served sets, the first of which may be nil, are the
// same.
func (s *servedSet) equal(p *servedSet) bool {
	return s != nil && s.set == p.set && maps.Equal(s.fallbacks, p.fallbacks)
}

// all iterates over what is served, in the order of names.
func (s *servedSet) all() iter.Seq[*resource.Resource] {
	if s.fallbacks == nil {
		return s.set.All()
	}
	return func(yield func(*resource.Resource) bool) {
		for r := range s.set.All() {
			if f, ok := s.fallbacks[r.Name]; ok {
				r = f.resource
			}
			if r != nil && !yield(r) {
				return
			}
		}
	}
}

// changedSince returns the names that may differ between base and s. It is
// false when that is not known, and the two must be compared whole.
func (s *servedSet) changedSince(base *servedSet) ([]string, bool) {
	if s == base {
		return nil, true
	}
	names, ok := s.set.ChangedSince(base.set)
	if !ok {
		return nil, false
	}
	if base.fallbacks != nil || s.fallbacks != nil {
		names = slices.Clone(names) // they are the set's
		for name := range base.fallbacks {
			names = append(names, name)
		}
		for name := range s.fallbacks {
			names = append(names, name)
		}
	}
	return names, true
}

var noResources = resource.NewSet()

// nothingServed stands in where nothing was served before.
var nothingServed = newServedSet(noResources, 0)
