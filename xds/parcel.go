package xds

import (
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/mem"

	"datapunk.dev/controlplane/resource"
)

// parcel is what a response holds, but for its version and nonce. Clients in the
// same state get the same, so it is made and encoded once for all of them: that
// of a first sync, and that of a change. Shared parcels are immutable.
type parcel struct {
	changes []change
	body    mem.BufferSlice // encoded
	size    int             // of body, in bytes
	silent  bool            // the protocol has no words for it: nothing is sent
	// state is what the client has after it, where that is not what is served.
	state *digest
	// parts are the shared parcels that it was put together from.
	parts []*parcel

	proven atomic.Bool // every content in it is: see jury
	once   sync.Once
	fresh  map[string]struct{} // names of the fresh changes
}

// joined returns the parcel of both, of which the second may be nil.
func joined(a, b *parcel) *parcel {
	if b == nil || len(b.changes) == 0 && len(b.body) == 0 {
		return a
	}
	return &parcel{
		changes: slices.Concat(a.changes, b.changes), body: slices.Concat(a.body, b.body), size: a.size + b.size,
		parts: []*parcel{a, b},
	}
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

// shared returns the parcel that brings the client to what the view serves, and
// makes that the base. It returns nil, and does nothing, if the client is in a
// state of its own or the first in its state. What it shares is the scope's half;
// what is the proxy's own stands beside it.
func (f *feed) shared(v *view) *parcel {
	s := f.stream
	if f.typ != resource.Cluster && f.typ != resource.Endpoint ||
		len(f.diffs) > 0 || len(f.trials) > 0 || len(s.recalled) > 0 || !f.base.known() && f.claims != "" {
		return nil
	}
	to := v.of(f.typ)
	whole := parcelKey{protocol: s.protocol, names: f.sub.names.key, wildcard: f.sub.wildcard}
	if !f.base.known() {
		// Whether a name is in neither half no half can say.
		if to.own.set.Len() > 0 && len(f.sub.names.names) > 0 {
			return nil
		}
		return f.take(to, whole, nil)
	}
	if f.base == to || f.owed || f.base.own != to.own {
		return nil
	}
	whole.from = f.base.scope.id
	t := to.scope.parcels.since(f.base.scope, to.scope)
	if len(t.changes) > maxMask {
		if t.removes {
			return nil // whether a client may lose something is its own affair
		}
		return f.take(to, whole, t)
	}
	key := parcelKey{protocol: s.protocol, from: f.base.scope.id}
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
	return f.take(to, key, t)
}

// nothingNew is the parcel of a client that asked for nothing that changed.
var nothingNew = &parcel{}

// take returns the parcel whose shared part has the key. What depends on all
// that a client asked for is made for the second one that asks for the same: the
// first may be the only one.
func (f *feed) take(to served, key parcelKey, t *transition) *parcel {
	m := to.scope.parcels.get(key, key.mask == 0, key.names.count)
	if m == nil {
		return nil
	}
	m.once.Do(func() { m.parcel = f.scopeParcel(to.scope, t) })
	f.base = to
	return joined(m.parcel, f.ownParcel(to.own, t == nil))
}

// scopeParcel makes the parcel that leads to what a scope offers by the
// transition, nil for a client that has nothing.
func (f *feed) scopeParcel(to *offer, t *transition) *parcel {
	p := &parcel{}
	if t == nil {
		for r := range to.all() {
			if f.sub.has(r.Name) {
				p.changes = append(p.changes, change{name: r.Name, res: r, fresh: true})
			}
		}
		for _, name := range f.sub.names.names {
			if to.get(name) == nil { // it does not exist, and is told; see consider
				p.changes = append(p.changes, change{name: name, fresh: true})
			}
		}
	} else {
		for _, c := range t.changes {
			if f.sub.has(c.name) {
				p.changes = append(p.changes, c)
			}
		}
	}
	f.encodeHalf(p, to)
	return p
}

// ownParcel makes the part of a response that is the proxy's own: all of it for a
// client that has nothing, and in the full state of a type; else nil.
func (f *feed) ownParcel(own *offer, first bool) *parcel {
	if !first && !f.fullState() || own.set.Len() == 0 {
		return nil
	}
	p := &parcel{}
	if first {
		for r := range own.all() {
			if f.sub.has(r.Name) {
				p.changes = append(p.changes, change{name: r.Name, res: r, fresh: true})
			}
		}
	}
	f.encodeHalf(p, own)
	return p
}

// encodeHalf encodes the changes of one half, or all of the half where a response
// must have all.
func (f *feed) encodeHalf(p *parcel, of *offer) {
	resources, removed := split(p.changes)
	if f.fullState() {
		resources, removed = nil, nil
		for r := range of.all() {
			if f.sub.has(r.Name) {
				resources = append(resources, r)
			}
		}
	}
	if f.stream.protocol == sotw {
		removed = nil // it cannot say that something does not exist
		p.silent = len(resources) == 0 && !f.fullState()
	}
	p.encode(f.stream.protocol, f.typ, resources, removed)
}

// pack puts changes of one client into a parcel, not encoded yet.
func (f *feed) pack(changes []change) (p *parcel, resources []*resource.Resource, removed []string) {
	p = &parcel{changes: changes}
	if f.stream.protocol == delta {
		resources, removed = split(changes)
		return p, resources, removed
	}
	if f.fullState() {
		var state digest
		resources, state = f.stateOfTheWorld()
		p.state = &state
		return p, resources, nil
	}
	resources, _ = split(changes)
	p.silent = len(resources) == 0 // it cannot say that something does not exist
	return p, resources, nil
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
