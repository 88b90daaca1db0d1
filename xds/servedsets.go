package xds

import (
	"maps"
	"slices"
	"strings"

	"datapunk.dev/controlplane/resource"
)

// servedSets makes the served sets of all halves. Halves with the same set, and the
// same in quarantine, have one served set: what a set needs is computed once,
// however many profiles read it, and in proportion to what changed. [Server.mu]
// guards it.
type servedSets struct {
	tally       *tally
	quarantines *quarantines

	plain map[*resource.Set]*sharedSet // with nothing in quarantine
	with  map[withFallback]*servedSet
}

// sharedSet is a served set, and how many halves use its set.
type sharedSet struct {
	served *servedSet
	kind   resource.Kind
	halves int
}

// withFallback is a served set with one more fallback in it.
type withFallback struct {
	on       *servedSet
	cause    *quarantine
	resource *resource.Resource
}

func newServedSets(t *tally, q *quarantines) *servedSets {
	return &servedSets{
		tally: t, quarantines: q,
		plain: make(map[*resource.Set]*sharedSet), with: make(map[withFallback]*servedSet),
	}
}

// published is called after the halves of a snapshot were made.
func (ss *servedSets) published() {
	maps.DeleteFunc(ss.with, func(w withFallback, _ *servedSet) bool {
		return ss.plain[w.on.set] == nil || w.cause.halves == 0
	})
	if ss.tally.overgrown() {
		ss.tally.retain(ss.contents)
	}
}

// contents iterates over all that is served, and all that is in quarantine.
func (ss *servedSets) contents(yield func(content) bool) {
	for set, s := range ss.plain {
		for r := range set.All() {
			if !yield(contentOf(s.kind, r)) {
				return
			}
		}
	}
	for _, q := range ss.quarantines.list {
		if !yield(q.content) {
			return
		}
	}
}

// half returns the half that follows old, which may be nil and is given up. The
// half of a proxy's own needs that of its scope; that of a scope needs none.
func (ss *servedSets) half(old *half, kind resource.Kind, scope *half, sets resource.Sets, missing []string) *half {
	next := &half{missing: missing}
	for t, set := range sets {
		if set == nil {
			set = noResources
		}
		s := ss.plain[set]
		if s == nil {
			var before *servedSet
			if old != nil {
				before = old.types[t]
			}
			s = &sharedSet{served: ss.of(kind, set, before), kind: kind}
			ss.plain[set] = s
		}
		s.halves++
		next.types[t] = s.served
	}
	ss.quarantines.substitute(next, old, scope, kind, ss.replace)
	if old != nil {
		ss.release(old)
		if old.types == next.types && slices.Equal(old.missing, missing) {
			return old // its streams have nothing to look for
		}
	}
	return next
}

// replace returns a served set with a fallback in it.
func (ss *servedSets) replace(on *servedSet, f fallback) *servedSet {
	key := withFallback{on, f.cause, f.resource}
	if known := ss.with[key]; known != nil {
		return known
	}
	ss.with[key] = on.with(f)
	return ss.with[key]
}

// of returns the served set of all that is in a set, which follows before; that
// may be nil. Its cost is in proportion to what changed.
func (ss *servedSets) of(kind resource.Kind, set *resource.Set, before *servedSet) *servedSet {
	if before == nil {
		before = nothingServed
	}
	names, ok := set.ChangedSince(before.set)
	if !ok {
		return ss.anew(kind, set, before)
	}
	if len(names) > 1 {
		names = slices.Compact(slices.Sorted(slices.Values(names))) // a copy: they are the set's
	}
	digest := before.whole
	var acked []*resource.Resource
	var gone []string
	fresh := make([]*resource.Resource, 0, len(names))
	for _, name := range names {
		if r := before.set.Get(name); r != nil {
			digest = digest.toggle(name, r.Version)
		}
		r := set.Get(name)
		if r == nil {
			gone = append(gone, name)
			continue
		}
		digest = digest.toggle(name, r.Version)
		fresh = append(fresh, r)
		if last := ss.lastAcked(kind, name, before); last != nil {
			acked = append(acked, last)
		}
	}
	ss.tally.enter(kind, fresh)
	next := newServedSet(set, digest)
	next.acked = before.acked.with(acked, gone)
	next.untilLook = before.untilLook - len(fresh)
	if next.untilLook < 0 {
		ss.forgetProven(kind, next)
	}
	return next
}

