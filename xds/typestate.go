package xds

import (
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds/wire"
)

// typeState is the state of one type on one stream: what the client asked for, what
// it has, and what is on its way.
//
// What the client has is base, which was served when it was last sent something,
// but for names, each of which has a state of its own. So a stream holds a pointer
// and the exceptions, and a change is found by asking what is served now what
// differs from base.
type typeState struct {
	stream *stream
	typ    resource.Type

	// What the client asked for.
	sub    subscription
	answer bool // it has asked for something since the last push
	owed   bool // a response is owed, be it empty

	// What it has.
	base      served // unknown: nothing was sent yet
	names     map[string]*nameState
	acked     bool   // it has acknowledged something on this stream
	unsure    bool   // it rejected the last response, and what it has instead is not known
	reported  int    // how many versions it reported when it came, delta only
	claims    string // the version_info that it came with, SotW only
	postponed bool   // a removal waited in the last push

	// What is on its way.
	inflight   []*response // sent and neither acknowledged nor rejected, oldest first
	sent       uint64      // the number of the newest response
	answeredTo uint64      // the number of the newest that it has acknowledged or rejected
	nonce      string      // of the newest response
	version    digest      // of the newest response
	retries    [][]string  // names to try in a response of their own each, see nack.go
}

// push sends all that the client lacks and may have now. While the sender is
// busy nothing is made: what the client gets next is the newest state then.
func (s *stream) push() {
	if s.slot == nil || len(s.unsent) > 0 {
		return
	}
	s.takeBarriers()
	v := s.slot.load()
	if v == nil {
		return // a new profile; its view is on the way
	}
	now := time.Now()
	s.pushBy = time.Time{}
	s.secrets.refresh()
	s.pushInOrder(v, now)
	s.status.update(s, v)
	s.tellPresence(v)
	s.passBarriers(v)
	if s.server.pushed != nil {
		s.server.pushed(s)
	}
}

// push sends what the client lacks of this type and may have now.
func (ts *typeState) push(v *view, now time.Time) {
	if !ts.sub.active {
		return
	}
	ts.postponed = false
	if len(ts.retries) > 0 {
		ts.pushRetries(v, now)
		if len(ts.retries) > 0 {
			return
		}
	}
	why := aChange
	if ts.answer {
		why = aRequest
	}
	isCurrent := ts.base == v.of(ts.typ) && len(ts.names) == 0
	if isCurrent && !ts.owed && why == aChange || !ts.maySend(why, now) {
		return
	}
	if p := ts.shared(v); p != nil {
		ts.answer = false
		if len(p.changes) > 0 || ts.owed {
			ts.dispatch(v, p, now)
		}
		return
	}
	changes, waiting := ts.plan(v, now)
	ts.answer = false
	if len(changes) > 0 || ts.owed && !waiting {
		ts.send(v, changes, now)
	}
	ts.pushRetries(v, now)
}

// occasion is why a response may be due.
type occasion uint8

const (
	aRequest occasion = iota // the client has asked for something
	aChange                  // what is served has changed
	aRetry                   // names of a rejected response are to be tried again
)

// maySend is the rule for when a response goes out while others are unanswered.
// A client need not wait for what it asks for. Changes gather for a short time.
// Retries do not, but in a full state each builds on what the one before it left;
// and since Envoy answers clusters only when they are warm, neither waits for an
// answer for ever.
func (ts *typeState) maySend(why occasion, now time.Time) bool {
	n, limit := len(ts.inflight), maxInFlight
	if why == aRetry {
		limit = maxUnanswered
	}
	switch {
	case n == 0 || why == aRequest:
		return true
	case why == aRetry && ts.fullState():
		return false
	case why == aRetry && n < maxInFlight:
		return true
	case n >= limit:
		return false
	}
	open := ts.inflight[n-1].at.Add(ts.stream.server.options.Timeouts.Coalesce)
	if now.Before(open) {
		ts.stream.pushAgainAt(open)
		return false
	}
	return true
}

