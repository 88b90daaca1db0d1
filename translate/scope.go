package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// scope is the part of the mesh that some proxies may call, and what they are
// all served for it.
type scope struct {
	resource.Scope
	datacenter string   // of its proxies, if some rule of failover is for it; else empty
	declared   []string // names, sorted; nil: every service of the mesh
	// reached are those that are not declared, and that routes to the declared lead
	// to, and the server of limits, sorted: their clusters are in the scope, and no
	// routes to them.
	reached []string
	// shadowed are services whose host another has: see shadowed.
	shadowed map[string]string
}

// everyService stands in the key of a scope for those who declare no upstreams.
const everyService = "*"

// scopeKey names the scope of a service's proxies in a datacenter.
func scopeKey(kind resource.Kind, s *policy.Service, datacenter string) (key string, declared []string) {
	of := everyService
	if !s.AllUpstreams {
		declared = make([]string, 0, len(s.Upstreams))
		for _, u := range s.Upstreams {
			declared = append(declared, u.Service)
		}
		slices.Sort(declared)
		declared = slices.Compact(declared)
		sum := sha256.Sum256([]byte(strings.Join(declared, "\x00")))
		of = hex.EncodeToString(sum[:16])
	}
	return scopeOf(kind, of, datacenter), declared
}

func scopeOf(kind resource.Kind, of, datacenter string) string {
	if datacenter != "" {
		of += "@" + datacenter
	}
	return kind.String() + "/" + of
}

func (s *scope) every() bool { return s.declared == nil }

// scope returns the key of the scope of a service's proxies. The scope is made
// if there is none.
func (b *build) scope(kind resource.Kind, settings *policy.Service, datacenter string) string {
	key, declared := scopeKey(kind, settings, datacenter)
	if _, ok := b.scopes.Get(key); !ok {
		b.putScope(b.newScope(&scope{Scope: resource.Scope{Key: key, Kind: kind}, datacenter: datacenter, declared: declared}))
	}
	return key
}

func (b *build) putScope(s *scope) {
	b.scopes.Put(s.Key, s)
	b.changedScopes[s.Key] = &s.Scope
}

// newScope fills a scope that the predecessor did not have.
func (b *build) newScope(s *scope) *scope {
	k := kindOf(s.Kind)
	var changes [resource.NumTypes]edits
	s.reached = b.reached(s)
	if k.hosts {
		s.shadowed = b.shadowed(s)
	}
	for _, of := range b.members(s) {
		for t, all := range k.member(b, s, of).in(s, of.settings.Name) {
			changes[t].replace(nil, all)
		}
	}
	if k.spans {
		for t, all := range b.collector.member() {
			changes[t].replace(nil, all)
		}
	}
	if k.limited && b.limitServer != nil {
		changes[resource.Cluster].replace(nil, []*resource.Resource{b.limitServer})
	}
	for t := range s.Sets {
		s.Sets[t] = resource.NewSet(changes[t].put...)
	}
	s.Sets[resource.Secret] = b.rootsSet
	if k.runtime {
		s.Sets[resource.Runtime] = b.runtime
	}
	for _, name := range slices.Concat(s.declared, s.reached) {
		b.enlist(s.Key, name)
	}
	return s
}

// enlist notes that a scope has a service, and strike that it has it no more.
func (b *build) enlist(key, service string) {
	users, _ := b.scopesOf.Get(service)
	b.scopesOf.Put(service, append(slices.Clone(users), key))
}

func (b *build) strike(key, service string) {
	keys, _ := b.scopesOf.Get(service)
	keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == key })
	if len(keys) == 0 {
		b.scopesOf.Delete(service)
	} else {
		b.scopesOf.Put(service, keys)
	}
}

// reached are the services that routes to the declared ones of a scope lead to, and the
// server of limits.
func (b *build) reached(s *scope) []string {
	var all []string
	if server := b.c.limits.Service; server != "" && !s.every() && kindOf(s.Kind).limited {
		all = append(all, server)
	}
	for _, name := range s.declared {
		if member, ok := b.services.Get(name); ok {
			all = append(all, reaches(member.settings)...)
		}
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(name string) bool { return slices.Contains(s.declared, name) })
}

