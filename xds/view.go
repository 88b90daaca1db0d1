package xds

import (
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"datapunk.dev/controlplane/translate"
)

// slot is the place of a profile's current view. Streams of the profile hold
// the slot; publishing swaps the view in it.
type slot struct {
	profile translate.Profile
	view    atomic.Pointer[view] // nil: not built yet
	streams map[*stream]struct{} // guarded by Server.mu
}

// view is what a slot's streams read: the sets of the snapshot, and for each a
// version that is equal on every replica with the same content. The sets are
// the view's own choice: one with a resource in it that is not to go out yet
// may be replaced by its successor with the resource before that, and streams
// need not know.
type view struct {
	sets    [translate.NumTypes]*translate.Set
	digests [translate.NumTypes]digest
	missing []string
}

// get returns the resource that the view's clients are to have, or nil.
func (v *view) get(t translate.Type, name string) *translate.Resource {
	return v.sets[t].Get(name)
}

var noResources = translate.NewSet()

// digest sums up names and versions of resources, in any order. Adding a
// resource twice takes it out again.
type digest uint64

func (d digest) toggle(name, version string) digest {
	h := xxhash.New()
	_, _ = h.WriteString(name)
	_, _ = h.Write([]byte{0})
	_, _ = h.WriteString(version)
	return d ^ digest(h.Sum64())
}

func (d digest) String() string {
	const digits = "0123456789abcdef"
	var b [16]byte
	for i := range b {
		b[i] = digits[d>>(60-4*i)&15]
	}
	return string(b[:])
}

// digester computes the digests of sets, each set once.
type digester map[*translate.Set]digest

// next returns the view that follows old, which may be nil. Its cost is in
// proportion to what changed.
func (g digester) next(old *view, v *translate.View) *view {
	n := &view{sets: v.Sets, missing: v.Missing}
	for t := range n.sets {
		if n.sets[t] == nil {
			n.sets[t] = noResources
		}
		var base *translate.Set
		var from digest
		if old != nil {
			base, from = old.sets[t], old.digests[t]
		}
		n.digests[t] = g.of(n.sets[t], base, from)
	}
	return n
}

func (g digester) of(set, base *translate.Set, from digest) digest {
	if set == base {
		return from
	}
	if d, ok := g[set]; ok {
		return d
	}
	d := digest(0)
	if names, ok := set.ChangedSince(base); ok {
		d = from
		seen := make(map[string]struct{}, len(names))
		for _, name := range names {
			if _, twice := seen[name]; twice {
				continue
			}
			seen[name] = struct{}{}
			if r := base.Get(name); r != nil {
				d = d.toggle(name, r.Version)
			}
			if r := set.Get(name); r != nil {
				d = d.toggle(name, r.Version)
			}
		}
	} else {
		for r := range set.All() {
			d = d.toggle(r.Name, r.Version)
		}
	}
	g[set] = d
	return d
}
