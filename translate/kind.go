package translate

import (
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// kind is what the clients of one kind are served, and how it is made.
type kind struct {
	// member is what a scope of these clients has of a service, and before what
	// the predecessor's scope had of it.
	member func(*build, *scope, *service) member
	before func(*build, *scope, string, *service) member
	// hosts says that members are told apart by their hosts.
	hosts bool
	// runtime says that they have a layer of runtime values.
	runtime bool
	// spans says that they send spans, and so have the collector.
	spans bool
	// limited says that they take calls, and ask the server of limits.
	limited bool
	// own makes what a proxy has for itself, with what of its last state still
	// holds; nil for clients that have nothing.
	own func(*build, *proxy, *proxy)
}

// kindOf returns what the clients of a [resource.Kind] are served. To add a kind
// is to add a case here, a row there, and its scope of every service to
// translateScopes.
func kindOf(k resource.Kind) kind {
	switch k {
	case resource.Proxyless:
		return kind{member: (*build).proxylessMember, before: (*build).lastProxylessMember}
	default:
		return kind{
			member:  func(_ *build, in *scope, s *service) member { return sidecarMember(s, in.datacenter) },
			before:  func(_ *build, in *scope, _ string, s *service) member { return sidecarMember(s, in.datacenter) },
			hosts:   true,
			runtime: true,
			spans:   true,
			limited: true,
			own:     (*build).sidecarOwn,
		}
	}
}

// member is what a scope takes of one of its services.
type member [resource.NumTypes][]*resource.Resource

func (m *member) add(r *resource.Resource) {
	if r != nil {
		m[r.Type] = append(m[r.Type], r)
	}
}

// sidecarMember is what an Envoy in a datacenter has of a service, which may be nil.
func sidecarMember(s *service, datacenter string) (m member) {
	if s == nil {
		return m
	}
	for i := range s.clusters {
		cluster, endpoints := s.clusters[i].at(datacenter)
		m.add(cluster)
		m.add(endpoints)
	}
	if s.routed() {
		m.add(s.host.routes)
		for _, r := range s.host.scopes {
			m.add(r)
		}
	}
	return m
}

// edits are the changes of one set.
type edits struct {
	put    []*resource.Resource
	remove []string
}

// replace puts what is after in the place of what was before.
func (e *edits) replace(before, after []*resource.Resource) {
	for _, r := range after {
		if last := named(before, r.Name); last != r {
			e.put = append(e.put, r)
		}
	}
	for _, r := range before {
		if named(after, r.Name) == nil {
			e.remove = append(e.remove, r.Name)
		}
	}
}

func named(resources []*resource.Resource, name string) *resource.Resource {
	for _, r := range resources {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// dials reports whether a service's proxies have a listener for connections to
// a callee.
func dials(u policy.Upstream, callee *service) bool {
	return u.LocalBindPort != 0 && callee.callable() && callee.settings.Protocol == policy.TCP
}
