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
	declared []string // names, sorted; nil: every service of the mesh
}

// everyService stands in the key of a scope for those who declare no upstreams.
const everyService = "*"

// scopeKey names the scope of a service's proxies.
func scopeKey(kind resource.Kind, s *policy.Service) (key string, declared []string) {
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
	return scopeOf(kind, of), declared
}

func scopeOf(kind resource.Kind, of string) string { return kind.String() + "/" + of }

func (s *scope) every() bool { return s.declared == nil }

// scope returns the key of the scope of a service's proxies. The scope is made
// if there is none.
func (b *build) scope(kind resource.Kind, settings *policy.Service) string {
	key, declared := scopeKey(kind, settings)
	if _, ok := b.scopes.Get(key); !ok {
		b.putScope(b.newScope(&scope{Scope: resource.Scope{Key: key, Kind: kind}, declared: declared}))
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
	for _, of := range b.members(s) {
		for t, all := range k.member(b, of) {
			changes[t].replace(nil, all)
		}
	}
	if k.spans {
		for t, all := range b.collector.member() {
			changes[t].replace(nil, all)
		}
	}
	for t := range s.Sets {
		s.Sets[t] = resource.NewSet(changes[t].put...)
	}
	s.Sets[resource.Secret] = b.rootsSet
	if k.runtime {
		s.Sets[resource.Runtime] = b.runtime
	}
	if k.outbound {
		s.Sets[resource.Route] = resource.NewSet(b.outbound(s))
	}
	for _, name := range s.declared {
		users, _ := b.scopesOf.Get(name)
		b.scopesOf.Put(name, append(slices.Clone(users), s.Key))
	}
	return s
}

// translateScopes brings those scopes up to date that a change touches.
func (b *build) translateScopes() {
	touched := make(map[string]struct{})
	if b.collector != b.base.collector || b.rootsSet != b.base.rootsSet {
		for key := range b.scopes.All() {
			touched[key] = struct{}{}
		}
	} else {
		for name := range b.changes {
			touched[scopeOf(resource.Sidecar, everyService)] = struct{}{}
			touched[scopeOf(resource.Proxyless, everyService)] = struct{}{}
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

// updateScope applies what changed since the scope was made.
func (b *build) updateScope(before *scope) *scope {
	k := kindOf(before.Kind)
	var changes [resource.NumTypes]edits
	reroute := false
	for _, name := range b.changedMembers(before) {
		c := b.changes[name]
		was, is := k.before(b, name, c.before), k.member(b, c.after)
		for t := range changes {
			changes[t].replace(was[t], is[t])
		}
		reroute = reroute || c.reroutes()
	}
	if k.spans && b.collector != b.base.collector {
		was, is := b.base.collector.member(), b.collector.member()
		for t := range changes {
			changes[t].replace(was[t], is[t])
		}
	}
	after := *before
	for t := range after.Sets {
		after.Sets[t] = after.Sets[t].Update(changes[t].put, changes[t].remove)
	}
	after.Sets[resource.Secret] = b.rootsSet
	if reroute && k.outbound {
		after.Sets[resource.Route] = after.Sets[resource.Route].Update([]*resource.Resource{b.outbound(&after)}, nil)
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

// members are the services in the scope, in the order of their names.
func (b *build) members(s *scope) []*service {
	var members []*service
	if !s.every() {
		for _, name := range s.declared {
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

// outbound makes the outbound route configuration of the scope.
func (b *build) outbound(s *scope) *resource.Resource {
	members := b.members(s)
	hosts := make([][]byte, 0, len(members))
	refs := make([]resource.Ref, 0, len(members))
	var keys []string
	seen := make(map[string]struct{})
	taken := make(map[string]string, len(members))
	var notes []string
	for _, member := range members { // what the file names comes before what it does not
		if _, inFile := b.naming.file[member.settings.Name]; inFile && member.routed() != nil {
			if lower := strings.ToLower(member.settings.Name); taken[lower] == "" {
				taken[lower] = member.settings.Name
			}
		}
	}
	for _, member := range members {
		host := member.routed()
		if host == nil {
			continue
		}
		name := member.settings.Name
		// Envoy compares domains in lower case, and refuses the whole
		// configuration when one comes twice.
		lower := strings.ToLower(name)
		if other, ok := taken[lower]; ok && other != name {
			notes = append(notes, "service "+name+" cannot be called over HTTP: hosts are compared in lower case, and "+other+" has its name")
			continue
		}
		taken[lower] = name
		hosts = append(hosts, host)
		refs = append(refs, member.host.refs...)
		for _, key := range member.routeKeys() {
			if _, ok := seen[key]; !ok {
				seen[key] = struct{}{}
				keys = append(keys, key)
			}
		}
	}
	b.report("scope/"+s.Key, nil, notes)
	return outboundConfiguration(hosts, keys, refs)
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
		for _, name := range s.declared {
			keys, _ := b.scopesOf.Get(name)
			keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return k == key })
			if len(keys) == 0 {
				b.scopesOf.Delete(name)
			} else {
				b.scopesOf.Put(name, keys)
			}
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