// plan moves base to the view and returns what to send to get there. What may
// not be sent yet stays in names; waiting says that there is such a thing.
func (ts *typeState) plan(v *view, now time.Time) (changes []change, waiting bool) {
	first := !ts.base.known()
	ts.advance(v)
	if first && ts.claims != "" && ts.fullState() && ts.claimed() {
		return nil, false
	}
	var has []change // what it came with
	consider := func(name string, d *nameState) {
		if first {
			if r := ts.brought(name, d); r != nil {
				has = append(has, change{name: name, res: r})
			}
		}
		c, verdict := ts.consider(v, name, d, now)
		switch verdict {
		case send:
			if d.phase == suspect {
				ts.retries = append(ts.retries, []string{name})
				return
			}
			changes = append(changes, c)
			ts.markSent(d, c)
		case wait:
			waiting = true
			ts.set(name, d)
		case keep:
			ts.set(name, d)
		case nothing:
			delete(ts.names, name)
		}
	}
	if first {
		for name := range ts.wanted() {
			d := ts.names[name]
			if d == nil {
				d = clientHas(nil)
				if ts.sub.names.Has(name) {
					d = newlyAsked()
				}
			}
			consider(name, d)
		}
	}
	if len(ts.names) > 0 {
		for _, name := range slices.Sorted(maps.Keys(ts.names)) {
			consider(name, ts.names[name])
		}
	}
	if len(ts.names) == 0 {
		ts.names = nil
	}
	ts.stream.recordAcks(ts.typ, &payload{changes: has})
	if first && ts.reported > 0 && len(changes) == 0 && !waiting && !ts.owed {
		ts.hasAll(v.of(ts.typ).digest())
	}
	return changes, waiting
}

// hasAll shows a client that came with everything as one that was sent it.
func (ts *typeState) hasAll(version digest) {
	ts.stream.status.sent(ts.typ, version)
	ts.stream.status.acknowledged(ts.typ, version)
}

// advance makes what the view serves the base. What changed since the last one
// goes into names.
func (ts *typeState) advance(v *view) {
	next := v.of(ts.typ)
	if ts.base == next || !ts.base.known() {
		ts.base = next
		return
	}
	if names, ok := next.changedSince(ts.base); ok {
		for _, name := range names {
			ts.track(name)
		}
	} else {
		for r := range ts.base.all() {
			if n := next.get(r.Name); n == nil || n.Version != r.Version {
				ts.track(r.Name)
			}
		}
		for r := range next.all() {
			if ts.base.get(r.Name) == nil {
				ts.track(r.Name)
			}
		}
	}
	ts.base = next
}

// track returns the state of a name of which base says something else than the
// client has, or is about to. It is made if there is none, and nil for a name
// that the client did not ask for.
func (ts *typeState) track(name string) *nameState {
	if !ts.sub.has(name) {
		return nil
	}
	d := ts.names[name]
	if d == nil {
		d = clientHas(ts.has(name))
		ts.set(name, d)
	}
	return d
}

// has returns what the client has of a name that is not in names.
func (ts *typeState) has(name string) *resource.Resource {
	if ts.typ == resource.Secret && leased(name) {
		return ts.stream.secrets.sent[name]
	}
	if !ts.base.known() || ts.typ == resource.Secret && !ts.stream.secrets.mayHave(name) {
		return nil
	}
	return ts.base.get(name)
}

// wanted iterates over the names that the client asked for: those that base
// has, and those that were named and may not exist.
func (ts *typeState) wanted() iter.Seq[string] {
	return func(yield func(string) bool) {
		if ts.sub.wildcard {
			for r := range ts.base.all() {
				if !yield(r.Name) {
					return
				}
			}
		}
		for _, name := range ts.sub.names.Names {
			if ts.sub.wildcard && ts.base.get(name) != nil {
				continue
			}
			if !yield(name) {
				return
			}
		}
	}
}

type verdict uint8

const (
	nothing verdict = iota // the client has what it should have
	send
	wait // for something else to be acknowledged, or to be there
	keep // what it has: it rejected the new content
)

// consider decides what becomes of one name.
func (ts *typeState) consider(v *view, name string, n *nameState, now time.Time) (change, verdict) {
	target, err := ts.target(v, name, n)
	c := change{name: name, res: target, before: n.has, fresh: n.known() == ""}
	if errors.Is(err, ErrNoSecret) {
		if n.mustSend() && c.fresh {
			return c, send // that there is none
		}
		return c, nothing // what it has from elsewhere is not ours to take
	}
	if err != nil {
		return change{}, wait
	}
	if target == nil && ts.typ == resource.Route && !v.of(ts.typ).withholds(name) && !c.fresh {
		return c, nothing // Envoy keeps what nothing leads to any more, and logs an error when it is told
	}
	if target == nil && ts.typ == resource.Extension && c.fresh {
		return c, nothing // a place that nobody fills: no listener waits, and each stream would tell it anew
	}
	if target == nil && ts.typ == resource.Route && c.fresh && n.mustSend() {
		c.res = noRoutes(name)
		return c, send
	}
	if target == nil && !c.fresh && v.of(ts.typ).withholds(name) {
		n.withhold()
		if n.answer && n.has != nil {
			return c.having(n.has), send
		}
		return c, keep
	}
	n.serve()
	if !n.mustSend() && (target == nil && c.fresh || target != nil && target.Version == n.known()) {
		return c, nothing
	}
	if target != nil && ts.stream.pastNacks != nil {
		ts.stream.recallNack(v, target, n)
	}
	if n.rejection != nil && n.rejection.stands(ts.stream, v, target) {
		return ts.rejectedStill(v, n, c, now)
	}
	n.forgive()
	return ts.inOrder(v, n, c, now)
}

