package xds

import (
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"

	"datapunk.dev/controlplane/resource"
)

// parcel is what a response holds, but for its nonce. Clients in the same state
// get the same, so it is made and encoded once for all of them: that of a first
// sync, and that of a change. Shared parcels are immutable.
type parcel struct {
	changes []change
	version string          // of the whole type, for people
	head    mem.BufferSlice // encoded, up to the nonce; nil unless shared
	size    int             // of head, in bytes
	silent  bool            // the protocol has no words for it: nothing is sent

	proven atomic.Bool // every content in it is: see jury
	once   sync.Once
	fresh  map[string]struct{} // names of the fresh changes
}

// introduces reports whether the parcel brings a resource to a client that had
// nothing of that name.
func (p *parcel) introduces(name string) bool {
	p.once.Do(func() {
		p.fresh = make(map[string]struct{})
		for _, c := range p.changes {
			if c.fresh && c.res != nil {
				p.fresh[c.name] = struct{}{}
			}
		}
	})
	_, ok := p.fresh[name]
	return ok
}

// parcels are those that lead to an offer.
type parcels struct {
	mu    sync.Mutex
	from  map[uint64]*transition // by the id of the offer before
	ready map[parcelKey]*making  // nil: asked for once
	names int                    // that clients asked for, in those that depend on it
}

// making is a parcel that the first stream to need it makes.
type making struct {
	once   sync.Once
	parcel *parcel
}

// transition is what differs between two offers, sorted by name.
type transition struct {
	changes []change
	removes bool
}

// parcelKey is the state of a client, as far as a parcel depends on it.
type parcelKey struct {
	protocol protocol
	from     uint64 // the id of the offer that it has; 0: none
	mask     uint64 // which of the transition's changes it asked for
	// What it asked for, where the mask does not say it all.
	names    nameKey
	wildcard bool
}

// maxParcels bounds the parcels of an offer, which may last for days, that
// clients can bring about by what they ask for.
const maxParcels = 1024

// maxParcelNames bounds the names in them: a client may ask for what does not
// exist, and a parcel would say so of each as long as the offer lasts.
const maxParcelNames = 4 * maxNames

// maxMask is how many changes have room in a mask.
const maxMask = 64

// shared returns the parcel that brings the client to the view's offer, and
// makes that the base. It returns nil, and does nothing, if the client is in a
// state of its own or the first in its state.
func (f *feed) shared(v *view) *parcel {
	s := f.stream
	if f.typ != resource.Cluster && f.typ != resource.Endpoint ||
		len(f.diffs) > 0 || len(f.trials) > 0 || len(s.recalled) > 0 || f.base == nil && f.claims != "" {
		return nil
	}
	to := v.offers[f.typ]
	whole := parcelKey{protocol: s.protocol, names: f.sub.names.key, wildcard: f.sub.wildcard}
	if f.base == nil {
		return f.take(v, whole, nil)
	}
	if f.base == to || f.owed {
		return nil
	}
	whole.from = f.base.id
	t := to.parcels.since(f.base, to)
	if len(t.changes) > maxMask {
		if t.removes {
			return nil // whether a client may lose something is its own affair
		}
		return f.take(v, whole, t)
	}
	key := parcelKey{protocol: s.protocol, from: f.base.id}
	for i, c := range t.changes {
		if !f.sub.has(c.name) {
			continue
		}
		if c.res == nil {
			return nil
		}
		key.mask |= 1 << i
	}
	if key.mask == 0 {
		f.base = to
		return nothingNew
	}
	if f.fullState() {
		key.names, key.wildcard = whole.names, whole.wildcard
	}
	return f.take(v, key, t)
}

// nothingNew is the parcel of a client that asked for nothing that changed.
var nothingNew = &parcel{}

// take returns the parcel with the key. What depends on all that a client asked
// for is made for the second one that asks for the same: the first may be the
// only one.
func (f *feed) take(v *view, key parcelKey, t *transition) *parcel {
	to := v.offers[f.typ]
	m := to.parcels.get(key, key.mask == 0, key.names.count)
	if m == nil {
		return nil
	}
	m.once.Do(func() { m.parcel = f.parcel(v, t) })
	f.base = to
	return m.parcel
}

// parcel makes the parcel that leads to the view's offer by the transition, nil
// for a client that has nothing.
func (f *feed) parcel(v *view, t *transition) *parcel {
	f.base = v.offers[f.typ]
	var changes []change
	if t == nil {
		for name := range f.wanted() {
			// One that was named and does not exist is told; see consider.
			changes = append(changes, change{name: name, res: f.base.get(name), fresh: true})
		}
	} else {
		for _, c := range t.changes {
			if f.sub.has(c.name) {
				changes = append(changes, c)
			}
		}
	}
	p, resources, removed := f.pack(v, changes)
	p.head, p.size = encodeResponse(f.stream.protocol, f.typ, p.version, "", resources, removed)
	return p
}

// pack puts changes into a parcel, not encoded yet.
func (f *feed) pack(v *view, changes []change) (p *parcel, resources []*resource.Resource, removed []string) {
	p = &parcel{changes: changes, version: v.offers[f.typ].digest.String()}
	if f.stream.protocol == sotw {
		resources, p.version = f.stateOfTheWorld(v, changes)
		// It cannot say that something does not exist.
		p.silent = len(resources) == 0 && !f.fullState()
	} else {
		resources, removed = split(changes)
	}
	return p, resources, removed
}

// since returns what differs between two offers, of which the latter is the one
// of these parcels.
func (p *parcels) since(before, to *offer) *transition {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.from[before.id]; t != nil {
		return t
	}
	t := between(before, to)
	if p.from == nil {
		p.from = make(map[uint64]*transition)
	}
	p.from[before.id] = t
	return t
}

func between(before, to *offer) *transition {
	names, ok := to.changedSince(before)
	if !ok {
		names = nil
		for r := range before.all() {
			names = append(names, r.Name)
		}
		for r := range to.all() {
			names = append(names, r.Name)
		}
	}
	t := &transition{}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		c := change{name: name, res: to.get(name), before: before.get(name)}
		if c.before == c.res || c.before != nil && c.res != nil && c.before.Version == c.res.Version {
			continue
		}
		c.fresh = c.before == nil
		t.removes = t.removes || c.res == nil
		t.changes = append(t.changes, c)
	}
	return t
}

// get returns the parcel with the key, to be made if it is not, of so many names
// that a client asked for. With reluctant it returns nil for the first that asks.
func (p *parcels) get(key parcelKey, reluctant bool, names int) *making {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready == nil {
		p.ready = make(map[parcelKey]*making)
	}
	m, asked := p.ready[key]
	switch {
	case m != nil:
		return m
	case reluctant && (len(p.ready) >= maxParcels || p.names+names > maxParcelNames):
		return nil
	case reluctant && !asked:
		p.ready[key] = nil
		return nil
	}
	m = &making{}
	p.ready[key] = m
	p.names += names
	return m
}
