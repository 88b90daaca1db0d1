package resource

import "iter"

// Set is an immutable set of resources of one type, in the order of their
// names, which knows what its last steps changed.
type Set struct {
	tree    *Tree[*Resource]
	history History
	bytes   int
}

// NewSet returns a set of the given resources that descends from nothing.
func NewSet(resources ...*Resource) *Set {
	edit := NewTree[*Resource]().Edit()
	bytes := 0
	for _, r := range resources {
		if old, ok := edit.Get(r.Name); ok {
			bytes -= old.size()
		}
		edit.Put(r.Name, r)
		bytes += r.size()
	}
	return &Set{tree: edit.Tree(), history: NewHistory(), bytes: bytes}
}

// Get returns the resource with the name, or nil.
func (s *Set) Get(name string) *Resource {
	r, _ := s.tree.Get(name)
	return r
}

// Len returns the number of resources.
func (s *Set) Len() int { return s.tree.Len() }

// Bytes returns how much the resources are on the wire, about: their names and bodies.
func (s *Set) Bytes() int { return s.bytes }

// All iterates over the resources in the order of their names.
func (s *Set) All() iter.Seq[*Resource] { return s.tree.Values() }

// Update returns the successor of s with resources put in and names removed.
// If nothing changes, Update returns s itself. Its cost is in proportion to
// the change. A resource with the version that s has is no change to a reader
// of ChangedSince, even if it came from other keys of the mesh file or needs
// others.
func (s *Set) Update(put []*Resource, remove []string) *Set {
	if len(put) == 0 && len(remove) == 0 {
		return s
	}
	edit := s.tree.Edit()
	var names []string
	touched, bytes := false, s.bytes
	for _, r := range put {
		old, ok := edit.Get(r.Name)
		if ok && old.Same(r) {
			continue
		}
		edit.Put(r.Name, r)
		touched = true
		if ok {
			bytes -= old.size()
		}
		bytes += r.size()
		if !ok || old.Version != r.Version {
			names = append(names, r.Name)
		}
	}
	for _, name := range remove {
		if old, ok := edit.Delete(name); ok {
			bytes -= old.size()
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		if !touched {
			return s
		}
		return &Set{tree: edit.Tree(), history: s.history, bytes: bytes}
	}
	return &Set{tree: edit.Tree(), history: s.history.Then(names), bytes: bytes}
}

// Become returns the successor of s that has exactly the resources.
func (s *Set) Become(resources []*Resource) *Set {
	wanted := make(map[string]struct{}, len(resources))
	for _, r := range resources {
		wanted[r.Name] = struct{}{}
	}
	var remove []string
	for r := range s.All() {
		if _, ok := wanted[r.Name]; !ok {
			remove = append(remove, r.Name)
		}
	}
	return s.Update(resources, remove)
}

// ChangedSince returns the names that may differ between base, an earlier
// state of the same set, and s; a name may come twice. It is false when that
// is not known, and the two must be compared whole.
func (s *Set) ChangedSince(base *Set) ([]string, bool) {
	if base == nil {
		return nil, false
	}
	return s.history.Since(base.history)
}
