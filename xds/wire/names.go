package wire

import (
	"hash/maphash"
	"runtime"
	"slices"
	"sort"
	"sync"
	"weak"
)

// NameSet is an immutable, sorted list of resource names. Streams that ask for
// the same names share one: a thousand names a stream would otherwise be most
// of its memory.
type NameSet struct {
	Names []string
	Bytes int // of all of them
	Key   NameKey
}

// NoNames is the set of no names.
var NoNames = &NameSet{}

// Has reports whether the name is in the set.
func (s *NameSet) Has(name string) bool {
	_, ok := slices.BinarySearch(s.Names, name)
	return ok
}

// NameSets finds the set with given names, and forgets those that no stream
// uses.
type NameSets struct {
	seeds [2]maphash.Seed
	mu    sync.Mutex
	sets  map[NameKey]weak.Pointer[NameSet]
}

// NameKey identifies a list of names whatever their order: the sums of two
// keyed hashes, 128 bits that a client cannot aim at.
type NameKey struct {
	Count int
	sums  [2]uint64
}

// NewNameSets returns one that has none yet. It is safe for concurrent use.
func NewNameSets() *NameSets {
	return &NameSets{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		sets:  make(map[NameKey]weak.Pointer[NameSet]),
	}
}

// Of returns the set of the names. It keeps none of the strings if the set is
// there already.
func (t *NameSets) Of(names []string) *NameSet {
	if len(names) == 0 {
		return NoNames
	}
	var key NameKey
	for _, n := range names {
		t.hashString(&key, n)
	}
	if s := t.known(key); s != nil {
		return s
	}
	sorted := slices.Clone(names)
	sort.Strings(sorted)
	return t.put(key, slices.Clip(slices.Compact(sorted)))
}

// put returns the set with the key; the names, sorted, are its if it is new.
func (t *NameSets) put(key NameKey, names []string) *NameSet {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sets[key].Value(); s != nil {
		return s
	}
	s := &NameSet{Names: names, Key: key}
	for _, n := range names {
		s.Bytes += len(n)
	}
	t.sets[key] = weak.Make(s)
	runtime.AddCleanup(s, t.forget, key)
	return s
}

// hash adds a name to a key.
func (t *NameSets) hash(key *NameKey, name []byte) {
	key.Count++
	key.sums[0] += maphash.Bytes(t.seeds[0], name)
	key.sums[1] += maphash.Bytes(t.seeds[1], name)
}

func (t *NameSets) hashString(key *NameKey, name string) {
	key.Count++
	key.sums[0] += maphash.String(t.seeds[0], name)
	key.sums[1] += maphash.String(t.seeds[1], name)
}

// unhashString takes a name that is in it out of a key.
func (t *NameSets) unhashString(key *NameKey, name string) {
	key.Count--
	key.sums[0] -= maphash.String(t.seeds[0], name)
	key.sums[1] -= maphash.String(t.seeds[1], name)
}

// known returns the set with the key, or nil.
func (t *NameSets) known(key NameKey) *NameSet {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sets[key].Value()
}

func (t *NameSets) forget(key NameKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sets[key].Value() == nil {
		delete(t.sets, key)
	}
}

// With returns the set that has the given names too. One that others use is
// found at the cost of the given names; another one is made by a copy of the
// pointers, since a client may add to many names one by one.
func (t *NameSets) With(s *NameSet, names []string) *NameSet {
	if len(s.Names) == 0 {
		return t.Of(names)
	}
	var added []string
	for _, name := range names {
		if !s.Has(name) {
			added = append(added, name)
		}
	}
	if len(added) == 0 {
		return s
	}
	sort.Strings(added)
	added = slices.Compact(added)
	key := s.Key
	for _, name := range added {
		t.hashString(&key, name)
	}
	if known := t.known(key); known != nil {
		return known
	}
	all := make([]string, 0, len(s.Names)+len(added))
	rest := s.Names
	for _, name := range added {
		i, _ := slices.BinarySearch(rest, name)
		all = append(append(all, rest[:i]...), name)
		rest = rest[i:]
	}
	return t.put(key, append(all, rest...))
}

// Without returns the set that lacks the given names, at the cost of these but for
// one copy of the others.
func (t *NameSets) Without(s *NameSet, names []string) *NameSet {
	gone := slices.Compact(slices.Sorted(slices.Values(names)))
	gone = slices.DeleteFunc(gone, func(name string) bool { return !s.Has(name) })
	if len(gone) == 0 {
		return s
	}
	key := s.Key
	for _, name := range gone {
		t.unhashString(&key, name)
	}
	if known := t.known(key); known != nil {
		return known
	}
	all := make([]string, 0, len(s.Names)-len(gone))
	rest := s.Names
	for _, name := range gone {
		i, _ := slices.BinarySearch(rest, name)
		all = append(all, rest[:i]...)
		rest = rest[i+1:]
	}
	return t.put(key, append(all, rest...))
}
