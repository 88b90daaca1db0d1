package xds

import (
	"errors"
	"maps"
	"slices"
	"time"

	"datapunk.dev/controlplane/resource"
)

// feed is the state of one type on one stream: what the client asked for, what
// it has, and what is on its way.
//
// What the client has is base, what was served when it was last sent something, but for the
// names in diffs. So a stream holds a pointer and the exceptions, and a change
// is found by asking what is served now what differs from base.
type feed struct {
	stream *stream
	typ    resource.Type

	sub      subscription
	accepted bool   // the client has acknowledged something on this stream
	unsure   bool   // it rejected the last response, and what it has instead is not known
	answer   bool   // the client asked for something: it need not wait for its own answers
	owed     bool   // a response is owed, be it empty
	base     served // unknown: nothing was sent yet
	diffs    map[string]*diff

	inflight   []*response // sent and neither acknowledged nor rejected, oldest first
	sent       uint64      // the number of the newest response
	answeredTo uint64      // the number of the newest that it has acknowledged or rejected
	nonce      string      // of the newest response
	version    digest      // of the newest response
	trials     [][]string  // names to try in a response of their own each, see nack.go

	reported  int    // how many versions the client reported when it came
	claims    string // the version_info that it came with, SotW only
	postponed bool   // a removal waited in the last push
}

// diff is what the client has of one name, where that is not what base says.
// The zero value: it has nothing.
type diff struct {
	has     *resource.Resource // the last that it took, as far as is known
	version string             // what it says it has (initial_resource_versions)
	tell    bool               // it must be told: it asked, or it rejected a response with the name
	asked   bool               // it asked for the name by itself, and is to be answered
	held    *hold              // the content that it rejected
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
	for t := range s.feeds {
		s.feeds[t].push(v, now)
	}
	for _, t := range [...]resource.Type{resource.Cluster, resource.Secret, resource.Endpoint} {
		if f := &s.feeds[t]; f.postponed {
			f.push(v, now)
		}
	}
}

// push sends what the client lacks of this type and may have now.
func (f *feed) push(v *view, now time.Time) {
	if !f.sub.active {
		return
	}
	f.postponed = false
	if len(f.trials) > 0 {
		f.pushTrials(v, now)
		if len(f.trials) > 0 {
			return
		}
	}
	if !f.answer && !f.mayPush(v, now) {
		return
	}
	if p := f.shared(v); p != nil {
		f.answer = false
		if len(p.changes) > 0 || f.owed {
			f.dispatch(v, p, now)
		}
		return
	}
	changes, waiting := f.plan(v, now)
	f.answer = false
	if len(changes) > 0 || f.owed && !waiting {
		f.send(v, changes, now)
	}
	f.pushTrials(v, now)
}

// mayPush reports whether a change of the view may be sent now. While a
// response is unanswered changes gather, for a short time.
func (f *feed) mayPush(v *view, now time.Time) bool {
	if f.base == v.of(f.typ) && len(f.diffs) == 0 && !f.owed {
		return false // nothing to send
	}
	n := len(f.inflight)
	if n == 0 {
		return true
	}
	if n >= maxInFlight {
		return false
	}
	open := f.inflight[n-1].at.Add(f.stream.server.options.Timeouts.Coalesce)
	if now.Before(open) {
		f.stream.pushAgainAt(open)
		return false
	}
	return true
}

