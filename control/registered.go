package control

import (
	"cmp"
	"slices"
	"time"

	"datapunk.dev/controlplane/register"
	"datapunk.dev/controlplane/resource"
	"datapunk.dev/controlplane/xds"
)

// Registered is who is in the catalog, by which replica, and who is not, and why.
type Registered struct {
	Enabled bool
	register.Status
	List []RegisteredInstance
}

// RegisteredInstance is one instance, or a connected proxy that is none.
type RegisteredInstance struct {
	ID, Service, Address string
	Port                 uint16
	MeshPort             string
	State                string
	Owner                string
	Since                time.Time
	Reason               string
}

// Registrations returns who is in the catalog and who is not.
func (p *Plane) Registrations() Registered { return p.registrations.list(p.xds.Proxies()) }

// list returns the registrations, and the connected proxies without one.
func (r *Registrations) list(proxies []xds.ProxyStatus) Registered {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all Registered
	known := make(map[string]bool)
	if r.current != nil {
		all.Enabled, all.Status = true, r.current.Status()
		for _, reg := range r.current.List() {
			known[reg.ID] = true
			all.List = append(all.List, RegisteredInstance{
				ID: reg.ID, Service: reg.Service, Address: reg.Address, Port: reg.Port, MeshPort: reg.MeshPort,
				State: string(reg.State), Owner: reg.Owner, Since: reg.Since, Reason: reg.Reason,
			})
		}
	}
	for _, p := range proxies {
		if known[p.Node] {
			continue
		}
		i := RegisteredInstance{ID: p.Node, Service: p.Service, State: "NONE", Since: p.Connected}
		present, listens := r.proxies[p.Node]
		switch {
		case r.current == nil:
			i.Reason = "registrations are off: see discovery in the mesh file"
		case p.Profile.Kind != resource.Sidecar:
			i.Reason = "it is no sidecar: it takes no calls"
		case p.Profile.MeshPort == 0 || p.Profile.AppPort == 0:
			i.Reason = "it takes no calls: its metadata has no app_port or no mesh_port"
		case !listens && p.Types[resource.Listener.String()].State == xds.Rejected:
			i.Reason = "it refuses its listeners: see /api/v1/proxies"
		case !listens:
			i.Reason = "it has not acknowledged its listeners yet"
		default:
			_, i.Reason = registrable(present, r.mesh)
		}
		all.List = append(all.List, i)
	}
	slices.SortStableFunc(all.List, func(a, b RegisteredInstance) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID))
	})
	return all
}
