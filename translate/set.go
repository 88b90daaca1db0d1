package translate

import (
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Set is an immutable set of resources of one type, in the order of their
// names, which knows what its last steps changed.
type Set struct {
	tree    *iradix.Tree[*Resource]
	history history
}

// NewSet returns a set of the given resources that descends from nothing.
func NewSet(resources ...*Resource) *Set {
	txn := iradix.New[*Resource]().Txn()
	for _, r := range resources {
		txn.Insert([]byte(r.Name), r)
	}
	return &Set{tree: txn.Commit(), history: newHistory()}
}

// Get returns the resource with the name, or nil.
func (s *Set) Get(name string) *Resource {
	r, _ := s.tree.Get([]byte(name))
	return r
}

// Len returns the number of resources.
func (s *Set) Len() int { return s.tree.Len() }

// All iterates over the resources in the order of their names.
func (s *Set) All() iter.Seq[*Resource] {
	return func(yield func(*Resource) bool) {
		it := s.tree.Root().Iterator()
		for _, r, ok := it.Next(); ok; _, r, ok = it.Next() {
			if !yield(r) {
				return
			}
		}
	}
}

// Update returns the successor of s with resources put in and names removed.
// If nothing changes, Update returns s itself. Its cost is in proportion to
// the change. A resource with the version that s has is no change to a reader
// of ChangedSince, even if it came from other keys of the mesh file or needs
// others.
func (s *Set) Update(put []*Resource, remove []string) *Set {
	txn := s.tree.Txn()
	var names []string
	touched := false
	for _, r := range put {
		old, ok := txn.Get([]byte(r.Name))
		if ok && old.same(r) {
			continue
		}
		txn.Insert([]byte(r.Name), r)
		touched = true
		if !ok || old.Version != r.Version {
			names = append(names, r.Name)
		}
	}
	for _, name := range remove {
		if _, ok := txn.Delete([]byte(name)); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		if !touched {
			return s
		}
		return &Set{tree: txn.Commit(), history: s.history}
	}
	return &Set{tree: txn.Commit(), history: s.history.then(names)}
}

// become returns the successor of s that has exactly the resources.
func (s *Set) become(resources []*Resource) *Set {
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

// with returns a set with the resources of s and some more, which descends
// from nothing. It shares what it can with s.
func (s *Set) with(resources []*Resource) *Set {
	txn := s.tree.Txn()
	for _, r := range resources {
		txn.Insert([]byte(r.Name), r)
	}
	return &Set{tree: txn.Commit(), history: newHistory()}
}

// ChangedSince returns the names that may differ between base, an earlier
// state of the same set, and s; a name may come twice. It is false when that
// is not known, and the two must be compared whole.
func (s *Set) ChangedSince(base *Set) ([]string, bool) {
	if base == nil {
		return nil, false
	}
	return s.history.since(base.history)
}
