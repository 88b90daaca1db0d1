package register

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// State is how far the registration of an instance is.
type State string

// The states. The package's documentation says what each means.
const (
	New       State = "NEW"
	Claim     State = "CLAIM"
	Held      State = "HELD"
	Foreign   State = "FOREIGN"
	Lost      State = "LOST"
	Unclaimed State = "UNCLAIMED"
	Drain     State = "DRAIN"
	Delete    State = "DELETE"
)

// States are all of them.
var States = []State{New, Claim, Held, Foreign, Lost, Unclaimed, Drain, Delete}

const (
	// lostFor is how long a proxy whose stream has ended is waited for: Envoy comes
	// back to another replica within 5 s, and there are those that a busy network
	// holds up.
	lostFor = 15 * time.Second
	// lostDials is how often its port is dialed before it is taken for dead, and
	// lostPause the time between.
	lostDials = 3
	lostPause = time.Second
	// unclaimedFor is how often one is looked at whose port answers though no
	// replica has its stream; heldFor the same for a removal that is not believed.
	unclaimedFor = 15 * time.Second
	heldFor      = 5 * time.Second
	// firstDial and slowestDial are the pauses between dials of a new proxy.
	firstDial, slowestDial = 10 * time.Millisecond, 2 * time.Second
	// writeAgain is when a write is tried again that failed, and deniedAgain when one
	// that the token may not make: somebody has to do something about it.
	writeAgain, deniedAgain = time.Second, 10 * time.Second
	// settled is after how long what was written is in what others read.
	settled = time.Second
)

// reach is what a dial came to.
type reach uint8

const (
	silent   reach = iota // no answer, or no way there: it may be our network
	refused               // its host says that nobody listens there
	answered              // a connection was accepted
)

// machine decides what is to be done about each instance. It is told what happens,
// with the time, and collects what the edges are to do in todo. It waits for nothing
// and knows no clock.
type machine struct {
	self  string        // this replica
	after time.Duration // from the loss of a proxy to the removal of its entry

	up      bool                // the catalog can be written: this replica has its session
	leader  bool                // this replica looks after what a dead one left
	alive   map[string]struct{} // the replicas that have a session
	records map[string]*record  // by the node in the catalog

	// What the catalog has, as far as was read.
	stored  map[string]*stored   // ours, by node
	views   map[string]time.Time // services that were read, and when
	foreign map[place]string     // not ours, and whose

	fixed fixed // what is registered without a stream
	guard guard

	reports map[string]*report // of applications, by node
	local   bool               // the catalog is this replica's alone: what others hear is not in it
	due     timers
	todo    todo
}

// record is one instance that this replica has to do with.
type record struct {
	node  string
	proxy *Proxy // nil: an orphan, or not a proxy
	want  entry

	fixed     bool // the mesh file's, or this control plane: connected as long as it is wanted
	connected bool
	leaving   bool
	last      bool // that can be called of its service: it leaves when its stream has ended
	lostAt    time.Time

	state  State
	since  time.Time
	reason string

	at       netip.AddrPort // where it is dialed
	answers  bool           // it did, since it is connected
	dials    int            // in a row without an answer
	refusals int            // of them
	busy     bool           // a dial or a write is under way
	denied   bool           // the token may not write it
	unsure   bool           // what the node has must be read first
	wrote    time.Time      // when the last write ended
	heldAt   time.Time      // since when its removal is not believed; zero: it is
	timer    timer
}

func newMachine(self string) *machine {
	return &machine{
		self: self, after: DefaultAfter, alive: make(map[string]struct{}), records: make(map[string]*record),
		stored: make(map[string]*stored), views: make(map[string]time.Time), foreign: make(map[place]string),
		reports: make(map[string]*report), todo: newTodo(),
	}
}

func newTodo() todo { return todo{reads: make(map[string]struct{}), nodes: make(map[string]struct{})} }

// take returns what is to be done since it was last asked.
func (m *machine) take() todo {
	t := m.todo
	m.todo = newTodo()
	return t
}

func (m *machine) to(r *record, s State, now time.Time, reason string) {
	if r.state != s {
		r.state, r.since = s, now
	}
	r.reason = reason
}