// anew is of for a set that does not descend from the one before it.
func (ss *servedSets) anew(kind resource.Kind, set *resource.Set, before *servedSet) *servedSet {
	digest := digest(0)
	var acked ackedContents
	for r := range set.All() {
		digest = digest.toggle(r.Name, r.Version)
		last := before.acked.get(r.Name)
		if was := before.set.Get(r.Name); was == nil || was.Version != r.Version {
			if l := ss.lastAcked(kind, r.Name, before); l != nil {
				last = l
			}
		}
		if last != nil {
			acked = append(acked, last)
		}
	}
	ss.tally.enter(kind, slices.Collect(set.All()))
	next := newServedSet(set, digest)
	next.acked = acked
	return next
}

// lastAcked returns what was served under a name, if some proxy has acknowledged
// it.
func (ss *servedSets) lastAcked(kind resource.Kind, name string, before *servedSet) *resource.Resource {
	if f, ok := before.fallbacks[name]; ok {
		return f.resource
	}
	if r := before.set.Get(name); r != nil && ss.tally.hasAck(contentOf(kind, r)) {
		return r
	}
	return nil
}

// forgetProven drops the last acknowledged contents in the place of which others are
// proven by now. To look at all of them costs no more than the changes since the
// last look.
func (ss *servedSets) forgetProven(kind resource.Kind, next *servedSet) {
	var left ackedContents
	for _, last := range next.acked {
		if r := next.set.Get(last.Name); r != nil && !ss.tally.isProven(contentOf(kind, r)) {
			left = append(left, last)
		}
	}
	next.acked = left
	next.untilLook = len(left) + 32
}

// rememberFallbacks has a quarantine remember what was acknowledged in the place of
// its content, wherever that is served.
func (ss *servedSets) rememberFallbacks(q *quarantine) {
	for set, s := range ss.plain {
		if s.kind != q.content.kind {
			continue
		}
		if r := set.Get(q.content.name); r != nil && r.Type == q.content.typ && r.Version == q.content.version {
			ss.quarantines.fallback(nil, q, r, s.served, nil)
		}
	}
}

// release gives up a half that is no longer used.
func (ss *servedSets) release(h *half) {
	for _, old := range h.types {
		s := ss.plain[old.set]
		if s.halves--; s.halves == 0 {
			delete(ss.plain, old.set)
		}
	}
	ss.quarantines.released(h)
}

// ackedContents are resources in the order of their names. The slice is immutable.
type ackedContents []*resource.Resource

func byName(r *resource.Resource, name string) int { return strings.Compare(r.Name, name) }

// get returns the resource with the name, or nil.
func (a ackedContents) get(name string) *resource.Resource {
	if i, ok := slices.BinarySearchFunc(a, name, byName); ok {
		return a[i]
	}
	return nil
}

// with returns a, but for the resources to put and the names that are gone, both in
// the order of names.
func (a ackedContents) with(put []*resource.Resource, gone []string) ackedContents {
	if len(put) == 0 && !slices.ContainsFunc(gone, func(name string) bool { return a.get(name) != nil }) {
		return a
	}
	next := make(ackedContents, 0, len(a)+len(put))
	for _, r := range a {
		for len(put) > 0 && put[0].Name < r.Name {
			next, put = append(next, put[0]), put[1:]
		}
		if len(put) > 0 && put[0].Name == r.Name {
			continue // put is to take its place
		}
		if _, ok := slices.BinarySearch(gone, r.Name); !ok {
			next = append(next, r)
		}
	}
	return append(next, put...)
}
