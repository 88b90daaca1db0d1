package resource

import "iter"

// Fleet is the immutable set of distinct profiles of the connected proxies. It
// knows what its last steps changed: ten thousand proxies that come back after
// a restart make hundreds of fleets.
type Fleet struct {
	profiles *Tree[Profile] // by key
	history  History
}

// NewFleet returns a fleet of the given profiles that descends from nothing.
func NewFleet(profiles ...Profile) *Fleet {
	f := &Fleet{profiles: NewTree[Profile](), history: NewHistory()}
	return f.Update(profiles, nil)
}

// Update returns the successor of f in which some profiles have come and some
// have left. If nothing changes, Update returns f itself.
func (f *Fleet) Update(came, left []Profile) *Fleet {
	edit := f.profiles.Edit()
	var keys []string
	for _, p := range came {
		key := p.Key()
		if _, known := edit.Put(key, p); !known {
			keys = append(keys, key)
		}
	}
	for _, p := range left {
		key := p.Key()
		if _, known := edit.Delete(key); known {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return f
	}
	return &Fleet{profiles: edit.Tree(), history: f.history.Then(keys)}
}

// Profiles iterates over the profiles, those of one service together.
func (f *Fleet) Profiles() iter.Seq[Profile] { return f.profiles.Values() }

// Len returns how many there are.
func (f *Fleet) Len() int { return f.profiles.Len() }

// Get returns the profile with the key, and whether a connected proxy has it.
func (f *Fleet) Get(key string) (Profile, bool) { return f.profiles.Get(key) }

// HasService reports whether a connected proxy is of the service. The fleet may
// be nil.
func (f *Fleet) HasService(name string) bool {
	if f == nil {
		return false
	}
	for range f.profiles.Below(ServiceKey(name)) {
		return true
	}
	return false
}

// ChangedSince returns the keys of the profiles that may differ between an
// earlier fleet, which may be nil, and f.
func (f *Fleet) ChangedSince(before *Fleet) []string {
	if before == nil {
		before = NewFleet()
	}
	if keys, ok := f.history.Since(before.history); ok {
		return keys
	}
	var keys []string
	for _, fleet := range []*Fleet{before, f} {
		for key := range fleet.profiles.All() {
			keys = append(keys, key)
		}
	}
	return keys
}
