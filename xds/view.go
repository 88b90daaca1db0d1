package xds

import (
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"datapunk.dev/controlplane/resource"
)

// slot is a profile, with what its streams are to have.
type slot struct {
	profile resource.Profile
	current atomic.Pointer[view] // the last that was put together

	streams map[*stream]struct{} // guarded by Server.mu

	halves *sync.RWMutex // Server.halves, which guards what follows
	scope  *scopeSlot
	own    *half // nil: not built yet
}

// scopeSlot is a scope, with what the streams of all profiles in it are to have.
type scopeSlot struct {
	key   string
	kind  resource.Kind
	slots map[*slot]struct{} // guarded by Server.mu
	half  *half              // guarded by Server.halves

	waking  atomic.Bool // its streams are about to be woken
	mu      sync.Mutex
	streams map[*stream]struct{}
}

// add puts a slot and its streams into the scope. The caller holds Server.mu.
func (s *scopeSlot) add(sl *slot) {
	s.slots[sl] = struct{}{}
	for st := range sl.streams {
		s.enter(st)
	}
}

// remove takes a slot and its streams out. The caller holds Server.mu.
func (s *scopeSlot) remove(sl *slot) {
	delete(s.slots, sl)
	for st := range sl.streams {
		s.leave(st)
	}
}

func (s *scopeSlot) enter(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = struct{}{}
}

func (s *scopeSlot) leave(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
}

// wake has every stream of the scope look at what it is to have. It returns at
// once: to wake twenty thousand takes longer than a publication may.
func (s *scopeSlot) wake() {
	if s.waking.Swap(true) {
		return
	}
	go func() {
		s.waking.Store(false)
		s.mu.Lock()
		defer s.mu.Unlock()
		for st := range s.streams {
			st.wake()
		}
	}()
}

// load returns what the slot's streams are to have, nil if that is not built
// yet. Both halves are of one publication.
func (s *slot) load() *view {
	s.halves.RLock()
	own, scope := s.own, s.scope
	if own == nil || scope == nil || scope.half == nil {
		s.halves.RUnlock()
		return nil
	}
	half := scope.half
	s.halves.RUnlock()
	if v := s.current.Load(); v != nil && v.own == own && v.scope == half {
		return v
	}
	v := &view{scope: half, own: own}
	s.current.Store(v)
	return v
}

// half is one half of a view: a served set of each type. It is immutable.
type half struct {
	types   [resource.NumTypes]*servedSet
	missing []string // of a proxy's own half, for people
}

// sets returns what the snapshot says.
func (h *half) sets() (sets resource.Sets) {
	for t, o := range h.types {
		sets[t] = o.set
	}
	return sets
}

// view is what a slot's streams read. It is immutable.
type view struct{ scope, own *half }

// get returns the resource that the view's clients are to have, or nil.
func (v *view) get(t resource.Type, name string) *resource.Resource { return v.of(t).get(name) }

// of returns what is served of a type.
func (v *view) of(t resource.Type) served { return served{v.scope.types[t], v.own.types[t]} }

// served is what is served of one type, of both halves. The zero value is
// nothing that was ever served. What is equal is the same.
type served struct{ scope, own *servedSet }

// known reports whether it is not the zero value.
func (s served) known() bool { return s.scope != nil }

// get returns what is served under the name, or nil. No name is in both halves.
func (s served) get(name string) *resource.Resource {
	if r := s.scope.get(name); r != nil {
		return r
	}
	return s.own.get(name)
}

// withholds reports whether a resource of the name exists and nothing is
// served of it.
func (s served) withholds(name string) bool { return s.scope.withholds(name) || s.own.withholds(name) }

// published returns the resource of the snapshot, be it in quarantine or not.
func (s served) published(name string) *resource.Resource {
	if r := s.scope.set.Get(name); r != nil {
		return r
	}
	return s.own.set.Get(name)
}

// allPublished iterates over the resources of the snapshot.
func (s served) allPublished() iter.Seq[*resource.Resource] {
	return func(yield func(*resource.Resource) bool) {
		for _, o := range [...]*servedSet{s.scope, s.own} {
			for r := range o.set.All() {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// whole sums up what the snapshot has.
func (s served) whole() digest { return s.scope.whole ^ s.own.whole }

// digest sums up what is served: it is equal on every replica that serves the
// same.
func (s served) digest() digest { return s.scope.digest ^ s.own.digest }

// all iterates over what is served.
func (s served) all() iter.Seq[*resource.Resource] {
	return func(yield func(*resource.Resource) bool) {
		for _, o := range [...]*servedSet{s.scope, s.own} {
			for r := range o.all() {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// changedSince returns the names that may differ between base and s. It is
// false when that is not known, and the two must be compared whole.
func (s served) changedSince(base served) ([]string, bool) {
	scope, ok := s.scope.changedSince(base.scope)
	if !ok {
		return nil, false
	}
	own, ok := s.own.changedSince(base.own)
	switch {
	case !ok:
		return nil, false
	case len(own) == 0:
		return scope, true
	case len(scope) == 0:
		return own, true
	}
	return slices.Concat(scope, own), true
}

// fallbacks iterates over what stands in the place of quarantined contents.
func (s served) fallbacks() iter.Seq2[string, fallback] {
	return func(yield func(string, fallback) bool) {
		for _, o := range [...]*servedSet{s.scope, s.own} {
			for name, f := range o.fallbacks {
				if !yield(name, f) {
					return
				}
			}
		}
	}
}

// noHalf stands in where the half of a proxy's own does not matter.
var noHalf = func() *half {
	h := &half{}
	for t := range h.types {
		h.types[t] = nothingServed
	}
	return h
}()

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

// text writes the digest as a version of the protocol.
func (d digest) text() (b [16]byte) {
	const digits = "0123456789abcdef"
	for i := range b {
		b[i] = digits[d>>(60-4*i)&15]
	}
	return b
}

func (d digest) String() string {
	b := d.text()
	return string(b[:])
}

// is reports whether the digest is the version.
func (d digest) is(version string) bool {
	b := d.text()
	return string(b[:]) == version
}
