package xds

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// payload is what a response holds, but for its version and nonce. Clients in the
// same state get the same, so it is made and encoded once for all of them: that
// of a first sync, and that of a change. Shared payloads are immutable.
type payload struct {
	changes []change
	encoded wire.Payload
	silent  bool // the protocol has no words for it: nothing is sent
	// state is what the client has after it, where that is not what is served.
	state *digest
	// parts are the shared payloads that it was put together from.
	parts []*payload

	proven atomic.Bool // every content in it is: see tally
	once   sync.Once
	fresh  map[string]struct{} // names of the fresh changes
}

// joinPayloads returns one payload of both, of which the second may be nil.
func joinPayloads(a, b *payload) *payload {
	if b == nil || len(b.changes) == 0 && b.encoded.IsEmpty() {
		return a
	}
	return &payload{
		changes: slices.Concat(a.changes, b.changes), encoded: a.encoded.Join(b.encoded),
		parts: []*payload{a, b},
	}
}

// introduces reports whether the payload brings a resource to a client that had
// nothing of that name.
func (p *payload) introduces(name string) bool {
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

// payloads are those that lead to a served set.
type payloads struct {
	mu    sync.Mutex
	from  map[uint64]*transition        // by the id of the served set before
	ready map[payloadKey]*sharedPayload // nil: asked for once
	names int                           // that clients asked for, in those that depend on it
}

// sharedPayload is a payload that the first stream to need it makes.
type sharedPayload struct {
	once    sync.Once
	payload *payload
}

// transition is what differs between two served sets, sorted by name.
type transition struct {
	changes []change
	removes bool
}

// payloadKey is the state of a client, as far as a payload depends on it.
type payloadKey struct {
	protocol wire.Protocol
	from     uint64 // the id of the served set that it has; 0: none
	mask     uint64 // which of the transition's changes it asked for
	// What it asked for, where the mask does not say it all.
	names    wire.NameKey
	wildcard bool
}

// maxPayloads bounds the payloads of a served set, which may last for days, that
// clients can bring about by what they ask for.
const maxPayloads = 1024

// maxPayloadNames bounds the names in them: a client may ask for what does not
// exist, and a payload would say so of each as long as the served set lasts.
const maxPayloadNames = 4 * wire.MaxNames

// maxMask is how many changes have room in a mask.
const maxMask = 64

// shared returns the payload that brings the client to what the view serves, and
// makes that the base. It returns nil, and does nothing, if the client is in a
// state of its own or the first in its state. What it shares is the scope's half;
// what is the proxy's own stands beside it.
func (ts *typeState) shared(v *view) *payload {
	s := ts.stream
	if ts.typ != resource.Cluster && ts.typ != resource.Endpoint ||
		len(ts.names) > 0 || len(ts.retries) > 0 || len(s.pastNacks) > 0 || !ts.base.known() && ts.claims != "" {
		return nil
	}
	if ts.typ == resource.Endpoint && len(s.types[resource.Cluster].names) > 0 && s.initializing(time.Now()) {
		return nil // see waitsForEndpoints
	}
	to := v.of(ts.typ)
	whole := payloadKey{protocol: s.protocol, names: ts.sub.names.Key, wildcard: ts.sub.wildcard}
	if !ts.base.known() {
		// Whether a name is in neither half no half can say.
		if to.own.set.Len() > 0 && len(ts.sub.names.Names) > 0 {
			return nil
		}
		return ts.take(to, whole, nil)
	}
	if ts.base == to || ts.owed || ts.base.own != to.own || ts.typ == resource.Cluster && s.initializing(time.Now()) {
		return nil
	}
	whole.from = ts.base.scope.id
	t := to.scope.payloads.since(ts.base.scope, to.scope)
	if len(t.changes) > maxMask {
		if t.removes {
			return nil // whether a client may lose something is its own affair
		}
		return ts.take(to, whole, t)
	}
	key := payloadKey{protocol: s.protocol, from: ts.base.scope.id}
	for i, c := range t.changes {
		if !ts.sub.has(c.name) {
			continue
		}
		if c.res == nil {
			return nil
		}
		key.mask |= 1 << i
	}
	if key.mask == 0 {
		ts.base = to
		return nothingNew
	}
	if ts.fullState() {
		key.names, key.wildcard = whole.names, whole.wildcard
	}
	return ts.take(to, key, t)
}

// nothingNew is the payload of a client that asked for nothing that changed.
var nothingNew = &payload{}

// take returns the payload whose shared part has the key. What depends on all
// that a client asked for is made for the second one that asks for the same: the
// first may be the only one.
func (ts *typeState) take(to served, key payloadKey, t *transition) *payload {
	m := to.scope.payloads.get(key, key.mask == 0, key.names.Count)
	if m == nil {
		return nil
	}
	m.once.Do(func() { m.payload = ts.scopePayload(to.scope, t) })
	ts.base = to
	return joinPayloads(m.payload, ts.ownPayload(to.own, t == nil))
}

// scopePayload makes the payload that leads to what a scope served sets by the
// transition, nil for a client that has nothing.
func (ts *typeState) scopePayload(to *servedSet, t *transition) *payload {
	p := &payload{}
	if t == nil {
		for r := range to.all() {
			if ts.sub.has(r.Name) {
				p.changes = append(p.changes, change{name: r.Name, res: r, fresh: true})
			}
		}
		for _, name := range ts.sub.names.Names {
			if to.get(name) == nil { // it does not exist, and is told; see consider
				p.changes = append(p.changes, change{name: name, fresh: true})
			}
		}
	} else {
		for _, c := range t.changes {
			if ts.sub.has(c.name) {
				p.changes = append(p.changes, c)
			}
		}
	}
	ts.encodeHalf(p, to)
	return p
}

// ownPayload makes the part of a response that is the proxy's own: all of it for a
// client that has nothing, and in the full state of a type; else nil.
func (ts *typeState) ownPayload(own *servedSet, first bool) *payload {
	if !first && !ts.fullState() || own.set.Len() == 0 {
		return nil
	}
	p := &payload{}
	if first {
		for r := range own.all() {
			if ts.sub.has(r.Name) {
				p.changes = append(p.changes, change{name: r.Name, res: r, fresh: true})
			}
		}
	}
	ts.encodeHalf(p, own)
	return p
}

// encodeHalf encodes the changes of one half, or all of the half where a response
// must have all.
func (ts *typeState) encodeHalf(p *payload, of *servedSet) {
	resources, removed := split(p.changes)
	if ts.fullState() {
		resources, removed = nil, nil
		for r := range of.all() {
			if ts.sub.has(r.Name) {
				resources = append(resources, r)
			}
		}
	}
	if ts.stream.protocol == wire.SotW {
		removed = nil // it cannot say that something does not exist
		p.silent = len(resources) == 0 && !ts.fullState()
	}
	p.encoded = wire.Encode(ts.stream.protocol, ts.typ, resources, removed)
}

// pack puts changes of one client into a payload, not encoded yet.
func (ts *typeState) pack(changes []change) (p *payload, resources []*resource.Resource, removed []string) {
	p = &payload{changes: changes}
	if ts.stream.protocol == wire.Delta {
		resources, removed = split(changes)
		return p, resources, removed
	}
	if ts.fullState() {
		var state digest
		resources, state = ts.stateOfTheWorld()
		p.state = &state
		return p, resources, nil
	}
	resources, _ = split(changes)
	p.silent = len(resources) == 0 // it cannot say that something does not exist
	return p, resources, nil
}

// since returns what differs between two served sets, of which the latter is the one
// of these payloads.
func (p *payloads) since(before, to *servedSet) *transition {
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

func between(before, to *servedSet) *transition {
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

// get returns the payload with the key, to be made if it is not, of so many names
// that a client asked for. With reluctant it returns nil for the first that asks.
func (p *payloads) get(key payloadKey, reluctant bool, names int) *sharedPayload {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready == nil {
		p.ready = make(map[payloadKey]*sharedPayload)
	}
	m, asked := p.ready[key]
	switch {
	case m != nil:
		return m
	case reluctant && (len(p.ready) >= maxPayloads || p.names+names > maxPayloadNames):
		return nil
	case reluctant && !asked:
		p.ready[key] = nil
		return nil
	}
	m = &sharedPayload{}
	p.ready[key] = m
	p.names += names
	return m
}
