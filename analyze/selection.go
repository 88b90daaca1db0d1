package analyze

import (
	"fmt"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
	"datapunk.dev/controlplane/yamlfile"
)

// Unselected returns what is found of services alone that the file names, and that its
// `discovery.consul.select` leaves out of a catalog.
func Unselected(m *policy.Mesh, catalog *watch.Catalog) []yamlfile.Problem {
	a := &analysis{mesh: m, catalog: catalog, names: make(map[string]string)}
	a.collectNames()
	a.leftOut()
	return yamlfile.Sort(a.found, m.Files)
}

// unselected says why the mesh's selection leaves out a service of the catalog's name; ""
// if it does not, as far as the catalog knows.
func (a *analysis) unselected(in string) string {
	d := a.mesh.Discovery
	if d.Method != "consul" {
		return ""
	}
	if pattern := watch.Selection(d.Consul.Select).Excludes(in); pattern != "" {
		return fmt.Sprintf("discovery.consul.select.exclude has %q (%s)", pattern, a.mesh.Source("discovery.consul.select.exclude"))
	}
	if s := a.catalog.Service(in); s != nil && s.Unselected != "" {
		return fmt.Sprintf("of discovery.consul.select (%s), %s", a.mesh.Source("discovery.consul.select"), s.Unselected)
	}
	return ""
}

// leftOut finds services that the file names, or that one of its services calls, and that
// its selection leaves out.
func (a *analysis) leftOut() {
	if a.catalog == nil {
		return
	}
	for _, name := range a.mesh.Names() {
		s := a.mesh.Service(name)
		if why := a.unselected(s.ConsulService); why != "" {
			a.add("MC2215", keyOf(s), "take it out of the file, or select it", "service %s is not in the mesh: %s", name, why)
		}
	}
	for _, name := range a.mesh.Names() {
		for _, u := range a.mesh.Service(name).Upstreams {
			in := a.mesh.Service(u.Service).ConsulService
			if why := a.unselected(in); why != "" {
				a.add("MC2215", "services."+name+".upstreams", "take the upstream out, or select it", "service %s: upstream %s is not in the mesh: %s", name, u.Service, why)
			}
		}
	}
}
