package control

import (
	"datapunk.dev/controlplane/admin/api"
)

// Status is what operators see of this control plane, beside [Plane.Readiness] and
// [Plane.Fleet].
func (p *Plane) Status() api.Status {
	mesh := p.serving()
	is := api.Status{Replica: p.registrations.replica, Mesh: api.MeshStatus{Name: mesh.Name, Revision: mesh.Revision, Files: []string{}}}
	for _, f := range mesh.Files {
		is.Mesh.Files = append(is.Mesh.Files, f.Name)
	}
	is.Mesh.Pinned = p.pinned()
	source := p.catalogs.Status()
	is.Catalog.Source, is.Catalog.Heard = source.Mode, source.LastSuccess
	loop := p.loop.Status()
	if w := loop.Waves; w != nil {
		is.Mesh.Waves = &api.Waves{Revision: w.Revision, Since: w.Since, Has: w.Has, Of: w.Of, TakenBack: w.Why, Service: w.Service, Source: w.Source}
	}
	if loop.Snapshot == nil {
		return is
	}
	in := loop.Snapshot.Input
	is.Catalog.Digest, is.Catalog.Services, is.Catalog.Published = in.Catalog.Digest().String(), in.Catalog.Len(), loop.Published
	for _, h := range loop.Snapshot.Held {
		held := api.HeldResource{Type: h.Type.String(), Name: h.Name, Why: h.Cause}
		if len(h.Keys) > 0 {
			held.Source = in.Mesh.Source(h.Keys[0]).String()
		}
		is.Held = append(is.Held, held)
	}
	return is
}