// connected is told of a proxy that has its listeners, or that something about it
// has changed.
func (m *machine) connected(p *Proxy, now time.Time) {
	want := entryOf(p)
	r := m.records[want.node]
	if r == nil {
		r = &record{node: want.node, state: New, since: now}
		m.records[want.node] = r
	}
	if r.leaving && r.connected && r.proxy != nil && r.proxy.Since.Equal(p.Since) {
		r.proxy, r.want = p, want // the same one, that has said that it leaves
		return
	}
	if r.proxy == nil || !r.proxy.equal(p) || !r.connected {
		// One that was away for a moment need not be dialed again.
		if r.at != p.at() || r.state != Held && r.state != Lost {
			r.answers = false
		}
		r.dials, r.refusals = 0, 0
	}
	if r.state == Lost && r.answers {
		m.to(r, Claim, now, "")
	}
	r.proxy, r.want, r.at = p, want, p.at()
	r.connected, r.leaving, r.heldAt = true, false, time.Time{}
	m.decide(r, now)
}

// gone is told that the stream of a proxy has ended.
func (m *machine) gone(node string, now time.Time) {
	r := m.records[nodeName(node)]
	if r == nil || !r.connected || r.fixed || r.proxy == nil || r.proxy.Node != node {
		return
	}
	r.connected, r.lostAt, r.dials, r.refusals = false, now, 0, 0
	if r.leaving {
		m.decide(r, now)
		return
	}
	m.lose(r, now, "its stream has ended")
}

// leave is told that a proxy is about to end.
func (m *machine) leave(node string, last bool, now time.Time) bool {
	r := m.records[nodeName(node)]
	if r == nil || r.fixed || r.proxy == nil || r.proxy.Node != node {
		return false
	}
	if !r.leaving {
		r.lostAt = now
	} else if r.last == last {
		return true
	}
	r.leaving, r.last = true, last
	m.decide(r, now)
	return true
}

// keep is told of an instance that is there as long as it is wanted: it has no
// stream that could end.
func (m *machine) keep(e entry, now time.Time) {
	r := m.records[e.node]
	if r == nil {
		r = &record{node: e.node, state: New, since: now}
		m.records[e.node] = r
	}
	if r.fixed && !r.leaving && r.want.equal(&e) && r.want.health == e.health {
		return
	}
	r.fixed, r.connected, r.answers, r.leaving, r.want, r.proxy = true, true, true, false, e, nil
	m.decide(r, now)
}

// dismiss is told that such an instance is wanted no more.
func (m *machine) dismiss(r *record, now time.Time) {
	r.connected, r.leaving, r.lostAt = false, true, now.Add(-m.after)
	m.decide(r, now)
}

func (m *machine) forget(r *record) {
	m.due.stop(&r.timer)
	delete(m.records, r.node)
}

// at has the record looked at again.
func (m *machine) at(r *record, t time.Time) { m.due.set(&r.timer, r, t) }

// next is when [machine.elapse] has something to do; zero: never.
func (m *machine) next() time.Time { return m.due.next() }

// elapse does what the time has come for.
func (m *machine) elapse(now time.Time) {
	for r := m.due.pop(now); r != nil; r = m.due.pop(now) {
		m.decide(r, now)
	}
}

// decide does the next thing about a record, if it is time.
func (m *machine) decide(r *record, now time.Time) {
	switch {
	case r.busy:
	case r.connected && !r.leaving:
		m.claim(r, now)
	case r.leaving:
		m.dismissal(r, now)
	case r.state == Drain, r.state == Delete:
		m.drain(r, now)
	default:
		m.lost(r, now)
	}
}

// claim brings the entry of a connected proxy about.
func (m *machine) claim(r *record, now time.Time) {
	if !r.answers {
		m.to(r, New, now, "")
		if r.dials > 0 {
			r.reason = fmt.Sprintf("its mesh_port %s does not answer from here", r.at)
			if r.timer.set && now.Before(r.timer.at) {
				return
			}
		}
		m.dial(r)
		return
	}
	have := m.stored[r.node]
	_, read := m.views[r.want.service]
	switch {
	case !m.up:
		if r.state != Held {
			m.to(r, Claim, now, "the catalog cannot be written now")
		}
		return
	case r.unsure:
		m.todo.nodes[r.node] = struct{}{}
		r.busy = true
		return
	case !read:
		m.todo.reads[r.want.service] = struct{}{}
		if r.state != Held {
			m.to(r, Claim, now, r.reason)
		}
		return
	}
	if whose, ok := m.foreign[r.want.place()]; ok {
		m.to(r, Foreign, now, whose)
		if have != nil && have.index > 0 && have.place() == r.want.place() {
			m.change(r, remove, have) // theirs stands at the same place
		}
		return
	}
	if have != nil && have.index > 0 && have.owner == m.self && !have.draining && have.equal(&r.want) && have.health == r.want.health &&
		(have.app == "" && !r.want.checked || r.want.checked && !m.unheard(r, have, now)) {
		m.to(r, Held, now, "")
		return
	}
	if r.state == Claim && r.reason != "" && r.timer.set && now.Before(r.timer.at) {
		return
	}
	if m.awaitsReport(r, have, now) {
		return
	}
	m.to(r, Claim, now, "")
	r.want.app = m.appOf(r, have, now)
	m.change(r, put, have)
}

