package policy

import (
	"fmt"
	"slices"
)

// Opened says, for people, what next admits that last denied. It is empty only
// if next surely admits nothing more: it compares what the files come to, not
// their words, and where it cannot tell it takes next for the wider one. That
// a trust domain changes is not its business: no running process goes on with
// another one.
func Opened(last, next *Mesh) []string {
	var o opening
	switch {
	case last.MTLS.Enabled && !next.MTLS.Enabled:
		o.found(next, "security.mtls", "mTLS is off, so callers need no certificate")
	case last.MTLS.Enabled && last.MTLS.Mode == Strict && next.MTLS.Mode != Strict:
		o.found(next, "security.mtls", "mTLS is %s, so callers need no certificate", next.MTLS.Mode)
	}
	if !last.Authorization.Enabled {
		return o.why // it denied nobody
	}
	if !next.Authorization.Enabled {
		o.found(next, "security.authorization", "authorization is off, so nobody is denied")
		return o.why
	}

	denies := newPolicySet(next, Deny)
	for _, p := range last.enforced(Deny) {
		if !denies.covers(p, last.MTLS.TrustDomain) {
			o.found(last, p.Key, "what DENY %s matched is not denied any more", p.Name)
		}
	}
	switch {
	case last.Authorization.DefaultAction == Allow: // only its DENYs denied anything
	case next.Authorization.DefaultAction == Allow:
		o.found(next, "security.authorization", "default_action is ALLOW, so what no policy decides is admitted")
	default:
		allows := newPolicySet(last, Allow)
		for _, p := range next.enforced(Allow) {
			if !allows.covers(p, next.MTLS.TrustDomain) {
				o.found(next, p.Key, "ALLOW %s admits what no ALLOW did", p.Name)
			}
		}
		o.services(last, next, o.check)
	}
	o.services(last, next, o.protocol)
	o.services(last, next, o.slashes)
	return o.why
}

// enforced are the policies with the action that decide, not only record.
func (m *Mesh) enforced(a Action) []*AuthorizationPolicy {
	var picked []*AuthorizationPolicy
	for i := range m.Authorization.Policies {
		if p := &m.Authorization.Policies[i]; p.Action == a && !p.Shadow {
			picked = append(picked, p)
		}
	}
	return picked
}

// opening gathers what a step of the mesh file opens.
type opening struct{ why []string }

// found notes a finding at the key of a mesh.
func (o *opening) found(m *Mesh, key, format string, args ...any) {
	o.why = append(o.why, fmt.Sprintf("%s: %s", m.Source(key), fmt.Sprintf(format, args...)))
}

// services compares every service before and after, by name: those that a file
// names, and with them those that neither does.
func (o *opening) services(last, next *Mesh, compare func(m *Mesh, before, after *Service)) {
	compare(next, last.defaults, next.defaults)
	names := append(next.Names(), last.Names()...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		compare(next, last.Service(name), next.Service(name))
	}
}

// check finds an active check that every service may make now: it is admitted
// where no ALLOW does.
func (o *opening) check(m *Mesh, before, after *Service) {
	method, path := after.CheckRequest()
	if path == "" {
		return
	}
	if wasMethod, was := before.CheckRequest(); method == wasMethod && path == was {
		return
	}
	o.found(m, keyOf(after, SettingHealthChecks, "load_balancing"), "%s may be asked for %s %s by every service, as an active check", nameOf(after), method, path)
}

// protocol finds a service that goes to or from TCP, where policies are of the
// caller alone and mean something else than they did.
func (o *opening) protocol(m *Mesh, before, after *Service) {
	if (before.Protocol == TCP) != (after.Protocol == TCP) {
		o.found(m, keyOf(after, SettingProtocol, "services"), "%s speaks %s, it spoke %s, and policies mean another thing there", nameOf(after), after.Protocol, before.Protocol)
	}
}

// slashes finds a service that comes to take encoded slashes: requests that were
// refused are admitted by policies which do not see through them.
func (o *opening) slashes(m *Mesh, before, after *Service) {
	if before.EncodedSlashes != Keep && after.EncodedSlashes == Keep {
		o.found(m, keyOf(after, SettingEncodedSlashes, "services"), "%s takes encoded slashes, which policies by path do not see through", nameOf(after))
	}
}

func nameOf(s *Service) string {
	if s.Name == "" {
		return "each service without settings of its own"
	}
	return s.Name
}

// keyOf is where a setting comes from, or another key if it is built in.
func keyOf(s *Service, setting Setting, otherwise string) string {
	if keys := s.Keys(setting); len(keys) > 0 {
		return keys[0]
	}
	return otherwise
}
