package register

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"datapunk.dev/controlplane/watch"
)

// What the machine is told of the catalog.

// nodeState is what was read of one node.
type nodeState struct {
	node    string
	missing bool
	foreign string // whose it is, if it is not ours
	stored  *stored
	shared  bool // something else than the one instance is on it
	err     string
}

// readNode is told what a node is.
func (m *machine) readNode(n nodeState, now time.Time) {
	r := m.records[n.node]
	if r == nil {
		return
	}
	r.busy = false
	switch {
	case n.err != "":
		r.reason = n.err
		m.at(r, now.Add(writeAgain))
		return
	case n.missing:
		delete(m.stored, n.node)
	case n.foreign != "":
		delete(m.stored, n.node)
		if r.connected && !r.leaving {
			m.to(r, Foreign, now, n.foreign)
			return
		}
		m.forget(r)
		return
	case n.shared && n.stored.index == 0 && (r.leaving || !r.connected):
		delete(m.stored, n.node) // the node is not ours alone: it stays
	default:
		m.stored[n.node] = n.stored
	}
	r.unsure = false
	if !r.connected && !r.leaving && r.state != Delete && !m.mine(r) {
		m.forget(r)
		return
	}
	m.decide(r, now)
}

// picture is what was read of some services.
type picture struct {
	at       time.Time // before it was read
	services []string
	stored   []*stored
	foreign  map[place]string
	alive    map[string]struct{}
}

// saw is told what the catalog has.
func (m *machine) saw(p picture, now time.Time) {
	read := make(map[string]struct{}, len(p.services))
	for _, s := range p.services {
		read[s] = struct{}{}
		m.views[s] = p.at
	}
	of := func(service string) bool { _, ok := read[service]; return ok }
	// What was written since is newer.
	newer := func(node string) bool {
		r := m.records[node]
		return r != nil && (r.busy || !r.wrote.Before(p.at))
	}
	touched := make(map[string]struct{})
	apps := make(map[string]Health) // what was written of applications since
	for node, have := range m.stored {
		if of(have.service) && !newer(node) {
			if rep := m.reports[node]; rep != nil && !rep.wrote.Before(p.at) {
				apps[node] = have.app
			}
			delete(m.stored, node)
			touched[node] = struct{}{}
		}
	}
	for _, have := range p.stored {
		if newer(have.node) {
			continue
		}
		if app, ok := apps[have.node]; ok {
			copied := *have
			copied.app = app
			have = &copied
		}
		m.stored[have.node] = have
		touched[have.node] = struct{}{}
		if r := m.records[have.node]; r != nil {
			r.unsure = false
		}
	}
	maps.DeleteFunc(m.foreign, func(at place, _ string) bool { return of(at.service) })
	maps.Copy(m.foreign, p.foreign)
	m.alive = p.alive
	m.sweep(now)
	for _, r := range m.all() {
		if _, ok := touched[r.node]; ok || of(r.want.service) {
			if r.state == Foreign && m.foreign[r.want.place()] == "" {
				r.unsure = true // the node may have become free
			}
			m.decide(r, now)
		}
	}
	m.assess(of, now)
}

// unread is told that services could not be read, and why.
func (m *machine) unread(services []string, why string, now time.Time) {
	for _, r := range m.records {
		if r.busy || r.timer.set || r.state == Held || !slices.Contains(services, r.want.service) {
			continue
		}
		if r.state == Claim {
			r.reason = why
		}
		m.at(r, now.Add(writeAgain))
	}
}

// lead is told whether this replica looks after what others left.
func (m *machine) lead(leader bool, alive map[string]struct{}, now time.Time) {
	m.leader = leader
	if alive != nil {
		m.alive = alive
	}
	if !leader {
		m.unchecked()
	}
	m.keepAll(m.fixed, now)
	m.sweep(now)
}

// sweep takes up what a replica left that is gone. Whoever has just begun to look
// waits as long as for a proxy whose stream has ended: they may all be on their way.
func (m *machine) sweep(now time.Time) {
	if !m.up {
		return
	}
	for node, have := range m.stored {
		if _, alive := m.alive[have.owner]; m.records[node] != nil || have.owner != m.self && (alive || !m.leader) {
			continue
		}
		port := cmp.Or(have.meta[watch.MetaMeshPort], strconv.Itoa(int(have.port)))
		at, _ := netip.ParseAddrPort(net.JoinHostPort(have.address, port))
		r := &record{node: node, want: have.entry, at: at, lostAt: now, state: Lost, since: now}
		r.reason = fmt.Sprintf("its owner %s is gone", have.owner)
		m.records[node] = r
		if have.draining { // what it was at
			r.state = Drain
		}
		m.at(r, now.Add(m.lostFor()))
	}
}

// sighted is told who is alive, though nothing in the catalog has changed.
func (m *machine) sighted(alive map[string]struct{}, now time.Time) {
	m.alive = alive
	m.sweep(now)
}

// changed is told of services as those who read the catalog have them now. Where an
// instance is missing that this replica holds, or one has gone that was another's,
// it is looked at again at once.
func (m *machine) changed(services map[string]*watch.Service, now time.Time) {
	if !m.up {
		return
	}
	for _, r := range m.records {
		s, ok := services[r.want.service]
		if !ok || !r.connected || r.busy || r.state != Held && r.state != Foreign || now.Sub(r.wrote) < settled {
			continue
		}
		address, err := netip.ParseAddr(r.want.address)
		if err == nil && at(s, address, r.want.port) == nil {
			m.todo.reads[r.want.service] = struct{}{}
		}
	}
	for node, rep := range m.reports { // another replica has just written the entry
		if s := services[rep.Service]; s != nil && m.stored[node] == nil && m.records[node] == nil &&
			slices.ContainsFunc(s.Instances, func(i *watch.Instance) bool { return i.ID == rep.Node }) {
			m.todo.reads[rep.Service] = struct{}{}
			rep.waits = true
		}
	}
}
