package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// scope is the part of the mesh that some proxies may call, and what they are
// all served for it.
type scope struct {
	key      string
	kind     resource.Kind
	declared []string // names, sorted; nil: every service of the mesh

	base      *resource.Set              // the clusters of the services and of the collector
	clusters  map[localKey]*resource.Set // base, with the clusters of the application
	endpoints *resource.Set
	outbound  *resource.Resource
	routes    *resource.Set // outbound alone, for a proxy without an inbound listener
	listeners *resource.Set // of proxyless clients
	none      *resource.Set // of what proxyless clients do not have
}

// The keys of the scopes of services that declare no upstreams. Those of
// proxyless clients all begin alike.
const (
	everyService     = "*"
	proxylessPrefix  = "proxyless "
	proxylessToEvery = proxylessPrefix + everyService
)

// scopeKey names the scope of a service's proxies.
func scopeKey(kind resource.Kind, s *policy.Service) (key string, declared []string) {
	key = everyService
	if !s.AllUpstreams {
		declared = make([]string, 0, len(s.Upstreams))
		for _, u := range s.Upstreams {
			declared = append(declared, u.Service)
		}
		slices.Sort(declared)
		declared = slices.Compact(declared)
		sum := sha256.Sum256([]byte(strings.Join(declared, "\x00")))
		key = hex.EncodeToString(sum[:16])
	}
	if kind == resource.Proxyless {
		key = proxylessPrefix + key
	}
	return key, declared
}

func (s *scope) every() bool { return s.declared == nil }

// scope returns the scope of a service's proxies, brought up to date once in a
// build.
func (b *build) scope(kind resource.Kind, settings *policy.Service) *scope {
	key, declared := scopeKey(kind, settings)
	if s, ok := b.scopes[key]; ok {
		return s
	}
	before, ok := b.base.scopes.Get([]byte(key))
	var s *scope
	if !ok {
		s = b.newScope(&scope{key: key, kind: kind, declared: declared})
	} else {
		s = b.updateScope(before)
	}
	b.scopes[key] = s
	return s
}

// parts are what a scope takes of one of its members.
type parts struct{ cluster, endpoints, listener *resource.Resource }

func (b *build) partsOf(kind resource.Kind, s *service) parts {
	switch {
	case s == nil:
		return parts{}
	case kind == resource.Sidecar:
		return parts{cluster: s.cluster, endpoints: s.endpoints}
	}
	p := b.proxylessOf(s)
	return parts{p.cluster, p.endpoints, p.listener}
}

// lastParts are what the predecessor's scope took of the service.
func (b *build) lastParts(kind resource.Kind, name string, s *service) parts {
	if s == nil || kind == resource.Sidecar {
		return b.partsOf(kind, s)
	}
	p, ok := b.base.proxyless.Get([]byte(name))
	if !ok {
		return parts{}
	}
	return parts{p.cluster, p.endpoints, p.listener}
}

// newScope fills a scope that the predecessor did not have.
func (b *build) newScope(s *scope) *scope {
	var clusters, endpoints, listeners edits
	for _, member := range b.members(s) {
		p := b.partsOf(s.kind, member)
		clusters.replace(nil, p.cluster)
		endpoints.replace(nil, p.endpoints)
		listeners.replace(nil, p.listener)
	}
	s.clusters = make(map[localKey]*resource.Set)
	s.none = resource.NewSet()
	if s.kind == resource.Sidecar {
		clusters.replace(nil, b.collector.parts(resource.Cluster))
		endpoints.replace(nil, b.collector.parts(resource.Endpoint))
		b.reroute(s)
		s.routes = resource.NewSet(s.outbound)
	}
	s.base, s.endpoints, s.listeners = resource.NewSet(clusters.put...), resource.NewSet(endpoints.put...), resource.NewSet(listeners.put...)
	for _, name := range s.declared {
		users, _ := b.scopesOf.Get([]byte(name))
		b.scopesOf.Insert([]byte(name), append(slices.Clone(users), s.key))
	}
	return s
}

