package translate

import (
	"encoding/binary"
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// groupKey tells the proxies apart by what their configuration depends on beside
// addresses and ports: the service, the kind, the application's port if a
// policy names ports, and the datacenter if calls from it fail over.
type groupKey struct {
	service    string
	kind       resource.Kind
	port       uint16 // 0: no policy asks
	datacenter string // empty: no rule of failover is for it
}

func (k groupKey) String() string {
	return string(binary.BigEndian.AppendUint16([]byte(resource.ServiceKey(k.service)+string(rune(k.kind))), k.port)) + k.datacenter
}

func (k groupKey) report() string { return "inbound/" + k.String() }

// group is what the proxies with one key share. A change that leaves it as it
// was costs nothing for each of them.
type group struct {
	key      groupKey
	settings *policy.Service
	scope    string // key

	policy *inboundPolicy // nil for clients that nobody calls
	listen listenInput    // what their listeners are made of
}

// listenInput is what listeners are made of, next to addresses and ports.
type listenInput struct {
	settings     *policy.Service
	globals      *globals
	traced       bool
	plaintextTCP bool
	upstreams    []tcpUpstream
}

func (l listenInput) equal(o listenInput) bool {
	return l.settings == o.settings && l.globals == o.globals && l.traced == o.traced && l.plaintextTCP == o.plaintextTCP &&
		slices.Equal(l.upstreams, o.upstreams)
}

func (g *group) equal(o *group) bool {
	return g.key == o.key && g.settings == o.settings && g.scope == o.scope && g.policy == o.policy && g.listen.equal(o.listen)
}

// group returns the group of a profile's proxies, brought up to date once in a
// build.
func (b *build) group(p resource.Profile) *group {
	key := groupKey{service: p.Service, kind: p.Kind}
	if b.authz.byPort(p.Service) {
		key.port = p.AppPort
	}
	if _, ok := slices.BinarySearch(b.datacenters, p.Region); ok {
		key.datacenter = p.Region
	}
	if g, ok := b.grouped[key]; ok {
		return g
	}
	before, _ := b.base.groups.Get(key.String())
	g := b.makeGroup(key, p.AppPort, before)
	if before != nil && g.equal(before) {
		g = before
	}
	b.grouped[key] = g
	if g != before {
		b.groups.Put(key.String(), g)
		if before != nil && before.scope != g.scope {
			b.leftScopes[before.scope] = struct{}{}
		}
	}
	return g
}

func (b *build) makeGroup(key groupKey, port uint16, before *group) *group {
	g := &group{key: key, settings: b.settings(key.service, before)}
	g.scope = b.scope(key.kind, g.settings, key.datacenter)
	if kindOf(key.kind).own == nil {
		return g
	}
	var last *inboundPolicy
	if before != nil {
		last = before.policy
	}
	g.policy = b.inboundPolicyOf(key, g.settings, port, last)
	g.listen = listenInput{
		settings: g.settings, globals: b.c.globals, traced: b.collector != nil,
		plaintextTCP: g.policy.plaintextTCP, upstreams: b.tcpUpstreams(g.settings),
	}
	return g
}

// settings are the effective settings of a proxy's service, which the mesh
// need not know.
func (b *build) settings(name string, before *group) *policy.Service {
	settings := b.in.Mesh.Service(name)
	if s, ok := b.services.Get(name); ok {
		settings = s.settings
	}
	if before != nil && sameSettings(before.settings, settings) {
		return before.settings
	}
	return settings
}

// tcpUpstreams are the declared upstreams that get a listener of their own.
func (b *build) tcpUpstreams(settings *policy.Service) []tcpUpstream {
	var upstreams []tcpUpstream
	for _, u := range settings.Upstreams {
		if callee, ok := b.services.Get(u.Service); ok && dials(u, callee) {
			upstreams = append(upstreams, tcpUpstream{u.Service, u.LocalBindPort, callee.settings.Timeout.Idle})
		}
	}
	return upstreams
}

// staleGroups are those that a change of the catalog or of the fleet may touch:
// those with a listener for a callee that came or went, those that list their
// callers, if one came or went, and those whose limit is divided among instances.
func (b *build) staleGroups() []*group {
	redialed := make(map[string]struct{})
	var stale []*group
	for name, c := range b.changes {
		if c.redials() {
			redialed[name] = struct{}{}
		}
		for _, g := range b.base.groups.Below(resource.ServiceKey(name)) {
			if g.policy != nil && g.policy.filling.limits.Per == policy.PerService {
				stale = append(stale, g)
			}
		}
	}
	if len(redialed) == 0 && !b.callersMoved {
		return stale
	}
	for _, g := range b.base.groups.All() {
		if b.callersMoved && g.policy != nil && g.policy.listed || slices.ContainsFunc(g.settings.Upstreams, func(u policy.Upstream) bool {
			_, ok := redialed[u.Service]
			return ok && u.LocalBindPort != 0
		}) {
			stale = append(stale, g)
		}
	}
	return stale
}

// forgetGroups drops those groups that no proxy is of any more.
func (b *build) forgetGroups() {
	for key := range b.leftGroups {
		used := false
		for _, p := range b.proxies.Below(resource.ServiceKey(key.service)) {
			if used = p.group.key == key; used {
				break
			}
		}
		if used {
			continue
		}
		if g, ok := b.groups.Delete(key.String()); ok {
			b.leftScopes[g.scope] = struct{}{}
		}
		b.report(key.report(), nil, nil)
	}
}
