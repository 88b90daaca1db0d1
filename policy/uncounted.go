package policy

import "slices"

// checkUncounted warns of requests that a rate limit does not hold for: those of an
// active health check are told apart by their path alone, so that one that others call
// too is limited for nobody.
func (d *decoder) checkUncounted(s *mapping, m *Mesh) {
	ofMesh := s.section("load_balancing").section("health_checks").first("path")
	said := make(map[value]bool)
	check := func(service *Service, at value) {
		path, ok := service.uncounted()
		if !ok || said[at] {
			return
		}
		said[at] = true
		at.fail(CodeNoEffect, "a path that nobody else calls: /health", "a rate_limit has no effect on GET %s: what asks for the health of an instance is not limited, whoever asks", path)
	}
	services := s.section("services")
	for _, name := range m.Names() {
		own, _ := services.peek(name)
		if checks := own.mapping().section("health_checks"); checks.has("path") {
			check(m.services[name], checks.first("path"))
			continue
		}
		check(m.services[name], ofMesh)
	}
	check(m.defaults, ofMesh)
}

// uncounted returns the path of a service's active checks if it is limited, and others
// are likely to call it: it is the root, or one that a route of the file is for.
func (s *Service) uncounted() (path string, ok bool) {
	if !s.RateLimit.On() || s.HealthChecks == nil || s.HealthChecks.Protocol != "http" {
		return "", false
	}
	path = s.HealthChecks.Path
	return path, path == "/" || slices.ContainsFunc(s.Routes, func(r Route) bool {
		return !r.Answers() && slices.ContainsFunc(r.Match, func(m RouteMatch) bool {
			gets := m.GRPC == nil && (len(m.Methods) == 0 || slices.Contains(m.Methods, "GET"))
			return gets && m.Path != (PathMatch{}) && m.Path.Prefix != "/" && m.Path.takes(PathMatch{Exact: path})
		})
	})
}
