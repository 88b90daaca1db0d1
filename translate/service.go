package translate

import (
	"bytes"
	"fmt"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
)

// service is one service of the mesh, with all that is made of it alone. The
// resources are the same in every view.
type service struct {
	settings *policy.Service
	entry    *watch.Service // the catalog's; nil if it has none

	cluster   *Resource // nil if it could not be made, ever
	endpoints *Resource
	host      []byte // of the outbound route configuration; nil: not HTTP
	routeKeys []string
	held      []Held
	left      []string // notes about instances left out
}

// change is one service before and after; either may be nil.
type change struct{ before, after *service }

func (s *service) clusterOrNil() *Resource {
	if s == nil {
		return nil
	}
	return s.cluster
}

// routed is the virtual host that route configurations may hold: without a
// cluster it would lead nowhere.
func (s *service) routed() []byte {
	if s == nil || s.cluster == nil {
		return nil
	}
	return s.host
}

// reroutes reports whether an outbound route configuration that has the
// service must be made again, be it only for where it comes from.
func (c change) reroutes() bool {
	before, after := c.before.routed(), c.after.routed()
	return !bytes.Equal(before, after) || (after != nil && !slices.Equal(c.before.routeKeys, c.after.routeKeys))
}

// translateServices makes the services that may differ from the predecessor's.
func (b *build) translateServices() {
	for name := range b.candidates() {
		before, _ := b.services.Get([]byte(name))
		after := b.service(name, before)
		if after == before {
			continue
		}
		b.changes[name] = change{before, after}
		if (before == nil) != (after == nil) {
			b.membership = true
		}
		if after == nil {
			b.services.Delete([]byte(name))
		} else {
			b.services.Insert([]byte(name), after)
		}
	}
}

// candidates are the names of the services that may differ from the
// predecessor's.
func (b *build) candidates() map[string]struct{} {
	names := make(map[string]struct{})
	catalogNames, known := b.in.Catalog.ChangedSince(b.base.catalog)
	if !known || (b.meshChanged && !b.sameDefaults()) {
		b.catalogNames = true
		b.allNames(names)
		return names
	}
	for catalogName := range catalogNames {
		b.catalogNames = b.catalogNames || (b.base.catalog.Service(catalogName) == nil) != (b.in.Catalog.Service(catalogName) == nil)
		b.naming.affected(catalogName, names)
	}
	if b.meshChanged {
		for _, n := range []*naming{b.base.naming, b.naming} {
			n.all(names)
			n.affected(b.base.globals.tracing.Service, names)
			n.affected(b.c.tracing.Service, names)
		}
	}
	return names
}

// sameDefaults reports whether a service that the file does not name is made
// as it was.
func (b *build) sameDefaults() bool {
	return b.sameTransport && sameSettings(b.base.mesh.Service(""), b.in.Mesh.Service(""))
}

func (b *build) allNames(names map[string]struct{}) {
	it := b.base.services.Root().Iterator()
	for name, _, ok := it.Next(); ok; name, _, ok = it.Next() {
		names[string(name)] = struct{}{}
	}
	b.naming.all(names)
	for _, c := range []*watch.Catalog{b.base.catalog, b.in.Catalog} {
		for s := range c.Services() {
			names[s.Name] = struct{}{}
		}
	}
}

// service makes one service, with the parts of before that still hold. It is
// nil if the mesh has no such service.
func (b *build) service(name string, before *service) *service {
	report := "service/" + name
	settings := b.in.Mesh.Service(name)
	entry, known := b.naming.entry(b.in.Catalog, settings)
	if !known {
		b.report(report, nil, nil)
		return nil
	}
	if why := unservable(name); why != "" {
		b.report(report, nil, []string{fmt.Sprintf("service %q is left out: %s", name, why)})
		return nil
	}
	if before != nil && sameSettings(before.settings, settings) {
		settings = before.settings
	}
	unchanged := before != nil && before.settings == settings && b.sameTransport
	if unchanged && before.entry == entry && b.c.collects(entry) == b.base.globals.collects(entry) {
		return before
	}

	after := &service{settings: settings, entry: entry}
	if before == nil {
		before = &service{}
	}
	if unchanged {
		after.cluster, after.host, after.routeKeys = before.cluster, before.host, before.routeKeys
		for _, h := range before.held {
			if h.Type != Endpoint {
				after.held = append(after.held, h)
			}
		}
	} else {
		after.makeCluster(b.c, before)
		after.makeHost(before)
	}
	after.makeEndpoints(b.c, before)
	b.report(report, after.held, after.left)
	return after
}

func (s *service) makeCluster(c *compiler, before *service) {
	made, err := serviceCluster(c, s.settings)
	if err != nil {
		s.held = append(s.held, Held{Type: Cluster, Name: s.settings.Name, Keys: clusterKeys(s.settings), Cause: err.Error()})
		s.cluster = before.cluster
		return
	}
	s.cluster = made
}

func (s *service) makeHost(before *service) {
	s.routeKeys = settingKeys(s.settings, []string{"retry", "timeout", "load_balancing", "protocol"})
	made, err := outboundHost(s.settings)
	if err != nil {
		s.held = append(s.held, Held{Type: Route, Name: routeOutbound, Keys: s.routeKeys, Cause: s.settings.Name + ": " + err.Error()})
		s.host = before.host
		return
	}
	s.host = made
}

func (s *service) makeEndpoints(c *compiler, before *service) {
	made, left, err := endpoints(c.globals, s.settings.Name, s.entry)
	s.left = left
	if err != nil {
		s.held = append(s.held, Held{Type: Endpoint, Name: s.settings.Name, Cause: err.Error()})
		s.endpoints = before.endpoints
		return
	}
	s.endpoints = made
}
