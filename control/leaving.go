package control

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// leaving takes the instances that are about to end out of the catalog, so that
// none is called any more when it does. They are not among those that fail: with
// them as draining, two of three that restart would count as most of a service
// that is down, and Envoy would call all three (its panic threshold). Where no
// healthy instance would be left, the last one to leave stays, to the end.
//
// It is of this process alone, and of its callers: a sidecar tells each control
// plane. A mark ends when the proxy is back, and when the catalog has the
// instance no more.
type leaving struct {
	log     *slog.Logger
	publish func(*watch.Catalog)

	mu    sync.Mutex
	marks map[string]mark // by node.id
	base  *watch.Catalog  // as the source has it; nil before the first
	out   *watch.Catalog  // with the marks
	// What was handed on and what of that is published, by number: one that is
	// published stands for all before it.
	numbers   map[*watch.Catalog]uint64
	last      uint64
	published uint64
	moved     chan struct{} // closed when published has moved
}

// mark is an instance that leaves.
type mark struct {
	service string // the catalog's name
	at      netip.AddrPort
	since   time.Time
}

// of reports whether an instance is the one that leaves.
func (m mark) of(i *watch.Instance) bool {
	return i.MeshPort == m.at.Port() && i.Address.Unmap() == m.at.Addr()
}

// maxMarks bounds the instances that may leave at a time.
const maxMarks = 20_000

func newLeaving(log *slog.Logger, publish func(*watch.Catalog)) *leaving {
	return &leaving{log: log, publish: publish, marks: make(map[string]mark), numbers: make(map[*watch.Catalog]uint64), moved: make(chan struct{})}
}

// SetCatalog takes a newer catalog of the source, and hands on what it is with
// the marks.
func (l *leaving) SetCatalog(c *watch.Catalog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.base
	l.base = c
	for node, m := range l.marks {
		if !present(c, m) {
			delete(l.marks, node)
			l.log.Info("an instance that was leaving has left the catalog", "node", node, "service", m.service, "address", m.at)
		}
	}
	if l.out == nil || l.out == before && len(l.marks) == 0 {
		l.hand(c) // nothing was ever laid over it
		return
	}
	changed, known := c.ChangedSince(before)
	if !known {
		changed = changed[:0:0]
		for s := range l.out.Services() {
			changed = append(changed, s.Name)
		}
		for s := range c.Services() {
			changed = append(changed, s.Name)
		}
	}
	l.lay(changed)
}

// lay brings the services up to date in what is handed on.
func (l *leaving) lay(names []string) {
	var put []*watch.Service
	var remove []string
	for _, name := range names {
		if s := l.base.Service(name); s != nil {
			put = append(put, l.marked(s))
		} else {
			remove = append(remove, name)
		}
	}
	next := l.out.Update(put, remove)
	if next != l.out {
		next = next.LearnedAt(l.base.Learned())
	}
	l.hand(next)
}

// marked returns the service without its instances that leave.
func (l *leaving) marked(s *watch.Service) *watch.Service {
	var marks []mark
	for _, m := range l.marks {
		if m.service == s.Name {
			marks = append(marks, m)
		}
	}
	if len(marks) == 0 {
		return s
	}
	leaves := func(i *watch.Instance) (m mark, ok bool) {
		for _, m := range marks {
			if m.of(i) {
				return m, true
			}
		}
		return m, false
	}
	var last *watch.Instance // of those that leave and are healthy
	var since time.Time
	for _, i := range s.Instances {
		if i.Health > watch.Warning {
			continue
		}
		m, ok := leaves(i)
		if !ok {
			last = nil
			break // somebody stays
		}
		if last == nil || m.since.After(since) {
			last, since = i, m.since
		}
	}
	out := *s
	out.Instances = make([]*watch.Instance, 0, len(s.Instances))
	for _, i := range s.Instances {
		if _, ok := leaves(i); !ok || i == last {
			out.Instances = append(out.Instances, i)
		}
	}
	return &out
}

// hand hands a catalog on, if it is not the last one again.
func (l *leaving) hand(c *watch.Catalog) {
	if c == l.out {
		return
	}
	l.out = c
	l.last++
	l.numbers[c] = l.last
	l.publish(c)
}

// Published is told which catalog is published now.
func (l *leaving) Published(c *watch.Catalog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.numbers[c]
	if !ok {
		return
	}
	for other, m := range l.numbers {
		if m < n {
			delete(l.numbers, other)
		}
	}
	if n != l.published {
		l.published = n
		close(l.moved)
		l.moved = make(chan struct{})
	}
}

func present(c *watch.Catalog, m mark) bool {
	s := c.Service(m.service)
	return s != nil && slices.ContainsFunc(s.Instances, m.of)
}

// Leave marks the instance of a node as leaving. It is false if the catalog does
// not have it. It returns when that is published, or ctx ends.
func (l *leaving) Leave(ctx context.Context, node, service string, at netip.AddrPort) (known bool) {
	l.mu.Lock()
	m := mark{service: service, at: netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), since: time.Now()}
	if l.base == nil || !present(l.base, m) {
		l.mu.Unlock()
		return false
	}
	old, again := l.marks[node]
	if !again && len(l.marks) >= maxMarks {
		l.mu.Unlock()
		return false
	}
	l.marks[node] = m
	names := []string{service}
	if again && old.service != service {
		names = append(names, old.service)
	}
	l.lay(names)
	want := l.last
	l.mu.Unlock()
	l.wait(ctx, want)
	return true
}

// wait returns when what was handed on with the number is published.
func (l *leaving) wait(ctx context.Context, number uint64) {
	for {
		l.mu.Lock()
		done, moved := l.published >= number, l.moved
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

// Return ends the mark of a node. It is false if there is none.
func (l *leaving) Return(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := l.marks[node]
	if !ok {
		return false
	}
	delete(l.marks, node)
	l.lay([]string{m.service})
	return true
}

// Stays reports whether the callers keep the instance of a node that leaves, since
// there is no other.
func (l *leaving) Stays(node string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := l.marks[node]
	return ok && l.out != nil && present(l.out, m)
}

// leaves reports whether a proxy has said that it leaves, or this control plane has sent it
// elsewhere.
func (p *Plane) leaves(of resource.Profile) bool {
	return p.leaving.leaves(of) || (p.Leader == LeaderConsul || p.Leader == LeaderNone) && p.xds.Released(of)
}

// leaves reports whether a proxy has said that it leaves.
func (l *leaving) leaves(p resource.Profile) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.marks {
		if m.at.Port() == p.MeshPort && m.at.Addr().String() == p.Address {
			return true
		}
	}
	return false
}

// Marks returns when each node that leaves said so.
func (l *leaving) Marks() map[string]time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]time.Time, len(l.marks))
	for node, m := range l.marks {
		out[node] = m.since
	}
	return out
}
