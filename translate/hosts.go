package translate

import (
	"iter"
	"maps"
	"slices"
	"strings"

	"datapunk.dev/controlplane/resource"
)

// Hosts have no case, and names of services have. Of those in a scope that differ
// in case alone one is found under the host that they share: the one that the mesh
// file names, for it may have no two, else the first by name. Two scoped routes of
// one host would be refused, and all others with them.

// hasCapital reports whether a name is not the host that it is found under.
func hasCapital(name string) bool { return strings.ToLower(name) != name }

// shadowed are the services of a scope whose host another one has, with that
// other's name. Most meshes have no name with a capital, and pay nothing.
func (b *build) shadowed(s *scope) map[string]string {
	report := "scope/" + s.Key
	if b.capitals == 0 {
		if len(s.shadowed) > 0 {
			b.report(report, nil, nil)
		}
		return nil
	}
	owners := make(map[string]string)
	members := b.members(s)
	for _, inFile := range []bool{true, false} {
		for _, m := range members {
			name := m.settings.Name
			if slices.Contains(s.reached, name) {
				continue
			}
			if _, named := b.naming.file[name]; named == inFile && m.routed() && owners[strings.ToLower(name)] == "" {
				owners[strings.ToLower(name)] = name
			}
		}
	}
	var shadowed map[string]string
	var notes []string
	for _, m := range members {
		name := m.settings.Name
		owner := owners[strings.ToLower(name)]
		if !m.routed() || owner == name || slices.Contains(s.reached, name) {
			continue
		}
		if shadowed == nil {
			shadowed = make(map[string]string)
		}
		shadowed[name] = owner
		notes = append(notes, "service "+name+" cannot be called over HTTP: hosts are compared in lower case, and "+owner+" has its name")
	}
	b.report(report, nil, notes)
	return shadowed
}

// in is what a scope takes of the service: no routes, if another has its host; the
// clusters alone, if it is not declared; nothing, if nothing leads to it.
func (m member) in(s *scope, name string) member {
	_, shadowed := s.shadowed[name]
	switch _, declared := slices.BinarySearch(s.declared, name); {
	case s.every() || declared:
		if shadowed {
			m[resource.Route], m[resource.ScopedRoute] = nil, nil
		}
		return m
	case slices.Contains(s.reached, name):
		return member{resource.Cluster: m[resource.Cluster], resource.Endpoint: m[resource.Endpoint]}
	default:
		return member{}
	}
}

// differing iterates over the keys of which two maps say different things, in
// their order.
func differing(a, b map[string]string) iter.Seq[string] {
	keys := make(map[string]struct{})
	for _, m := range []map[string]string{a, b} {
		for key := range m {
			if a[key] != b[key] {
				keys[key] = struct{}{}
			}
		}
	}
	return slices.Values(slices.Sorted(maps.Keys(keys)))
}
