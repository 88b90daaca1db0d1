package policy

import (
	"maps"
	"slices"
	"strings"
)

// Service returns the effective settings of a service, whether or not the file
// names it. They are shared: they must not be changed.
func (m *Mesh) Service(name string) *Service {
	if s, ok := m.services[name]; ok {
		return s
	}
	s := *m.defaults
	s.Name, s.ConsulService = name, name
	return &s
}

// Names returns the services that the file names, sorted: those of
// circuit_breakers.custom, of policies.rate_limit.custom and of services.
func (m *Mesh) Names() []string { return slices.Sorted(maps.Keys(m.services)) }

// Source returns the place of a key, or of its nearest ancestor that is
// written: "circuit_breakers.default.max_retries", with or without "mesh." in
// front, "security.authorization.policies[0].action".
func (m *Mesh) Source(key string) Source {
	key = join("mesh", strings.TrimPrefix(key, "mesh."))
	for {
		if at, ok := m.keys[key]; ok {
			return at
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return Source{}
		}
		key = key[:cut]
	}
}

// Keys returns the keys that settings of the service came from, each once,
// those of the first setting first, and of one setting the most specific. There
// are none for a setting that is built in.
func (s *Service) Keys(settings ...Setting) []string {
	var keys []string
	for _, setting := range settings {
		for _, key := range s.keys[setting] {
			if !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// CheckRequest is what an active check of the service asks of its application;
// empty if it asks nothing by HTTP.
func (s *Service) CheckRequest() (method, path string) {
	switch {
	case s.HealthChecks == nil:
		return "", ""
	case s.HealthChecks.Protocol == "http":
		return "GET", s.HealthChecks.Path
	case s.HealthChecks.Protocol == "grpc":
		return "POST", "/grpc.health.v1.Health/Check"
	default:
		return "", ""
	}
}
