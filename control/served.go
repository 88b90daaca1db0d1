package control

import (
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"

	"datapunk.dev/controlplane/admin/api"
	"datapunk.dev/controlplane/plan"
	"datapunk.dev/controlplane/resource"
)

// Resources are what a proxy of this replica is served, in the words of Envoy's API: of
// one type by its name, or with "" of all. A proxy's own key is nowhere in it: xds has
// no more of it than the certificate's number.
func (p *Plane) Resources(node, kind string) ([]api.Resource, error) {
	served, ok := p.xds.Served(node)
	if !ok {
		return nil, fmt.Errorf("%s has no stream to this replica, or nothing is served to it yet", node)
	}
	mesh := p.edited()
	all := []api.Resource{}
	for _, s := range served {
		if kind != "" && s.Type.String() != kind {
			continue
		}
		m, err := plan.Message(s.Resource)
		if err != nil {
			return nil, err
		}
		body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", s.Type, s.Name, err)
		}
		r := api.Resource{Type: s.Type.String(), Name: s.Name, Version: s.Version, Instead: s.Instead, Body: json.RawMessage(body)}
		if len(s.Keys) > 0 {
			r.Source = mesh.Source(s.Keys[0]).String()
		}
		all = append(all, r)
	}
	if kind == "" || kind == resource.Secret.String() {
		all = append(all, p.certificateOf(node)...)
	}
	return all, nil
}

// certificateOf is the secret that is a proxy's own, if it was sent one.
func (p *Plane) certificateOf(node string) []api.Resource {
	for _, one := range p.xds.Proxies() {
		if c := one.Certificate; one.Node == node && c != nil {
			r := api.Resource{Type: resource.Secret.String(), Name: resource.SecretIdentity, Version: c.Version, Certificate: &api.ResourceCertificate{Serial: c.Serial}}
			if c.Expires != nil {
				r.Certificate.Expires = *c.Expires
			}
			return []api.Resource{r}
		}
	}
	return nil
}

// Services are the names of the mesh's services: of the file, and of the catalog.
func (p *Plane) Services() []string {
	snapshot := p.loop.Status().Snapshot
	if snapshot == nil {
		return p.mesh.Load().Names()
	}
	return slices.Collect(snapshot.Services())
}
