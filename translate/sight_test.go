package translate

import (
	"iter"

	"datapunk.dev/controlplane/resource"
)

// sight is all that one profile's proxies see, of both halves.
type sight struct {
	Profile resource.Profile
	Sets    resource.Sets
	Missing []string
}

func sightOf(s *Snapshot, p resource.Profile) *sight {
	v := s.View(p)
	if v == nil {
		return nil
	}
	seen := &sight{Profile: p, Missing: v.Missing}
	scope := s.Scope(v.Scope)
	for t := range resource.NumTypes {
		var all []*resource.Resource
		for _, half := range []*resource.Set{scope.Sets[t], v.Own[t]} {
			if half != nil {
				for r := range half.All() {
					all = append(all, r)
				}
			}
		}
		seen.Sets[t] = resource.NewSet(all...)
		if seen.Sets[t].Len() != len(all) {
			panic("a name is in both halves")
		}
	}
	return seen
}

// views iterates over all views, those of one service together.
func views(s *Snapshot) iter.Seq[*resource.View] {
	return func(yield func(*resource.View) bool) {
		for p := range s.state.proxies.Values() {
			if !yield(p.view()) {
				return
			}
		}
	}
}

func sights(s *Snapshot) iter.Seq[*sight] {
	return func(yield func(*sight) bool) {
		for v := range views(s) {
			if !yield(sightOf(s, v.Profile)) {
				return
			}
		}
	}
}
