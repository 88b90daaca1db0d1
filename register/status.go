package register

import (
	"cmp"
	"slices"
	"time"
)

// Registration is what is known of one instance.
type Registration struct {
	ID       string    `json:"id"` // node.id of a proxy
	Service  string    `json:"service"`
	Address  string    `json:"address"`
	Port     uint16    `json:"port"`
	MeshPort string    `json:"mesh_port,omitempty"`
	State    State     `json:"state"`
	Owner    string    `json:"owner,omitempty"` // the replica that wrote it
	Since    time.Time `json:"since,omitzero"`  // in this state
	Reason   string    `json:"reason,omitempty"`

	denied bool // the token may not write it
}

// Status is what a registrar says of itself.
type Status struct {
	Replica string
	Times   Times
	Trouble []string // why nothing is written, or not compared; empty: all is well
	Sweeper bool     // it looks after what others left
	Held    int      // removals that are not believed
	Denied  int      // instances that the token may not write
	States  map[State]int
	// Applications are those that are checked, of the proxies of this replica, by what
	// the catalog says of them.
	Applications map[Health]int

	Writes, Conflicts, Failures, Denials uint64
}

// Status returns what the registrar says of itself.
func (r *Registrar) Status() Status {
	agents, denied, unlooked := r.agents()
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &r.counters
	s := Status{
		Replica: r.self, Times: Times{r.interval, r.machine.after}, Sweeper: r.machine.leader, States: make(map[State]int), Applications: make(map[Health]int),
		Writes: c.writes.Load(), Conflicts: c.conflicts.Load(), Failures: c.failures.Load(), Denials: c.denials.Load(),
	}
	s.Denied = denied
	for _, why := range []string{r.trouble, r.unread, unlooked} {
		if why != "" {
			s.Trouble = append(s.Trouble, why)
		}
	}
	for i := range agents {
		s.States[agents[i].State]++
	}
	for _, rec := range r.machine.records {
		s.States[rec.state]++
		if have := r.machine.stored[rec.node]; rec.connected && rec.want.checked && have != nil && have.app != "" {
			s.Applications[have.app]++
		}
		if !rec.heldAt.IsZero() {
			s.Held++
		}
		if rec.denied {
			s.Denied++
		}
	}
	return s
}

// List returns all registrations that this replica knows of, its own and those of
// others, ordered by service and id.
func (r *Registrar) List() []Registration {
	list, _, _ := r.agents()
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.machine
	for _, rec := range m.records {
		reg := registrationOf(&rec.want)
		reg.State, reg.Since, reg.Reason = rec.state, rec.since, rec.reason
		if have := m.stored[rec.node]; have != nil && have.index > 0 {
			reg.Owner = have.owner
		}
		list = append(list, reg)
	}
	for node, have := range m.stored {
		if m.records[node] != nil || have.index == 0 {
			continue
		}
		reg := registrationOf(&have.entry)
		reg.State, reg.Owner, reg.Since = Held, have.owner, have.since
		if have.draining {
			reg.State = Drain
		}
		list = append(list, reg)
	}
	slices.SortFunc(list, func(a, b Registration) int { return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID)) })
	return list
}

// agents are the registrations at an agent of Consul.
func (r *Registrar) agents() (known []Registration, denied int, trouble string) {
	if r.agent == nil {
		return nil, 0, ""
	}
	return r.agent.list()
}

func registrationOf(e *entry) Registration {
	return Registration{ID: e.id, Service: e.service, Address: e.address, Port: e.port, MeshPort: e.meta["mesh_port"]}
}
