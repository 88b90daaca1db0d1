package xds

import (
	"datapunk.dev/controlplane/translate"
)

// offers makes the offers of all views. Views with the same set and nothing in
// quarantine have one offer: what a set needs is computed once, however many
// profiles read it, and in proportion to what changed. [Server.mu] guards it.
type offers struct {
	jury  *jury
	plain map[*translate.Set]*shared
	steps map[step]struct{} // those of the current publication
}

// shared is the offer of a whole set, and how many views use the set.
type shared struct {
	offer *offer
	kind  translate.Kind
	views int
}

// step is one set in the place of another.
type step struct{ from, to *translate.Set }

func newOffers(j *jury) *offers {
	return &offers{jury: j, plain: make(map[*translate.Set]*shared), steps: make(map[step]struct{})}
}

// published is called after the views of a snapshot were made.
func (o *offers) published() {
	clear(o.steps)
	if o.jury.overgrown() {
		o.jury.retain(func(yield func(translate.Kind, *translate.Resource) bool) {
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

// view returns the view that follows old, which may be nil and is given up.
func (o *offers) view(old *view, kind translate.Kind, sets [translate.NumTypes]*translate.Set, missing []string) *view {
	next := &view{missing: missing}
	for t, set := range sets {
		if set == nil {
			set = noResources
		}
		var before *offer
		if old != nil {
			before = old.offers[t]
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
		next.offers[t] = s.offer
	}
	o.jury.substitute(next, old, kind)
	if old != nil {
		o.release(old)
	}
	return next
}

// of returns the offer of all that is in the set. Its cost is in proportion to
// what changed since before, which may be nil.
func (o *offers) of(set *translate.Set, before *offer) *offer {
	var base *translate.Set
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
		return newOffer(set, d)
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
	return newOffer(set, d)
}

// release gives up a view that is no longer used.
func (o *offers) release(v *view) {
	for _, old := range v.offers {
		s := o.plain[old.set]
		if s.views--; s.views == 0 {
			delete(o.plain, old.set)
		}
	}
	o.jury.released(v)
}