func (m *machine) dial(r *record) {
	r.busy = true
	m.todo.dials = append(m.todo.dials, dial{r.node, r.at})
}

func (m *machine) change(r *record, kind changeKind, have *stored) {
	r.busy = true
	m.due.stop(&r.timer)
	m.todo.changes = append(m.todo.changes, change{kind, r.want, have})
}

// dialed is told what a dial came to.
func (m *machine) dialed(node string, at netip.AddrPort, got reach, now time.Time) {
	r := m.records[node]
	if r == nil || !r.busy {
		return
	}
	r.busy = false
	if r.at != at {
		m.decide(r, now)
		return
	}
	if got == answered {
		r.answers, r.dials, r.refusals, r.heldAt = true, 0, 0, time.Time{}
	} else {
		r.dials++
		if got == refused {
			r.refusals++
		}
	}
	switch {
	case r.connected && !r.leaving:
		if got != answered {
			m.at(r, now.Add(pause(r.dials)))
			m.to(r, New, now, fmt.Sprintf("its mesh_port %s does not answer from here", r.at))
			return
		}
		m.decide(r, now)
	case r.leaving:
		m.decide(r, now)
	case got == answered:
		m.to(r, Unclaimed, now, "no replica has its stream, and its mesh_port answers")
		m.at(r, now.Add(unclaimedFor))
	default:
		m.unreachable(r, now)
	}
}

// pause is how long it takes to dial a new proxy for another time: not long at
// first, for it is about to open its port.
func pause(dials int) time.Duration {
	d := firstDial
	for range dials {
		if d = d * 5 / 4; d > slowestDial {
			return slowestDial
		}
	}
	return d
}

// wrote is told what became of a change.
func (m *machine) wrote(o outcome, now time.Time) {
	if o.kind == assess {
		m.assessed(o, now)
		return
	}
	r := m.records[o.node]
	if r == nil {
		return
	}
	r.busy, r.wrote, r.denied = false, now, o.result == denied
	if rep := m.reports[o.node]; rep != nil {
		defer m.decideWaiting(o.node, rep, now)
	}
	switch o.result {
	case written:
		r.unsure = false
		if o.stored == nil {
			delete(m.stored, o.node)
		} else {
			m.stored[o.node] = o.stored
		}
		if o.kind == remove && o.stored != nil && o.stored.index == 0 && r.state != Foreign {
			r.unsure = true // somebody may have hung something else on the node
		}
	case conflict:
		r.unsure = true
	case denied:
		r.reason = o.why
		m.at(r, now.Add(deniedAgain))
		return
	case failed:
		r.unsure = true
		r.reason = o.why
		m.at(r, now.Add(writeAgain))
		return
	}
	m.decide(r, now)
}

// session is told whether the catalog can be written. What was read before may be
// anything now.
func (m *machine) session(up bool, now time.Time) {
	if m.up = up; !up {
		m.leader = false
		return
	}
	clear(m.views)
	for _, r := range m.all() {
		if r.state == Foreign && m.foreign[r.want.place()] == "" {
			r.unsure = true
		}
		m.decide(r, now)
	}
}

// all returns the records, in an order that does not change.
func (m *machine) all() []*record {
	list := make([]*record, 0, len(m.records))
	for _, node := range slices.Sorted(maps.Keys(m.records)) {
		list = append(list, m.records[node])
	}
	return list
}

// setAfter is told after what time an entry is removed.
func (m *machine) setAfter(after time.Duration, now time.Time) {
	if m.after == after {
		return
	}
	m.after = after
	for _, r := range m.all() {
		if r.connected || r.busy {
			continue
		}
		switch r.state {
		case Lost:
			if due := r.lostAt.Add(m.lostFor()); now.Before(due) {
				m.at(r, due)
			}
		case Drain:
			m.decide(r, now)
		}
	}
}

// services are those of all records.
func (m *machine) services() map[string]struct{} {
	services := make(map[string]struct{})
	for _, r := range m.records {
		services[r.want.service] = struct{}{}
	}
	for _, s := range m.stored {
		services[s.service] = struct{}{}
	}
	return services
}
