package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/watch/file"
)

// Removal is one that is held, and what accepting it will do.
type Removal struct {
	watch.Removal

	Services []string // of the mesh file that have the name in the catalog
	Left     int      // instances that stay
	// Callers are the services of connected proxies that may call it, and how many
	// proxies they are.
	Callers map[string]int
	Effect  string // in words
}

// errNoRemoval says that nothing is held by the name.
var errNoRemoval = errors.New("no removal of this id is held: it may have been decided, or more has gone since; list them again")

// Removals are those that are held, each with what accepting it will do.
func (p *Plane) Removals() []Removal {
	held := p.catalogs.Removals()
	if len(held) == 0 {
		return nil
	}
	mesh := p.mesh.Load()
	connected := make(map[string]int)
	for _, proxy := range p.xds.Proxies() {
		connected[proxy.Service]++
	}
	all := make([]Removal, 0, len(held))
	for _, h := range held {
		r := Removal{Removal: h, Left: max(0, h.Had-len(h.Instances)), Callers: make(map[string]int)}
		for _, name := range mesh.Names() {
			if mesh.Service(name).ConsulService == h.Service {
				r.Services = append(r.Services, name)
			}
		}
		if len(r.Services) == 0 {
			r.Services = []string{h.Service}
		}
		for caller, n := range connected {
			if calls(mesh.Service(caller), r.Services) {
				r.Callers[caller] = n
			}
		}
		r.Effect = r.effect()
		all = append(all, r)
	}
	return all
}

func calls(s *policy.Service, any []string) bool {
	return s.AllUpstreams || slices.ContainsFunc(s.Upstreams, func(u policy.Upstream) bool { return slices.Contains(any, u.Service) })
}

func (r *Removal) effect() string {
	said := fmt.Sprintf("%d of %d instances of %s vanish", len(r.Instances), r.Had, r.Service)
	if r.Left == 0 {
		said += ", the last ones: calls of it are answered 503"
	}
	connected := 0
	for _, i := range r.Instances {
		if i.Sidecar == watch.Connected {
			connected++
		}
	}
	if connected > 0 {
		said += fmt.Sprintf("; %d have their sidecars connected", connected)
	}
	if len(r.Callers) == 0 {
		return said + "; no connected proxy may call it"
	}
	proxies := 0
	for _, n := range r.Callers {
		proxies += n
	}
	return said + fmt.Sprintf("; %d proxies of %s may call it", proxies, shorten(strings.Join(slices.Sorted(maps.Keys(r.Callers)), ", ")))
}

// DecideRemoval takes what is held by the ID, or keeps it until it is back or accepted.
func (p *Plane) DecideRemoval(ctx context.Context, id string, accept bool) error {
	err := p.catalogs.Decide(ctx, id, accept, p.revisions.Mean)
	if err == nil {
		p.mu.Lock()
		if accept {
			p.removalsAccepted++
		} else {
			p.removalsRefused++
		}
		p.mu.Unlock()
	}
	return err
}

// Removals are those that the source in force, or its predecessor against it, holds.
func (c *Catalogs) Removals() []watch.Removal {
	c.mu.Lock()
	defer c.mu.Unlock()
	var held []watch.Removal
	if c.handover != nil {
		held = slices.Clone(c.handover.removals)
	}
	if c.active == nil {
		return held
	}
	switch r := c.active.reader.(type) {
	case consulSource:
		held = append(held, r.Removals()...)
	case *file.Source:
		held = append(held, r.Removals(fileRevision)...)
	}
	return held
}

// fileRevision is by what `controlplane accept` names a file catalog.
func fileRevision(data []byte) string { return policy.Revision([]policy.File{{Data: data}}) }

// Decide takes a removal by its ID or keeps it. That of a file takes the word of mean.
func (c *Catalogs) Decide(ctx context.Context, id string, accept bool, mean func(revision string) error) error {
	c.mu.Lock()
	if h := c.handover; h != nil && slices.ContainsFunc(h.removals, func(r watch.Removal) bool { return r.ID == id }) {
		if accept {
			h.accepted = id
		} else {
			h.refused = true
		}
		c.settle(time.Now())
		c.mu.Unlock()
		return nil
	}
	var reader reader
	if c.active != nil {
		reader = c.active.reader
	}
	c.mu.Unlock()
	switch r := reader.(type) {
	case consulSource:
		found, err := r.Decide(ctx, id, accept)
		if found || err != nil {
			return err
		}
	case *file.Source:
		if !slices.ContainsFunc(r.Removals(fileRevision), func(r watch.Removal) bool { return r.ID == id }) {
			break
		}
		if !accept {
			return errors.New("what a file lacks somebody has taken out: put it back into the file")
		}
		return mean(id)
	}
	return errNoRemoval
}
