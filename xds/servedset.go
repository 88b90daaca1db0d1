package xds

import (
	"maps"
	"slices"

	"datapunk.dev/controlplane/resource"
)

// servedSets makes the served sets of all halves. Halves with the same set, and the same in
// quarantine, have one served set: what a set needs is computed once, however many
// profiles read it, and in proportion to what changed. [Server.mu] guards it.
type servedSets struct {
	jury   *jury
	plain  map[*resource.Set]*shared
	grafts map[graft]*servedSet
	steps  map[step]struct{} // those of the current publication
}

// graft is one served set with one more substitute in it.
type graft struct {
	on       *servedSet
	cause    *quarantine
	resource *resource.Resource
}

// shared is the served set of a whole set, and how many halves use the set.
type shared struct {
	offer *servedSet
	kind  resource.Kind
	views int
}

// step is one set in the place of another.
type step struct{ from, to *resource.Set }

func newServedSets(j *jury) *servedSets {
	return &servedSets{jury: j, plain: make(map[*resource.Set]*shared), grafts: make(map[graft]*servedSet), steps: make(map[step]struct{})}
}

// published is called after the views of a snapshot were made.
func (o *servedSets) published() {
	clear(o.steps)
	maps.DeleteFunc(o.grafts, func(g graft, _ *servedSet) bool { return o.plain[g.on.set] == nil || g.cause.views == 0 })
	if o.jury.overgrown() {
		o.jury.retain(func(yield func(resource.Kind, *resource.Resource) bool) {
			for set, s := range o.plain {
				for r := range set.All() {
					if !yield(s.kind, r) {
						return
					}
				}
			}
		})
	}
}

// half returns the half that follows old, which may be nil and is given up. The
// half of a proxy's own needs that of its scope; that of a scope needs none.
func (o *servedSets) half(old *half, kind resource.Kind, scope *half, sets resource.Sets, missing []string) *half {
	next := &half{missing: missing}
	for t, set := range sets {
		if set == nil {
			set = noResources
		}
		var before *servedSet
		if old != nil {
			before = old.types[t]
		}
		s := o.plain[set]
		if s == nil {
			s = &shared{offer: o.of(set, before), kind: kind}
			o.plain[set] = s
			o.jury.published(kind, set, before)
		} else if before != nil && before.set != set {
			if _, ok := o.steps[step{before.set, set}]; !ok {
				o.jury.published(kind, set, before)
			}
		}
		if before != nil && before.set != set {
			o.steps[step{before.set, set}] = struct{}{}
		}
		s.views++
		next.types[t] = s.offer
	}
	o.jury.substitute(next, old, scope, kind, o.graft)
	if old != nil {
		o.release(old)
		if old.types == next.types && slices.Equal(old.missing, missing) {
			return old // its streams have nothing to look for
		}
	}
	return next
}

// graft returns the served set with the substitute in it.
func (o *servedSets) graft(on *servedSet, s fallback) *servedSet {
	key := graft{on, s.cause, s.resource}
	if known := o.grafts[key]; known != nil {
		return known
	}
	o.grafts[key] = on.with(s)
	return o.grafts[key]
}

// of returns the served set of all that is in the set. Its cost is in proportion to
// what changed since before, which may be nil.
func (o *servedSets) of(set *resource.Set, before *servedSet) *servedSet {
	var base *resource.Set
	d := digest(0)
	if before != nil {
		base = before.set
		d = o.plain[base].offer.digest
	}
	names, ok := set.ChangedSince(base)
	if !ok {
		d = 0
		for r := range set.All() {
			d = d.toggle(r.Name, r.Version)
		}
		return newServedSet(set, d)
	}
	seen := make(map[string]struct{}, len(names))
	for _, name := range names {
		if _, twice := seen[name]; twice {
			continue
		}
		seen[name] = struct{}{}
		if r := base.Get(name); r != nil {
			d = d.toggle(name, r.Version)
		}
		if r := set.Get(name); r != nil {
			d = d.toggle(name, r.Version)
		}
	}
	return newServedSet(set, d)
}

// release gives up a half that is no longer used.
func (o *servedSets) release(h *half) {
	for _, old := range h.types {
		s := o.plain[old.set]
		if s.views--; s.views == 0 {
			delete(o.plain, old.set)
		}
	}
	o.jury.released(h)
}
