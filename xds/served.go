package xds

import (
	"datapunk.dev/controlplane/resource"
)

// Served is one resource that a proxy is to have.
type Served struct {
	*resource.Resource
	// Instead says that it stands in the place of a content that is in quarantine.
	Instead bool
}

// Served returns what a connected proxy is to have, in the order of types, and of its
// certificate the resource without a body. What a client asks for by name is there if
// something refers to it. False: there is no such proxy, or nothing is served to it yet.
func (s *Server) Served(node string) ([]Served, bool) {
	s.mu.Lock()
	var sl *slot
	if r := s.nodes[node]; r != nil && len(r.streams) > 0 {
		sl = r.streams[0].slot
	}
	s.mu.Unlock()
	if sl == nil {
		return nil, false
	}
	v := sl.load()
	if v == nil {
		return nil, false
	}
	// What nothing refers to, and is none of the types that are sent whole, is nobody's.
	wanted := make(map[resource.Ref]bool)
	for _, t := range []resource.Type{resource.Cluster, resource.Listener, resource.ScopedRoute, resource.Runtime} {
		for r := range v.of(t).all() {
			wanted[t.Ref(r.Name)] = true
			walkRefs(v, r, func(ref resource.Ref, _ *resource.Resource) { wanted[ref] = true })
		}
	}
	var all []Served
	for t := range resource.NumTypes {
		for r := range v.of(t).all() {
			if wanted[t.Ref(r.Name)] {
				all = append(all, Served{Resource: r, Instead: v.of(t).published(r.Name) != r})
			}
		}
	}
	return all, true
}
