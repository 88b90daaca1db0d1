package translate

import (
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// maxLog is how many steps a set remembers: a stream further behind compares
// whole sets.
const maxLog = 32

// Set is an immutable set of resources of one type, in the order of their
// names, which knows what its last steps changed.
type Set struct {
	tree *iradix.Tree[*Resource]
	id   *lineage
	seq  uint64
	log  []step // oldest first
}

type lineage struct{ _ byte }

// step is one update: the names that it put or removed, and the set before it.
type step struct {
	from  uint64
	names []string
}

// NewSet returns a set of the given resources that descends from nothing.
func NewSet(resources ...*Resource) *Set {
	txn := iradix.New[*Resource]().Txn()
	for _, r := range resources {
		txn.Insert([]byte(r.Name), r)
	}
	return &Set{tree: txn.Commit(), id: &lineage{}}
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
// A resource with the version that s has is no change; if nothing changes,
// Update returns s itself. Its cost is in proportion to the change.
func (s *Set) Update(put []*Resource, remove []string) *Set {
	txn := s.tree.Txn()
	var names []string
	for _, r := range put {
		if old, ok := txn.Get([]byte(r.Name)); ok && old.Version == r.Version {
			continue
		}
		txn.Insert([]byte(r.Name), r)
		names = append(names, r.Name)
	}
	for _, name := range remove {
		if _, ok := txn.Delete([]byte(name)); ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return s
	}
	log := s.log
	if len(log) == maxLog {
		log = log[1:]
	}
	next := make([]step, len(log), len(log)+1)
	copy(next, log)
	return &Set{tree: txn.Commit(), id: s.id, seq: s.seq + 1, log: append(next, step{from: s.seq, names: names})}
}

// ChangedSince returns the names that may differ between base, an earlier
// state of the same set, and s; a name may come twice. It is false when that
// is not known, and the two must be compared whole.
func (s *Set) ChangedSince(base *Set) ([]string, bool) {
	if base == s {
		return nil, true
	}
	if base == nil || base.id != s.id || base.seq > s.seq || len(s.log) == 0 || s.log[0].from > base.seq {
		return nil, false
	}
	steps := s.log[len(s.log)-int(s.seq-base.seq):]
	if len(steps) == 1 {
		return steps[0].names, true
	}
	var names []string
	for _, st := range steps {
		names = append(names, st.names...)
	}
	return names, true
}
