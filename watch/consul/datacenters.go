package consul

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"datapunk.dev/controlplane/watch"
)

// How long the first catalog waits for the other datacenters once that of the mesh's own
// is in: one that is away must not keep it from being served.
const (
	// othersPatience is for who knows what they had before, and keeps it meanwhile.
	othersPatience = 5 * time.Second
	// newPatience is for who does not: a proxy that comes to it would lose the instances
	// of a datacenter that is slow to answer. It is as long as for a service that cannot be
	// read, and a little longer, for one over there may be waited for too.
	newPatience = patience + time.Second
)

// Datacenters reads several datacenters, each by a [Source] of its own: what is held of
// one, how fresh it is and whether it can be read says nothing of the others. Their
// catalogs are one, in which a service has the instances of all. Of a datacenter that
// cannot be read the last good ones stay.
type Datacenters struct {
	log     *slog.Logger
	publish func(*watch.Catalog)
	members []*member // the mesh's own first
	wait    time.Duration

	first chan struct{} // closed when the own one has a catalog

	mu      sync.Mutex // is held while a catalog is published
	catalog *watch.Catalog
	ready   atomic.Bool // the first catalog is out
}

// member is one of the datacenters.
type member struct {
	*Source
	name    string
	catalog *watch.Catalog // the last of it
	known   atomic.Bool    // there was one
}

// DatacenterStats is what is known of one of several datacenters.
type DatacenterStats struct {
	Name  string
	Ready bool      // it is read whole and without failure
	Fresh time.Time // as in [Stats]
}

// NewDatacenters returns a reader of the datacenters with these names, the mesh's own
// first. Open makes the source of one, which has the name in its configuration. Known is
// whether who takes the catalogs knows what the datacenters had before, and keeps it while
// one is [Datacenters.Unread].
func NewDatacenters(log *slog.Logger, names []string, known bool, open func(name string, publish func(*watch.Catalog)) (*Source, error), publish func(*watch.Catalog)) (*Datacenters, error) {
	d := &Datacenters{log: log, publish: publish, wait: newPatience, first: make(chan struct{}), catalog: watch.NewCatalog()}
	if known {
		d.wait = othersPatience
	}
	for _, name := range names {
		m := &member{name: name, catalog: watch.NewCatalog()}
		var err error
		if m.Source, err = open(name, func(c *watch.Catalog) { d.take(m, c) }); err != nil {
			return nil, err
		}
		d.members = append(d.members, m)
	}
	return d, nil
}

// Run publishes the catalog and every later state of it until ctx ends, and then
// returns nil. It may be called once.
func (d *Datacenters) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range d.members {
		g.Go(func() error { return m.Run(ctx) })
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-d.first:
		}
		if sleep(ctx, d.wait) {
			d.begin()
		}
		return nil
	})
	return g.Wait()
}

// take takes in the next catalog of a datacenter.
func (d *Datacenters) take(m *member, c *watch.Catalog) {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed, related := c.ChangedSince(m.catalog)
	if !related {
		changed = nil
		for _, catalog := range []*watch.Catalog{m.catalog, c} {
			for s := range catalog.Services() {
				changed = append(changed, s.Name)
			}
		}
	}
	if m == d.members[0] && !m.known.Load() {
		close(d.first)
	}
	m.catalog = c
	m.known.Store(true)
	next := d.merged(changed)
	if next == d.catalog && d.ready.Load() {
		return
	}
	d.catalog = next
	if !d.ready.Load() && slices.ContainsFunc(d.members, func(m *member) bool { return !m.known.Load() }) {
		return
	}
	d.ready.Store(true)
	d.catalog = next.LearnedAt(c.Learned())
	d.publish(d.catalog)
}

// begin publishes what there is, without the datacenters that have said nothing.
func (d *Datacenters) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready.Load() {
		return
	}
	var missing []string
	for _, m := range d.members {
		if !m.known.Load() {
			missing = append(missing, m.name)
		}
	}
	d.log.Warn("the catalog begins without the datacenters that cannot be read", "datacenters", missing)
	d.ready.Store(true)
	d.publish(d.catalog)
}

