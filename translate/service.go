package translate

import (
	"fmt"
	"reflect"
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
	targets                  []target
	keys                     []string
	cluster, endpoints       *resource.Resource // nil: could not be made, ever
	placed                   []placed           // what callers of some datacenters have instead, by these
	clusterErr, endpointsErr error              // why the last good one stands there
}

// placed is a cluster for the callers in a datacenter that has an order of failover.
// It has another assignment, and where that is a part of the cluster another one of
// these too.
type placed struct {
	datacenter         string
	cluster, endpoints *resource.Resource
}

// at are the cluster and the assignment for callers in a datacenter.
func (c *cluster) at(datacenter string) (cluster, endpoints *resource.Resource) {
	for _, p := range c.placed {
		if p.datacenter == datacenter {
			return p.cluster, p.endpoints
		}
	}
	return c.cluster, c.endpoints
}

// host is a virtual host, and what it became.
type host struct {
	*virtualHost // nil: the service does not speak HTTP
	keys         []string
	routes       *resource.Resource   // nil: could not be made, ever
	scopes       []*resource.Resource // that lead to it
	err          error                // why the last good one stands there
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
	zones := zonesOf(settings)
	sameTargets := sameEntry && before.settings != nil && zonesOf(before.settings) == zones
	if !sameTargets {
		after.targets, after.left = targetsOf(b.c.globals, entry, zones)
	}
	sameOrder := before.settings != nil && reflect.DeepEqual(before.settings.LoadBalancing.Locality, settings.LoadBalancing.Locality)
	for _, d := range destinationsOf(settings) {
		last := before.cluster(d.name)
		c := cluster{destination: d, keys: keys}
		sameInstances := last != nil && sameTargets && last.instances == d.instances && sameSubset(before.settings, settings, d.subset)
		switch {
		case d.hasMembers():
		case sameInstances:
			c.targets = last.targets
		case d.subset != "":
			c.targets = subsetTargets(b.c.globals, entry, settings.Subset(d.subset), zones)
		default:
			c.targets = after.targets
		}
		c.resolves = anyName(c.targets)
		if last != nil && b.sameTransport && last.destination == c.destination && slices.Equal(last.keys, keys) && (!c.resolves || sameInstances) {
			c.cluster, c.clusterErr = last.cluster, last.clusterErr
		} else {
			c.makeCluster(b.c, last)
		}
		switch {
		case d.hasMembers() || c.resolves:
		case sameInstances && !last.resolves || last != nil && !last.resolves && last.endpoints != nil && b.sameTransport && slices.Equal(last.targets, c.targets):
			c.endpoints, c.endpointsErr = last.endpoints, last.endpointsErr
		default:
			c.makeEndpoints(b.c, last)
		}
		if last != nil && sameOrder && last.cluster == c.cluster && last.endpoints == c.endpoints {
			c.placed = last.placed
		} else {
			c.place(b.c, settings, last)
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
		held = append(held, Held{Type: resource.Route, Name: outboundRoutes(s.settings.Name), Keys: s.host.keys, Cause: s.host.err.Error()})
	}
	return held
}

// callable reports whether the service has all the clusters that it is to have.
// Without them its routes would lead nowhere.
func (s *service) callable() bool {
	return s != nil && !slices.ContainsFunc(s.clusters, func(c cluster) bool { return c.cluster == nil })
}

// routed reports whether there are routes that lead to the service.
func (s *service) routed() bool { return s.callable() && s.host.routes != nil }

// redials reports whether a listener that leads to the service alone comes or
// goes.
func (c change) redials() bool {
	if c.before.callable() != c.after.callable() {
		return true
	}
	return c.before != nil && c.after != nil && c.before.settings.Protocol != c.after.settings.Protocol
}

// makeCluster makes the cluster; the last good one stays if it can not be made.
func (c *cluster) makeCluster(compiler *compiler, last *cluster) {
	if c.cluster, c.clusterErr = serviceCluster(compiler, c.destination, c.keys, c.targets, nil); c.clusterErr != nil && last != nil {
		c.cluster = last.cluster
	}
}

// makeEndpoints makes the assignment; the last good one stays if it can not be
// made.
func (c *cluster) makeEndpoints(compiler *compiler, last *cluster) {
	if c.endpoints, c.endpointsErr = endpoints(compiler.globals, c.name, c.targets, nil); c.endpointsErr != nil && last != nil {
		c.endpoints = last.endpoints
	}
}

// place makes what callers in the datacenters with a rule have; the last good one stays
// if it can not be made.
func (c *cluster) place(compiler *compiler, s *policy.Service, last *cluster) {
	if c.hasMembers() {
		return
	}
	for _, rule := range s.LoadBalancing.Locality.Failover {
		for _, datacenter := range rule.From {
			p := placed{datacenter: datacenter, cluster: c.cluster}
			order := failoverOf(s, datacenter)
			var before placed
			if last != nil {
				before.cluster, before.endpoints = last.at(datacenter)
			}
			var err error
			if c.resolves {
				if p.cluster, err = serviceCluster(compiler, c.destination, c.keys, c.targets, order); err != nil {
					p.cluster, c.clusterErr = before.cluster, err
				}
			} else if p.endpoints, err = endpoints(compiler.globals, c.name, c.targets, order); err != nil {
				p.endpoints, c.endpointsErr = before.endpoints, err
			}
			c.placed = append(c.placed, p)
		}
	}
}

// makeHost makes the virtual host of a service; the last good one stays if it
// can not be made, and if it is the same.
func makeHost(s *policy.Service, begin sampling, last *host) *host {
	h := &host{virtualHost: virtualHostOf(s, begin), keys: s.Keys(policy.SettingRetry, policy.SettingTimeout, policy.SettingLoadBalancing, policy.SettingProtocol, policy.SettingSubsets)}
	for _, r := range slices.Backward(s.Routes) {
		h.keys = slices.Insert(h.keys, 0, r.Key)
	}
	if begin.on {
		h.keys = append(h.keys, policy.KeyTracing)
	}
	if h.equal(last.virtualHost) && slices.Equal(h.keys, last.keys) {
		return last
	}
	if h.virtualHost == nil {
		return h
	}
	if h.equal(last.virtualHost) && last.err == nil { // a route more in front of others moves the place of them all
		h.routes = last.routes.From(h.keys)
		for _, r := range last.scopes {
			h.scopes = append(h.scopes, r.From(h.keys))
		}
		return h
	}
	if h.routes, h.err = outboundConfiguration(h.virtualHost, h.keys); h.err != nil {
		h.routes, h.scopes = last.routes, last.scopes
		return h
	}
	h.scopes, h.err = scopesOf(s.Name, h.keys)
	return h
}
