package translate

import (
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
)

// kind is what the clients of one kind are served, and how it is made.
type kind struct {
	// member is what a scope of these clients has of a service, and before what
	// the predecessor's scope had of it.
	member func(*build, *service) member
	before func(*build, string, *service) member
	// outbound says that one route configuration leads to all members.
	outbound bool
	// runtime says that they have a layer of runtime values.
	runtime bool
	// spans says that they send spans, and so have the collector.
	spans bool
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
			member:   func(_ *build, s *service) member { return sidecarMember(s) },
			before:   func(_ *build, _ string, s *service) member { return sidecarMember(s) },
			outbound: true,
			runtime:  true,
			spans:    true,
			own:      (*build).sidecarOwn,
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

// sidecarMember is what an Envoy has of a service, which may be nil.
func sidecarMember(s *service) (m member) {
	if s == nil {
		return m
	}
	for _, c := range s.clusters {
		m.add(c.cluster)
		m.add(c.endpoints)
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
