package policy

import "strings"

// checkSpelled refuses names of services that differ from one of the file's only
// in case. Consul and hosts have no case and an identity has: a DENY of "Lake"
// beside a service "lake" would load, and hold for nobody.
func (d *decoder) checkSpelled(s *mapping, m *Mesh) {
	spelled := make(map[string]string)
	for _, name := range m.Names() {
		spelled[strings.ToLower(name)] = name
	}
	check := func(list *mapping, key string, names []string) {
		items := list.items(key)
		for i, name := range names {
			is, known := spelled[strings.ToLower(name)]
			if !known || is == name {
				continue
			}
			v := list.first(key)
			if len(items) == len(names) {
				v = items[i]
			}
			v.fail(CodeServiceName, "write "+is, "%q is no service of the file, which has %q: names have a case", name, is)
		}
	}
	services := s.section("services")
	for _, name := range m.Names() {
		var called []string
		for _, u := range m.services[name].Upstreams {
			called = append(called, u.Service)
		}
		check(services.section(name), "upstreams", called)
	}
	items := s.section("security").section("authorization").items("policies")
	if len(items) != len(m.Authorization.Policies) {
		return // one could not be read
	}
	for i, p := range m.Authorization.Policies {
		entry := items[i].mapping()
		check(entry, "sources", p.Sources)
		check(entry, "not_sources", p.NotSources)
		check(entry, "destinations", p.Destinations)
		check(entry, "not_destinations", p.NotDestinations)
		check(entry, "principals", m.ofPrincipals(p.Principals))
		check(entry, "not_principals", m.ofPrincipals(p.NotPrincipals))
	}
}

// ofPrincipals are the services whose identities the patterns are. One that is
// no single service's is left as it is: no service has such a name.
func (m *Mesh) ofPrincipals(patterns []string) []string {
	names := make([]string, len(patterns))
	for i, p := range patterns {
		names[i] = strings.TrimPrefix(p, "spiffe://"+m.MTLS.TrustDomain+"/")
	}
	return names
}
