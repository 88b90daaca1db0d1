package plan

import (
	"cmp"
	"slices"

	"datapunk.dev/controlplane/bootstrap"
	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/watch"
)

// What a sidecar is taken to have where no catalog says it.
const (
	assumedAppPort  = 8080
	assumedMeshPort = 15443
)

// Roots stand for the roots of an authority that is not asked.
const Roots = "the roots of the mesh's authority\n"

// FleetOf is the fleet that a mesh file and a catalog would have: a sidecar beside
// each instance that is in the mesh, and one of each service that has none.
func FleetOf(catalog *watch.Catalog, meshes ...*policy.Mesh) *resource.Fleet {
	names := make(map[string]string) // name in the catalog → of the mesh
	for s := range catalog.Services() {
		names[s.Name] = s.Name
	}
	var profiles []resource.Profile
	for _, m := range meshes {
		for _, name := range m.Names() {
			names[m.Service(name).ConsulService] = name
		}
	}
	for catalogName, name := range names {
		alone := Sidecar(name)
		n := len(profiles)
		if s := catalog.Service(catalogName); s != nil {
			for _, i := range s.Instances {
				if i.MeshPort == 0 {
					continue
				}
				p := alone
				p.AppPort, p.MeshPort, p.Region, p.Zone = cmp.Or(i.Port, assumedAppPort), i.MeshPort, i.Datacenter, i.Zone
				if i.Address.IsValid() {
					p.Address = i.Address.String()
				}
				profiles = append(profiles, p)
			}
		}
		if len(profiles) == n {
			profiles = append(profiles, alone)
		}
	}
	slices.SortFunc(profiles, func(a, b resource.Profile) int { return cmp.Compare(a.Key(), b.Key()) })
	return resource.NewFleet(slices.Compact(profiles)...)
}

// Sidecar is a sidecar of a service of which nothing is known.
func Sidecar(service string) resource.Profile {
	return resource.Profile{
		Service: service, Kind: resource.Sidecar, AppPort: assumedAppPort, MeshPort: assumedMeshPort,
		OutboundPort: bootstrap.DefaultOutboundPort, MetricsPort: bootstrap.DefaultMetricsPort,
	}
}
