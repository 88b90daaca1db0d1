package register

import (
	"context"
	"time"
)

// Instance is one that is registered as long as it is wanted, and not by its stream:
// one that the mesh file names, or this replica itself.
type Instance struct {
	ID, Service, Address string
	Port                 uint16
	Tags                 []string
	Meta                 map[string]string
	Health               Health
	Check                *Check // finds the health out; nil: Health says it
	// ByAgent leaves the check to Consul's agent, whose service it is then.
	ByAgent bool
}

func (i *Instance) entry() entry {
	meta := make(map[string]string, len(i.Meta))
	for k, v := range i.Meta {
		if metaKey(k) {
			meta[k] = v
		}
	}
	return entry{
		node: nodeName(i.ID), id: i.ID, service: i.Service, address: i.Address, port: i.Port, tags: i.Tags, meta: meta, health: i.Health,
	}
}

// Keep replaces the instances that this replica keeps: own are its own, and go when
// it ends; shared are of all replicas, of which one looks after them. It does not
// wait.
func (r *Registrar) Keep(own, shared []Instance) {
	if r.agent != nil {
		var byAgent, rest []Instance
		for i := range shared {
			if shared[i].ByAgent {
				byAgent = append(byAgent, shared[i])
				continue
			}
			rest = append(rest, shared[i])
		}
		r.agent.keep(byAgent)
		shared = rest
	}
	f := fixed{own: make(map[string]entry, len(own)), shared: make(map[string]entry, len(shared)), checks: make(map[string]bool)}
	for i := range own {
		e := own[i].entry()
		f.own[e.node] = e
	}
	for i := range shared {
		e := shared[i].entry()
		if shared[i].Check != nil {
			e.health, f.checks[e.node] = "", true // not known yet
		}
		f.shared[e.node] = e
	}
	r.setProbes(shared)
	r.tell(func(m *machine, now time.Time) { m.keepAll(f, now) })
}

// fixed are instances by node.
type fixed struct {
	own, shared map[string]entry
	checks      map[string]bool // of shared, those that are checked
}

// keepAll brings about what is wanted of instances without a stream.
func (m *machine) keepAll(f fixed, now time.Time) {
	for _, r := range m.all() {
		_, own := f.own[r.node]
		_, shared := f.shared[r.node]
		_, wasOwn := m.fixed.own[r.node]
		switch {
		case !r.fixed, r.leaving, own, shared && m.leader:
		case m.leader, wasOwn:
			m.dismiss(r, now)
		default:
			m.forget(r) // another replica looks after it
		}
	}
	for node, e := range f.shared {
		if e.health == "" && m.leader { // what the last check came to, if there was one
			e.health = m.fixed.shared[node].health
			f.shared[node] = e
		}
	}
	m.fixed = f
	for _, e := range f.own {
		m.keep(e, now)
	}
	for _, e := range f.shared {
		if m.leader && e.health != "" {
			m.keep(e, now)
		}
	}
}

// unchecked forgets what checks came to: they are another replica's now.
func (m *machine) unchecked() {
	for node, e := range m.fixed.shared {
		if m.fixed.checks[node] {
			e.health = ""
			m.fixed.shared[node] = e
		}
	}
}

// depart removes what is this replica's own: it ends.
func (r *Registrar) depart(ctx context.Context) {
	r.mu.Lock()
	var changes []change
	for node, e := range r.machine.fixed.own {
		if have := r.machine.stored[node]; have != nil && have.index > 0 && r.machine.up {
			changes = append(changes, change{kind: remove, want: e, have: have})
		}
	}
	r.mu.Unlock()
	if len(changes) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTime)
	defer cancel()
	for _, o := range r.store.write(ctx, changes) {
		if o.result == written && o.stored != nil {
			r.store.write(ctx, []change{{kind: removeNode, want: o.stored.entry, have: o.stored}})
		}
	}
}