// merged is the catalog with these services as the datacenters have them now.
func (d *Datacenters) merged(names []string) *watch.Catalog {
	slices.Sort(names)
	var put []*watch.Service
	var remove []string
	for _, name := range slices.Compact(names) {
		var parts []*watch.Service
		for _, m := range d.members {
			if s := m.catalog.Service(name); s != nil {
				parts = append(parts, s)
			}
		}
		switch len(parts) {
		case 0:
			remove = append(remove, name)
		case 1:
			put = append(put, parts[0])
		default:
			put = append(put, join(name, parts))
		}
	}
	return d.catalog.Update(put, remove)
}

// join is one service of its parts. Two of one address and port, of networks that
// overlap, nobody could tell apart.
func join(name string, parts []*watch.Service) *watch.Service {
	whole := &watch.Service{Name: name}
	var instances []*watch.Instance
	for _, part := range parts {
		instances = append(instances, part.Instances...)
		for _, x := range part.Excluded {
			whole.Exclude(x.ID, x.Reason)
		}
	}
	whole.SetInstances(instances)
	if len(instances) == 0 {
		for _, part := range parts {
			whole.Unselected = cmp.Or(whole.Unselected, part.Unselected)
		}
	}
	return whole
}

// SetDemand replaces what is wanted, of each datacenter.
func (d *Datacenters) SetDemand(demand Demand) {
	for _, m := range d.members {
		m.SetDemand(demand)
	}
}

// SidecarsMoved says that more, or other, is known of sidecars.
func (d *Datacenters) SidecarsMoved() {
	for _, m := range d.members {
		m.SidecarsMoved()
	}
}

// Status is that of all: what one waits for or holds is said with its name. When
// it was last heard from is the word of the mesh's own.
func (d *Datacenters) Status() watch.Status {
	all := watch.Status{Ready: d.ready.Load()}
	for i, m := range d.members {
		s := m.Status()
		if i == 0 {
			all.Mode, all.LastSuccess = s.Mode, s.LastSuccess
		}
		for _, w := range s.Waiting {
			all.Waiting = append(all.Waiting, "datacenter "+m.name+": "+w)
		}
		for _, h := range s.Held {
			all.Held = append(all.Held, "datacenter "+m.name+": "+h)
		}
		all.HeldServices += s.HeldServices
		all.Errors += s.Errors
	}
	all.Waiting, all.Held = abridged(all.Waiting), abridged(all.Held)
	return all
}

// Stats are the sums of all, and how fresh the mesh's own is.
func (d *Datacenters) Stats() Stats {
	all := Stats{Decided: make(map[string]uint64)}
	for i, m := range d.members {
		s := m.Stats()
		if i == 0 {
			all.Fresh = s.Fresh
		}
		for outcome, n := range s.Decided {
			all.Decided[outcome] += n
		}
		all.Queries += s.Queries
		all.Errors += s.Errors
		all.TooMany += s.TooMany
		all.Wakes += s.Wakes
		all.Emitted += s.Emitted
		all.Held += s.Held
		all.Services += s.Services
		all.Cold += s.Cold
		status := m.Status()
		all.Datacenters = append(all.Datacenters, DatacenterStats{Name: m.name, Ready: status.Ready && len(status.Waiting) == 0, Fresh: s.Fresh})
	}
	return all
}

// Unread reports whether a datacenter has not been read yet, or a service of it.
func (d *Datacenters) Unread(service, datacenter string) bool {
	for _, m := range d.members {
		if m.name == datacenter {
			return !m.known.Load() || m.Unread(service, datacenter)
		}
	}
	return false
}

// Unselected is that of the instance's datacenter.
func (d *Datacenters) Unselected(service, datacenter string, at watch.Place) bool {
	for _, m := range d.members {
		if m.name == datacenter {
			return m.Unselected(service, datacenter, at)
		}
	}
	return false
}

// Removals are those that are held, each with the datacenter in its reason.
func (d *Datacenters) Removals() []watch.Removal {
	var all []watch.Removal
	for _, m := range d.members {
		for _, r := range m.Removals() {
			r.Why = "datacenter " + m.name + ": " + r.Why
			all = append(all, r)
		}
	}
	return all
}

// Decide takes a removal, or keeps it, as [Source.Decide].
func (d *Datacenters) Decide(ctx context.Context, id string, accept bool) (found bool, err error) {
	for _, m := range d.members {
		if found, err = m.Decide(ctx, id, accept); found || err != nil {
			return found, err
		}
	}
	return false, nil
}