// plan moves base to the view and returns what to send to get there. What may
// not be sent yet stays in diffs; waiting says that there is such a thing.
func (f *feed) plan(v *view, now time.Time) (changes []change, waiting bool) {
	first := !f.base.known()
	f.advance(v)
	if first && f.claims != "" && f.fullState() && f.claimed() {
		return nil, false
	}
	var has []change // what it came with
	consider := func(name string, d *diff) {
		if r := f.brought(name, d); first && r != nil {
			has = append(has, change{name: name, res: r})
		}
		c, verdict := f.consider(v, name, d, now)
		switch verdict {
		case send:
			if d.suspect {
				f.trials = append(f.trials, []string{name})
				return
			}
			changes = append(changes, c)
			f.settle(d, c)
		case wait:
			waiting = true
			f.note(name, d)
		case keep:
			f.note(name, d)
		case nothing:
			delete(f.diffs, name)
		}
	}
	if first {
		for name := range f.wanted() {
			d := f.diffs[name]
			if d == nil {
				named := f.sub.names.has(name)
				d = &diff{tell: named, asked: named}
			}
			consider(name, d)
		}
	}
	if len(f.diffs) > 0 {
		for _, name := range slices.Sorted(maps.Keys(f.diffs)) {
			consider(name, f.diffs[name])
		}
	}
	if len(f.diffs) == 0 {
		f.diffs = nil
	}
	f.stream.vouch(f.typ, &parcel{changes: has})
	if first && f.reported > 0 && len(changes) == 0 && !waiting && !f.owed {
		f.hasAll(v.of(f.typ).digest())
	}
	return changes, waiting
}

// hasAll shows a client that came with everything as one that was sent it.
func (f *feed) hasAll(version digest) {
	f.stream.status.sent(f.typ, version)
	f.stream.status.acknowledged(f.typ, version)
}

// advance makes the view's offer the base. What changed since the last one goes
// into diffs.
func (f *feed) advance(v *view) {
	next := v.of(f.typ)
	if f.base == next || !f.base.known() {
		f.base = next
		return
	}
	if names, ok := next.changedSince(f.base); ok {
		for _, name := range names {
			f.noted(name)
		}
	} else {
		for r := range f.base.all() {
			if n := next.get(r.Name); n == nil || n.Version != r.Version {
				f.noted(r.Name)
			}
		}
		for r := range next.all() {
			if f.base.get(r.Name) == nil {
				f.noted(r.Name)
			}
		}
	}
	f.base = next
}

// noted returns the note on what the client has of a name, of which base says
// something else or is about to. It is made if there is none, and nil for a
// name that the client did not ask for.
func (f *feed) noted(name string) *diff {
	if !f.sub.has(name) {
		return nil
	}
	d := f.diffs[name]
	if d == nil {
		d = &diff{has: f.has(name)}
		f.note(name, d)
	}
	return d
}

// has returns what the client has of a name that is not in diffs.
func (f *feed) has(name string) *resource.Resource {
	if f.typ == resource.Secret && leased(name) {
		return f.stream.secrets.sent[name]
	}
	if !f.base.known() || f.typ == resource.Secret && !f.stream.secrets.mayHave(name) {
		return nil
	}
	return f.base.get(name)
}

