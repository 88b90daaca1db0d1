package xds

import (
	"errors"
	"maps"
	"slices"
	"time"

	"datapunk.dev/controlplane/resource"
)

// typeState is the state of one type on one stream: what the client asked for, what
// it has, and what is on its way.
//
// What the client has is base, what was served when it was last sent something, but for the
// names in names. So a stream holds a pointer and the exceptions, and a change
// is found by asking what is served now what differs from base.
type typeState struct {
	stream *stream
	typ    resource.Type

	sub      subscription
	accepted bool   // the client has acknowledged something on this stream
	unsure   bool   // it rejected the last response, and what it has instead is not known
	answer   bool   // the client asked for something: it need not wait for its own answers
	owed     bool   // a response is owed, be it empty
	base     served // unknown: nothing was sent yet
	names    map[string]*nameState

	inflight   []*response // sent and neither acknowledged nor rejected, oldest first
	sent       uint64      // the number of the newest response
	answeredTo uint64      // the number of the newest that it has acknowledged or rejected
	nonce      string      // of the newest response
	version    digest      // of the newest response
	retries    [][]string  // names to try in a response of their own each, see nack.go

	reported  int    // how many versions the client reported when it came
	claims    string // the version_info that it came with, SotW only
	postponed bool   // a removal waited in the last push
}

// diff is what the client has of one name, where that is not what base says.
// The zero value: it has nothing.
type nameState struct {
	has     *resource.Resource // the last that it took, as far as is known
	version string             // what it says it has (initial_resource_versions)
	tell    bool               // it must be told: it asked, or it rejected a response with the name
	asked   bool               // it asked for the name by itself, and is to be answered
	held    *rejection         // the content that it rejected
	lent    *resource.Resource // what it had before, to be sent to it
	kept    bool               // it keeps what it has: that is in quarantine which should replace it
	suspect bool               // it was in a rejected response: to be sent alone
	since   time.Time          // when it first had to wait for a cluster
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
	s.passBarriers(v)
}

