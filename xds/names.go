package xds

import (
	"hash/maphash"
	"runtime"
	"slices"
	"sort"
	"sync"
	"weak"
)

// nameSet is an immutable, sorted list of resource names. Streams that ask for
// the same names share one: a thousand names a stream would otherwise be most
// of its memory.
type nameSet struct {
	names []string
	bytes int // of all of them
	key   nameKey
}

var noNames = &nameSet{}

func (s *nameSet) has(name string) bool {
	_, ok := slices.BinarySearch(s.names, name)
	return ok
}

// nameSets finds the set with given names, and forgets those that no stream
// uses.
type nameSets struct {
	seeds [2]maphash.Seed
	mu    sync.Mutex
	sets  map[nameKey]weak.Pointer[nameSet]
}

// nameKey identifies a list of names whatever their order: the sums of two
// keyed hashes, 128 bits that a client cannot aim at.
type nameKey struct {
	count int
	sums  [2]uint64
}

func newNameSets() *nameSets {
	return &nameSets{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		sets:  make(map[nameKey]weak.Pointer[nameSet]),
	}
}

// of returns the set of the names. It keeps none of the strings if the set is
// there already.
func (t *nameSets) of(names []string) *nameSet {
	if len(names) == 0 {
		return noNames
	}
	var key nameKey
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
func (t *nameSets) put(key nameKey, names []string) *nameSet {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sets[key].Value(); s != nil {
		return s
	}
	s := &nameSet{names: names, key: key}
	for _, n := range names {
		s.bytes += len(n)
	}
	t.sets[key] = weak.Make(s)
	runtime.AddCleanup(s, t.forget, key)
	return s
}

// hash adds a name to a key.
func (t *nameSets) hash(key *nameKey, name []byte) {
	key.count++
	key.sums[0] += maphash.Bytes(t.seeds[0], name)
	key.sums[1] += maphash.Bytes(t.seeds[1], name)
}

func (t *nameSets) hashString(key *nameKey, name string) {
	key.count++
	key.sums[0] += maphash.String(t.seeds[0], name)
	key.sums[1] += maphash.String(t.seeds[1], name)
}

// known returns the set with the key, or nil.
func (t *nameSets) known(key nameKey) *nameSet {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sets[key].Value()
}

func (t *nameSets) forget(key nameKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sets[key].Value() == nil {
		delete(t.sets, key)
	}
}

// with returns the set that has the given names too. One that others use is
// found at the cost of the given names; another one is made by a copy of the
// pointers, since a client may add to many names one by one.
func (t *nameSets) with(s *nameSet, names []string) *nameSet {
	if len(s.names) == 0 {
		return t.of(names)
	}
	var added []string
	for _, name := range names {
		if !s.has(name) {
			added = append(added, name)
		}
	}
	if len(added) == 0 {
		return s
	}
	sort.Strings(added)
	added = slices.Compact(added)
	key := s.key
	for _, name := range added {
		t.hashString(&key, name)
	}
	if known := t.known(key); known != nil {
		return known
	}
	all := make([]string, 0, len(s.names)+len(added))
	rest := s.names
	for _, name := range added {
		i, _ := slices.BinarySearch(rest, name)
		all = append(append(all, rest[:i]...), name)
		rest = rest[i:]
	}
	return t.put(key, append(all, rest...))
}

// without returns the set that lacks the given names.
func (t *nameSets) without(s *nameSet, names []string) *nameSet {
	gone := slices.Sorted(slices.Values(names))
	return t.of(slices.DeleteFunc(slices.Clone(s.names), func(n string) bool {
		_, ok := slices.BinarySearch(gone, n)
		return ok
	}))
}
