package translate

import (
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Fleet is the immutable set of distinct profiles of the connected proxies. It
// knows what its last steps changed: ten thousand proxies that come back after
// a restart make hundreds of fleets.
type Fleet struct {
	tree    *iradix.Tree[Profile]
	history history
}

// NewFleet returns a fleet of the given profiles that descends from nothing.
func NewFleet(profiles ...Profile) *Fleet {
	f := &Fleet{tree: iradix.New[Profile](), history: newHistory()}
	return f.Update(profiles, nil)
}

// Update returns the successor of f in which some profiles have come and some
// have left. If nothing changes, Update returns f itself.
func (f *Fleet) Update(came, left []Profile) *Fleet {
	txn := f.tree.Txn()
	var keys []string
	for _, p := range came {
		key := profileKey(p)
		if _, known := txn.Insert(key, p); !known {
			keys = append(keys, string(key))
		}
	}
	for _, p := range left {
		key := profileKey(p)
		if _, known := txn.Delete(key); known {
			keys = append(keys, string(key))
		}
	}
	if len(keys) == 0 {
		return f
	}
	return &Fleet{tree: txn.Commit(), history: f.history.then(keys)}
}

// Profiles iterates over the profiles, those of one service together.
func (f *Fleet) Profiles() iter.Seq[Profile] {
	return func(yield func(Profile) bool) {
		it := f.tree.Root().Iterator()
		for _, p, ok := it.Next(); ok; _, p, ok = it.Next() {
			if !yield(p) {
				return
			}
		}
	}
}

// has reports whether a connected proxy has the profile with the key.
func (f *Fleet) has(key []byte) bool {
	_, ok := f.tree.Get(key)
	return ok
}

// hasService reports whether a connected proxy is of the service. The fleet may
// be nil.
func (f *Fleet) hasService(name string) bool {
	if f == nil {
		return false
	}
	it := f.tree.Root().Iterator()
	it.SeekPrefix(servicePrefix(name))
	_, _, ok := it.Next()
	return ok
}

// since returns the keys that may differ between an earlier fleet, which may
// be nil, and f.
func (f *Fleet) since(before *Fleet) []string {
	if before == nil {
		before = NewFleet()
	}
	if keys, ok := f.history.since(before.history); ok {
		return keys
	}
	var keys []string
	for _, fleet := range []*Fleet{before, f} {
		for p := range fleet.Profiles() {
			keys = append(keys, string(profileKey(p)))
		}
	}
	return keys
}