// pushInOrder pushes each type in the order of additions, then once more what
// waited only because a later type had not been looked at.
func (s *stream) pushInOrder(v *view, now time.Time) {
	for t := range s.types {
		s.types[t].push(v, now)
	}
	for _, t := range [...]resource.Type{resource.Cluster, resource.Secret, resource.Endpoint} {
		if ts := &s.types[t]; ts.postponed {
			ts.push(v, now)
		}
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
	if !ts.answer && !ts.mayPush(v, now) {
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

// mayPush reports whether a change of the view may be sent now. While a
// response is unanswered changes gather, for a short time.
func (ts *typeState) mayPush(v *view, now time.Time) bool {
	if ts.base == v.of(ts.typ) && len(ts.names) == 0 && !ts.owed {
		return false // nothing to send
	}
	n := len(ts.inflight)
	if n == 0 {
		return true
	}
	if n >= maxInFlight {
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
		if r := ts.brought(name, d); first && r != nil {
			has = append(has, change{name: name, res: r})
		}
		c, verdict := ts.consider(v, name, d, now)
		switch verdict {
		case send:
			if d.suspect {
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
				named := ts.sub.names.has(name)
				d = &nameState{tell: named, asked: named}
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

// advance makes the view's offer the base. What changed since the last one goes
// into names.
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

// noted returns the note on what the client has of a name, of which base says
// something else or is about to. It is made if there is none, and nil for a
// name that the client did not ask for.
func (ts *typeState) track(name string) *nameState {
	if !ts.sub.has(name) {
		return nil
	}
	d := ts.names[name]
	if d == nil {
		d = &nameState{has: ts.has(name)}
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
func (ts *typeState) wanted() func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if ts.sub.wildcard {
			for r := range ts.base.all() {
				if !yield(r.Name) {
					return
				}
			}
		}
		for _, name := range ts.sub.names.names {
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
func (ts *typeState) consider(v *view, name string, d *nameState, now time.Time) (change, verdict) {
	target, err := ts.target(v, name, d)
	c := change{name: name, res: target, before: d.has, fresh: d.has == nil && d.version == ""}
	if errors.Is(err, ErrNoSecret) {
		if d.tell && c.fresh {
			return c, send // that there is none
		}
		return c, nothing // what it has from elsewhere is not ours to take
	}
	if err != nil {
		return change{}, wait
	}
	if d.kept = target == nil && !c.fresh && v.of(ts.typ).withholds(name); d.kept {
		return ts.withheld(d, c)
	}
	if !d.tell && (target == nil && c.fresh || target != nil && target.Version == d.known()) {
		return c, nothing
	}
	if target != nil && ts.stream.recalled != nil {
		ts.stream.recall(v, target, d)
	}
	if d.held != nil && d.held.stands(ts.stream, v, target) {
		return ts.refused(v, d, c, now)
	}
	d.held, d.lent = nil, nil
	return ts.inOrder(v, d, c, now)
}

// withheld is a name of which nothing is served, for the content is in
// quarantine and none came before it: the client keeps what it has.
func (ts *typeState) withheld(d *nameState, c change) (change, verdict) {
	refuses := d.held != nil && d.has != nil && d.held.version == d.has.Version
	d.held = nil
	if !d.tell || d.has == nil || refuses {
		return c, keep
	}
	return c.having(d.has), send
}

// refused is a name whose content the client rejected. It keeps what it had, is
// sent that if it may have lost it, and is told if it asks.
func (ts *typeState) refused(v *view, d *nameState, c change, now time.Time) (change, verdict) {
	switch {
	case d.lent != nil:
		return ts.inOrder(v, d, c.having(d.lent), now)
	case d.asked:
		return c.having(d.has), send
	}
	return c, keep
}

// inOrder is a change whose time it may not be yet.
func (ts *typeState) inOrder(v *view, d *nameState, c change, now time.Time) (change, verdict) {
	switch {
	case c.res != nil && ts.stream.mayAdd(v, c.res, d, now):
		return c, send
	case c.res != nil && d.asked && d.has != nil: // it need not wait for what it has
		return c.having(d.has), send
	case c.res != nil:
		return c, wait
	case d.has != nil && !ts.stream.mayRemove(ts.typ, v, now):
		ts.postponed = true
		return c, wait
	}
	// What it has goes when nothing needs it any more. A name that it asks for
	// and that does not exist is answered at once.
	return c, send
}

// settle notes that the client is about to have a change.
func (ts *typeState) markSent(d *nameState, c change) {
	if c.stays {
		ts.set(c.name, &nameState{has: c.res, held: d.held, kept: d.kept, since: d.since})
	} else {
		delete(ts.names, c.name)
	}
}

// settled reports whether the client has all that the view served sets it, but for
// what it has not acknowledged.
func (ts *typeState) quiescent(v *view) bool {
	if ts.base != v.of(ts.typ) || len(ts.retries) > 0 || ts.unsure {
		return false
	}
	for _, d := range ts.names {
		if !d.kept {
			return false
		}
	}
	return true
}

func (d *nameState) known() string {
	if d.has != nil {
		return d.has.Version
	}
	return d.version
}

// target returns the resource that the client is to have, nil for none.
func (ts *typeState) target(v *view, name string, d *nameState) (*resource.Resource, error) {
	switch {
	case ts.typ != resource.Secret:
	case !ts.stream.secrets.mayHave(name):
		return nil, ErrNoSecret
	case leased(name):
		return ts.stream.secrets.get(name, d.tell)
	}
	return v.get(ts.typ, name), nil
}

// send sends a response with the changes, which are this client's own.
func (ts *typeState) send(v *view, changes []change, now time.Time) {
	p, resources, removed := ts.pack(changes)
	p.encode(ts.stream.protocol, ts.typ, resources, removed)
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
	fr := p.frame(r.version, r.nonce)
	s.server.metrics.pushed(ts.typ, fr.size)
	s.status.sent(ts.typ, r.version)
	switch ts.typ {
	case resource.Cluster:
		s.order.clustersSent(s, p.changes)
	case resource.Secret:
		s.secrets.wasSent(p.changes)
	}
	s.send(fr)
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
