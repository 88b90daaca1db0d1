package control

import (
	"fmt"
	"slices"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/why"
)

// Why follows a call through what the fleet is served, and adds which of the proxies on
// its way do not run that.
func (p *Plane) Why(c api.Call) (api.Verdict, error) {
	snapshot := p.loop.Status().Snapshot
	if snapshot == nil {
		return api.Verdict{}, &api.Error{Message: "nothing is served yet", Reason: api.Unavailable}
	}
	v, err := why.Of(snapshot, c)
	if err != nil {
		return api.Verdict{}, &api.Error{Message: err.Error(), Reason: api.Conflict}
	}
	services := []string{c.From}
	for _, way := range v.Ways {
		services = append(services, way.Service)
	}
	for _, proxy := range p.xds.Proxies() {
		if !slices.Contains(services, proxy.Service) {
			continue
		}
		for name, t := range proxy.Types {
			if t.LastNack != nil && t.State == "REJECTED" {
				v.Notes = append(v.Notes, fmt.Sprintf("%s of %s has refused a %s, and may run another than is said here: controlplane status %s", proxy.Node, proxy.Service, name, proxy.Node))
			}
		}
	}
	slices.Sort(v.Notes)
	return *v, nil
}