// noRoutes is a route configuration of the name with nothing in it. A listener
// waits for each that it has asked for, and opens its port for no other service
// before: so one that there is nothing good of has to be there too.
func noRoutes(name string) *resource.Resource {
	return resource.New(resource.Route, name, wire.OnlyName(name), nil, nil)
}

// rejectedStill is a name whose content the client rejected. It keeps what it had,
// is sent that if it may have lost it, and is answered if it asks.
func (ts *typeState) rejectedStill(v *view, n *nameState, c change, now time.Time) (change, verdict) {
	switch {
	case n.phase == restoring:
		return ts.inOrder(v, n, c.having(n.restore), now)
	case n.answer:
		return c.having(n.has), send
	}
	return c, keep
}

// inOrder is a change whose time it may not be yet.
func (ts *typeState) inOrder(v *view, n *nameState, c change, now time.Time) (change, verdict) {
	switch {
	case c.res != nil && ts.typ == resource.Cluster && n.phase == changed && n.known() != "" && !n.answer && ts.stream.initializing(now):
		return c, wait
	case c.res != nil && ts.stream.mayAdd(v, c.res, n, now):
		return c, send
	case c.res != nil && n.answer && n.has != nil: // it need not wait for what it has
		return c.having(n.has), send
	case c.res != nil:
		return c, wait
	case n.has != nil && !ts.stream.mayRemove(ts.typ, v, now):
		ts.postponed = true
		return c, wait
	}
	// What it has goes when nothing needs it any more. A name that it asks for
	// and that does not exist is answered at once.
	return c, send
}

// markSent notes that the client is about to have a change.
func (ts *typeState) markSent(n *nameState, c change) {
	if c.stays {
		ts.set(c.name, n.sentInstead(c.res))
	} else {
		delete(ts.names, c.name)
	}
}

// quiescent reports whether the client was sent all that the view has for it, but for
// what it has not acknowledged.
func (ts *typeState) quiescent(v *view) bool {
	if ts.base != v.of(ts.typ) || len(ts.retries) > 0 || ts.unsure {
		return false
	}
	for _, n := range ts.names {
		if n.phase != withheld {
			return false
		}
	}
	return true
}

// target returns the resource that the client is to have, nil for none.
func (ts *typeState) target(v *view, name string, d *nameState) (*resource.Resource, error) {
	switch {
	case ts.typ != resource.Secret:
	case !ts.stream.secrets.mayHave(name):
		return nil, ErrNoSecret
	case leased(name):
		return ts.stream.secrets.get(name, d.mustSend())
	}
	r := v.get(ts.typ, name)
	if r == nil && ts.typ == resource.Endpoint && ts.stream.waitsForEndpoints(name) {
		r = noEndpoints(name)
	}
	return r, nil
}

// send sends a response with the changes, which are this client's own.
func (ts *typeState) send(v *view, changes []change, now time.Time) {
	p, resources, removed := ts.pack(changes)
	p.encoded = wire.Encode(ts.stream.protocol, ts.typ, resources, removed)
	ts.dispatch(v, p, now)
}

// dispatch sends a payload.
func (ts *typeState) dispatch(v *view, p *payload, now time.Time) {
	ts.owed = false
	if p.silent {
		return
	}
	s := ts.stream
	r := &response{nonce: s.nonce(), at: now, payload: p, version: ts.versionOf(v, p), view: v, leases: s.secrets.count}
	r.number, ts.sent = s.nonces, s.nonces
	ts.nonce, ts.version = r.nonce, r.version
	ts.inflight = append(ts.inflight, r)
	ts.forgetUnanswered()
	text := r.version.text()
	out := p.encoded.Response(text[:], r.nonce)
	s.server.metrics.pushed(ts.typ, out.Size())
	s.status.sent(ts.typ, r.version)
	switch ts.typ {
	case resource.Cluster:
		s.order.clustersSent(s, p.changes)
	case resource.Secret:
		s.secrets.wasSent(p.changes)
	}
	s.send(out)
}

// versionOf is the version of the type that the client has once it has taken the
// payload.
func (ts *typeState) versionOf(v *view, p *payload) digest {
	if p.state != nil {
		return *p.state
	}
	return v.of(ts.typ).digest()
}

func (ts *typeState) set(name string, d *nameState) {
	if ts.names == nil {
		ts.names = make(map[string]*nameState)
	}
	ts.names[name] = d
}