// wanted iterates over the names that the client asked for: those that base
// has, and those that were named and may not exist.
func (f *feed) wanted() func(yield func(string) bool) {
	return func(yield func(string) bool) {
		if f.sub.wildcard {
			for r := range f.base.all() {
				if !yield(r.Name) {
					return
				}
			}
		}
		for _, name := range f.sub.names.names {
			if f.sub.wildcard && f.base.get(name) != nil {
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
func (f *feed) consider(v *view, name string, d *diff, now time.Time) (change, verdict) {
	target, err := f.target(v, name, d)
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
	if d.kept = target == nil && !c.fresh && v.of(f.typ).withholds(name); d.kept {
		return f.withheld(d, c)
	}
	if !d.tell && (target == nil && c.fresh || target != nil && target.Version == d.known()) {
		return c, nothing
	}
	if target != nil && f.stream.recalled != nil {
		f.stream.recall(v, target, d)
	}
	if d.held != nil && d.held.stands(f.stream, v, target) {
		return f.refused(v, d, c, now)
	}
	d.held, d.lent = nil, nil
	return f.inOrder(v, d, c, now)
}

// withheld is a name of which nothing is served, for the content is in
// quarantine and none came before it: the client keeps what it has.
func (f *feed) withheld(d *diff, c change) (change, verdict) {
	refuses := d.held != nil && d.has != nil && d.held.version == d.has.Version
	d.held = nil
	if !d.tell || d.has == nil || refuses {
		return c, keep
	}
	return c.having(d.has), send
}

// refused is a name whose content the client rejected. It keeps what it had, is
// sent that if it may have lost it, and is told if it asks.
func (f *feed) refused(v *view, d *diff, c change, now time.Time) (change, verdict) {
	switch {
	case d.lent != nil:
		return f.inOrder(v, d, c.having(d.lent), now)
	case d.asked:
		return c.having(d.has), send
	}
	return c, keep
}

// inOrder is a change whose time it may not be yet.
func (f *feed) inOrder(v *view, d *diff, c change, now time.Time) (change, verdict) {
	switch {
	case c.res != nil && f.stream.mayAdd(v, c.res, d, now):
		return c, send
	case c.res != nil && d.asked && d.has != nil: // it need not wait for what it has
		return c.having(d.has), send
	case c.res != nil:
		return c, wait
	case d.has != nil && !f.stream.mayRemove(f.typ, v, now):
		f.postponed = true
		return c, wait
	}
	// What it has goes when nothing needs it any more. A name that it asks for
	// and that does not exist is answered at once.
	return c, send
}

// settle notes that the client is about to have a change.
func (f *feed) settle(d *diff, c change) {
	if c.stays {
		f.note(c.name, &diff{has: c.res, held: d.held, kept: d.kept, since: d.since})
	} else {
		delete(f.diffs, c.name)
	}
}

// settled reports whether the client has all that the view offers it, but for
// what it has not acknowledged.
func (f *feed) settled(v *view) bool {
	if f.base != v.of(f.typ) || len(f.trials) > 0 || f.unsure {
		return false
	}
	for _, d := range f.diffs {
		if !d.kept {
			return false
		}
	}
	return true
}

func (d *diff) known() string {
	if d.has != nil {
		return d.has.Version
	}
	return d.version
}

// target returns the resource that the client is to have, nil for none.
func (f *feed) target(v *view, name string, d *diff) (*resource.Resource, error) {
	switch {
	case f.typ != resource.Secret:
	case !f.stream.secrets.mayHave(name):
		return nil, ErrNoSecret
	case leased(name):
		return f.stream.secrets.get(name, d.tell)
	}
	return v.get(f.typ, name), nil
}

// send sends a response with the changes, which are this client's own.
func (f *feed) send(v *view, changes []change, now time.Time) {
	p, resources, removed := f.pack(changes)
	p.encode(f.stream.protocol, f.typ, resources, removed)
	f.dispatch(v, p, now)
}

// dispatch sends a parcel.
func (f *feed) dispatch(v *view, p *parcel, now time.Time) {
	f.owed = false
	if p.silent {
		return
	}
	s := f.stream
	r := &response{nonce: s.nonce(), at: now, parcel: p, version: f.versionOf(v, p), view: v, leases: s.secrets.count}
	r.number, f.sent = s.nonces, s.nonces
	f.nonce, f.version = r.nonce, r.version
	f.inflight = append(f.inflight, r)
	f.forgetUnanswered()
	fr := p.frame(r.version, r.nonce)
	s.server.metrics.pushed(f.typ, fr.size)
	s.status.sent(f.typ, r.version)
	switch f.typ {
	case resource.Cluster:
		s.order.clustersSent(s, p.changes)
	case resource.Secret:
		s.secrets.wasSent(p.changes)
	}
	s.send(fr)
}

// versionOf is the version of the type that the client has once it has taken the
// parcel.
func (f *feed) versionOf(v *view, p *parcel) digest {
	if p.state != nil {
		return *p.state
	}
	return v.of(f.typ).digest()
}

func (f *feed) note(name string, d *diff) {
	if f.diffs == nil {
		f.diffs = make(map[string]*diff)
	}
	f.diffs[name] = d
}