// translateScopes brings those scopes up to date that a change touches.
func (b *build) translateScopes() {
	touched := make(map[string]struct{})
	if b.collector != b.base.collector || b.limitServer != b.base.limitServer || b.limitServerMoved() || b.rootsSet != b.base.rootsSet || b.runtime != b.base.runtime {
		for key := range b.scopes.All() {
			touched[key] = struct{}{}
		}
	} else {
		for name := range b.changes {
			for _, datacenter := range slices.Concat(b.base.datacenters, []string{""}) {
				touched[scopeOf(resource.Sidecar, everyService, datacenter)] = struct{}{}
				touched[scopeOf(resource.Proxyless, everyService, datacenter)] = struct{}{}
			}
			keys, _ := b.scopesOf.Get(name)
			for _, key := range keys {
				touched[key] = struct{}{}
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(touched)) {
		before, ok := b.base.scopes.Get(key)
		if !ok {
			continue
		}
		if after := b.updateScope(before); after.Sets != before.Sets {
			b.putScope(after)
		}
	}
}

// limitServerMoved reports whether another service of the mesh counts than before.
func (b *build) limitServerMoved() bool {
	return b.base.globals != nil && b.base.globals.limits.Service != b.c.limits.Service
}

// updateScope applies what changed since the scope was made.
func (b *build) updateScope(before *scope) *scope {
	k := kindOf(before.Kind)
	after := *before
	after.reached = b.reached(&after)
	if k.hosts {
		after.shadowed = b.shadowed(&after)
	}
	moved := make(map[string]struct{}) // services that have another part in it
	for _, name := range slices.Concat(before.reached, after.reached) {
		if was, is := slices.Contains(before.reached, name), slices.Contains(after.reached, name); was != is {
			moved[name] = struct{}{}
			if is {
				b.enlist(after.Key, name)
			} else {
				b.strike(after.Key, name)
			}
		}
	}
	for name := range differing(before.shadowed, after.shadowed) {
		moved[name] = struct{}{}
	}
	var changes [resource.NumTypes]edits
	for _, name := range b.changedMembers(&after) {
		delete(moved, name)
		c := b.changes[name]
		was, is := k.before(b, before, name, c.before).in(before, name), k.member(b, &after, c.after).in(&after, name)
		for t := range changes {
			changes[t].replace(was[t], is[t])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(moved)) {
		c, ok := b.changes[name]
		if !ok {
			s, _ := b.services.Get(name)
			c = change{s, s}
		}
		was, is := k.before(b, before, name, c.before).in(before, name), k.member(b, &after, c.after).in(&after, name)
		for t := range changes {
			changes[t].replace(was[t], is[t])
		}
	}
	if k.limited && b.limitServer != b.base.limitServer {
		var was, is member
		was.add(b.base.limitServer)
		is.add(b.limitServer)
		changes[resource.Cluster].replace(was[resource.Cluster], is[resource.Cluster])
	}
	if k.spans && b.collector != b.base.collector {
		was, is := b.base.collector.member(), b.collector.member()
		for t := range changes {
			changes[t].replace(was[t], is[t])
		}
	}
	for t := range after.Sets {
		after.Sets[t] = after.Sets[t].Update(changes[t].put, changes[t].remove)
	}
	after.Sets[resource.Secret] = b.rootsSet
	if k.runtime {
		after.Sets[resource.Runtime] = b.runtime
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
	for _, name := range slices.Concat(s.declared, s.reached) {
		if _, ok := b.changes[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

// members are the services in the scope, in the order of their names.
func (b *build) members(s *scope) []*service {
	var members []*service
	if !s.every() {
		for _, name := range slices.Sorted(slices.Values(slices.Concat(s.declared, s.reached))) {
			if member, ok := b.services.Get(name); ok {
				members = append(members, member)
			}
		}
		return members
	}
	for _, member := range b.services.All() {
		members = append(members, member)
	}
	return members
}

// forgetScopes drops those scopes that no proxy uses any more. That can only be
// where the last proxy of a service has left, or declares other upstreams.
func (b *build) forgetScopes() {
	for _, key := range slices.Sorted(maps.Keys(b.leftScopes)) {
		s, ok := b.scopes.Get(key)
		if !ok || b.scopeUsed(key) {
			continue
		}
		b.scopes.Delete(key)
		delete(b.changedScopes, key)
		b.report("scope/"+key, nil, nil)
		for _, name := range slices.Concat(s.declared, s.reached) {
			b.strike(key, name)
		}
	}
}

func (b *build) scopeUsed(key string) bool {
	for _, g := range b.groups.All() {
		if g.scope == key {
			return true
		}
	}
	return false
}
