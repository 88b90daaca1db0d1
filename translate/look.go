package translate

import (
	"iter"
	"slices"
	"strings"

	"datapunk.dev/controlplane/policy"
)

// Services are the names of the services of the mesh: those of the file, and those
// of the catalog that none of the file stands for. They are sorted.
func (s *Snapshot) Services() iter.Seq[string] {
	return func(yield func(string) bool) {
		for name := range s.state.services.All() {
			if !yield(name) {
				return
			}
		}
	}
}

// Settings are those that a service is served with; ok is false if the mesh has no
// service of the name.
func (s *Snapshot) Settings(name string) (settings *policy.Service, ok bool) {
	if service, ok := s.state.services.Get(name); ok {
		return service.settings, true
	}
	return s.Input.Mesh.Service(name), false
}

// PoliciesOn are the policies that act on the calls to a service, in the order of the
// file. Those of an application's port are among them.
func (s *Snapshot) PoliciesOn(service string) []*policy.AuthorizationPolicy {
	var all []*policy.AuthorizationPolicy
	policies := s.Input.Mesh.Authorization.Policies
	for i := range policies {
		if p := &policies[i]; s.Input.Mesh.Authorization.Enabled && includes(p.Destinations, p.NotDestinations, service) {
			all = append(all, p)
		}
	}
	return all
}

// PolicyNamed is the policy that the rules of a service have under a name; nil for one
// that no file says: of active checks, or of a default.
func (s *Snapshot) PolicyNamed(service, rule string) *policy.AuthorizationPolicy {
	for _, p := range s.PoliciesOn(service) {
		if ruleOfTwo(p) == rule || p.Name == rule {
			return p
		}
	}
	return nil
}

// RouteNamed is what the file says of a route to a service that has the name, or is one
// of the forms of what has; nil for the routes that a service has by itself.
func (s *Snapshot) RouteNamed(service, name string) *policy.Route {
	settings, _ := s.Settings(service)
	var found *policy.Route
	for i := range settings.Routes {
		r := &settings.Routes[i]
		form, ok := strings.CutPrefix(name, r.Name)
		if ok && slices.Contains(routeForms, form) && (found == nil || len(r.Name) > len(found.Name)) {
			found = r
		}
	}
	return found
}
