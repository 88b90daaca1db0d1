package translate

import (
	"bytes"
	"fmt"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// service is one service of the mesh: its model, and what is made of that alone.
// The resources are the same in every view.
type service struct {
	settings *policy.Service
	entry    *watch.Service // the catalog's; nil if it has none

	targets  []target
	clusters []cluster
	host     *host
	left     []string // notes about instances left out
}

// cluster is a destination, and what it became.
type cluster struct {
	destination
	keys                     []string
	cluster, endpoints       *resource.Resource // nil: could not be made, ever
	clusterErr, endpointsErr error              // why the last good one stands there
}

// host is a virtual host, and what it became.
type host struct {
	*virtualHost // nil: the service does not speak HTTP
	keys         []string
	refs         []resource.Ref // the clusters that its routes lead to
	encoded      []byte         // nil: could not be made, ever
	err          error          // why the last good one stands there
}

// change is one service before and after; either may be nil.
type change struct{ before, after *service }

// service makes one service, with the parts of before that still hold. It is
// nil if the mesh has no such service.
func (b *build) service(name string, before *service) *service {
	settings := b.in.Mesh.Service(name)
	entry, known := b.naming.entry(b.in.Catalog, settings)
	if !known {
		b.report("service/"+name, nil, nil)
		return nil
	}
	if why := unservable(name); why != "" {
		b.report("service/"+name, nil, []string{fmt.Sprintf("service %q is left out: %s", name, why)})
		return nil
	}
	if before != nil && sameSettings(before.settings, settings) {
		settings = before.settings
	}
	sameModel := before != nil && before.settings == settings && b.sameTransport && b.sameSampling
	sameEntry := before != nil && before.entry == entry && b.sameTransport && b.c.collects(entry) == b.base.globals.collects(entry)
	if sameModel && sameEntry {
		return before
	}
	if before == nil {
		before = &service{host: &host{}}
	}
	after := &service{settings: settings, entry: entry, host: before.host}
	if !sameModel {
		after.host = makeHost(settings, samplingOf(b.c.tracing), before.host)
	}
	keys := clusterKeys(settings)
	after.targets, after.left = before.targets, before.left
	if !sameEntry {
		after.targets, after.left = targetsOf(b.c.globals, entry)
	}
	for _, d := range destinationsOf(settings) {
		d.resolves = anyName(after.targets)
		last := before.cluster(d.name)
		c := cluster{destination: d, keys: keys}
		sameInstances := last != nil && sameEntry && last.instances == d.instances
		if last != nil && b.sameTransport && last.destination == d && slices.Equal(last.keys, keys) && (!d.resolves || sameInstances) {
			c.cluster, c.clusterErr = last.cluster, last.clusterErr
		} else {
			c.makeCluster(b.c, after.targets, last)
		}
		switch {
		case d.resolves:
		case sameInstances && !last.resolves:
			c.endpoints, c.endpointsErr = last.endpoints, last.endpointsErr
		default:
			c.makeEndpoints(b.c, after.targets, last)
		}
		after.clusters = append(after.clusters, c)
	}
	b.report("service/"+name, after.held(), after.left)
	return after
}

// cluster returns the service's cluster with the name, or nil.
func (s *service) cluster(name string) *cluster {
	for i := range s.clusters {
		if s.clusters[i].name == name {
			return &s.clusters[i]
		}
	}
	return nil
}

// held are the resources whose last good ones stand in their place.
func (s *service) held() (held []Held) {
	for _, c := range s.clusters {
		if c.clusterErr != nil {
			held = append(held, Held{Type: resource.Cluster, Name: c.name, Keys: c.keys, Cause: c.clusterErr.Error()})
		}
		if c.endpointsErr != nil {
			held = append(held, Held{Type: resource.Endpoint, Name: c.name, Cause: c.endpointsErr.Error()})
		}
	}
	if s.host.err != nil {
		held = append(held, Held{Type: resource.Route, Name: routeOutbound, Keys: s.host.keys, Cause: s.settings.Name + ": " + s.host.err.Error()})
	}
	return held
}

// callable reports whether the service has all the clusters that it is to have.
// Without them its routes would lead nowhere.
func (s *service) callable() bool {
	return s != nil && !slices.ContainsFunc(s.clusters, func(c cluster) bool { return c.cluster == nil })
}

// routed is the virtual host that route configurations may hold, encoded, or nil.
func (s *service) routed() []byte {
	if !s.callable() {
		return nil
	}
	return s.host.encoded
}

// routeKeys are the keys of the file that the virtual host came from.
func (s *service) routeKeys() []string { return s.host.keys }

// reroutes reports whether an outbound route configuration that has the
// service must be made again, be it only for where it comes from.
func (c change) reroutes() bool {
	before, after := c.before.routed(), c.after.routed()
	return !bytes.Equal(before, after) || after != nil && !slices.Equal(c.before.routeKeys(), c.after.routeKeys())
}

// redials reports whether a listener that leads to the service alone comes or
// goes.
func (c change) redials() bool {
	if c.before.callable() != c.after.callable() {
		return true
	}
	return c.before != nil && c.after != nil && c.before.settings.Protocol != c.after.settings.Protocol
}

// makeCluster makes the cluster; the last good one stays if it can not be made.
func (c *cluster) makeCluster(compiler *compiler, targets []target, last *cluster) {
	if c.cluster, c.clusterErr = serviceCluster(compiler, c.destination, c.keys, targets); c.clusterErr != nil && last != nil {
		c.cluster = last.cluster
	}
}

// makeEndpoints makes the assignment; the last good one stays if it can not be
// made.
func (c *cluster) makeEndpoints(compiler *compiler, targets []target, last *cluster) {
	if c.endpoints, c.endpointsErr = endpoints(compiler.globals, c.name, targets); c.endpointsErr != nil && last != nil {
		c.endpoints = last.endpoints
	}
}

// makeHost makes the virtual host of a service; the last good one stays if it
// can not be made, and if it is the same.
func makeHost(s *policy.Service, begin sampling, last *host) *host {
	h := &host{virtualHost: virtualHostOf(s, begin), keys: s.Keys(policy.SettingRetry, policy.SettingTimeout, policy.SettingLoadBalancing, policy.SettingProtocol)}
	if begin.on {
		h.keys = append(h.keys, policy.KeyTracing)
	}
	if h.equal(last.virtualHost) && slices.Equal(h.keys, last.keys) {
		return last
	}
	h.encoded, h.err = encodeHost(h.virtualHost)
	if h.err != nil {
		h.encoded, h.refs = last.encoded, last.refs
	} else if h.virtualHost != nil {
		h.refs = h.virtualHost.refs()
	}
	return h
}