// touchScopes updates the scopes that contain a changed service. Where only
// assignments changed nothing else of a view can; otherwise its place is stale.
func (b *build) touchScopes(stale map[string]resource.Profile) {
	// Whether the places of a scope are stale.
	touched := map[string]bool{everyService: false, proxylessToEvery: true}
	for name, c := range b.changes {
		deep := b.membership || c.before.clusterOrNil() != c.after.clusterOrNil() || c.reroutes()
		touched[everyService] = touched[everyService] || deep
		keys, _ := b.scopesOf.Get([]byte(name))
		for _, key := range keys {
			touched[key] = touched[key] || deep || strings.HasPrefix(key, proxylessPrefix)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(touched)) {
		deep := touched[key]
		before, ok := b.base.scopes.Get([]byte(key))
		if !ok {
			continue
		}
		after := b.updateScope(before)
		b.scopes[key] = after
		walkPrefix(b.base.placesOf, []byte(key+"\x00"), func(p *place) bool {
			if deep {
				stale[p.profile.Key()] = p.profile
			} else if p.sets(after) != p.sets(before) {
				b.changed = append(b.changed, p.view(after))
			}
			return true
		})
	}
}

// updateScope applies what changed since the scope was made.
func (b *build) updateScope(before *scope) *scope {
	var clusters, endpoints, listeners edits
	reroute := false
	for _, name := range b.changedMembers(before) {
		c := b.changes[name]
		was, is := b.lastParts(before.kind, name, c.before), b.partsOf(before.kind, c.after)
		clusters.replace(was.cluster, is.cluster)
		endpoints.replace(was.endpoints, is.endpoints)
		listeners.replace(was.listener, is.listener)
		reroute = reroute || c.reroutes()
		if before.kind == resource.Proxyless && c.after == nil {
			b.forgetProxyless(name)
		}
	}
	if before.kind == resource.Sidecar && b.collector != b.base.collector {
		clusters.replace(b.base.collector.parts(resource.Cluster), b.collector.parts(resource.Cluster))
		endpoints.replace(b.base.collector.parts(resource.Endpoint), b.collector.parts(resource.Endpoint))
	}
	after := *before
	after.base = clusters.apply(before.base)
	after.endpoints = endpoints.apply(before.endpoints)
	after.listeners = listeners.apply(before.listeners)
	after.clusters = maps.Clone(before.clusters)
	if after.base != before.base {
		for key, set := range after.clusters {
			after.clusters[key] = clusters.apply(set)
		}
	}
	if reroute && before.kind == resource.Sidecar {
		b.reroute(&after)
		after.routes = after.routes.Update([]*resource.Resource{after.outbound}, nil)
	}
	return &after
}

// changedMembers are the names of the changed services that are in the scope,
// sorted.
func (b *build) changedMembers(s *scope) []string {
	if s.every() {
		return b.changedNames()
	}
	var names []string
	for _, name := range s.declared {
		if _, ok := b.changes[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

// edits are the changes of one set.
type edits struct {
	put    []*resource.Resource
	remove []string
}

func (e *edits) replace(before, after *resource.Resource) {
	switch {
	case before == after:
	case after == nil:
		e.remove = append(e.remove, before.Name)
	default:
		e.put = append(e.put, after)
	}
}

func (e *edits) apply(s *resource.Set) *resource.Set {
	if len(e.put) == 0 && len(e.remove) == 0 {
		return s
	}
	return s.Update(e.put, e.remove)
}

// members are the services in the scope, in the order of their names.
func (b *build) members(s *scope) []*service {
	var members []*service
	if !s.every() {
		for _, name := range s.declared {
			if member, ok := b.services.Get([]byte(name)); ok {
				members = append(members, member)
			}
		}
		return members
	}
	it := b.services.Root().Iterator()
	for _, member, ok := it.Next(); ok; _, member, ok = it.Next() {
		members = append(members, member)
	}
	return members
}

// reroute makes the outbound route configuration of the scope.
func (b *build) reroute(s *scope) {
	members := b.members(s)
	hosts := make([][]byte, 0, len(members))
	refs := make([]resource.Ref, 0, len(members))
	var keys []string
	seen := make(map[string]struct{})
	taken := make(map[string]string, len(members))
	var notes []string
	for _, member := range members {
		host := member.routed()
		if host == nil {
			continue
		}
		name := member.settings.Name
		// Envoy compares domains in lower case, and refuses the whole
		// configuration when one comes twice.
		lower := strings.ToLower(name)
		if other, ok := taken[lower]; ok {
			notes = append(notes, "service "+name+" cannot be called over HTTP: hosts are compared in lower case, and "+other+" has its name")
			continue
		}
		taken[lower] = name
		hosts = append(hosts, host)
		refs = append(refs, resource.Cluster.Ref(name))
		for _, key := range member.routeKeys {
			if _, ok := seen[key]; !ok {
				seen[key] = struct{}{}
				keys = append(keys, key)
			}
		}
	}
	b.report("scope/"+s.key, nil, notes)
	s.outbound = outboundConfiguration(hosts, keys, refs)
}

// makeClusters makes the set of clusters of the proxies in the scope whose
// applications have the key, unless there is one.
func (b *build) makeClusters(s *scope, key localKey) {
	if s.clusters[key] != nil {
		return
	}
	local, err := localClusters(b.c, key)
	if err != nil {
		// Nothing in it comes from an operator but the idle timeout,
		// which every cluster of the service has too.
		b.report(key.report(s), []Held{{Type: resource.Cluster, Name: resource.ClusterLocalApp, Keys: []string{policy.KeyTimeout}, Cause: err.Error()}}, nil)
		local = nil
	}
	s.clusters[key] = s.base.With(local)
}

func (k localKey) report(s *scope) string {
	return fmt.Sprintf("local/%s/%d/%s/%v", s.key, k.port, k.protocol, k.idle)
}

// walkPrefix visits the places whose keys have the prefix, until visit returns
// false.
func walkPrefix(places *iradix.Tree[*place], prefix []byte, visit func(*place) bool) {
	it := places.Root().Iterator()
	it.SeekPrefix(prefix)
	for _, p, ok := it.Next(); ok && visit(p); _, p, ok = it.Next() {
	}
}

// usedScopes are the scopes of the predecessor and those brought up to date,
// less those, and those of their sets, that no place uses any more. Unless the
// mesh changed, that can only be where a proxy has left.
func (b *build) usedScopes(next *state) *iradix.Tree[*scope] {
	scopes := b.base.scopes.Txn()
	for key, s := range b.scopes {
		scopes.Insert([]byte(key), s)
	}
	var review []*scope
	if b.meshChanged {
		it := scopes.CommitOnly().Root().Iterator()
		for _, s, ok := it.Next(); ok; _, s, ok = it.Next() {
			review = append(review, s)
		}
	}
	for key := range b.leftScopes {
		if s, ok := scopes.Get([]byte(key)); ok && !b.meshChanged {
			review = append(review, s)
		}
	}
	for _, s := range review {
		used, locals := false, make(map[localKey]*resource.Set)
		walkPrefix(next.placesOf, inScope(s.key, nil), func(p *place) bool {
			used = true
			if set, ok := s.clusters[p.local]; ok {
				locals[p.local] = set
			}
			return len(locals) < len(s.clusters)
		})
		switch {
		case !used:
			scopes.Delete([]byte(s.key))
			b.forgetScope(s)
		case len(locals) != len(s.clusters):
			b.forgetLocals(s, locals)
			trimmed := *s
			trimmed.clusters = locals
			scopes.Insert([]byte(s.key), &trimmed)
		}
	}
	return scopes.Commit()
}

func (b *build) forgetScope(s *scope) {
	b.report("scope/"+s.key, nil, nil)
	b.forgetLocals(s, nil)
	for _, name := range s.declared {
		keys, _ := b.scopesOf.Get([]byte(name))
		keys = slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return key == s.key })
		if len(keys) == 0 {
			b.scopesOf.Delete([]byte(name))
		} else {
			b.scopesOf.Insert([]byte(name), keys)
		}
	}
}

func (b *build) forgetLocals(s *scope, used map[localKey]*resource.Set) {
	for key := range s.clusters {
		if _, ok := used[key]; !ok {
			b.report(key.report(s), nil, nil)
		}
	}
}
