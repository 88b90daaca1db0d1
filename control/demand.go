package control

import (
	"slices"

	"datapunk.dev/controlplane/policy"
	"datapunk.dev/controlplane/watch"
	watchconsul "datapunk.dev/controlplane/watch/consul"
)

// demand is which services the mesh needs to know: by name those that the file
// names, and all that are in the mesh. Only where plaintext peers are served
// too is every service of the catalog one.
func demand(m *policy.Mesh) watchconsul.Demand {
	r := m.Discovery.Consul.Removals
	d := watchconsul.Demand{
		MeshOnly: m.MTLS.Enabled && m.MTLS.Mode == policy.Strict,
		Guard:    watchconsul.Guard{Confirm: r.Confirm, Sidecar: r.Connected, Restored: r.Restored},
		Select:   watch.Selection(m.Discovery.Consul.Select),
	}
	for _, name := range append(m.Names(), "") {
		if name != "" {
			d.Services = append(d.Services, m.Service(name).ConsulService)
		}
		d.NodeMeta = append(d.NodeMeta, m.Service(name).LoadBalancing.Locality.ZoneMeta)
	}
	slices.Sort(d.NodeMeta)
	d.NodeMeta = slices.DeleteFunc(slices.Compact(d.NodeMeta), func(key string) bool { return key == policy.MetaZone }) // which a source looks for anyway
	if m.Tracing.Enabled && m.Tracing.Endpoint == "" {
		d.Services = append(d.Services, m.Tracing.Service)
	}
	return d
}
