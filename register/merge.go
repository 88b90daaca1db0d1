package register

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"datapunk.dev/controlplane/watch"
)

// Merged is a catalog that nobody can write to, with the proxies that are connected
// in it. It is a store of its own: what stands at the same place in the catalog
// itself is as foreign as in Consul.
type Merged struct {
	publish func(*watch.Catalog)

	mu      sync.Mutex
	on      bool
	base    *watch.Catalog // nil: there was none yet
	out     *watch.Catalog // nil: base is published as it is
	own     map[string]*stored
	version uint64
}

// NewMerged returns one that hands each new catalog to publish, one at a time.
func NewMerged(publish func(*watch.Catalog)) *Merged {
	return &Merged{publish: publish, own: make(map[string]*stored)}
}

// NewLocal returns a registrar that adds the proxies to the catalog.
func NewLocal(m *Merged, self string, times Times, log *slog.Logger) *Registrar {
	r := newRegistrar(localStore{m, self}, self, times, log, dialTCP)
	r.machine.local = true
	return r
}

// Enable says whether the proxies are in the catalog. What was added is forgotten
// when they are not.
func (m *Merged) Enable(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.on == on {
		return
	}
	m.on = on
	clear(m.own)
	m.out = nil
	if m.base != nil {
		m.republish(nil, true)
	}
}

// SetCatalog replaces the catalog, and returns the names of the services that
// differ, nil for any.
func (m *Merged) SetCatalog(c *watch.Catalog) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names, known := c.ChangedSince(m.base)
	last := m.base
	m.base = c
	m.version++
	if !known && last != nil {
		for s := range last.Services() {
			names = append(names, s.Name)
		}
	}
	if !known {
		for s := range c.Services() {
			names = append(names, s.Name)
		}
	}
	m.republish(names, false)
	return names
}

// republish hands on the catalog, in which the services may have changed, or all.
func (m *Merged) republish(names []string, all bool) {
	if m.base == nil {
		return
	}
	if !m.on {
		m.publish(m.base)
		return
	}
	if m.out == nil {
		m.out, all = watch.NewCatalog(), true
	}
	if all {
		for s := range m.base.Services() {
			names = append(names, s.Name)
		}
		for _, s := range m.own {
			names = append(names, s.service)
		}
	}
	var put []*watch.Service
	var removed []string
	for _, name := range names {
		if s := m.service(name); s != nil {
			put = append(put, s)
		} else {
			removed = append(removed, name)
		}
	}
	m.out = m.out.Update(put, removed).LearnedAt(m.base.Learned())
	m.publish(m.out)
}

// service is one with the instances of both; nil if there is none.
func (m *Merged) service(name string) *watch.Service {
	from := m.base.Service(name)
	var added []*watch.Instance
	for _, node := range slices.Sorted(maps.Keys(m.own)) {
		if s := m.own[node]; s.service == name && s.index > 0 {
			if i := instanceOf(s); i != nil && at(from, i.Address, i.Port) == nil {
				added = append(added, i)
			}
		}
	}
	if len(added) == 0 {
		return from
	}
	both := &watch.Service{Name: name}
	if from != nil {
		both.Instances, both.Excluded = slices.Clone(from.Instances), from.Excluded
	}
	both.Instances = watch.Distinct(append(both.Instances, added...))
	return both
}

// at returns the instance of a service at a place, nil if there is none.
func at(s *watch.Service, address netip.Addr, port uint16) *watch.Instance {
	if s == nil {
		return nil
	}
	for _, i := range s.Instances {
		if i.Address == address && i.Port == port {
			return i
		}
	}
	return nil
}

func instanceOf(s *stored) *watch.Instance {
	address, err := netip.ParseAddr(s.address)
	if err != nil {
		return nil
	}
	meshPort, _ := strconv.ParseUint(s.meta[watch.MetaMeshPort], 10, 16)
	i := &watch.Instance{
		ID: s.id, Address: address.Unmap(), Port: s.port, MeshPort: uint16(meshPort), Weight: 1, Zone: s.meta["zone"],
		Tags: slices.Compact(slices.Sorted(slices.Values(s.tags))), Meta: s.meta,
	}
	i.Health = healthOf(s)
	return i
}

// localStore is a Merged as a store. It always has a session.
type localStore struct {
	merged *Merged
	self   string
}

func (l localStore) run(ctx context.Context, on sessionEvents) {
	on.up()
	on.leading(true)
	<-ctx.Done()
}

func (localStore) release(context.Context) {}

func (l localStore) write(_ context.Context, changes []change) []outcome {
	m := l.merged
	m.mu.Lock()
	defer m.mu.Unlock()
	outcomes := make([]outcome, 0, len(changes))
	var names []string
	for _, c := range changes {
		o := outcome{node: c.want.node, kind: c.kind}
		if last := m.own[c.want.node]; last != nil {
			names = append(names, last.service)
		}
		m.version++
		next := &stored{entry: c.want, owner: l.self, since: time.Now(), index: m.version, nodeIndex: m.version}
		switch c.kind {
		case put:
			m.own[c.want.node], o.stored = next, next
		case assess:
			last := m.own[c.want.node]
			if last == nil {
				o.result, o.why = conflict, "it is not there"
				break
			}
			after := *last
			after.app = c.want.app
			m.own[c.want.node], o.stored = &after, &after
		case mark:
			next.entry, next.draining = c.have.entry, true
			m.own[c.want.node], o.stored = next, next
		case remove, removeNode:
			delete(m.own, c.want.node)
		}
		names = append(names, c.want.service)
		outcomes = append(outcomes, o)
	}
	slices.Sort(names)
	m.republish(slices.Compact(names), false)
	return outcomes
}

func (l localStore) read(_ context.Context, services []string) (picture, error) {
	m := l.merged
	m.mu.Lock()
	defer m.mu.Unlock()
	p := picture{at: time.Now(), services: services, foreign: make(map[place]string), alive: map[string]struct{}{l.self: {}}}
	for _, name := range services {
		for _, s := range m.own {
			if s.service == name {
				p.stored = append(p.stored, s)
			}
		}
		if m.base == nil {
			continue
		}
		if s := m.base.Service(name); s != nil {
			for _, i := range s.Instances {
				p.foreign[place{name, i.Address.String(), i.Port}] = fmt.Sprintf("the catalog's file has it, as %s", i.ID)
			}
		}
	}
	return p, nil
}

func (l localStore) readNode(_ context.Context, node, _ string) nodeState {
	m := l.merged
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.own[node]; s != nil {
		return nodeState{node: node, stored: s}
	}
	return nodeState{node: node, missing: true}
}

func (l localStore) look(context.Context) (look, error) {
	m := l.merged
	m.mu.Lock()
	defer m.mu.Unlock()
	return look{stamp: strconv.FormatUint(m.version, 10), alive: map[string]struct{}{l.self: {}}}, nil
}
